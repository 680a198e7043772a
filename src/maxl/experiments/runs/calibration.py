"""Whether probabilities mean what they say, once a temperature has been fitted on samples that are no test samples."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

BINS = 15  # of confidence, as in Guo et al. 2017 (arXiv 1706.04599)

_LOWEST, _HIGHEST = 0.01, 100.0  # temperatures looked at


@dataclass(frozen=True)
class Calibration:
    """Of probabilities softmax(z / T).

    Attributes:
        ece: Expected calibration error, in [0, 1].
        nll: Negative log-likelihood, nats a sample.
        temperature: T.
    """

    ece: float
    nll: float
    temperature: float


def calibration(
    logits: Tensor, y: Tensor, fit_logits: Tensor, fit_y: Tensor, *, trained_on: bool
) -> Calibration:
    """ECE and NLL after temperature scaling (Guo et al. 2017).

    Args:
        logits, y: Of the samples to judge, shapes (N, C) and (N,).
        fit_logits, fit_y: Of those that the temperature is fitted on.
        trained_on: Whether the network was trained on the latter. It may know them by heart, and the likelihood would
            then ask for ever more confidence: the temperature is kept at 1 or above, as it is wherever every sample that
            it is fitted on is right.
    """
    temperature = fit_temperature(fit_logits, fit_y, at_least=1.0 if trained_on else _LOWEST)
    scaled = logits.detach().double().cpu() / temperature
    y = y.cpu()
    nll = float(F.cross_entropy(scaled, y))
    return Calibration(expected_calibration_error(scaled.softmax(1), y), nll, temperature)


def fit_temperature(logits: Tensor, y: Tensor, *, at_least: float = _LOWEST) -> float:
    """T from ``at_least`` to 100 with the least negative log-likelihood, which is convex in 1 / T.

    1 or above where every sample is right, or the search ends at ``at_least``: there the likelihood asks for ever more
    confidence, and samples that are none of these would pay for it.
    """
    from scipy.optimize import minimize_scalar

    logits, y = logits.detach().double().cpu(), y.cpu()

    def loss(log_temperature: float) -> float:
        return float(F.cross_entropy(logits / math.exp(log_temperature), y))

    if at_least < 1.0 and bool((logits.argmax(1) == y).all()):
        at_least = 1.0
    low, high = math.log(at_least), math.log(_HIGHEST)
    found = minimize_scalar(loss, bounds=(low, high), method="bounded", options={"xatol": 1e-6})
    if at_least < 1.0 and loss(low) <= float(found.fun):
        return fit_temperature(logits, y, at_least=1.0)
    # The search stays off its bounds by a little.
    return math.exp(min((low, float(found.x)), key=loss))


def expected_calibration_error(probabilities: Tensor, y: Tensor, bins: int = BINS) -> float:
    """Σ_b (n_b / N) · abs(accuracy_b − confidence_b) over bins b of the likeliest class's probability, of equal width.

    Args:
        probabilities: Shape (N, C).
        y: Classes, int64 of shape (N,).
        bins: How many.
    """
    confidence, predicted = probabilities.double().max(1)
    of_bin = (confidence * bins).ceil().long().clamp(1, bins) - 1
    gap = torch.zeros(bins, dtype=torch.float64)
    gap.index_add_(0, of_bin, (predicted == y).double() - confidence)
    return float(gap.abs().sum()) / len(y)
