"""Features of texts: real ones alone, and the same from what is stored."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from maxl.experiments.data import LEAST_STD, TextFeatures, load


def table(file: Path, texts: list[str]) -> str:
    file.write_text("\n".join(["text,label", *(f"{text},{'ab'[i % 2]}" for i, text in enumerate(texts))]))
    return str(file)


def test_texts_that_repeat_have_no_features_of_rounding_errors(tmp_path: Path) -> None:
    texts = [f"{('red cold', 'blue warm')[i % 2]} thing{i % 7}" for i in range(60)]
    data = load(table(tmp_path / "t.csv", texts))
    assert data.text is not None
    assert 1 < data.train.x.shape[1] <= 14  # as many texts differ
    assert (data.text.standardise.std > LEAST_STD).all()
    (tmp_path / "text.safetensors").write_bytes(data.text.to_bytes())
    stored = TextFeatures.read(tmp_path / "text.safetensors")
    new = ["red thing3", "warm", "of another kind", "blue warm thing1"]
    torch.testing.assert_close(stored(new), data.text(new), rtol=0, atol=1e-3)


def test_texts_that_are_all_alike_are_refused(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match="need to differ in their words; the 16 training texts are all alike"
    ):
        load(table(tmp_path / "t.csv", ["the same words"] * 20))
