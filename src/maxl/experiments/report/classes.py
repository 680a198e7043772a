"""Class by class: what classes are taken for, how well each is found, and masks beside their images."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from numpy.typing import NDArray

from maxl.experiments.report.labels import class_names
from maxl.experiments.report.parts import Figure, Gallery, Part, Picture, Row, Table
from maxl.experiments.report.references import reference_of
from maxl.experiments.report.runs import Run, Setting
from maxl.experiments.report.strip import strip_png
from maxl.experiments.report.style import CLASS_COLOURS, as_text
from maxl.experiments.studies.variants import base_method

_TABLE = 100  # classes up to which the matrix also stands there in numbers
_LEAST, _CLASS, _MOST = 320, 22, 1600  # height in CSS pixels: at least, for each class, at most
_MASK_COLOURS = tuple(
    c for c in CLASS_COLOURS if len({c[1:3], c[3:5], c[5:7]}) > 1
)  # grey stands for no class
_SHORT = 18  # characters of a class on an axis


def confusion_figure(
    title: str, names: Sequence[str], counts: Sequence[Sequence[int]], *, unit: str = "samples"
) -> Figure:
    """A heat map of shares, rows the classes.

    Args:
        title: Of the figure.
        names: Of the C classes.
        counts: Samples of a class (row) that were taken for each (column), (C, C).
        unit: What is counted.
    """
    shares = [[round(n / sum(row), 4) if sum(row) else None for n in row] for row in counts]
    labels = [as_text(_short(name, i)) for i, name in enumerate(names)]  # figures read markup
    table = None
    if len(names) <= _TABLE:
        rows = [[name, *map(str, row)] for name, row in zip(names, counts, strict=True)]
        table = pd.DataFrame(rows, columns=["Class / taken for", *names])
    plot = go.Figure(
        go.Heatmap(
            x=labels,
            y=labels,
            z=shares,
            customdata=counts,
            zmin=0,
            zmax=1,
            colorscale="Cividis",
            colorbar={"title": "share", "tickformat": ".0%", "thickness": 10},
            hovertemplate="%{y} taken for %{x}: %{customdata}, %{z:.1%} of the class<extra></extra>",
        )
    )
    plot.update_xaxes(title="taken for", type="category", automargin=True)
    plot.update_yaxes(title="class", type="category", autorange="reversed", automargin=True)
    return Figure(
        title=title,
        plot=plot,
        description=(
            f"Rows are the {unit}' classes, columns what they were taken for; each row is divided by its sum. "
            f"{_worst(names, counts)}"
        ),
        table=table,
        height=min(_MOST, _LEAST + _CLASS * len(names)),
    )


def by_class(setting: Setting) -> list[Part]:
    """Recall of each class by method, and the confusion matrices of two methods; nothing where no run kept them."""
    found = {
        label: kept
        for label, runs in setting.methods.items()
        if (kept := [m for run in runs if (m := _confusion(run)) is not None])
    }
    if not found:
        return []
    first = next(iter(found.values()))[0]
    found = {label: ms for label, ms in found.items() if all(m.shape == first.shape for m in ms)}
    names = class_names(setting, len(first))
    unit = "pixels" if _masks(setting) is not None else "samples"
    sums = {label: np.sum(matrices, axis=0) for label, matrices in found.items()}
    figures = [
        confusion_figure(
            f"Confusion matrix: {label}, test {unit} of {_seeds(len(found[label]))}",
            names,
            sums[label].tolist(),
            unit=unit,
        )
        for label in _two(setting, list(found))
    ]
    return [_recalls(setting, names, found, unit), Row(figures)]


def mask_gallery(setting: Setting) -> list[Part]:
    """Test images of a segmentation with their true masks and the predicted ones of two methods."""
    if _masks(setting) is None:
        return []
    labels = [label for label in setting.methods if _picture_run(setting.methods[label]) is not None]
    parts: list[Part] = []
    classes = 0
    for label in _two(setting, labels):
        run = _picture_run(setting.methods[label])
        assert run is not None
        snapshot = run.snapshot
        assert snapshot is not None
        assert snapshot.mask_images is not None
        assert snapshot.mask_truths is not None
        assert snapshot.mask_predicted is not None
        classes = max(classes, len(snapshot.primary_names))
        pictures = []
        for i, image in enumerate(snapshot.mask_images):
            truth, predicted = snapshot.mask_truths[i], snapshot.mask_predicted[i]
            counts = truth >= 0
            right = float((truth == predicted)[counts].mean()) if counts.any() else float("nan")
            strip = np.stack([_rgb(image), _coloured(truth), _coloured(np.where(counts, predicted, -1))])
            told = "no pixel counts" if np.isnan(right) else f"{100 * right:.0f} % of the pixels are right"
            pictures.append(
                Picture(
                    strip_png(strip),
                    f"test image {i + 1}, its true mask, and the mask predicted by {label}: {told}",
                    f"Image, truth, prediction of {label}, seed {run.seed}: {told}",
                )
            )
        note = "From left to right: the image, the true mask, the predicted one. Grey pixels stand for no class and do not count."
        parts.append(Gallery(f"Masks: {setting.name}, {label}", note, pictures))
    legend = Picture(
        _swatches(classes),
        f"the colours of {classes} classes, in the order of the table of classes",
        "Colours of the classes, in order: " + ", ".join(class_names(setting, classes)),
    )
    return [*parts, Gallery("Colours of the masks", "", [legend])]


def _confusion(run: Run) -> NDArray[np.int64] | None:
    return None if run.snapshot is None else run.snapshot.confusion


def _masks(setting: Setting) -> Run | None:
    return next((run for runs in setting.methods.values() for run in runs if _has_masks(run)), None)


def _has_masks(run: Run) -> bool:
    return run.snapshot is not None and run.snapshot.mask_images is not None


def _picture_run(runs: Sequence[Run]) -> Run | None:
    return next((run for run in runs if _has_masks(run)), None)


def _two(setting: Setting, labels: Sequence[str]) -> list[str]:
    """The reference and one more, a learned method before others."""
    base = reference_of(setting)
    first = [label for label in labels if label == base][:1]
    rest = [label for label in labels if label not in first]
    rest.sort(key=lambda label: base_method(label) != "maxl")
    return [*first, *rest][:2]


def _recalls(
    setting: Setting, names: Sequence[str], found: dict[str, list[NDArray[np.int64]]], unit: str
) -> Table:
    support = next(iter(found.values()))[0].sum(1)
    columns: dict[str, list[str]] = {
        "Class": list(names),
        f"Test {unit}": [f"{int(n):,}" for n in support],
    }
    for label, matrices in found.items():
        recalls = [[_share(m[c, c], m[c].sum()) for m in matrices] for c in range(len(names))]
        columns[f"{label} (%)"] = [
            "–" if any(np.isnan(r)) else f"{100 * float(np.mean(r)):.1f}" for r in recalls
        ]
    caption = f"Share of each class that is found (recall), mean over seeds: {setting.name}"
    return Table(caption, pd.DataFrame(columns))


def _share(part: int, whole: int) -> float:
    return float(part) / float(whole) if whole else float("nan")


def _worst(names: Sequence[str], counts: Sequence[Sequence[int]]) -> str:
    pairs = [(n, i, j) for i, row in enumerate(counts) for j, n in enumerate(row) if n and i != j]
    if not pairs:
        return "Nothing was taken for another class."
    n, i, j = max(pairs)
    return f"Most often “{names[i]}” was taken for “{names[j]}”: {n:,} times."


def _seeds(count: int) -> str:
    return "one seed" if count == 1 else f"{count} seeds together"


def _short(name: str, i: int) -> str:
    """A name as the label of an axis, where labels need to differ."""
    return name if len(name) <= _SHORT else f"{name[: _SHORT - 6]}… ({i})"


def _palette(classes: int) -> NDArray[np.uint8]:
    """A colour for each class; those beyond the first nine are darker and then lighter."""
    base = np.array([[int(c[i : i + 2], 16) for i in (1, 3, 5)] for c in _MASK_COLOURS], dtype=float)
    rows = []
    for k in range(classes):
        turn, colour = k // len(base), base[k % len(base)]
        rows.append(
            colour if turn % 3 == 0 else 0.55 * colour if turn % 3 == 1 else 255 - 0.5 * (255 - colour)
        )
    return np.round(np.array(rows).reshape(classes, 3)).astype(np.uint8)


def _coloured(mask: NDArray[np.int16]) -> NDArray[np.uint8]:
    """A mask, (H, W), as a picture (H, W, 3); grey where it is below 0."""
    colours: NDArray[np.uint8] = np.concatenate(
        [np.full((1, 3), 128, np.uint8), _palette(max(1, int(mask.max(initial=0)) + 1))]
    )
    picture: NDArray[np.uint8] = colours[mask.astype(int) + 1]
    return picture


def _rgb(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.repeat(image, 3, axis=2) if image.shape[2] == 1 else image


def _swatches(classes: int) -> bytes:
    return strip_png(np.repeat(np.repeat(_palette(classes)[:, None, None], 16, axis=1), 16, axis=2))
