"""Segmentation: predicted masks beside images and truths."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np

from _report_helpers import write_run
from maxl.experiments.report.classes import by_class, mask_gallery
from maxl.experiments.report.parts import Gallery, Table
from maxl.experiments.report.runs import load_study


def test_masks_stand_beside_their_images_and_truths(tmp_path: Path) -> None:
    from PIL import Image

    truth = np.zeros((2, 8, 8), np.int16)
    truth[:, 4:], truth[:, 0] = 1, -1  # a row that does not count
    for method in ("single", "maxl"):
        path = write_run(tmp_path / method, method=method) / "snapshot.npz"
        with np.load(path) as archive:
            arrays = dict(archive)
        predicted = np.zeros_like(truth) if method == "single" else truth.clip(0)
        images = np.full((2, 8, 8, 3), 7, np.uint8)
        np.savez(path, **arrays, mask_images=images, mask_truths=truth, mask_predicted=predicted)
    (setting,) = load_study(tmp_path).settings
    single, learned, colours = mask_gallery(setting)
    assert isinstance(single, Gallery)
    assert isinstance(learned, Gallery)
    assert isinstance(colours, Gallery)
    assert single.pictures[0].caption.endswith("43 % of the pixels are right")  # 24 of 56
    assert learned.pictures[1].caption.endswith("100 % of the pixels are right")
    assert len(single.pictures) == 2
    strip = np.asarray(Image.open(io.BytesIO(learned.pictures[0].png)).convert("RGB"))
    image, true, guess = strip[:, :8], strip[:, 9:17], strip[:, 18:26]
    assert (image == 7).all()
    np.testing.assert_array_equal(true, guess)
    assert (true[0] == 128).all()
    assert len({tuple(pixel) for pixel in true.reshape(-1, 3)}) == 3
    (table,) = (part for part in by_class(setting) if isinstance(part, Table))
    assert list(table.frame.columns)[1] == "Test pixels"


def test_other_tasks_have_no_masks(tmp_path: Path) -> None:
    write_run(tmp_path / "run")
    assert mask_gallery(load_study(tmp_path).settings[0]) == []
