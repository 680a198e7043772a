"""Beyond the paper: a label regulariser that tells balanced and sharp labels from uniform ones."""

from __future__ import annotations

import torch
from torch import Tensor

from maxl.hierarchy import Hierarchy


def label_information(labels: Tensor, y: Tensor, hierarchy: Hierarchy) -> Tensor:
    """Mutual information between sample and auxiliary class within each primary class, in nats.

    I_c = H(mean label of class c) − mean H(label) over its samples, averaged over the classes in the batch
    by their number of samples. It is 0 where all labels of a class are equal, uniform and collapsed ones
    included, and log ψ[c] where they are one-hot and balanced. The paper's entropy term sees the first
    summand alone, and over all classes at once.

    Args:
        labels: Soft labels, shape (N, K).
        y: Primary labels, int64 of shape (N,); any targets for a flat hierarchy.
        hierarchy: ψ.

    Returns:
        A scalar in [0, log max ψ].
    """
    tiny = torch.finfo(labels.dtype).tiny
    if hierarchy.num_primary == 1:
        y = torch.zeros(len(labels), dtype=torch.int64, device=labels.device)
    members = torch.zeros(hierarchy.num_primary, len(labels), dtype=labels.dtype, device=labels.device)
    members[y, torch.arange(len(labels), device=labels.device)] = 1.0
    counts = members.sum(1, keepdim=True)
    means = members @ labels / counts.clamp_min(1.0)
    of_means = -(means * means.clamp_min(tiny).log()).sum(1)
    of_labels = -(labels * labels.clamp_min(tiny).log()).sum(1)
    return (counts.squeeze(1) * of_means).sum() / len(labels) - of_labels.mean()
