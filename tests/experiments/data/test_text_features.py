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


def rows(file: Path, header: str, lines: list[str]) -> str:
    file.write_text("\n".join([header, *lines]), encoding="utf-8")
    return str(file)


def test_a_text_has_the_same_words_alone_and_beside_other_columns(tmp_path: Path) -> None:
    """What differs in words of one letter alone is the same text."""
    texts = [f"{'red cold' if i % 2 else 'blue warm'} thing{i % 7}" for i in range(60)]
    letters = [f"{'x' if i % 2 else 'y z'} {text}" for i, text in enumerate(texts)]
    for header, more in (("text,label", [""] * 60), ("text,age,label", [f"{i % 9}," for i in range(60)])):
        made = []
        for name, given in (("plain", texts), ("letters", letters)):
            lines = [f"{t},{m}{'ab'[i % 2]}" for i, (t, m) in enumerate(zip(given, more, strict=True))]
            types = {"text": "text"} if "age" in header else {}
            made.append(load(rows(tmp_path / f"{name}.csv", header, lines), types=types).train.x)
        assert torch.equal(*made)


@pytest.mark.parametrize("words", [("a b", "c d"), ("\U0001f600", "\U0001f621")])
def test_a_column_of_texts_without_a_word_is_named_with_what_to_do(
    words: tuple[str, str], tmp_path: Path
) -> None:
    alone = [f"{words[i % 2]},{'ab'[i % 2]}" for i in range(40)]
    with pytest.raises(
        ValueError, match=r"needs words.*'text' has none in the training samples: .*--trunk hf:NAME"
    ):
        load(rows(tmp_path / "alone.csv", "text,label", alone))
    beside = [f"{words[i % 2]},{i % 9},{'ab'[i % 2]}" for i in range(40)]
    with pytest.raises(
        ValueError, match=r"needs words.*'note' has none in the training samples: --drop note, or say"
    ):
        load(rows(tmp_path / "beside.csv", "note,age,label", beside), types={"note": "text"})
