"""Predicted masks, and PNG files of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn

from maxl.experiments.data import decode, stretch
from maxl.experiments.runs.files import write_at_once
from maxl.experiments.runs.folder import RunFolder
from maxl.experiments.runs.inputs import as_channels
from maxl.experiments.runs.measures import task_of

if TYPE_CHECKING:
    from maxl.experiments.runs.model import PrimaryModel


class Mask(NamedTuple):
    """The likeliest class of each pixel of an image, uint8 of the image's shape (H, W)."""

    file: Path
    classes: Tensor


def predict_masks(model: PrimaryModel, files: Sequence[Path], device: torch.device) -> Iterator[Mask]:
    """The masks of images, which are stretched to the run's size, and their logits back to the image's."""
    model.trunk.to(device)
    model.primary_head.to(device)
    channels = model.input_shape[0]
    for file in files:
        image = decode([file], 1, lambda _, file=file: f"'{file}'", None)  # type: ignore[misc]
        x = as_channels(stretch(image, model.input_shape[1:]), channels)  # type: ignore[arg-type]
        with torch.no_grad():
            logits = model.outputs(model.normalise(x).to(device)).float()
        if not logits.isfinite().all():
            raise ValueError(
                f"predict needs images like those of training; {file} is so far from them that the model gives no number"
            )
        whole = nn.functional.interpolate(logits, size=image.shape[2:], mode="bilinear", align_corners=False)
        yield Mask(file, whole.argmax(1).squeeze(0).to(torch.uint8).cpu())


def require_mask_folder(run: Path, source: Path, out: Path | None) -> None:
    """ValueError if masks of a run have no place: without a folder, or where there is something already.

    A run of another task, or a folder that holds no finished run, is for others to judge.
    """
    folder = RunFolder(run)
    if not folder.finished or task_of(folder.read_summary()) != "segmentation":
        return
    if out is None:
        raise ValueError("predict writes the masks of segmentation into a folder: name it with --out")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"--out needs a new or empty folder for masks; {out} holds something already")


def write_masks(masks: Sequence[Mask], source: Path, out: Path) -> None:
    """Grey PNG files of the images' sizes, whose values are the numbers of the classes.

    Args:
        masks: Of images below ``source``, or of that file.
        source: A folder's structure is kept.
        out: A folder.

    Raises:
        ValueError: if two images would get the same name; nothing is written then.
    """
    from PIL import Image

    root = source if source.is_dir() else source.parent
    named: dict[Path, Mask] = {}
    for mask in masks:
        file = out / mask.file.relative_to(root).with_suffix(".png")
        if file in named:
            raise ValueError(
                f"masks need different names; '{named[file].file}' and '{mask.file}' both give {file}"
            )
        named[file] = mask
    for file, mask in named.items():
        content = BytesIO()
        Image.fromarray(mask.classes.numpy()).save(content, "PNG")
        file.parent.mkdir(parents=True, exist_ok=True)
        write_at_once(file, content.getvalue())
