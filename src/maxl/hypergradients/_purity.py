"""Passes that leave the network as they found it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.modules.batchnorm import _BatchNorm

from maxl.hypergradients._inputs import Inputs

_Result = TypeVar("_Result")


@contextmanager
def untracked(module: nn.Module) -> Iterator[None]:
    """BatchNorm in training mode uses batch statistics and leaves its running ones alone, which fused kernels need."""
    layers = [
        m for m in module.modules() if isinstance(m, _BatchNorm) and m.training and m.track_running_stats
    ]
    for layer in layers:
        layer.track_running_stats = False
    try:
        yield
    finally:
        for layer in layers:
            layer.track_running_stats = True


@contextmanager
def differentiable_kernels(network: nn.Module, device_type: str) -> Iterator[None]:
    """Attention and recurrent layers by PyTorch's plain kernels: fused ones cannot be differentiated again.

    cuDNN draws dropout between recurrent layers in a way of its own, so there the masks of the training pass
    and of the meta step differ.
    """
    layers = [m for m in network.modules() if isinstance(m, nn.RNNBase)]
    fused = bool(layers) and device_type == "cuda" and torch.backends.cudnn.enabled
    lstm = device_type == "cpu" and any(isinstance(m, nn.LSTM) for m in layers)
    before = torch.backends.mkldnn.set_flags(False, _fp32_precision=None)[0] if lstm else None  # type: ignore[no-untyped-call]
    try:
        if fused:
            torch.backends.cudnn.enabled = False
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        if fused:
            torch.backends.cudnn.enabled = True
        if before is not None:
            torch.backends.mkldnn.set_flags(before, _fp32_precision=None)  # type: ignore[no-untyped-call]


def spare_buffers(module: nn.Module) -> dict[str, Tensor]:
    """Copies of all buffers, which are few and small: statistics, tables, masks, counters, vectors of spectral norm.

    One for each, however many modules hold it.
    """
    return {name: buffer.clone() for name, buffer in module.named_buffers()}


class _Within(nn.Module):
    """A module around another, so that ``functional_call`` can hold its weights replaced for whatever is done."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, do: Callable[[], None]) -> tuple[()]:
        do()
        return ()  # no tensor that hooks on all modules could get hold of


def purely(
    module: nn.Module,
    weights: Mapping[str, Tensor],
    do: Callable[[], _Result],
    *,
    buffers: Mapping[str, Tensor] | None = None,
) -> _Result:
    """``do()`` while the module has other weights; no buffer is changed.

    A backward pass belongs inside: activation checkpointing calls the module again within it.

    Args:
        module: The network, or the generator.
        weights: By name; those that are missing stay the module's own.
        do: Calls the module, and differentiates what comes out.
        buffers: Where its buffers start, as ``spare_buffers`` gave them; where they stand by default.

    Raises:
        ValueError: if the module checkpoints activations by PyTorch's reentrant method, which autograd.grad cannot pass,
            or moves a weight of its own, a frozen or a trained one.
    """
    own = {
        name: (p, p._version) for name, p in module.named_parameters()
    }  # those in their place share their memory
    start = spare_buffers(module) if buffers is None else {name: b.clone() for name, b in buffers.items()}
    start = {**start, **weights, **renormalised(module, weights)}
    replaced = {f"module.{name}": tensor for name, tensor in start.items()}
    with untracked(module), explained():
        results: list[_Result] = []
        if replaced:
            functional_call(_Within(module), replaced, (lambda: results.append(do()),))
        else:
            results.append(do())
    for name, (p, version) in own.items():
        if p._version != version:
            raise ValueError(
                f"a network may change nothing but buffers in its own pass, so that a meta step can leave them as they are; "
                f"this one moves the weight {name}: register it with register_buffer"
            )
    return results[0]


def renormalised(module: nn.Module, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copies of what a pass writes to in place: embeddings with a largest norm scale the rows that they look up."""
    tables = (m for m in module.modules() if isinstance(m, (nn.Embedding, nn.EmbeddingBag)))
    written = {id(m.weight) for m in tables if m.max_norm is not None}
    own = module.named_parameters() if written else ()
    return {name: weights.get(name, p).clone() for name, p in own if id(p) in written}


@contextmanager
def explained() -> Iterator[None]:
    """PyTorch's words on what cannot be differentiated twice as a rule and what to do."""
    try:
        yield
    except RuntimeError as error:
        if re.search(r"donated buffer|compile with aot_autograd does not", str(error)):
            raise ValueError(
                "reverse mode needs a network that is not compiled, for it differentiates its passes twice; got one that "
                "torch.compile made: take maxl.Forward(), or give the plain network and compile=True"
            ) from error
        if not re.search(r"use_reentrant=True|Checkpointing is not compatible with \.grad\(\)", str(error)):
            raise
        raise ValueError(
            "activation checkpointing needs to be the kind that torch.autograd.grad can pass; got the reentrant one: "
            "call torch.utils.checkpoint.checkpoint(..., use_reentrant=False)"
        ) from error


def pure_call(
    module: nn.Module,
    weights: Mapping[str, Tensor],
    *inputs: Inputs,
    call: Callable[[dict[str, Tensor], tuple[Inputs, ...]], Any] | None = None,
) -> tuple[Tensor, ...] | Tensor:
    """``module(*inputs)`` with some of its weights replaced and no buffer changed.

    Args:
        module: The network, or the generator.
        weights: By name; those that are missing stay the module's own.
        inputs: What the module takes.
        call: (weights and buffers, inputs) → output, instead of an eager call of the module.
    """
    if call is None:
        return purely(module, weights, lambda: module(*inputs))  # type: ignore[no-any-return]
    with untracked(module):
        return call({**spare_buffers(module), **weights, **renormalised(module, weights)}, inputs)  # type: ignore[no-any-return]
