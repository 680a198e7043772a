"""Invented classes to look through: what a run's snapshot, or ``maxl labels``, knows of them."""

from __future__ import annotations

import io
import shlex
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from maxl.experiments.data import finer_csv
from maxl.experiments.report.commands import new_folder
from maxl.experiments.report.labels import informative
from maxl.experiments.report.parts import Browser, Sample
from maxl.experiments.report.runs import Run, Setting
from maxl.experiments.runs.invented import InventedLabels
from maxl.experiments.runs.looks import within_blocks
from maxl.experiments.runs.names import names_code
from maxl.experiments.runs.thumbnails import thumbnails
from maxl.experiments.studies.variants import base_method

_NOTE = (
    "Choose a class of yours, then one that was invented within it: its surest samples, the most probable first, with "
    "the probabilities of all invented classes of the class. Names can be changed; two of one class with the same name become one. "
    "The file takes all labelled training samples along, not only those shown: another run trains on it as on human finer classes."
)
_PICTURES, _PER_CLASS, _SIDE = 600, 24, 32  # of a page of maxl labels, as in a snapshot


def browser_scripts() -> list[str]:
    """What makes a page's browsers work."""
    own = resources.files("maxl.experiments.report")
    return [own.joinpath("browser.js").read_text(encoding="utf-8")]


def browsable(setting: Setting) -> Run | None:
    """The run whose invented classes are worth a look: learned ones before others, the lowest seed; None without any."""
    found = [
        run
        for runs in setting.methods.values()
        for run in runs
        if run.snapshot is not None and run.snapshot.label_rows is not None and informative(run)
    ]
    return next((run for run in found if base_method(run.label) == "maxl"), found[0] if found else None)


def of_run(setting: Setting, run: Run, file: Path) -> Browser:
    """The invented classes of a run, from its snapshot; ``file`` is where the hierarchy is written beside the report."""
    snapshot = run.snapshot
    assert snapshot is not None  # browsable
    found = (
        *(snapshot.auxiliary_owner, snapshot.label_rows, snapshot.label_auxiliary),
        *(snapshot.sample_positions, snapshot.sample_probabilities),
    )
    owner, rows, auxiliary, positions, probabilities = (_there(array) for array in found)
    primary = [str(name) for name in snapshot.primary_names]
    samples = [
        Sample(
            int(auxiliary[place]),
            f"row {int(rows[place])}",
            _within(probabilities[i], owner, int(auxiliary[place])),
            None if snapshot.sample_images is None else png(snapshot.sample_images[i]),
        )
        for i, place in enumerate(positions)
    ]
    return Browser(
        title=f"Invented classes: {setting.name}, {run.label}, seed {run.seed}",
        note=f"{_NOTE} Labels differ from run to run; these are of one.",
        primary_names=primary,
        owner=owner.tolist(),
        names=names_of(primary, owner.tolist()),
        rows=rows.tolist(),
        auxiliary=auxiliary.tolist(),
        samples=samples,
        file=file.name,
        beside=True,
        command=shlex.join(
            [
                *("maxl", "train", "--config", str(run.folder / "config.yaml"), "--human", str(file)),
                *(
                    "--train-size",
                    str(len(rows)),
                    "--validation-size",
                    "0",
                ),  # the file lists no other samples
                *("--method", "human", "--out", str(new_folder(run.folder, "finer"))),
                *["--trust"] * names_code(run.config),
            ]
        ),
    )


def of_labels(title: str, invented: InventedLabels, flags: Sequence[str]) -> Browser | None:
    """The invented classes of labelled samples, with their rows in these; None where a sample has no one class."""
    targets, hierarchy = invented.data.targets, invented.hierarchy
    if targets.dim() != 1 or hierarchy.num_primary != len(invented.primary_names):
        return None
    likeliest, owner = invented.likeliest, hierarchy.owner.tolist()
    surest = invented.labels.gather(1, likeliest.unsqueeze(1)).squeeze(1)
    each = max(1, min(_PER_CLASS, _PICTURES // hierarchy.num_auxiliary))
    samples = []
    for k in range(hierarchy.num_auxiliary):
        members = (likeliest == k).nonzero().flatten()
        members = members[torch.argsort(surest[members], descending=True, stable=True)[:each]]
        if not len(members):
            continue
        shares = within_blocks(invented.labels[members], targets[members], hierarchy)
        images = invented.data.images
        pictures = None if images is None else thumbnails(images(members.tolist()), _SIDE)
        for i, (row, probabilities) in enumerate(zip(members.tolist(), shares.numpy(), strict=True)):
            name = invented.data.names[row]
            samples.append(
                Sample(
                    k,
                    f"row {name}" if isinstance(name, int) else name.name,
                    _within(probabilities, np.asarray(owner), k),
                    None if pictures is None else png(pictures[i]),
                )
            )
    primary = list(invented.primary_names)
    return Browser(
        title=title,
        note=_NOTE,
        primary_names=primary,
        owner=owner,
        names=names_of(primary, owner),
        rows=list(range(len(invented.data))),
        auxiliary=likeliest.tolist(),
        samples=samples,
        file="finer.csv",
        command=shlex.join(
            ["maxl", "train", *flags, "--human", "finer.csv", "--method", "human", "--out", "finer"]
        ),
    )


def hierarchy_csv(browser: Browser) -> str:
    """What ``--human`` takes: a line for each row, its class and the name of its likeliest invented class."""
    classes = [browser.primary_names[browser.owner[k]] for k in browser.auxiliary]
    return finer_csv(browser.rows, classes, [browser.names[k] for k in browser.auxiliary])


def names_of(primary: Sequence[str], owner: Sequence[int]) -> list[str]:
    """A name for each invented class, different from all others: its class, and its number within, from 0."""
    return [f"{primary[c]} · {owner[:k].count(c)}" for k, c in enumerate(owner)]


def png(image: NDArray[Any]) -> bytes:
    """A PNG file of one image, uint8 of shape (H, W, C), C of 1 or 3."""
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(file, "PNG", optimize=True)
    return file.getvalue()


def _within(probabilities: NDArray[Any], owner: NDArray[Any], auxiliary: int) -> list[float]:
    count = int((owner == owner[auxiliary]).sum())
    return [round(float(p), 4) for p in probabilities[:count]]


def _there(array: NDArray[Any] | None) -> NDArray[Any]:
    assert array is not None  # a snapshot with labels has all of these
    return array
