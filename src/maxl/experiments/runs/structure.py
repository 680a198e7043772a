"""Structure that a network found without being told: what its features and labels say of labels it never saw.

All randomness is drawn from generators of their own: measuring changes nothing of a run.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

DRAWS = 5  # of training samples, over which the probe's accuracy is averaged
SMALLEST_GROUP = (
    10  # test samples below which the accuracy of a group is left out: one sample would decide it
)

_ROWS = 4096  # at a time: in float64 they take twice their memory
_CONSTANT = 1e-12  # of its mean: the spread of a feature that is constant up to rounding
_SEED = 7  # beside the run's: samples of the probe are no other draw's

_Points = npt.NDArray[np.float64]
_Labels = npt.NDArray[np.int64]


def few_shot_accuracy(
    train: Tensor,
    train_labels: Tensor,
    scored: list[tuple[Tensor, Tensor]],
    *,
    shots: int,
    seed: int,
    draws: int = DRAWS,
) -> list[float]:
    """Accuracy of a linear probe that sees a few samples of each class, a mean over draws of these.

    Logistic regression (scikit-learn's defaults) on features standardised over the training part. The same seed draws
    the same samples, whatever the features are: methods, and features and inputs, are compared on equal draws.

    Args:
        train: Features of the training part, shape (N, ...).
        train_labels: Their classes, int64 of shape (N,); at least two.
        scored: Features and classes of the parts to score, (M, ...) and (M,). Samples of a class without a training
            sample are left out, as no probe could know them.
        shots: Samples of each class; all of a class that has fewer.
        seed: Selects the draws.
        draws: How many.

    Returns:
        Accuracy in [0, 1] on each part; NaN where none of its samples is of a known class.

    Raises:
        ValueError: if the training part has one class alone.
    """
    from sklearn.linear_model import LogisticRegression
    from threadpoolctl import threadpool_limits

    mean, std = _moments(train)

    def standardised(x: Tensor) -> _Points:
        scaled: _Points = (x.flatten(1).double().cpu().numpy() - mean) / std
        return scaled

    labels = _labels(train_labels)
    classes = np.unique(labels)
    if len(classes) < 2:
        raise ValueError(
            f"--probe needs training samples of at least 2 classes; got {len(classes)}: choose another column"
        )
    parts = []
    for x, y in scored:
        known = np.isin(_labels(y), classes)
        parts.append((standardised(x[torch.from_numpy(known)]) if known.any() else None, _labels(y)[known]))
    correct = np.full((draws, len(parts)), np.nan)
    random = np.random.default_rng((_SEED, seed))
    with threadpool_limits(1):  # sums over threads round differently
        for draw in range(draws):
            of_class = [random.permutation(np.flatnonzero(labels == c))[:shots] for c in classes]
            chosen = np.concatenate(of_class)
            probe = LogisticRegression(max_iter=1000)
            with warnings.catch_warnings():
                # A probe that has not quite converged is one all the same, and the same for every method.
                warnings.filterwarnings("ignore", message="lbfgs failed to converge")
                probe.fit(standardised(train[torch.from_numpy(chosen)]), labels[chosen])
            for i, (part, known_labels) in enumerate(parts):
                if part is not None:
                    correct[draw, i] = (probe.predict(part) == known_labels).mean()
    return [float(accuracy) for accuracy in correct.mean(0)]


@dataclass(frozen=True)
class Agreement:
    """How invented labels agree with others within primary classes.

    Attributes:
        nmi: Mutual information over the mean of both entropies, in [0, 1]; 0 where either says nothing.
        purity: Share of samples whose column value is the commonest one of their auxiliary class, in [0, 1].
    """

    nmi: float
    purity: float


def label_agreement(labels: Tensor, primary: Tensor, column: Tensor) -> Agreement | None:
    """NMI and purity of labels against a column, within primary classes and averaged over samples.

    Within: auxiliary classes belong to primary ones, so a column that refines these would agree with *any* labels
    over the whole data. Soft labels count by their mass, as many samples of little weight, so that labels that are
    spread evenly have an NMI of 0, whichever entry is largest by a hair. Labels that say nothing have a purity of
    the commonest value's share, not 0, and with few samples a little NMI by chance: compare with ``random``.

    Args:
        labels: Auxiliary labels, int64 of shape (N,), or soft of shape (N, K).
        primary: Classes, int64 of shape (N,).
        column: Values to compare with, int64 of shape (N,).

    Returns:
        None where no primary class has two values of the column.
    """
    if labels.dim() == 1:
        labels = torch.nn.functional.one_hot(labels.long())
    mass, primary, column = labels.detach().double().cpu(), primary.cpu(), column.cpu()
    nmi = purity = samples = 0.0
    for c in torch.unique(primary):
        members = primary == c
        values = torch.nn.functional.one_hot(torch.unique(column[members], return_inverse=True)[1]).double()
        if values.shape[1] < 2:
            continue
        n = float(members.sum())
        joint = mass[members].T @ values / n  # (K, values)
        rows, columns = joint.sum(1), joint.sum(0)
        entropy = (_entropy(rows) + _entropy(columns)) / 2
        information = _entropy(rows) + _entropy(columns) - _entropy(joint.flatten())
        nmi += n * min(1.0, max(0.0, information / entropy))
        purity += n * min(1.0, float(joint.amax(1).sum()))
        samples += n
    return Agreement(nmi / samples, purity / samples) if samples else None


def _entropy(p: Tensor) -> float:
    return -float(torch.special.xlogy(p, p).sum())


def worst_group(predicted: Tensor, primary: Tensor, column: Tensor) -> tuple[float, int] | None:
    """The lowest accuracy of a group, the samples with one value of a column, and that value.

    Args:
        predicted, primary: Predicted and true classes, int64 of shape (N,).
        column: The groups, int64 of shape (N,).

    Returns:
        None where no group has ``SMALLEST_GROUP`` samples; smaller ones are left out.
    """
    correct, column = (predicted == primary).double().cpu(), column.cpu()
    groups = [
        (float(correct[members].mean()), int(value))
        for value in torch.unique(column)
        if int((members := column == value).sum()) >= SMALLEST_GROUP
    ]
    return min(groups) if groups else None


def _moments(x: Tensor) -> tuple[_Points, _Points]:
    """Mean and standard deviation of each feature, 1 in place of 0; in float64, a few samples at a time."""
    rows = torch.split(x.flatten(1), _ROWS)
    mean = sum((part.double().sum(0) for part in rows), torch.zeros(())) / len(x)
    variance = sum(((part.double() - mean).square().sum(0) for part in rows), torch.zeros(())) / len(x)
    std = variance.sqrt()
    return mean.cpu().numpy(), std.where(std > _CONSTANT * mean.abs(), torch.ones(())).cpu().numpy()


def _labels(y: Tensor) -> _Labels:
    return y.cpu().numpy()
