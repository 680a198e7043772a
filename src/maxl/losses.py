"""Losses of the two tasks and the anti-collapse term (paper, section 3.1 to 3.3).

Shapes: N samples, K classes. All functions are stable for logits of any finite size: everything goes
through ``log_softmax``, and no constant is added inside a logarithm.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from maxl.hierarchy import Hierarchy

AuxiliaryLoss = Callable[..., Tensor]  # (logits, labels) or (logits, labels, weights) -> scalar


def focal_loss(
    logits: Tensor, targets: Tensor, gamma: float = 2.0, sample_weight: Tensor | None = None
) -> Tensor:
    """Focal loss −Σ_k t_k (1 − p_k)^γ log p_k, the mean over the batch.

    Args:
        logits: Unnormalised scores, shape (N, K).
        targets: Class indices, int64 of shape (N,), or soft labels, float of shape (N, K).
        gamma: Focusing exponent γ ≥ 0; 0 gives cross-entropy. The paper uses 2 for both tasks.
        sample_weight: One factor per sample, shape (N,), multiplied before the mean over N.

    Returns:
        A scalar, at least 0 for targets in [0, 1].

    Raises:
        ValueError: if the shapes do not fit or γ is negative.
    """
    per_sample = focal_losses(logits, targets, gamma)
    if sample_weight is None:
        return per_sample.mean()
    if sample_weight.shape != per_sample.shape:
        # A column would be broadcast: the weight of every sample on every loss.
        raise ValueError(
            f"sample_weight needs one factor a sample, shape {tuple(per_sample.shape)}; got {tuple(sample_weight.shape)}: "
            "remove a column's last dimension with squeeze(-1)"
        )
    return (sample_weight * per_sample).mean()


def focal_losses(logits: Tensor, targets: Tensor, gamma: float = 2.0) -> Tensor:
    """The focal loss of each sample, shape (N,); arguments and errors as for ``focal_loss``."""
    if gamma < 0:
        raise ValueError(f"gamma needs to be at least 0; got {gamma}")
    log_p = logits.log_softmax(-1)
    if targets.shape == logits.shape[:-1]:
        log_p = log_p.gather(-1, targets.unsqueeze(-1))
        soft = None
    elif targets.shape == logits.shape:
        soft = targets
    else:
        raise ValueError(
            "targets need shape (N,) for class indices or the shape of the logits for soft labels; "
            f"got {tuple(targets.shape)} for logits of shape {tuple(logits.shape)}"
        )
    per_class = -log_p if gamma == 0 else -((-torch.expm1(log_p)).clamp_min(_tiny(log_p)) ** gamma) * log_p
    return (per_class if soft is None else soft * per_class).sum(-1)


def weighted_focal_loss(logits: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
    """Focal loss with one factor per sample: the auxiliary loss of weight-aware MAXL.

    Args:
        logits: Unnormalised scores, shape (N, K).
        targets: Soft labels, shape (N, K), or class indices, shape (N,).
        weights: Factors, shape (N,).

    Raises:
        ValueError: as ``focal_loss``.
    """
    return focal_loss(logits, targets, sample_weight=weights)


def negative_entropy(labels: Tensor) -> Tensor:
    """H = Σ_k ȳ_k log ȳ_k of the batch's mean label ȳ; minimising it spreads the labels over all K classes.

    The paper's anti-collapse term. It sees the mean alone: uniform labels and balanced one-hot labels
    score the same.

    Args:
        labels: Soft labels, shape (N, K), rows summing to one.

    Returns:
        A scalar in [−log K, 0].
    """
    mean = labels.mean(0)
    # clamp, not xlogy, whose gradient is infinite at a class that no sample of the batch may use
    return (mean * mean.clamp_min(_tiny(mean)).log()).sum()


def label_information(labels: Tensor, y: Tensor, hierarchy: Hierarchy) -> Tensor:
    """Mutual information between sample and auxiliary class within each primary class, in nats.

    I_c = H(mean label of class c) − mean H(label) over its samples, averaged over the classes in the batch
    by their number of samples. It is 0 where all labels of a class are equal, uniform and collapsed ones
    included, and log ψ[c] where they are one-hot and balanced. The paper's entropy term sees the first
    summand alone, and over all classes at once.

    Args:
        labels: Soft labels, shape (N, K); rows of zeros, as ignored pixels have, count for nothing.
        y: Primary labels, int64 of shape (N,); any targets for a flat hierarchy.
        hierarchy: ψ.

    Returns:
        A scalar in [0, log max ψ].
    """
    tiny = _tiny(labels)
    if hierarchy.num_primary == 1:
        y = torch.zeros(len(labels), dtype=torch.int64, device=labels.device)
    counts_for = labels.detach().sum(1) > 0
    y = torch.where(counts_for, y, 0)  # an ignored pixel has no class
    members = torch.zeros(hierarchy.num_primary, len(labels), dtype=labels.dtype, device=labels.device)
    members[y, torch.arange(len(labels), device=labels.device)] = counts_for.to(labels.dtype)
    counts = members.sum(1, keepdim=True)
    means = members @ labels / counts.clamp_min(1.0)
    of_means = -(means * means.clamp_min(tiny).log()).sum(1)
    of_labels = -(labels * labels.clamp_min(tiny).log()).sum(1)
    return (counts.squeeze(1) * of_means).sum() / len(labels) - of_labels.mean()


def _tiny(like: Tensor) -> float:
    return torch.finfo(like.dtype).tiny


def contrastive_loss(features: Tensor, labels: Tensor, classes: Tensor, temperature: float = 0.1) -> Tensor:
    """Pulls samples of a class whose labels agree together, against the other samples *of the same class*.

    The supervised contrastive loss (Khosla et al. 2020, equation 2) within classes: with z the features at length 1,
    A(i) the other samples of i's class and a_ij = ⟨t_i, t_j⟩, the probability that two labels drawn from both are the same,

        L_i = − Σ_{j ∈ A(i)} (a_ij / Σ_{k ∈ A(i)} a_ik) log (exp(z_i·z_j / T) / Σ_{k ∈ A(i)} exp(z_i·z_k / T)),

    and the mean is over the samples that some other one agrees with. With hard labels it is theirs, whose positives are the
    samples of the same label and whose others are those of the same class. Labels that tell no samples of a class apart ask
    for features that are spread evenly within it.

    Args:
        features: Shape (N, D).
        labels: Of the same samples, int64 of shape (N,), or soft, float of shape (N, K).
        classes: int64 of shape (N,).
        temperature: T > 0.

    Returns:
        A scalar; 0 where no two samples of a class agree.

    Raises:
        ValueError: if the shapes do not fit, or T is not above 0.
    """
    if features.dim() != 2 or classes.dim() != 1 or not len(features) == len(labels) == len(classes):
        raise ValueError(
            "features need shape (N, D), with a label and a class for each of N samples; got "
            f"{tuple(features.shape)}, {tuple(labels.shape)} and {tuple(classes.shape)}"
        )
    if not temperature > 0:
        raise ValueError(f"temperature needs to be above 0; got {temperature}")
    z = torch.nn.functional.normalize(features, dim=1)
    scores = z @ z.T / temperature
    itself = torch.eye(len(z), dtype=torch.bool, device=z.device)
    others = (classes.unsqueeze(1) == classes) & ~itself
    same = labels.unsqueeze(1) == labels if labels.dim() == 1 else labels @ labels.T
    agreement = same.to(scores.dtype) * others
    total = agreement.sum(1, keepdim=True)
    counts = total.squeeze(1) > 0
    # A sample without others looks at all, so that nothing is infinite, and has no weight.
    seen = others | ~others.any(1, keepdim=True)
    log_share = scores - scores.masked_fill(~seen, float("-inf")).logsumexp(1, keepdim=True)
    weights = agreement / total.where(total > 0, torch.ones_like(total))
    return -(weights * log_share).sum() / counts.sum().clamp_min(1)
