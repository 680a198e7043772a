"""The multi-task network f (weights θ₁) and the label-generation network g (weights θ₂).

Shapes: N samples, D trunk features, C primary classes, K auxiliary classes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Self

import torch
from torch import Tensor, nn

from maxl.hierarchy import Hierarchy
from maxl.hypergradients import Inputs, in_float, pure_call
from maxl.tasks import Classification, Task, is_dense, positions_that_count
from maxl.trunks import infer_feature_dim, require_feature_dim

_INSTEAD = " or heads of your own"  # of a width that is not known


class Logits(NamedTuple):
    """What the multi-task network returns."""

    primary: Tensor  # (N, C)
    auxiliary: Tensor  # (N, K)


def head(feature_dim: int, outputs: int) -> nn.Sequential:
    """The authors' head: Linear(D, D), ReLU, Linear(D, outputs)."""
    return nn.Sequential(nn.Linear(feature_dim, feature_dim), nn.ReLU(), nn.Linear(feature_dim, outputs))


_two_layers = head  # where a parameter has its name


def checked_features(features: Tensor, expected: int | None, trunk: nn.Module, task: Task) -> Tensor:
    """A trunk's features, last: of shape (N, D), or (N, ..., D) for a dense task.

    Args:
        features: As the trunk gave them; channels of images come before height and width.
        expected: D, of what reads them; None where that is not known here, and nothing is checked.
        trunk: Named in the message.
        task: Whether it is dense.

    Raises:
        ValueError: if they have another width or number of dimensions.
    """
    dense = is_dense(task)
    if dense and features.dim() > 3:  # images have their channels first, texts their features last
        features = features.movedim(1, -1)
    fits = features.dim() == 2 or (dense and features.dim() > 2)
    if expected is None or (fits and features.shape[-1] == expected):
        return features
    if dense:
        raise ValueError(
            f"the trunk of a dense task needs to give features of shape (N, {expected}, H, W) or (N, T, {expected}); "
            f"{type(trunk).__name__} gave them as {tuple(features.shape)}, features moved last: pass their width as feature_dim="
        )
    raise ValueError(
        f"the trunk needs to give features of shape (N, {expected}); {type(trunk).__name__} gave "
        f"{tuple(features.shape)}: end it with pooling and nn.Flatten(), and pass the resulting width as feature_dim="
    )


class MultiTaskNetwork(nn.Module):
    """One trunk, two heads (hard parameter sharing; paper, section 3.1).

    Args:
        trunk: Any module from inputs to features of shape (N, D); for a dense task (``maxl.Segmentation``) of shape
            (N, D, H, W), or (N, T, D) for tokens. Outputs then have a row for each position, (N, H, W, C).
        hierarchy: ψ, which fixes C and K.
        primary_head: Module from (N, D) to (N, C); the authors' two-layer head by default.
        auxiliary_head: Module from (N, D) to (N, K); likewise.
        feature_dim: D, where the trunk does not state it.
        task: What the primary outputs mean, and so how many there are; ``maxl.Classification()`` by default.

    Raises:
        ValueError: if a head has to be built and D is unknown; in a pass, if the features do not fit heads built here.
    """

    def __init__(
        self,
        trunk: nn.Module,
        hierarchy: Hierarchy,
        *,
        primary_head: nn.Module | None = None,
        auxiliary_head: nn.Module | None = None,
        feature_dim: int | None = None,
        task: Task | None = None,
    ) -> None:
        super().__init__()
        self.task: Task = task or Classification()
        self._width: int | None = None
        if primary_head is None or auxiliary_head is None:
            self._width = feature_dim = require_feature_dim(trunk, feature_dim, _INSTEAD)
            if primary_head is None:
                primary_head = head(feature_dim, self.task.num_outputs(hierarchy))
            if auxiliary_head is None:
                auxiliary_head = head(feature_dim, hierarchy.num_auxiliary)
        self.trunk = trunk
        self.primary_head = primary_head
        self.auxiliary_head = auxiliary_head
        self.hierarchy = hierarchy

    @property
    def width(self) -> int | None:
        """D, where the heads were built for it here."""
        return self._width

    def forward(self, x: Inputs) -> Logits:
        """Logits of both tasks, shapes (N, C) and (N, K)."""
        return self._heads(self.trunk(x))

    def with_features(self, x: Inputs) -> tuple[Logits, Tensor]:
        """What ``forward`` gives, and what the trunk gives: a copy without a graph, which no head can change."""
        given = self.trunk(x)
        constant = given.detach().clone()
        return self._heads(given), constant

    def _heads(self, given: Tensor) -> Logits:
        features = checked_features(given, self._width, self.trunk, self.task)
        return Logits(self.primary_head(features), self.auxiliary_head(features))

    def predict(self, x: Inputs) -> Tensor:
        """Primary logits alone, shape (N, C), or (N, H, W, C): inference costs what the single-task network costs."""
        logits: Tensor = self.primary_head(
            checked_features(self.trunk(x), self._width, self.trunk, self.task)
        )
        return logits


