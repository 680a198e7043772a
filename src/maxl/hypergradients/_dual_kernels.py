"""What makes the forward-mode pass cheap: fused tangents, and outputs reused from the training pass.

PyTorch composes the tangent of BatchNorm from some twenty elementwise passes, and copies for an in-place
ReLU. Both have a kernel that does the work in one pass: their own backward. Convolutions and linear layers
give their outputs at θ₁ in the training pass already; reusing them leaves two of three products.
Everything else is left to PyTorch's formulas.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import forward_ad
from torch.overrides import TorchFunctionMode

# Bilinear in (input, weight), with an optional bias as third argument.
_PRODUCTS = frozenset(
    (F.linear, F.conv1d, F.conv2d, F.conv3d, F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)
)


class Recording(TorchFunctionMode):
    """Within: the outputs of convolutions and linear layers are remembered, in order."""

    def __init__(self) -> None:
        super().__init__()
        self._outputs: list[tuple[Tensor, int]] = []

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if func in _PRODUCTS:
            self._outputs.append((result.detach(), result._version))
        return result

    def output(self, position: int) -> Tensor | None:
        """The output of the product at this position; None if it has been changed in place since."""
        if position >= len(self._outputs):
            return None
        output, version = self._outputs[position]
        return output if output._version == version else None


class DualKernels(TorchFunctionMode):
    """Within: dual tensors pass through products, BatchNorm on batch statistics, and ReLU by fused kernels.

    To be used without grad mode; results equal those of PyTorch's formulas to rounding.

    Args:
        recording: Of the same network on the same batch with the same weights, or None.
    """

    def __init__(self, recording: Recording | None = None) -> None:
        super().__init__()
        self._recording = recording
        self._products = 0

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        result: Tensor | None = None
        if func in _PRODUCTS:
            known = None if self._recording is None else self._recording.output(self._products)
            self._products += 1
            result = _product(known, func, *args, **kwargs)
        elif func is F.batch_norm:
            result = _batch_norm(*args, **kwargs)
        elif func is F.relu:
            result = _relu(*args, **kwargs)
        return func(*args, **kwargs) if result is None else result


def _product(
    known: Tensor | None,
    func: Callable[..., Tensor],
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *rest: Any,
    **options: Any,
) -> Tensor | None:
    """The dual of a bilinear map B(x, w) + b, whose value may be known: tangent B(ẋ, w) + B(x, ẇ) + ḃ.

    An unknown value is made by the same call as in the training pass, so that both ways agree bit by bit.
    """
    (x, dx), (w, dw), (b, db) = _halves(input), _halves(weight), _halves(bias)
    assert x is not None
    assert w is not None
    if dw is None and db is not None:
        return None  # a frozen weight under a trained bias; rare enough for PyTorch's own formula
    if known is None:
        known = func(x, w, b, *rest, **options)
    parts = []
    if dx is not None:
        parts.append(func(dx, w, None, *rest, **options))
    if dw is not None:
        parts.append(func(x, dw, db, *rest, **options))
    if not parts:
        return known
    tangent = parts[0] if len(parts) == 1 else parts[0].add_(parts[1])
    if tangent.shape != known.shape or tangent.dtype != known.dtype:
        return None
    return forward_ad.make_dual(known, tangent)  # type: ignore[no-any-return, no-untyped-call]


def _batch_norm(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor | None:
    """The dual of y = γ x̂ + β on batch statistics; None where PyTorch's own formula has to serve.

    The derivative of x̂ with respect to x is symmetric, so the tangent along ẋ is what BatchNorm's backward
    kernel returns for the gradient ẋ: γ r (ẋ − mean ẋ − x̂ mean(x̂ ẋ)). To it come γ̇ x̂ + β̇.
    """
    x, dx = forward_ad.unpack_dual(input)  # type: ignore[no-untyped-call]
    if not training or running_mean is not None or dx is None:
        return None
    (w, dw), (b, db) = _halves(weight), _halves(bias)
    y, mean, rstd = torch.ops.aten.native_batch_norm(x, w, b, None, None, True, momentum, eps)
    dy = torch.ops.aten.native_batch_norm_backward(
        dx, x, w, None, None, mean, rstd, True, eps, [True, False, False]
    )[0]
    shape = [1, -1] + [1] * (x.dim() - 2)
    if dw is not None:
        slope = dw * rstd
        dy.addcmul_(x, slope.to(x.dtype).view(shape))
        db = -slope * mean if db is None else torch.addcmul(db, slope, mean, value=-1)
    if db is not None:
        dy.add_(db.to(dy.dtype).view(shape))
    return forward_ad.make_dual(y, dy)  # type: ignore[no-any-return, no-untyped-call]


def _relu(input: Tensor, inplace: bool = False) -> Tensor | None:
    """The dual of max(x, 0): the tangent passes where the result is positive."""
    x, dx = forward_ad.unpack_dual(input)  # type: ignore[no-untyped-call]
    if dx is None:
        return None
    if inplace:  # both halves in place, as the caller may go on with its input
        torch.relu_(x)
        torch.ops.aten.threshold_backward.grad_input(dx, x, 0, grad_input=dx)
        return input
    y = torch.relu(x)
    return forward_ad.make_dual(y, torch.ops.aten.threshold_backward(dx, y, 0))  # type: ignore[no-any-return, no-untyped-call]


def _halves(p: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
    if p is None:
        return None, None
    primal, tangent = forward_ad.unpack_dual(p)  # type: ignore[no-untyped-call]
    return primal, tangent
