"""``maxl evaluate``."""

from __future__ import annotations

import argparse
import json
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from maxl.experiments.cli._arguments import add_trust_flag
from maxl.experiments.cli._csv import cell, csv_text, number
from maxl.experiments.cli.terminal import shown

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import Console

    from maxl.experiments.runs.judgement import Judgement

_MATRIX = 12  # classes whose confusion matrix a terminal has room for
_PAIRS = 10  # confusions that are listed in its place


def add_evaluate(commands: Any) -> None:
    """Adds the command to the subparsers of ``maxl``."""
    evaluate = commands.add_parser(
        "evaluate",
        help="how good a trained model is on samples of yours, by class",
        description="Measures a finished run on labelled samples, in the way in which it was measured after training:\n"
        "the task's measures, then each class, label or target, and which classes are taken for which.\n"
        "Without DATA on the run's own test samples. Classes that the run does not have are refused; those\n"
        "without a sample are left out of the means, which is said.",
        epilog="example:\n  maxl evaluate run my-images/ --out evaluation\n  maxl evaluate run new-houses.csv",
    )
    evaluate.add_argument("folder", type=Path, metavar="RUN", help="folder of a run")
    evaluate.add_argument(
        "source",
        type=Path,
        nargs="?",
        metavar="DATA",
        help="folder with a subfolder a class, CSV or parquet file with the training columns, or a folder with "
        "images/ and masks/ (default: the run's test samples)",
    )
    evaluate.add_argument(
        "--out",
        type=Path,
        metavar="FOLDER",
        help="new folder for evaluation.json, per_class.csv and, of classes, confusion.csv and confusion.html",
    )
    evaluate.add_argument("--device", default="auto", metavar="NAME", help="cpu, cuda, mps or auto (auto)")
    add_trust_flag(evaluate)
    evaluate.set_defaults(run=_evaluate)


def _evaluate(namespace: argparse.Namespace) -> None:
    from maxl.experiments.runs.judgement import judge

    out: Path | None = namespace.out
    if out is not None and out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"--out needs a new or empty folder; {out} holds something already")
    judged = judge(namespace.folder, namespace.source, device=namespace.device, trust=namespace.trust)
    if out is not None:
        write_judgement(judged, out)
    _print(judged)
    if out is not None:
        print(shown(f"Evaluation: {out}"))


def write_judgement(judged: Judgement, out: Path) -> None:
    """Writes a new folder, all of it or nothing.

    Args:
        judged: What was measured.
        out: A folder that is new or empty.
    """
    from maxl.experiments.runs.files import write_at_once

    rows = [
        [cell(name), *map(number, row.values())]
        for name, row in zip(judged.names, judged.per_class, strict=True)
    ]
    files = {
        "evaluation.json": json.dumps(_described(judged), indent=2, allow_nan=False) + "\n",
        "per_class.csv": csv_text((_word(judged), *judged.per_class[0]), rows),
    }
    if judged.confusion is not None:
        matrix = [[cell(n), *map(str, row)] for n, row in zip(judged.names, judged.confusion, strict=True)]
        files["confusion.csv"] = csv_text(("class", *judged.names), matrix)
        files["confusion.html"] = _page(judged)
    place = out.resolve()
    place.parent.mkdir(parents=True, exist_ok=True)
    partial = place.with_name(f".{place.name}.{os.getpid()}.partial")
    partial.mkdir()
    try:
        for name, text in files.items():
            write_at_once(partial / name, text.encode())
        if place.exists():
            place.rmdir()
        os.replace(partial, place)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def _described(judged: Judgement) -> dict[str, Any]:
    return {
        "run": str(judged.run),
        "data": None if judged.source is None else str(judged.source),
        "task": judged.task,
        "method": judged.method,
        "seed": judged.seed,
        "samples": judged.samples,
        "metrics": judged.metrics,
        "left_out": list(judged.left_out),
        "trained_on": judged.trained_on,
        "per_class": [{"name": n, **row} for n, row in zip(judged.names, judged.per_class, strict=True)],
        "confusion": judged.confusion,
        **judged.origin,
    }


def _word(judged: Judgement) -> str:
    return {"multi-label": "label", "regression": "target"}.get(judged.task, "class")


def _metrics_text(judged: Judgement) -> dict[str, str]:
    from maxl.experiments.runs.measures import MEASURES

    values = ((m, judged.metrics[m.name]) for m in MEASURES[judged.task])
    return {m.title: "–" if value is None else m.text(value) for m, value in values}


def _page(judged: Judgement) -> str:
    from maxl.experiments.report.confusion import confusion_page

    assert judged.confusion is not None  # the caller has looked
    data = "its test samples" if judged.source is None else judged.source.name
    said = {
        "run": f"{judged.run.resolve().name}, {judged.method}, seed {judged.seed}",
        "data": f"{data}, {judged.samples} samples",
        **_metrics_text(judged),
        **({"left out": "; ".join(judged.left_out)} if judged.left_out else {}),
        **({"beware": "the run was trained on some of these samples: no test"} if judged.trained_on else {}),
    }
    title = f"maxl evaluation: {judged.run.resolve().name} on {data}"
    return confusion_page(title, judged.names, judged.confusion, _frame(judged), said)


def _frame(judged: Judgement) -> pd.DataFrame:
    """A row a class, as text."""
    import pandas as pd

    rows = [
        [name, *map(_short, row.values())] for name, row in zip(judged.names, judged.per_class, strict=True)
    ]
    return pd.DataFrame(rows, columns=[_word(judged), *(c.replace("_", " ") for c in judged.per_class[0])])


def _short(value: float | None) -> str:
    from maxl.experiments.runs.measures import plain

    return "–" if value is None else str(value) if isinstance(value, int) else plain(value)


def _print(judged: Judgement) -> None:
    from maxl.experiments.cli.show import console

    out = console()
    data = "its test samples" if judged.source is None else str(judged.source)
    _tell(
        out,
        f"{judged.method} on {data}: {judged.samples} samples",
        [["metric", "value"], *map(list, _metrics_text(judged).items())],
    )
    frame = _frame(judged)
    _tell(out, None, [list(frame.columns), *frame.to_numpy().tolist()])
    if judged.confusion is not None:
        if len(judged.names) <= _MATRIX:
            body = [[name, *map(str, row)] for name, row in zip(judged.names, judged.confusion, strict=True)]
            _tell(out, "Classes (rows) and what they were taken for:", [["", *judged.names], *body])
        elif pairs := _worst(judged):
            _tell(out, "Most frequent confusions:", [["class", "taken for", "samples"], *pairs])
    for sentence in judged.left_out:
        out.print(shown(f"Left out: {sentence}."), soft_wrap=True)


def _worst(judged: Judgement) -> list[list[str]]:
    """The pairs of classes that are taken for each other most often."""
    assert judged.confusion is not None  # the caller has looked
    found = [(n, i, j) for i, row in enumerate(judged.confusion) for j, n in enumerate(row) if n and i != j]
    found.sort(key=lambda pair: -pair[0])
    return [[judged.names[i], judged.names[j], str(n)] for n, i, j in found[:_PAIRS]]


def _tell(out: Console, title: str | None, rows: list[list[str]]) -> None:
    """A line and a table, whose first row is its heading."""
    from rich.table import Table

    if title is not None:
        out.print(shown(title), soft_wrap=True)
    table = Table()
    for i, heading in enumerate(rows[0]):
        table.add_column(shown(heading), justify="left" if i == 0 else "right", overflow="fold")
    for row in rows[1:]:
        table.add_row(*map(shown, row))
    out.print(table)