def masked_softmax(logits: Tensor, mask: Tensor) -> Tensor:
    """Mask SoftMax (paper, section 3.2): a softmax over the allowed entries, exactly 0 elsewhere.

    Args:
        logits: Unnormalised scores, shape (N, K).
        mask: Bool, shape (N, K), at least one True in each row.

    Returns:
        Probabilities of shape (N, K); rows sum to one over the allowed entries.
    """
    return logits.masked_fill(~mask, float("-inf")).softmax(-1)


def allowed_labels(logits: Tensor, y: Tensor, task: Task, mask: Tensor) -> Tensor:
    """Mask SoftMax over what each target may use, in float32 at least.

    Args:
        logits: Unnormalised scores, shape (N, K), or (N, ..., K) for a dense task.
        y: Targets, as the task takes them.
        task: Says which auxiliary classes a target may use.
        mask: The hierarchy's, bool of shape (C, K).

    Returns:
        Labels of the shape of the logits; 0 at positions that a dense task ignores.
    """
    (logits,) = in_float(logits)
    labels = masked_softmax(logits, task.rows(y, mask))
    if is_dense(task):  # 0 at ignored positions: no part in the mean label, nor in a regulariser
        return labels * positions_that_count(task, y).unsqueeze(-1)
    return labels


class SharedTrunk(nn.Module):
    """A network's own trunk as another's: its features are constants, its weights stay the network's.

    Args:
        network: Not registered as a submodule, so that its weights are neither trained nor saved twice.
    """

    def __init__(self, network: MultiTaskNetwork) -> None:
        super().__init__()
        self._network = (network,)
        self.feature_dim = infer_feature_dim(network.trunk) if network.width is None else network.width

    @property
    def network(self) -> MultiTaskNetwork:
        """Whose trunk it is."""
        return self._network[0]

    @torch.no_grad()
    def forward(self, x: Inputs) -> Tensor:
        """Features of shape (N, D) by a pass of the trunk as it stands; statistics of BatchNorm stay as they are."""
        features = pure_call(self.network.trunk, {}, x)
        assert isinstance(features, Tensor)
        return features


class LabelGenerator(nn.Module):
    """Invents a soft auxiliary label for each sample: g(x, y, ψ; θ₂) (paper, section 3.2).

    Args:
        trunk: Any module from inputs to features of shape (N, D); its own weights, shared with nothing.
        hierarchy: ψ.
        head: Module from (N, D) to (N, K); the authors' two-layer head by default.
        feature_dim: D, where the trunk does not state it.
        task: Says which auxiliary classes a target may use; ``maxl.Classification()`` by default.

    Raises:
        ValueError: if the head has to be built and D is unknown; in a pass, if the features do not fit that head.
    """

    def __init__(
        self,
        trunk: nn.Module,
        hierarchy: Hierarchy,
        *,
        head: nn.Module | None = None,
        feature_dim: int | None = None,
        task: Task | None = None,
    ) -> None:
        super().__init__()
        self.task: Task = task or Classification()
        self.trunk = trunk
        self._width: int | None = None
        if head is None:
            self._width = require_feature_dim(trunk, feature_dim, _INSTEAD)
            head = _two_layers(self._width, hierarchy.num_auxiliary)
        self.head = head
        self.hierarchy = hierarchy
        # A copy that moves with the module; rebuilt from the hierarchy, so not part of the state.
        self.register_buffer("mask", hierarchy.mask, persistent=False)

    mask: Tensor

    @classmethod
    def sharing(
        cls, network: MultiTaskNetwork, *, head: nn.Module | None = None, feature_dim: int | None = None
    ) -> Self:
        """A generator that is a head on the network's own features, which are constants to it.

        In a training step the features are those of the network's pass, so that labels cost one head's passes: no
        second network, no second pass. The network's weights are moved by its own losses alone.

        Args:
            network: Trained along; its trunk, hierarchy and task are the generator's.
            head: Module from (N, D) to (N, K); the authors' two-layer head by default.
            feature_dim: D, where neither the network nor its trunk states it.

        Raises:
            ValueError: if the trunk is a scripted module, or D is unknown.
        """
        if isinstance(network.trunk, torch.jit.ScriptModule):
            raise ValueError(
                "a trunk to be shared needs to be one whose passes can be watched; got a scripted one: pass the module itself"
            )
        trunk = SharedTrunk(network)
        return cls(trunk, network.hierarchy, head=head, feature_dim=feature_dim, task=network.task)

    @property
    def shared(self) -> MultiTaskNetwork | None:
        """The network whose features it reads; None with a trunk of its own."""
        return self.trunk.network if isinstance(self.trunk, SharedTrunk) else None

    def forward(self, x: Inputs, y: Tensor) -> Tensor:
        """Soft labels.

        Args:
            x: Inputs, as the trunk takes them.
            y: Primary labels, int64 of shape (N,) in [0, C); any targets of length N for a flat hierarchy.

        Returns:
            Labels of shape (N, K); each row is a distribution over the block of its primary class. They
            are float32 at least, also under autocast: the double gradient needs their small differences.
        """
        return self.of_features(self.trunk(x), y)

    def of_features(self, features: Tensor, y: Tensor) -> Tensor:
        """What ``forward`` gives, from trunk features of shape (N, D)."""
        return self.labels(checked_features(features, self._width, self.trunk, self.task), y)

    def labels(self, features: Tensor, y: Tensor) -> Tensor:
        """The labels that belong to trunk features of shape (N, D)."""
        return allowed_labels(self.head(features), y, self.task, self.mask)


