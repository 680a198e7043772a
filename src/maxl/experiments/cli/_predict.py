"""``maxl predict`` and ``maxl export``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from maxl.experiments.cli._arguments import add_trust_flag
from maxl.experiments.cli._csv import cell, csv_text, number
from maxl.experiments.cli.listen import note
from maxl.experiments.cli.terminal import shown

if TYPE_CHECKING:
    from maxl.experiments.runs.inference import Predicted


def add_commands(commands: Any) -> None:
    """Adds both commands to the subparsers of ``maxl``."""
    predict = commands.add_parser(
        "predict",
        help="predictions for images, rows of a table or texts, as CSV",
        description="Reads images (also by the paths in a table), rows, or texts with the model of a finished run: file (or row,\n"
        "from 0), then class and probability; of several labels 0 or 1 and the probability of each; of a regression the\n"
        "numbers in their own units. --proba adds the probabilities of all classes, or gives those of labels alone; a\n"
        "regression and segmentation have none to give. A text that a spreadsheet would take for a formula (= + - @ or a tab first)\n"
        "gets a leading apostrophe, and control characters are written out (\\x1b).",
        epilog="example:\n  maxl predict run images/ --out predictions.csv\n  maxl predict run new.csv",
    )
    predict.add_argument("folder", type=Path, metavar="RUN", help="folder of a run")
    predict.add_argument(
        "source",
        type=Path,
        metavar="SOURCE",
        help="folder of images, an image, a CSV or parquet file, or .txt",
    )
    predict.add_argument(
        "--out", type=Path, metavar="FILE", help="CSV file (default: standard output); a new folder for masks"
    )
    predict.add_argument(
        "--proba",
        action="store_true",
        help="the probability of every class or label, a column each: probability CLASS",
    )
    predict.add_argument("--device", default="auto", metavar="NAME", help="cpu, cuda, mps or auto (auto)")
    add_trust_flag(predict)
    predict.set_defaults(run=_predict)

    export = commands.add_parser(
        "export",
        help="a trained model as safetensors, torch-export or ONNX",
        description="Writes the model of a finished run for use elsewhere, and beside it a JSON file with the names\n"
        "of the classes and the inputs' shape and normalisation.",
        epilog="example:\n  maxl export run --format torch-export --out model.pt2",
    )
    export.add_argument("folder", type=Path, metavar="RUN", help="folder of a run")
    export.add_argument(
        "--format",
        default="safetensors",
        metavar="NAME",
        help="safetensors, torch-export or onnx (safetensors)",
    )
    export.add_argument(
        "--out", type=Path, metavar="FILE", help="file to write (default: model with the format's suffix)"
    )
    add_trust_flag(export)
    export.set_defaults(run=_export)


def _predict(namespace: argparse.Namespace) -> None:
    from maxl.experiments.runs.files import write_at_once
    from maxl.experiments.runs.folder import require_no_run_file
    from maxl.experiments.runs.inference import predict
    from maxl.experiments.runs.masks import Mask, require_mask_folder, write_masks

    if not namespace.proba:  # which masks do not have
        require_mask_folder(namespace.folder, namespace.source, namespace.out)
    if namespace.out is not None:
        require_no_run_file(namespace.out)
        _require_file(namespace)
        if namespace.out.exists() and namespace.source.exists() and namespace.out.samefile(namespace.source):
            raise ValueError(f"--out needs another file than the source; {namespace.out} is the source")
    predictions = predict(
        namespace.folder,
        namespace.source,
        device=namespace.device,
        trust=namespace.trust,
        proba=namespace.proba,
    )
    if predictions and isinstance(predictions[0], Mask):
        masks = [p for p in predictions if isinstance(p, Mask)]
        write_masks(masks, namespace.source, namespace.out)
        print(shown(f"{len(masks)} masks in {namespace.out}"))
        return
    columns = _columns(predictions[0], proba=namespace.proba)
    text = csv_text(
        _different(["row" if isinstance(predictions[0].file, int) else "file", *columns]),
        ((cell(str(p.file)), *_cells(p, proba=namespace.proba)) for p in predictions),
    )
    if namespace.out is None:
        sys.stdout.write(text)
    else:
        namespace.out.parent.mkdir(parents=True, exist_ok=True)
        write_at_once(namespace.out, text.encode())
        print(shown(f"{len(predictions)} predictions in {namespace.out}"))


def _require_file(namespace: argparse.Namespace) -> None:
    """ValueError if --out is a folder that is there, but for masks, which go into one."""
    from maxl.experiments.runs.folder import RunFolder
    from maxl.experiments.runs.measures import task_of

    folder = RunFolder(namespace.folder)
    masks = folder.finished and task_of(folder.read_summary()) == "segmentation"
    if namespace.out.is_dir() and not masks:
        raise ValueError(f"--out needs a file; {namespace.out} is a folder")


def _different(names: list[str]) -> list[str]:
    """The names of columns, a number behind those that would be there twice, which is said."""
    kept: list[str] = []
    for name in names:
        own, times = name, 1
        while own in kept or (times > 1 and own in names):
            times += 1
            own = f"{name} ({times})"
        if own != name:
            note(f"two columns would be called '{name}': the second one is '{own}'")
        kept.append(own)
    return kept


def _columns(prediction: Predicted, *, proba: bool) -> list[str]:
    """The columns after the first."""
    from maxl.experiments.runs.inference import Labels, Numbers, Prediction

    if isinstance(prediction, Numbers):
        return list(prediction.values)
    if isinstance(prediction, Labels):
        if proba:
            return [f"probability {name}" for name in prediction.probabilities]
        return [column for name in prediction.probabilities for column in (name, f"{name}_probability")]
    assert isinstance(prediction, Prediction)  # masks have no columns
    return ["class", "probability", *(f"probability {name}" for name in prediction.probabilities or ())]


def _cells(prediction: Predicted, *, proba: bool) -> list[str]:
    from maxl.experiments.runs.inference import Labels, Numbers, Prediction

    if isinstance(prediction, Numbers):
        # Every digit: of a target around 1e9 nine of them may lose what was predicted.
        return [repr(value) for value in prediction.values.values()]
    if isinstance(prediction, Labels):
        of_labels = prediction.probabilities.values()
        if proba:
            return [number(p) for p in of_labels]
        return [text for p in of_labels for text in (str(int(p >= 0.5)), f"{p:.6f}")]
    assert isinstance(prediction, Prediction)  # masks are no cells
    every = (prediction.probabilities or {}).values()
    return [cell(prediction.name), f"{prediction.probability:.6f}", *map(number, every)]


def _export(namespace: argparse.Namespace) -> None:
    from maxl.experiments.runs.exporting import FORMATS, export
    from maxl.presets import check_choice

    check_choice("--format", namespace.format, tuple(FORMATS))
    out = namespace.out or Path("model" + FORMATS[namespace.format])
    sidecar = export(namespace.folder, namespace.format, out, trust=namespace.trust)
    print(shown(f"{out}\n{sidecar}"))
