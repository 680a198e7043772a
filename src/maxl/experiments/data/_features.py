"""Transforms of features and text whose statistics come from the training samples alone."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from maxl.experiments.data._source import IntArray, Raw

TEXT_FEATURES = 256
_PIECE = 1 << 20  # numbers of which statistics are taken at a time
LEAST_STD = 1e-4  # of a feature of text: of texts as vectors of length 1, smaller ones are rounding errors


@dataclass(frozen=True)
class Standardise:
    """(x − mean) / std by feature, both float64 of shape (D,)."""

    mean: Tensor
    std: Tensor

    def __call__(self, raw: Raw) -> Tensor:
        return self.of_rows(raw, range(len(raw)))

    def of_rows(self, raw: Raw, rows: Sequence[int] | IntArray) -> Tensor:
        """The same of some rows of a part, (n, D), which errors name by ``rows``.

        Raises:
            ValueError: if a value is not finite any more.
        """
        assert isinstance(raw, Tensor)
        standardised = ((raw.double() - self.mean) / self.std).float()
        if not standardised.isfinite().all():
            row, column = (~standardised.isfinite()).nonzero()[0].tolist()
            raise ValueError(
                f"sample {rows[row]} lies too far from the training samples for float32: its feature {column} is "
                f"{raw[row, column]:g}, theirs {self.mean[column]:g} ± {self.std[column]:g}"
            )
        return standardised


def fit_standardise(raw: Raw) -> Standardise:
    """Standardise each feature: zero mean and unit variance over the training samples.

    Args:
        raw: Training features, shape (N, D).

    Returns: the transform for any part; a feature that is constant in training becomes 0 there.
    """
    assert isinstance(raw, Tensor)
    return fit_pieces(iter(torch.split(raw, piece_rows(raw.shape[1]))))


def piece_rows(width: int) -> int:
    """How many rows of so many features ``fit_pieces`` is given at a time, so that sums are rounded alike everywhere."""
    return max(1, _PIECE // width)


def fit_pieces(pieces: Iterator[Tensor]) -> Standardise:
    """``fit_standardise`` of features that come in pieces, (n, D) each, in one pass.

    Means and sums of squared deviations of pieces are put together (Chan, Golub and LeVeque, 1983), in float64 and after
    the first row has been taken off, so that no digits are lost where a mean is large beside the deviation.
    """
    count, first = 0, torch.zeros(0)
    mean = squares = torch.zeros((), dtype=torch.float64)
    constant = torch.ones((), dtype=torch.bool)
    for piece in pieces:
        if not count:
            first = piece[0].double()
        x = piece.double() - first
        total = count + len(x)
        own = x.mean(0)
        apart = own - mean
        squares = squares + (x - own).square().sum(0) + apart.square() * (count * len(x) / total)
        mean = mean + apart * (len(x) / total)
        constant = constant & (x == 0).all(0)
        count = total
    std = (squares / count).sqrt()
    return Standardise(first + mean, torch.where(constant | (std == 0), 1.0, std))


@dataclass(frozen=True)
class TextFeatures:
    """TF-IDF of words and word pairs, reduced by a truncated SVD, then standardised.

    Attributes:
        terms: The V words and word pairs.
        idf: Their inverse document frequencies, float64, shape (V,).
        components: Of the SVD, shape (D, V).
        standardise: Of the D features.
        column: The column of a table that holds texts.
    """

    terms: tuple[str, ...]
    idf: Tensor
    components: Tensor
    standardise: Standardise
    column: str = "text"

    def __call__(self, raw: Raw) -> Tensor:
        assert isinstance(raw, list)
        vectorizer = vectorizer_of_words(self.terms)
        vectorizer.idf_ = self.idf.numpy()
        return self.standardise(torch.from_numpy(vectorizer.transform(raw) @ self.components.numpy().T))

    def to_bytes(self) -> bytes:
        """As a safetensors file; the components in half their precision, which moves features by about 1e-7."""
        from safetensors.torch import save

        tensors = {
            "idf": self.idf,
            "components": self.components.float(),
            "mean": self.standardise.mean,
            "std": self.standardise.std,
        }
        described = {"terms": json.dumps(self.terms), "column": json.dumps(self.column)}
        return save({name: tensor.contiguous() for name, tensor in tensors.items()}, described)

    @classmethod
    def read(cls, file: Path) -> TextFeatures:
        """From a file with the content of ``to_bytes``."""
        from safetensors import safe_open

        with safe_open(file, "pt") as stored:
            described = stored.metadata()
            standardise = Standardise(stored.get_tensor("mean"), stored.get_tensor("std"))
            return cls(
                terms=tuple(json.loads(described["terms"])),
                idf=stored.get_tensor("idf"),
                components=stored.get_tensor("components").double(),
                standardise=standardise,
                column=json.loads(described["column"]),
            )


def fit_text(raw: Raw, dimensions: int = TEXT_FEATURES) -> TextFeatures:
    """Features of texts; see ``TextFeatures``.

    Args:
        raw: Training texts.
        dimensions: Most features to keep; fewer texts or words give fewer, and so do texts that are alike.

    Returns: the transform for any part, to float32 features (N, D).

    Raises:
        ValueError: if all texts are alike.
    """
    from sklearn.decomposition import TruncatedSVD
    from threadpoolctl import threadpool_limits

    assert isinstance(raw, list)
    vectorizer = vectorizer_of_words()
    counts = vectorizer.fit_transform(raw)
    if (counts.max(axis=0) != counts.min(axis=0)).nnz == 0:
        raise ValueError(
            f"texts need to differ in their words; the {len(raw)} training texts are all alike: choose another column"
        )
    svd = TruncatedSVD(min(dimensions, *counts.shape), random_state=0)
    with threadpool_limits(1):  # sums over threads round differently from machine to machine
        reduced = svd.fit_transform(counts)
    # Standardised, a direction in which texts do not differ would be rounding errors as large as a feature.
    kept = reduced.std(0) > LEAST_STD
    standardise = fit_standardise(torch.from_numpy(reduced[:, kept]))
    return TextFeatures(
        terms=tuple(vectorizer.get_feature_names_out().tolist()),
        idf=torch.from_numpy(vectorizer.idf_),
        components=torch.from_numpy(svd.components_[kept]),
        standardise=standardise,
    )


def vectorizer_of_words(vocabulary: Sequence[str] | None = None) -> Any:
    """Scikit-learn's TF-IDF of words and word pairs, by its own pattern: words of two letters or more.

    Of a column of texts alone and of one beside others, so that the same texts have the same words.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer

    return TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, vocabulary=vocabulary)


def require_words(texts: Iterable[str], name: str, remedy: str) -> None:
    """ValueError, which names the column and ends with the remedy, unless a text has a word."""
    words = re.compile(vectorizer_of_words().token_pattern)
    if not any(words.search(text.lower()) for text in texts):
        raise ValueError(
            f"a column of texts needs words, of two letters or more; '{name}' has none in the training samples: {remedy}"
        )