def bounded_weight(score: Tensor) -> Tensor:
    """2σ(z), in (0, 2), of scores z of any shape; 1 at z = 0."""
    return 2 * torch.sigmoid(score)


@dataclass(frozen=True)
class PowerOfTwo:
    """2^(2R(σ(z) − ½)), in (2^−R, 2^R), of scores z of any shape; 1 at z = 0 (WAMAL as published: R = 5, 1/32 to 32).

    Args:
        span: R > 0.

    Raises:
        ValueError: if R is not above 0, or so large that 2^R is infinite in float32.
    """

    span: float = 5.0

    def __post_init__(self) -> None:
        if not 0 < self.span < 128:
            raise ValueError(f"the span R of weights needs to be above 0 and below 128; got {self.span}")

    def __call__(self, score: Tensor) -> Tensor:
        """The weights, in float32 at least: in half precision a step of the score is 3 % of a weight."""
        (score,) = in_float(score)
        return torch.exp(2 * self.span * math.log(2) * (torch.sigmoid(score) - 0.5))


class WeightedLabelGenerator(LabelGenerator):
    """A label generator with one more output: a weight for each sample's auxiliary loss, by default in (0, 2).

    The weights are learned by the same double gradient as the labels (weight-aware MAXL, OpenReview
    sRDCzh6gVw); they start near 1. Learners then take ``maxl.supervision.WeightedLabels()`` by default.

    Args:
        trunk, hierarchy, head, feature_dim, task: As for ``LabelGenerator``; the weight's head is one linear layer, so
            D needs to be known.
        weighting: From scores of shape (N, 1) to weights above 0. ``bounded_weight``, in (0, 2), is ours;
            ``PowerOfTwo(5)``, from 1/32 to 32, is WAMAL as published, whose weights can change the size of the step.
    """

    def __init__(
        self,
        trunk: nn.Module,
        hierarchy: Hierarchy,
        *,
        head: nn.Module | None = None,
        feature_dim: int | None = None,
        task: Task | None = None,
        weighting: Callable[[Tensor], Tensor] = bounded_weight,
    ) -> None:
        super().__init__(trunk, hierarchy, head=head, feature_dim=feature_dim, task=task)
        self.weight_head = nn.Linear(require_feature_dim(trunk, feature_dim, _INSTEAD), 1)
        nn.init.zeros_(self.weight_head.bias)
        self.weighting = weighting

    @classmethod
    def sharing(
        cls,
        network: MultiTaskNetwork,
        *,
        head: nn.Module | None = None,
        feature_dim: int | None = None,
        weighting: Callable[[Tensor], Tensor] = bounded_weight,
    ) -> Self:
        """As ``LabelGenerator.sharing``."""
        generator = super().sharing(network, head=head, feature_dim=feature_dim)
        generator.weighting = weighting
        return generator

    def forward(self, x: Inputs, y: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        """Soft labels of shape (N, K) and weights of shape (N,)."""
        return self.of_features(self.trunk(x), y)

    def of_features(self, features: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        """As ``LabelGenerator.of_features``."""
        features = checked_features(features, self._width, self.trunk, self.task)
        return self.labels(features, y), self.weighting(self.weight_head(features)).squeeze(-1)
