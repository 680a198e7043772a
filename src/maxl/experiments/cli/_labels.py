"""``maxl labels``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from maxl.experiments.cli._arguments import add_trust_flag
from maxl.experiments.cli._csv import cell, csv_text, number
from maxl.experiments.cli.listen import note
from maxl.experiments.cli.terminal import shown

if TYPE_CHECKING:
    from maxl.experiments.runs.doubted import DoubtedLabels
    from maxl.experiments.runs.invented import InventedLabels


def add_labels(commands: Any) -> None:
    """Adds the command to the subparsers of ``maxl``."""
    labels = commands.add_parser(
        "labels",
        help="the finer labels that a run has learned, for samples of yours, as CSV",
        description="Reads labelled samples with the label generator of a finished run, as it was at the end of training,\n"
        "or with --keep best in the epoch that was kept: file (or row, from 0), class, auxiliary class (its number\n"
        "among all, and within its class), its probability, the label's entropy in nats and, of method weighted, the\n"
        "weight of the sample's auxiliary loss. Of runs on labels that are partly wrong: the given class, and its\n"
        "correction or the sample's weight. Runs of methods without a generator have no labels for samples that they\n"
        "were not trained on.",
        epilog="example:\n  maxl labels run my-images/ --out labels.csv --gallery labels.html",
    )
    labels.add_argument("folder", type=Path, metavar="RUN", help="folder of a run")
    labels.add_argument(
        "source",
        type=Path,
        metavar="DATA",
        help="folder with a subfolder a class, or CSV or parquet file with the training columns",
    )
    labels.add_argument("--out", type=Path, metavar="FILE", help="CSV file (default: standard output)")
    labels.add_argument(
        "--proba",
        action="store_true",
        help="the probability of every auxiliary class, a column each: probability N",
    )
    labels.add_argument(
        "--gallery", type=Path, metavar="FILE", help="HTML file with the images of each auxiliary class"
    )
    labels.add_argument("--device", default="auto", metavar="NAME", help="cpu, cuda, mps or auto (auto)")
    add_trust_flag(labels)
    labels.set_defaults(run=_labels)


def _labels(namespace: argparse.Namespace) -> None:
    from maxl.experiments.report.invented import gallery_page
    from maxl.experiments.runs.files import write_at_once
    from maxl.experiments.runs.folder import RunFolder, require_no_run_file
    from maxl.experiments.runs.invented import invent
    from maxl.experiments.runs.methods import JUDGED_METHODS

    source, out, gallery = namespace.source, namespace.out, namespace.gallery
    for flag, file in (("--out", out), ("--gallery", gallery)):
        if file is None:
            continue
        require_no_run_file(file, flag)
        if file.is_dir():
            raise ValueError(f"{flag} needs a file; {file} is a folder")
        if file.exists() and source.exists() and file.samefile(source):
            raise ValueError(f"{flag} needs another file than the data; {file} is the data")
    if out is not None and gallery is not None and out.resolve() == gallery.resolve():
        raise ValueError(f"--out and --gallery need different files; both are {out}")
    config = RunFolder(namespace.folder).read_config(trust=True)  # of which nothing is called here
    if config.method in JUDGED_METHODS:
        return _doubted(namespace)
    invented = invent(namespace.folder, source, device=namespace.device, trust=namespace.trust)
    contents = {}
    if out is not None:
        contents[out] = labels_csv(invented, proba=namespace.proba)
    if gallery is not None:
        title = f"Invented labels: {namespace.folder.resolve().name} on {source.name}"
        contents[gallery] = gallery_page(title, invented, _said(invented), _flags(namespace))
    for file, text in contents.items():
        file.parent.mkdir(parents=True, exist_ok=True)
        write_at_once(file, text.encode())
    for sentence in invented.data.left_out:
        note(f"left out: {sentence}")
    if out is None:
        sys.stdout.write(labels_csv(invented, proba=namespace.proba))
    else:
        print(shown("\n".join([*_said(invented), *(f"Written: {file}" for file in contents)])))


def _doubted(namespace: argparse.Namespace) -> None:
    """The same of a run that weighs or corrects given labels."""
    from maxl.experiments.runs.doubted import doubts
    from maxl.experiments.runs.files import write_at_once

    if namespace.gallery is not None:
        raise ValueError(
            "--gallery shows auxiliary classes, which a run on given labels has none of: leave it out"
        )
    found = doubts(namespace.folder, namespace.source, device=namespace.device, trust=namespace.trust)
    for sentence in found.data.left_out:
        note(f"left out: {sentence}")
    text = doubts_csv(found, proba=namespace.proba)
    if namespace.out is None:
        sys.stdout.write(text)
        return
    namespace.out.parent.mkdir(parents=True, exist_ok=True)
    write_at_once(namespace.out, text.encode())
    if found.corrected is not None:
        changed = int((found.corrected.argmax(1) != found.data.targets).sum())
        print(f"{len(found.data)} samples, of which {changed} get another class than the given one")
    elif found.weights is not None:
        mean = found.weights.mean()
        print(
            f"{len(found.data)} samples, of which {int((found.weights < mean / 10).sum())} count less than a tenth of the mean"
        )


def doubts_csv(found: DoubtedLabels, *, proba: bool) -> str:
    """A line a sample: its given class, then its weight, or the likeliest class and what that and the given one get.

    Args:
        found: Weights or corrections.
        proba: Also the probability of each class, where labels are corrected.
    """
    names, given = found.primary_names, found.data.targets.tolist()
    header = ["row" if isinstance(found.data.names[0], int) else "file", "class"]
    rows = [[cell(str(name)), cell(names[y])] for name, y in zip(found.data.names, given, strict=True)]
    if found.weights is not None:
        relative = (found.weights / found.weights.mean()).tolist()
        return csv_text(
            [*header, "weight"], ([*row, number(w)] for row, w in zip(rows, relative, strict=True))
        )
    assert found.corrected is not None  # one of both is there
    header += ["corrected", "probability", "probability of class"]
    header += [f"probability {name}" for name in names] * proba
    for row, y, label in zip(rows, given, found.corrected.tolist(), strict=True):
        best = max(range(len(label)), key=label.__getitem__)
        row += [cell(names[best]), number(label[best]), number(label[y])]
        row += [number(p) for p in label] * proba
    return csv_text(header, rows)


def _flags(namespace: argparse.Namespace) -> list[str]:
    """What makes another run read the samples, and look at them, as this one did."""
    from maxl.experiments.runs.folder import RunFolder

    config = RunFolder(namespace.folder).read_config(trust=namespace.trust)
    primary = [config.primary] if isinstance(config.primary, str) else []
    return [
        *("--data", str(namespace.source), *(["--primary", *primary] if primary else [])),
        *(
            word
            for name in ("types", "drop")
            if (given := getattr(config, name))
            for word in (f"--{name}", *given)
        ),
        *("--trunk", config.trunk, "--epochs", str(config.epochs)),
    ]


def labels_csv(invented: InventedLabels, *, proba: bool) -> str:
    """A line a sample.

    Args:
        invented: The labels.
        proba: Also the probability of each auxiliary class.
    """
    blocks = invented.hierarchy.num_primary
    header = ["row" if isinstance(invented.data.names[0], int) else "file"]
    header += ["class"] * (blocks > 1) + ["auxiliary_class"] + ["within_class"] * (blocks > 1)
    header += ["probability", "entropy"] + ["weight"] * (invented.weights is not None)
    if proba:
        header += [f"probability {k}" for k in range(invented.hierarchy.num_auxiliary)]
    return csv_text(header, _rows(invented, proba))


def _rows(invented: InventedLabels, proba: bool) -> Iterator[list[str]]:
    owner, within, several = invented.hierarchy.owner, invented.within, invented.hierarchy.num_primary > 1
    entropy = invented.entropy
    for i, (name, k) in enumerate(zip(invented.data.names, invented.likeliest.tolist(), strict=True)):
        row = [cell(str(name))]
        row += [cell(invented.block_names[owner[k]])] if several else []
        row += [str(k)] + ([str(int(within[k]))] if several else [])
        row += [number(float(invented.labels[i, k])), number(float(entropy[i]))]
        row += [] if invented.weights is None else [number(float(invented.weights[i]))]
        yield row + ([number(p) for p in invented.labels[i].tolist()] if proba else [])


def _said(invented: InventedLabels) -> list[str]:
    """What there is to say of all labels."""
    used, every = len({*invented.likeliest.tolist()}), invented.hierarchy.num_auxiliary
    return [
        f"{len(invented.data)} samples, {every} auxiliary classes, {used} of them the likeliest one of a sample",
        f"mean entropy {float(invented.entropy.mean()):.3f} nats of {float(invented.most_entropy.mean()):.3f} at most",
        *([] if invented.verdict is None else [invented.verdict]),
        *([] if invented.weights is None else [f"mean weight {float(invented.weights.mean()):.3f}"]),
    ]
