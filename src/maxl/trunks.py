"""Trunks: modules from inputs to features of shape (N, D). Any module is one; these make one of what is none yet."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any, Literal

from torch import Tensor, nn

from maxl.finetuning import ordered, parameter_layers
from maxl.hypergradients import Inputs
from maxl.presets import check_choice


def infer_feature_dim(trunk: nn.Module) -> int | None:
    """D where the trunk states it: ``feature_dim``, timm's ``num_features``, or of an ``nn.Sequential`` its last layer's width."""
    for name in ("feature_dim", "num_features"):
        value = getattr(trunk, name, None)
        if isinstance(value, int):
            return value
    widths = [
        getattr(module, name)
        for module in trunk.modules()
        for name in ("out_features", "out_channels")
        if isinstance(getattr(module, name, None), int)
    ]
    return widths[-1] if isinstance(trunk, nn.Sequential) and widths else None


def require_feature_dim(trunk: nn.Module, given: int | None, instead: str = "") -> int:
    """D, for a head that is to be built: as given, or as the trunk states it.

    Args:
        trunk: Any module from inputs to features of shape (N, D).
        given: D, where somebody said it.
        instead: What else would do, to end the message with.

    Raises:
        ValueError: if nobody says it.
    """
    dim = given if given is not None else infer_feature_dim(trunk)
    if dim is None:
        raise ValueError(
            f"the width of the trunk's features is needed to build a head; {type(trunk).__name__} does not "
            f"state it (attribute feature_dim): pass feature_dim={instead}"
        )
    return dim


class Features(nn.Module):
    """A trunk made of a module that takes inputs by name, or gives more than features.

    Encoders of text do both: ``Features(AutoModel.from_pretrained(name), output="last_hidden_state", pool="mean")``.

    Args:
        module: Called with x, or with the tensors of x by keyword where they are several.
        output: Where the features are in what the module gives: a key or attribute, or a position in a tuple. None
            where it gives them alone.
        pool: How features of tokens, shape (N, T, D), become those of a sample, (N, D): "mean" over the tokens for which
            ``x["attention_mask"]`` is not 0, or over all where x has no such mask (a sample without any token gets
            zeros; a module that does not take the mask is called without it); "first", the first token's; None to leave them as they are. "mean" also averages the pixels of
            features (N, D, H, W).
        feature_dim: D, where the module states it neither as a trunk does nor in ``config.hidden_size``.

    Raises:
        ValueError: if ``pool`` is something else; in a pass, if the output is not there, or features or the mask do not
            have the shapes that pooling needs.
    """

    def __init__(
        self,
        module: nn.Module,
        output: str | int | None = None,
        *,
        pool: Literal["mean", "first"] | None = None,
        feature_dim: int | None = None,
    ) -> None:
        super().__init__()
        if pool is not None:
            check_choice("pool", pool, ("mean", "first"))
        self.module = module
        self.output = output
        self.pool = pool
        parameters = inspect.signature(module.forward).parameters
        self._takes_mask = "attention_mask" in parameters or any(
            p.kind is p.VAR_KEYWORD for p in parameters.values()
        )
        stated = getattr(getattr(module, "config", None), "hidden_size", None)
        widths = feature_dim, infer_feature_dim(module), stated
        self.feature_dim = next((width for width in widths if isinstance(width, int)), None)

    def forward(self, x: Inputs) -> Tensor:
        """Features of shape (N, D), or as the module gives them without pooling."""
        given = self.module(x) if isinstance(x, Tensor) else self.module(**self._taken(x))
        features = self._picked(given)
        if self.pool is None:
            return features
        if self.pool == "mean" and features.dim() == 4:
            return features.mean((2, 3))
        if features.dim() != 3:
            raise ValueError(
                f"pooling needs features of tokens, shape (N, T, D); {self._what()} are {tuple(features.shape)}: drop pool="
            )
        if self.pool == "first":
            return features[:, 0]
        mask = None if isinstance(x, Tensor) else x.get("attention_mask")
        if mask is None:
            return features.mean(1)
        if mask.shape != features.shape[:2]:
            raise ValueError(
                f"attention_mask needs one entry a token, shape {tuple(features.shape[:2])} as the features of "
                f"{self._what()}; got {tuple(mask.shape)}: pool in a module of your own"
            )
        counts = mask.ne(0).unsqueeze(2)
        return features.masked_fill(~counts, 0.0).sum(1) / counts.sum(1).clamp_min(1)

    def parameter_layers(self) -> list[list[str]]:
        """Names of the module's parameters by layer, where it says them; see ``maxl.finetuning.parameter_layers``."""
        return [[f"module.{name}" for name in layer] for layer in parameter_layers(self.module)]

    def _taken(self, x: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """All but a mask that is there for the pooling alone."""
        if self.pool != "mean" or self._takes_mask:
            return x
        return {name: value for name, value in x.items() if name != "attention_mask"}

    def _what(self) -> str:
        of = "" if self.output is None else f" {self.output!r}"
        return f"{type(self.module).__name__}'s outputs{of}"

    def _picked(self, given: Any) -> Tensor:
        found, output = given, self.output
        if isinstance(output, str):
            found = given.get(output) if isinstance(given, Mapping) else getattr(given, output, None)
        elif output is not None:
            found = given[output] if isinstance(given, (tuple, list, Mapping)) else None
        if isinstance(found, Tensor):
            return found
        there = ", ".join(map(str, given)) if isinstance(given, Mapping) else type(given).__name__
        raise ValueError(
            f"output= needs to say where the features are in what {type(self.module).__name__} gives; got {output!r} "
            f"where there is {there}"
        )


class ResidualTrunk(nn.Module):
    """x → h + block(h) a few times, each block normalised; no statistics of batches, so samples do not interact.

    Args:
        inputs: Number of columns.
        width: Of the layers, and of the features.
        depth: Number of blocks.
        dropout: Probability within each block.
    """

    def __init__(self, inputs: int, width: int, depth: int, dropout: float) -> None:
        super().__init__()
        self.feature_dim = width
        self.first = nn.Linear(inputs, width)
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.LayerNorm(width),
                nn.Linear(width, width),
                nn.ReLU(),
                nn.Dropout(dropout),
                nn.Linear(width, width),
            )
            for _ in range(depth)
        )
        self.last = nn.Sequential(nn.LayerNorm(width), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        """Shape (N, inputs) to (N, width)."""
        h = self.first(x)
        for block in self.blocks:
            h = h + block(h)
        features: Tensor = self.last(h)
        return features

    def parameter_layers(self) -> list[list[str]]:
        """Names of parameters, a block a layer; see ``maxl.finetuning.parameter_layers``."""
        blocks = (f"blocks.{i}" for i in range(len(self.blocks)))
        return ordered(self, ["first", *blocks, "last"], apart=False)
