"""Functions on training images by name: torchvision's, or one's own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn

from maxl.experiments.data import ImageTransform
from maxl.experiments.runs.code import imported
from maxl.experiments.runs.values import nearest

_MIXES = ("MixUp", "CutMix")
_NO_USE = ("Compose", "Lambda", "Transform", "Identity", "ToDtype")  # bases, and what needs arguments


def build_transform(names: Sequence[str]) -> ImageTransform:
    """The transforms of ``--transform``, in their order.

    Args:
        names: Each a class of ``torchvision.transforms.v2`` that needs no arguments, or ``module:function``, which is
            called with one image, uint8 (C, H, W), and gives one.

    Raises:
        ValueError: if a name is unknown, needs arguments, mixes samples, or cannot be imported.
    """
    return ImageTransform(tuple(names), tuple(_function(name) for name in names))


def _function(name: str) -> Callable[[Tensor], Tensor]:
    if ":" in name:
        function: Any = imported(name, "transform")
        if not callable(function):
            raise ValueError(
                f"--transform {name} needs to be a function of one image; it is a {type(function).__name__}"
            )
        return function  # type: ignore[no-any-return]
    from torchvision.transforms import v2

    if name in _MIXES:
        raise ValueError(
            f"--transform {name} cannot be used: a mixture of two samples has no label of its own to learn"
        )
    known = {
        key: kind
        for key, kind in vars(v2).items()
        if isinstance(kind, type)
        and issubclass(kind, nn.Module)
        and not key.startswith("_")
        and key not in (*_MIXES, *_NO_USE)
    }
    if name not in known:
        raise ValueError(
            f"--transform {name} is not one of torchvision.transforms.v2, nor module:function{nearest(name, known)}"
        )
    try:
        return known[name]()
    except TypeError as error:
        raise ValueError(
            f"--transform {name} needs arguments ({error}): write a function that calls it, and give module:function"
        ) from error
