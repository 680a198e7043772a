"""Transforms of features and text whose statistics come from the training samples alone."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from maxl.data._source import Raw, Transform

TEXT_FEATURES = 256


@dataclass(frozen=True)
class Standardise:
    """(x − mean) / std by feature, both float64 of shape (D,)."""

    mean: Tensor
    std: Tensor

    def __call__(self, raw: Raw) -> Tensor:
        assert isinstance(raw, Tensor)
        return ((raw.double() - self.mean) / self.std).float()


def fit_standardise(raw: Raw) -> Standardise:
    """Standardise each feature: zero mean and unit variance over the training samples.

    Args:
        raw: Training features, float32, shape (N, D).

    Returns: the transform for any part; a feature that is constant in training becomes 0 there.
    """
    assert isinstance(raw, Tensor)
    features = raw.double()  # sums over many rows
    mean, std = features.mean(0), features.std(0, correction=0)
    return Standardise(mean, torch.where(std > 0, std, 1.0))


def fit_text(raw: Raw, dimensions: int = TEXT_FEATURES) -> Transform:
    """TF-IDF of words and word pairs, reduced by a truncated SVD, then standardised.

    Args:
        raw: Training texts.
        dimensions: Most features to keep; fewer texts or words give fewer.

    Returns: the transform for any part, to float32 features (N, D).
    """
    from sklearn.decomposition import TruncatedSVD
    from sklearn.feature_extraction.text import TfidfVectorizer

    assert isinstance(raw, list)
    vectorizer = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True)
    counts = vectorizer.fit_transform(raw)
    svd = TruncatedSVD(min(dimensions, *counts.shape), random_state=0)
    standardise = fit_standardise(torch.from_numpy(svd.fit_transform(counts)))

    def transform(raw: Raw) -> Tensor:
        return standardise(torch.from_numpy(svd.transform(vectorizer.transform(raw))))

    return transform
