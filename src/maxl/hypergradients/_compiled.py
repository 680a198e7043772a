"""The passes that a step is made of, through ``torch.compile`` where that is asked for and works."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, jvp
from torch.nn.modules.batchnorm import _NormBase

from maxl.hypergradients._inputs import Inputs, device_of
from maxl.hypergradients._problem import Outputs, as_tuple
from maxl.hypergradients._purity import pure_call, renormalised, spare_buffers, untracked

_NORMS = (_NormBase, nn.GroupNorm, nn.LayerNorm)


class Compiled:
    """A function through ``torch.compile``; eager for good, with one warning, once that has failed.

    Args:
        function: Tensors in nested containers to the same.
        name: What it is, for the warning.
        whole: Compile it as one graph or not at all, rather than in parts.
        otherwise: What runs where it does not compile; the function itself unless given.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        name: str,
        *,
        whole: bool = False,
        otherwise: Callable[..., Any] | None = None,
    ) -> None:
        self.function = otherwise or function
        self.name = name
        # Dropout has to draw in a compiled pass what it draws in an eager one.
        options: dict[str, str | int | bool | Callable[..., Any]] = {"fallback_random": True}
        self.compiled: Callable[..., Any] | None = torch.compile(
            function, dynamic=False, fullgraph=whole, options=options
        )

    def __call__(self, *args: Any) -> Any:
        if self.compiled is not None:
            try:
                with warnings.catch_warnings(action="ignore"):  # the compiler's, on PyTorch's own code
                    return self.compiled(*args)
            except torch._dynamo.exc.TorchDynamoException as error:
                self.compiled = None
                reason = next((line for line in str(error).splitlines() if line.strip()), "no message")
                warnings.warn(
                    f"{self.name} does not compile and runs eagerly: {type(error).__name__}: {reason}",
                    stacklevel=3,
                )
        return self.function(*args)


class WithFeatures(Compiled):
    """A pass that gives features besides; they are kept until they are taken."""

    _features: Tensor | None = None

    def __call__(self, *args: Any) -> Any:
        outputs, self._features = super().__call__(*args)
        return outputs

    def take(self) -> Tensor:
        """Of the last pass."""
        features, self._features = self._features, None
        assert features is not None
        return features


class CompiledPasses:
    """Compiled passes of one module; weights, buffers and random numbers are used as in eager passes.

    Args:
        module: The network, or the generator.
        name: What to call it in warnings.
        features: The training pass also gives the trunk's features, by the module's ``with_features``.
    """

    def __init__(self, module: nn.Module, name: str, *, features: bool = False) -> None:
        self.module = module

        def call(*inputs: Inputs) -> Any:
            return module(*inputs)

        def featured(x: Inputs) -> Any:
            return module.with_features(x)  # type: ignore[operator]

        def predict(x: Inputs) -> Any:
            return module.predict(x)  # type: ignore[operator]

        def replaced(weights: dict[str, Tensor], inputs: tuple[Inputs, ...]) -> Any:
            return functional_call(module, weights, inputs)

        def tangent(
            moved: dict[str, Tensor], along: dict[str, Tensor], fixed: dict[str, Tensor], x: Inputs
        ) -> Any:
            return jvp(lambda w: as_tuple(functional_call(module, {**fixed, **w}, (x,))), (moved,), (along,))

        self.call = (
            WithFeatures(featured, f"the {name}'s pass") if features else Compiled(call, f"the {name}'s pass")
        )
        self.predict = Compiled(predict, f"the {name}'s primary pass")
        self._replaced = Compiled(replaced, f"the {name}'s pass with other weights")
        # Not in parts: these would be an eager functional transform, which the eager pass of dual numbers beats.
        self._tangent = Compiled(
            tangent, f"the {name}'s forward-mode pass", whole=True, otherwise=lambda *_: None
        )

    def pure(self, weights: Mapping[str, Tensor], *inputs: Inputs) -> tuple[Tensor, ...] | Tensor:
        """As ``pure_call``."""
        return pure_call(self.module, weights, *inputs, call=self._replaced)

    def tangent(
        self,
        weights: Mapping[str, Tensor],
        u: Mapping[str, Tensor | None],
        x: Inputs,
        buffers: Mapping[str, Tensor] | None = None,
    ) -> tuple[Outputs, Outputs] | None:
        """Outputs at ``weights`` and their tangents along u; None where this does not compile."""
        along = {name: u_p for name, u_p in u.items() if u_p is not None}
        if self._tangent.compiled is None or not along:
            return None
        weights = {**weights, **renormalised(self.module, weights)}
        moved = {name: weights[name].detach() for name in along}
        fixed = {name: p.detach() for name, p in weights.items() if name not in along}
        with untracked(self.module), _norms_in_float32(self.module, device_of(x).type):
            start = {name: b.clone() for name, b in (buffers or {}).items()}
            pair: tuple[Outputs, Outputs] | None = self._tangent(
                moved, along, {**spare_buffers(self.module), **start, **fixed}, x
            )
        return pair


@contextmanager
def _norms_in_float32(module: nn.Module, device_type: str) -> Iterator[None]:
    """Under autocast, normalisation layers take float32: of a bf16 input they make a float32 tangent.

    The next layer would refuse a value and a tangent of different precision. Autocast takes both to bf16 again.
    """
    handles = []
    if torch.is_autocast_enabled(device_type):
        norms = [m for m in module.modules() if isinstance(m, _NORMS)]
        handles = [m.register_forward_pre_hook(lambda _, x: (x[0].float(), *x[1:])) for m in norms]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
