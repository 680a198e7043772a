"""Looking at samples: t-SNE of the trunk's features, and the images that auxiliary classes collect."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import plotly.graph_objects as go

from maxl.experiments.report.labels import informative
from maxl.experiments.report.parts import Figure, Gallery, Note, Part, Picture, Row
from maxl.experiments.report.runs import Results, Run, Setting, data_name, psi_text
from maxl.experiments.report.strip import strip_png
from maxl.experiments.report.style import CLASS_COLOURS, CLASS_SYMBOLS, as_text
from maxl.experiments.runs.measures import task_of
from maxl.experiments.runs.snapshot import Snapshot
from maxl.experiments.studies.statistics import parse_psi
from maxl.experiments.studies.variants import base_method

_SEED = 0  # t-SNE is random; the same report shows the same picture
_TELLING = ("single", "kmeans", "human", "maxl")  # methods worth a look
_MOST_PANELS = 12  # a panel costs seconds
_FEWEST_SAMPLES = 10
_MOST_SAMPLES = 600  # a panel; t-SNE's time grows faster than their number


def features(study: Results) -> list[Part]:
    """For each setting the features of some runs side by side, lowest seed: those worth a look."""
    parts: list[Part] = []
    drawn: dict[Path, Figure] = {}  # a single-task run serves every ψ, but is embedded once
    for setting in study.settings:
        runs = [run for run in _shown(setting) if _usable(run.snapshot)]
        new = [run for run in runs if run.folder not in drawn]
        if not runs:
            reason = "no t-SNE, because no run left a snapshot with features of several classes"
            if (task := task_of(next(iter(setting.methods.values()))[0].summary)) != "classification":
                reason = f"no t-SNE, because it is coloured by class and the task is {task}"
            parts.append(Note(f"{setting.name}: {reason}."))
        elif len(drawn) + len(new) > _MOST_PANELS:
            reason = "no t-SNE, to keep the report quick; report its runs alone to see it"
            parts.append(Note(f"{setting.name}: {reason}."))
        else:
            drawn |= {run.folder: _embedding(run) for run in new}
            parts.append(Row([drawn[run.folder] for run in runs]))
    return parts


def _shown(setting: Setting) -> list[Run]:
    """The run with the lowest seed of the methods worth a look; of all methods if there are none of these."""
    telling = [label for label in setting.methods if base_method(label) in _TELLING]
    return [setting.methods[label][0] for label in (telling or list(setting.methods))[:4]]


def _usable(snapshot: Snapshot | None) -> bool:
    """Whether there is something to embed: classes, and features that are finite and differ."""
    if (
        snapshot is None
        or len(snapshot.features) < _FEWEST_SAMPLES
        or snapshot.feature_primary.dtype.kind != "i"
    ):
        return False
    wide = snapshot.features.astype(np.float32)
    return bool(np.isfinite(wide).all() and wide.std() > 0) and len(np.unique(snapshot.feature_primary)) > 1


def _embedding(run: Run) -> Figure:
    snapshot = run.snapshot
    assert snapshot is not None  # _usable
    chosen = np.linspace(0, len(snapshot.features) - 1, min(_MOST_SAMPLES, len(snapshot.features))).astype(
        int
    )
    wide, primary = snapshot.features[chosen].astype(np.float32), snapshot.feature_primary[chosen]
    probed, names = snapshot.feature_probe, snapshot.probe_names
    shown = primary if probed is None else probed[chosen]
    if names is None:
        names = snapshot.primary_names
    flat = _tsne(wide)
    plot = go.Figure()
    classes = np.unique(shown)
    for c in classes:
        mine = shown == c
        look = {
            "color": CLASS_COLOURS[int(c) % len(CLASS_COLOURS)],
            "symbol": CLASS_SYMBOLS[int(c) // len(CLASS_COLOURS) % len(CLASS_SYMBOLS)],
        }
        points = go.Scatter(
            x=flat[mine, 0].round(2).tolist(),
            y=flat[mine, 1].round(2).tolist(),
            mode="markers",
            name=as_text(_class_name(names, int(c))),
            marker={**look, "size": 5, "opacity": 0.75},
            hovertemplate="%{fullData.name}<extra></extra>",
        )
        plot.add_trace(points)
    plain = {"showticklabels": False, "zeroline": False, "showgrid": False, "automargin": False}
    plot.update_xaxes(**plain, constrain="domain")
    plot.update_yaxes(**plain, scaleanchor="x")
    plot.update_layout(margin={"l": 8, "r": 8}, legend={"itemsizing": "constant", "maxheight": 1.0})
    psi = parse_psi(run.summary.get("psi"))
    name = f"{data_name(run.summary['data'])}, {run.label}" + ("" if psi is None else f", {psi_text(psi)}")
    return Figure(
        title=f"t-SNE of test features: {name}, seed {run.seed}",
        plot=plot,
        description=(
            f"{len(wide)} test samples of {len(np.unique(primary))} primary classes"
            + ("" if probed is None else f", coloured by the {len(classes)} of '{run.summary.get('probe')}'")
            + f". Silhouette of the classes in the full feature space: {_silhouette(wide, primary)}"
            + ("." if probed is None else f", of those in colour {_silhouette(wide, shown)}.")
        ),
        height=360 + 20 * len(classes),
        name=f"features {name}",
    )


def _tsne(wide: np.ndarray) -> np.ndarray:
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits

    components = min(50, *wide.shape)
    perplexity = min(30.0, (len(wide) - 1) / 3)
    # Several threads wait for each other in a loop: five times as long where others use the cores.
    with threadpool_limits(1):
        compact = PCA(components, random_state=_SEED).fit_transform(wide)
        flat: np.ndarray = TSNE(perplexity=perplexity, init="pca", random_state=_SEED).fit_transform(compact)
    return flat


def _silhouette(wide: np.ndarray, primary: np.ndarray) -> str:
    from sklearn.metrics import silhouette_score

    if not 2 <= len(np.unique(primary)) < len(wide):
        return "–"
    return f"{silhouette_score(wide, primary):.2f}"


def _class_name(names: np.ndarray, c: int) -> str:
    return str(names[c]) if c < len(names) else f"class {c}"


def gallery(study: Results) -> list[Part]:
    """For each setting the highest-scoring images of one run's auxiliary classes."""
    parts: list[Part] = []
    for setting in study.settings:
        with_images = [
            run
            for runs in setting.methods.values()
            for run in runs
            if run.snapshot is not None and len(run.snapshot.gallery_auxiliary)
        ]
        if not with_images:
            parts.append(
                Note(f"{setting.name}: no gallery, because no run has a label generator and images.")
            )
            continue
        telling = [run for run in with_images if informative(run)]
        if not telling:
            reason = "no gallery, because the labels of no run say anything of the images they belong to"
            parts.append(Note(f"{setting.name}: {reason}."))
            continue
        run = next((run for run in telling if base_method(run.label) == "maxl"), telling[0])
        snapshot = run.snapshot
        assert snapshot is not None  # with_images
        note = "Labels differ from run to run; this is one of them. Probabilities fall from left to right."
        title = f"Images of auxiliary classes: {setting.name}, {run.label}, seed {run.seed}"
        parts.append(
            Gallery(title, note, [_strip(snapshot, i) for i in range(len(snapshot.gallery_auxiliary))])
        )
    return parts


def _strip(snapshot: Snapshot, i: int) -> Picture:
    images = snapshot.gallery_images[i]
    primary = _class_name(snapshot.primary_names, int(snapshot.gallery_primary[i]))
    scores = snapshot.gallery_scores[i]
    name = f"auxiliary class {int(snapshot.gallery_auxiliary[i])}"
    return Picture(
        png=strip_png(images),
        alternative=f"{len(images)} training images of {primary} that score highest in {name}",
        caption=f"{primary}, {name}: probability {scores.max():.2f} to {scores.min():.2f}",
    )
