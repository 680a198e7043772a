"""``maxl predict`` and ``maxl export``."""

from __future__ import annotations

import argparse
import csv
import io
import sys
from pathlib import Path
from typing import Any

from maxl.experiments.cli._arguments import add_trust_flag


def add_commands(commands: Any) -> None:
    """Adds both commands to the subparsers of ``maxl``."""
    predict = commands.add_parser(
        "predict",
        help="the class of each image, row of a table or text, as CSV",
        description="Classifies images, rows of numeric features, or texts with the model of a finished run: file (or\n"
        "row, from 0), class, probability.",
        epilog="example:\n  maxl predict run images/ --out predictions.csv\n  maxl predict run new.csv",
    )
    predict.add_argument("folder", type=Path, metavar="RUN", help="folder of a run")
    predict.add_argument(
        "source",
        type=Path,
        metavar="SOURCE",
        help="folder of images, an image, a CSV or parquet file, or .txt",
    )
    predict.add_argument("--out", type=Path, metavar="FILE", help="CSV file (default: standard output)")
    predict.add_argument("--device", default="auto", metavar="NAME", help="cpu, cuda, mps or auto (auto)")
    add_trust_flag(predict)
    predict.set_defaults(run=_predict)

    export = commands.add_parser(
        "export",
        help="the model of a run as safetensors, torch-export or ONNX",
        description="Writes trunk and primary head of a finished run for use elsewhere, and beside them a JSON\n"
        "file with the names of the classes and the inputs' shape and normalisation.",
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
    from maxl.experiments.runs.inference import predict

    predictions = predict(namespace.folder, namespace.source, device=namespace.device, trust=namespace.trust)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    rows = bool(predictions) and isinstance(predictions[0].file, int)
    writer.writerow(("row" if rows else "file", "class", "probability"))
    writer.writerows((p.file, p.name, f"{p.probability:.6f}") for p in predictions)
    if namespace.out is None:
        sys.stdout.write(text.getvalue())
    else:
        namespace.out.parent.mkdir(parents=True, exist_ok=True)
        write_at_once(namespace.out, text.getvalue().encode())


def _export(namespace: argparse.Namespace) -> None:
    from maxl.experiments.runs.inference import FORMATS, export
    from maxl.presets import check_choice

    check_choice("--format", namespace.format, tuple(FORMATS))
    out = namespace.out or Path("model" + FORMATS[namespace.format])
    sidecar = export(namespace.folder, namespace.format, out, trust=namespace.trust)
    print(f"{out}\n{sidecar}")
