"""Soft labels by distances to prototypes: a generator that starts from what a feature space already tells.

Shapes: N samples, D features, K auxiliary classes.
"""

from __future__ import annotations

import copy
import math
from typing import Self

import torch
from torch import Tensor, nn

from maxl.hierarchy import Hierarchy
from maxl.hypergradients import Inputs
from maxl.networks._networks import allowed_labels, checked_features
from maxl.tasks import Classification, Task


class PrototypeGenerator(nn.Module):
    """Soft labels by squared distances to prototypes in a frozen feature space φ:

        g(x, y)_k ∝ exp(−‖φ(x) − p_k‖² / τ)  over the block of y, and 0 elsewhere.

    As in prototypical networks (Snell et al. 2017, equation 2), with two differences: prototypes are learned weights, not
    means of samples, and there is a temperature. Learned are the prototypes and log τ, so K·D + 1 numbers; φ is not. Where an untrained
    ``LabelGenerator`` gives labels that say nothing, this one starts with those of its prototypes: centres of clusters
    within each class, for instance.

    Adam moves a prototype's coordinates by about the learning rate in a step, so features are best scaled to a spread of
    about 1. Weight decay would pull prototypes to the origin, which means nothing in most feature spaces: go without.

    Args:
        trunk: φ, from inputs to features of shape (N, D). It is copied as it stands, and the copy stays so: it is not
            trained, and always in eval mode. ``nn.Identity()`` where the inputs are features already.
        hierarchy: ψ.
        prototypes: Where p starts, floating point of shape (K, D), one a row in the order of the auxiliary classes.
        temperature: Where τ starts, above 0. A low one gives nearly hard labels, whose derivative vanishes.
        task: Says which auxiliary classes a target may use; ``maxl.Classification()`` by default.

    Attributes:
        prototypes: p, shape (K, D).
        log_temperature: log τ, a scalar.

    Raises:
        ValueError: if there is not one finite prototype an auxiliary class, or τ is not above 0; in a pass, if the
            features have another width than the prototypes.

    Example:
        >>> hierarchy = maxl.Hierarchy([2, 1])
        >>> prototypes = torch.tensor([[0.0], [2.0], [5.0]])
        >>> generator = maxl.PrototypeGenerator(nn.Identity(), hierarchy, prototypes)
        >>> generator(torch.tensor([[1.0]]), torch.tensor([0])).tolist()  # as far from one as from the other
        [[0.5, 0.5, 0.0]]
    """

    mask: Tensor

    def __init__(
        self,
        trunk: nn.Module,
        hierarchy: Hierarchy,
        prototypes: Tensor,
        *,
        temperature: float = 1.0,
        task: Task | None = None,
    ) -> None:
        super().__init__()
        if prototypes.dim() != 2 or len(prototypes) != hierarchy.num_auxiliary:
            raise ValueError(
                f"prototypes need shape (K, D) with one row for each of {hierarchy.num_auxiliary} auxiliary classes; "
                f"got {tuple(prototypes.shape)}"
            )
        if not prototypes.is_floating_point() or not bool(prototypes.isfinite().all()):
            raise ValueError(
                "prototypes need to be finite floating-point numbers; some are not: check the features"
            )
        if not 0 < temperature < math.inf:
            raise ValueError(f"temperature needs to be a number above 0; got {temperature}")
        self.task: Task = task or Classification()
        self.hierarchy = hierarchy
        self.trunk = copy.deepcopy(trunk).requires_grad_(False).eval()
        start = prototypes.detach().clone()
        self.prototypes = nn.Parameter(start)
        self.log_temperature = nn.Parameter(start.new_tensor(math.log(temperature)))
        # A copy that moves with the module; rebuilt from the hierarchy, so not part of the state.
        self.register_buffer("mask", hierarchy.mask.to(start.device), persistent=False)

    def train(self, mode: bool = True) -> Self:
        """As of any module, but φ stays in eval mode: its features do not depend on the batch."""
        super().train(mode)
        self.trunk.eval()
        return self

    def forward(self, x: Inputs, y: Tensor) -> Tensor:
        """Soft labels.

        Args:
            x: Inputs, as φ takes them.
            y: Primary labels, int64 of shape (N,) in [0, C); any targets of length N for a flat hierarchy.

        Returns:
            Labels of shape (N, K); each row is a distribution over the block of its primary class. They are
            float32 at least, also under autocast: the double gradient needs their small differences.
        """
        with torch.no_grad():
            features = self.trunk(x)
        return self.of_features(features, y)

    def of_features(self, features: Tensor, y: Tensor) -> Tensor:
        """What ``forward`` gives, from features of shape (N, D)."""
        features = checked_features(features, self.prototypes.shape[1], self.trunk, self.task)
        # In half precision a distance of 100 is good to 1, which is a factor of e at τ = 1.
        precise = torch.promote_types(self.prototypes.dtype, torch.float32)
        with torch.autocast(features.device.type, enabled=False):
            scores = self._scores(features.to(precise), self.prototypes.to(precise))
            return allowed_labels(scores, y, self.task, self.mask)

    def _scores(self, features: Tensor, prototypes: Tensor) -> Tensor:
        """−‖φ − p_k‖² / τ up to what is the same for all k, which a softmax does not see: shape (N, K).

        No differences are taken one by one, which would need N·K·D numbers; both are moved to the middle of the prototypes
        instead, so that little is lost where all lie far from the origin.
        """
        middle = prototypes.detach().mean(0)
        points, centres = features - middle, prototypes - middle
        return (2 * points @ centres.T - centres.square().sum(1)) / self.log_temperature.exp()
