"""The model card: what a model is, and the evidence for it."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import yaml

from maxl.experiments.report.runs import Run, Setting, data_name, load_study
from maxl.experiments.report.tables import accuracy_table
from maxl.experiments.runs.folder import RunFolder
from maxl.experiments.runs.measures import MEASURES
from maxl.experiments.runs.methods import WITHOUT_LABELS
from maxl.experiments.runs.model import PrimaryModel
from maxl.experiments.runs.names import names_code, without_place
from maxl.experiments.studies.statistics import intervals_text
from maxl.experiments.studies.variants import base_method

_MEANING = {
    "accuracy": "share of samples whose class is the likeliest one",
    "balanced_accuracy": "mean over classes of the share of their samples that are recognised",
    "nll": "mean of minus the logarithm of the probability of a sample's class, nats",
    "map": "mean over labels of the average precision",
    "f1": "mean over classes or labels of the F1 score, a label being given from a probability of one half",
    "auroc": "mean over classes or labels of how often a sample that has it is given a higher probability of it than one "
    "that has it not",
    "f1_micro": "F1 score of all labels of all samples together",
    "r2": "share of the variance that is explained; mean over targets",
    "rmse": "root of the mean squared error, in the target's units; mean over targets",
    "mae": "mean absolute error, in the target's units; mean over targets",
    "miou": "mean over classes of intersection over union, over all pixels of all images",
    "pixel_accuracy": "share of pixels whose class is the likeliest one",
}
_SPECIAL = re.compile(r"([\\`*_\[\]|~#])")
_NAMES = 50  # classes that are listed


def model_card(run: Path, model: PrimaryModel) -> str:
    """Markdown with the metadata of the hub on top.

    Args:
        run: Folder of the run. If it lies in that of a study, the card tells how it compares with single-task training.
        model: The run's.

    Raises:
        ValueError: if a run of the study is broken.
    """
    summary, config = RunFolder(run).read_summary(), RunFolder(run).read_config(trust=True)
    data = data_name(summary["data"])
    tabular = model.feature_names is not None or summary.get("columns")
    mixed = not model.takes_images and model.image_shape is not None
    kind = "mixed" if mixed else "image" if model.takes_images else "tabular" if tabular else "text"
    front = {"library_name": "maxl-torch", "tags": ["maxl", "auxiliary-learning", "model_hub_mixin"]}
    if (kind, model.task) in _PIPELINES:
        front["pipeline_tag"] = _PIPELINES[kind, model.task]
    names = [*model.primary_names[:_NAMES], *(["…"] if len(model.primary_names) > _NAMES else [])]
    facts = {
        "method": summary["method"],
        "data": data,
        "primary task": summary.get("primary"),
        "task": model.task,
        f"classes ({len(model.primary_names)})" if model.task != "regression" else "targets": ", ".join(
            names
        ),
        "trunk": without_place(summary["trunk"]) if summary.get("trunk") else None,
        "auxiliary classes": summary.get("auxiliary_classes"),
        "training samples": summary.get("train_size"),
        "epochs": summary.get("epochs"),
        "seed": summary["seed"],
        "learning rate": f"{config.learning_rate:g}, {config.optimizer}, decay {config.decay}",
    }
    measured = [
        (m.title, m.text(summary[m.key], 4), _MEANING[m.name])
        for m in MEASURES[model.task]
        if summary.get(m.key) is not None
    ]
    origin = {name: summary[name] for name in ("machine", "device", "threads") if name in summary}
    parts = [
        f"---\n{yaml.safe_dump(front, sort_keys=True)}---",
        f"# {_text(data)}: {_text(summary['method'])}",
        _what(base_method(str(summary["method"]))),
        "## Training",
        _table(("", ""), ((name, value) for name, value in facts.items() if value is not None)),
        "## Test results",
        f"On the test part of the data, {_when(summary)}.",
        _table(("measure", "value", "what it is"), measured),
        "## Against single-task training",
        *_compared(run, summary),
        *([f"Of the auxiliary labels: {_text(said)}."] if (said := summary.get("label_verdict")) else []),
        "## How to load it",
        _loading(model, kind, code=names_code(vars(config))),
        "## Versions",
        _table(("", ""), ({**summary.get("versions", {}), **origin}).items()),
    ]
    return "\n\n".join(parts) + "\n"


def _when(summary: dict[str, Any]) -> str:
    """At the end of which epoch the network is as it was tested."""
    kept, trained = summary.get("kept_epoch"), summary.get("epochs_trained")
    if kept is None or kept == trained:
        return "after the last epoch"
    return f"after epoch {kept} of {trained}, which was kept for its validation result"


_PIPELINES = {
    ("image", "classification"): "image-classification",
    ("image", "segmentation"): "image-segmentation",
    ("text", "classification"): "text-classification",
    ("tabular", "classification"): "tabular-classification",
    ("tabular", "regression"): "tabular-regression",
}


def _what(method: str) -> str:
    if method == "single":
        return "Trunk and head of a network that was trained on its primary task alone, by maxl."
    if method not in WITHOUT_LABELS:
        return (
            "Trunk and primary head of a network that was trained beside an auxiliary task (maxl, meta auxiliary learning). Its "
            "auxiliary head, and a label generator if it had one, are left out: at inference it is a single-task network."
        )
    return "Trunk and head of a network that was trained against wrong labels, by maxl. A generator, if it had one, is left out."


def _compared(run: Path, summary: dict[str, Any]) -> list[str]:
    """The run's method and single-task training in the run's study."""
    if (method := base_method(str(summary["method"]))) in WITHOUT_LABELS:
        return [
            "This is single-task training."
            if method == "single"
            else f"This is single-task training on labels that are partly wrong, by method {method}."
        ]
    place = run.resolve()
    study = next((above for above in place.parents if (above / "study.yaml").is_file()), None)
    if study is None:
        return [
            "Not known: the run is no part of a study. One run says nothing of what auxiliary labels gained."
        ]
    for setting in load_study(study).settings:
        for label, runs in setting.methods.items():
            if any(one.folder.resolve() == place for one in runs):
                return _in_setting(setting, label, runs)
    raise ValueError(f"{study} needs to hold the run {run}; it was not found among its settings")


def _in_setting(setting: Setting, label: str, runs: Sequence[Run]) -> list[str]:
    table = setting.comparisons
    rows = table[
        (table["method"] == label)
        & (table["against"] == "same setting")
        & (table["reference"].map(base_method) == "single")
    ]
    if rows.empty:
        return ["Not known: the study of the run has no single-task run at its setting."]
    measure = setting.measure
    frame = accuracy_table(setting).frame
    shown = frame[frame["Method"].isin([label, *rows["reference"]])]
    differences = [
        (
            row["reference"],
            measure.signed_text(row["difference"]),
            f"{measure.signed_text(row['low'], unit=False)} to {measure.signed_text(row['high'])}"
            if row["n"] > 1
            else "–",
            row["n"],
            row["verdict"],
        )
        for _, row in rows.iterrows()
    ]
    return [
        f"The run is one of {len(runs)} of its method in a study, told apart by their seeds; test {measure.title}:",
        _table(list(shown.columns), shown.itertuples(index=False)),
        f"Differences are paired by seed, with {intervals_text(rows['comparisons'])}:",
        _table(("against", "difference", "interval", "seeds", "verdict"), differences),
    ]


def _loading(model: PrimaryModel, kind: str, *, code: bool) -> str:
    shape = ", ".join(map(str, model.input_shape))
    inputs = {
        "image": f"images, (N, {shape}), uint8, or floats in [0, 1]; they are normalised inside",
        "mixed": f"features of columns, as `maxl predict` makes them, and then the pixels of images of shape {model.image_shape}, "
        f"floats in [0, 1], (N, {shape}); pixels are normalised inside",
        "text": f"features of text or columns, (N, {shape}), as `maxl predict` makes them"
        if model.tokens is None
        else f"tokens, whole numbers (N, {shape}), as `model.tokens` makes them of a list of texts",
        "tabular": f"columns {', '.join(map(_text, model.feature_names or ()))}, float64 of shape (N, {shape}), as they "
        "stand in the table",
    }["text" if kind == "tabular" and model.feature_names is None else kind]
    outputs = "numbers in their units" if model.task == "regression" else "logits"
    trust = ", trust=True" if code else ""
    return (
        "```python\nfrom maxl.experiments.hub import RunModel\n\n"
        f'model = RunModel.from_pretrained("owner/name"{trust})\n```\n\n'
        f"It takes {inputs}, and gives {outputs}. The folder also serves `maxl predict`, `maxl evaluate` and `maxl export`. "
        + ("Its trunk is code that has to be installed; look at it before you trust it. " if code else "")
        + 'Needs `pip install "maxl-torch[experiments]"`.'
    )


def _table(header: Sequence[object], rows: Iterable[Sequence[object]]) -> str:
    lines = [header, ["---"] * len(header), *([_text(value) for value in row] for row in rows)]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


def _text(value: object) -> str:
    """A text as Markdown that says it and does nothing."""
    return _SPECIAL.sub(r"\\\1", html.escape(" ".join(str(value).split()), quote=False))
