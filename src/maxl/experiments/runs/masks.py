"""Predicted masks as PNG files."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

from maxl.experiments.runs.files import write_at_once
from maxl.experiments.runs.folder import RunFolder
from maxl.experiments.runs.measures import task_of

if TYPE_CHECKING:
    from maxl.experiments.runs.inference import Mask


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
