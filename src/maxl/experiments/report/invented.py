"""A page with the images that each invented class collects."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from maxl.experiments.report.browser import browser_scripts, of_labels
from maxl.experiments.report.html import document
from maxl.experiments.report.parts import Gallery, Note, Part, Picture, Points, Section
from maxl.experiments.report.strip import strip_png
from maxl.experiments.runs.invented import InventedLabels
from maxl.experiments.runs.thumbnails import are_images, thumbnails

_PER_CLASS = 8


def gallery_page(title: str, invented: InventedLabels, said: Sequence[str], flags: Sequence[str]) -> str:
    """A self-contained HTML page: for each class the samples of its invented classes, the most probable first.

    A sample stands under its likeliest invented class alone, so that one that no sample has stands there without any.

    Args:
        title: Of the page.
        invented: The labels of images.
        said: Sentences on top.
        flags: Of ``maxl train``, that say how the samples are read and trained on.

    Raises:
        ValueError: if the samples are no images.
    """
    images = invented.data.images
    if images is None:
        raise ValueError("--gallery shows images; the samples are rows of a table: leave it out")
    likeliest, owner = invented.likeliest, invented.hierarchy.owner
    probabilities = invented.labels.gather(1, likeliest.unsqueeze(1)).squeeze(1)
    blocks = invented.hierarchy.num_primary
    parts: list[Part] = []
    for c in range(blocks):
        name = invented.block_names[c]
        pictures, empty = [], []
        for within, k in enumerate((owner == c).nonzero().flatten().tolist()):
            members = (likeliest == k).nonzero().flatten()
            if not len(members):
                empty.append(str(within))
                continue
            pictures.append(_picture(name, within, members, probabilities, images))
        note = "" if not empty else f"No sample has the invented class {', '.join(empty)} as its likeliest."
        parts.append(Gallery(name, note, pictures) if pictures else Note(f"{name}: {note}"))
    sections = [Section("Labels", "", [Points(list(said))]), Section("Images", "", parts)]
    browser = of_labels("Invented classes", invented, flags)
    if browser is not None:
        sections.insert(1, Section("Look through them", "", [browser]))
    return document(title, sections, browser_scripts())


def _picture(
    name: str,
    within: int,
    members: Tensor,
    probabilities: Tensor,
    images: Callable[[Sequence[int]], Tensor],
) -> Picture:
    order = torch.argsort(probabilities[members], descending=True, stable=True)[:_PER_CLASS]
    shown = members[order]
    pixels = images(shown.tolist())
    assert are_images(pixels)  # as a run reads them
    high, low = (float(probabilities[shown[i]]) for i in (0, -1))
    return Picture(
        png=strip_png(thumbnails(pixels)),
        alternative=f"{len(shown)} samples of {name} whose likeliest invented class is {within}",
        caption=f"{name}, invented class {within}: {len(members)} samples, probability {high:.2f} to {low:.2f}",
    )
