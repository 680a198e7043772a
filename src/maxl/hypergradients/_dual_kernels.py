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
from torch._ops import OpOverload, OpOverloadPacket
from torch.autograd import forward_ad
from torch.overrides import TorchFunctionMode

# Bilinear in (input, weight), with an optional bias as third argument.
_PRODUCTS = frozenset(
    (F.linear, F.conv1d, F.conv2d, F.conv3d, F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)
)


class NoForwardFormula(NotImplementedError):
    """Something in the network that a pass of dual numbers cannot follow.

    Args:
        what: Its name.
    """

    def __init__(self, what: str) -> None:
        super().__init__(f"{what} has no forward-mode formula")
        self.what = what


def of_torch(hook: Callable[..., Any]) -> bool:
    """Whether it is PyTorch's own, such as those that count operations: they look at gradients and change none."""
    return getattr(hook, "__module__", None) is not None and hook.__module__.split(".")[0] == "torch"


class Recording(TorchFunctionMode):
    """Within: the outputs of convolutions and linear layers are remembered, in order.

    Args:
        outputs: Whether to keep them; the rest is noticed all the same.

    Attributes:
        hooked: Whether a tensor got a hook on its gradient, of which a pass without gradients knows nothing.
        precisions: Of those outputs.
    """

    def __init__(self, *, outputs: bool = True) -> None:
        super().__init__()
        self.hooked = False
        self.precisions: set[torch.dtype] = set()
        self._keeps = outputs
        self._outputs: list[tuple[Tensor, int, Tensor] | None] = []

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if func in _PRODUCTS and torch.is_grad_enabled() and not (result.is_inference() or _wrapped(result)):
            self.precisions.add(result.dtype)
            if self._keeps:
                self._outputs.append(
                    (result.detach(), result._version, _measure(_first(*args, **(kwargs or {}))))
                )
        elif func is Tensor.register_hook and not of_torch(args[1]):
            self.hooked = True
        return result

    def forget(self) -> None:
        """Lets go of the outputs."""
        self._keeps = False
        self._outputs.clear()

    def take(self, position: int) -> tuple[Tensor, Tensor] | None:
        """The output of the product at this position and a measure of its input, and lets go of them.

        None if the output was changed in place since, or has been taken.
        """
        if position >= len(self._outputs) or (kept := self._outputs[position]) is None:
            return None
        self._outputs[position] = None
        output, version, measure = kept
        return (output, measure) if output._version == version else None


class DualKernels(TorchFunctionMode):
    """Within: dual tensors pass through products, BatchNorm on batch statistics, and ReLU by fused kernels.

    Results equal those of PyTorch's formulas to rounding. Where the network switches grad mode off, tangents stop, as
    gradients do: so it is to be used in grad mode, with no weight that requires a gradient. Where the network asks for
    gradients of its own, PyTorch's formulas serve, which both kinds of derivative go through.

    Args:
        recording: Of the same network on the same batch with the same weights, or None. Its outputs are let go as they are used.
    """

    def __init__(self, recording: Recording | None = None) -> None:
        super().__init__()
        self._recording = recording
        self._products = 0
        self._measures: list[tuple[Tensor, Tensor]] = []

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if not torch.is_grad_enabled():
            return _without_tangents(func, args, kwargs)
        if isinstance(func, (OpOverload, OpOverloadPacket)):
            _require_formula(func, args, kwargs)
        result: Tensor | None = None
        if func in _PRODUCTS or func is F.batch_norm or func is F.relu:
            result = self._fused(func, args, kwargs)
        return func(*args, **kwargs) if result is None else result

    def _fused(
        self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> Tensor | None:
        """None where PyTorch's own formulas have to serve."""
        tensors = [a for a in (*args, *kwargs.values()) if isinstance(a, Tensor)]
        if any(_wrapped(t) for t in tensors):
            return None
        known = self._known(*args, **kwargs) if func in _PRODUCTS else None  # counted whoever computes it
        if any(t.requires_grad for t in tensors):  # the network itself wants a gradient
            return None
        if func is F.batch_norm:
            return _batch_norm(*args, **kwargs)
        return _relu(*args, **kwargs) if func is F.relu else _product(known, func, *args, **kwargs)

    def _known(self, input: Tensor, *_: Any, **__: Any) -> Tensor | None:
        known = None if self._recording is None else self._recording.take(self._products)
        self._products += 1
        if known is None:
            return None
        output, measure = known
        x = _halves(input)[0]
        assert x is not None
        self._measures.append((measure, _measure(x)))
        return output

    def fits(self, rounding: float) -> bool:
        """Whether every product had the input that its kept output belongs to; products are counted, not named.

        Args:
            rounding: Relative difference of two passes that may be rounding.
        """
        if not self._measures:
            return True
        pairs = torch.stack([m for pair in self._measures for m in pair]).view(-1, 2).tolist()
        return not any(
            abs(before - now) > rounding * before for before, now in pairs
        )  # nan is others' to refuse


def _wrapped(t: Tensor) -> bool:
    """Whether it is one of ``torch.func``'s, which live within a transform and have rules of their own."""
    if torch.compiler.is_compiling():  # which knows no such question, and has no such tensors here
        return False
    wrapped: bool = torch._C._functorch.is_functorch_wrapped_tensor(t)
    return wrapped


def _first(input: Tensor, *_: Any, **__: Any) -> Tensor:
    return input


def _measure(x: Tensor) -> Tensor:
    """A number that tells inputs apart: the norm of the first sample, in float32 or better."""
    first = x.detach()
    if x.dim() > 1 and len(x):
        first = first[0]
    norm: Tensor = torch.linalg.vector_norm(
        first, dtype=torch.float32 if first.dtype in (torch.float16, torch.bfloat16) else None
    )
    return norm


def _without_tangents(func: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """The call as autograd sees it within ``torch.no_grad``: constants in, a constant out."""
    plain = [_constant(a) for a in args]
    result = func(*plain, **{name: _constant(a) for name, a in kwargs.items()})
    # What works in place gives back the tensor it was given, which keeps its history.
    return args[0] if plain and result is plain[0] else result


def _constant(value: Any) -> Any:
    if isinstance(value, Tensor):
        return _halves(value)[0]
    if isinstance(value, (tuple, list)) and any(isinstance(v, Tensor) for v in value):
        return type(value)(_constant(v) for v in value) if type(value) in (tuple, list) else value
    return value


def _require_formula(
    func: OpOverload | OpOverloadPacket, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> None:
    """Operators from elsewhere may drop tangents without a word, as those of ``torch.library.custom_op`` do."""
    name = str(func)
    if name.startswith(("aten.", "prims.")):
        return
    tensors = [a for a in (*args, *kwargs.values()) if isinstance(a, Tensor)]
    if any(_halves(t)[1] is not None for t in tensors):
        raise NoForwardFormula(f"the operator {name}")


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
