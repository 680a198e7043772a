"""Passes that leave the network as they found it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.modules.batchnorm import _BatchNorm


@contextmanager
def untracked(module: nn.Module) -> Iterator[None]:
    """BatchNorm in training mode uses batch statistics and updates no buffer; costs no copy."""
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
    """Copies of all buffers but BatchNorm's, which ``untracked`` spares.

    They are few and small: tables, masks, counters; InstanceNorm updates its own even when told not to.
    """
    spared = {id(m) for m in module.modules() if isinstance(m, _BatchNorm)}
    return {
        f"{prefix}.{name}" if prefix else name: buffer.clone()
        for prefix, m in module.named_modules()
        if id(m) not in spared
        for name, buffer in m.named_buffers(recurse=False)
    }


def pure_call(
    module: nn.Module,
    weights: Mapping[str, Tensor],
    *inputs: Tensor,
    call: Callable[[dict[str, Tensor], tuple[Tensor, ...]], Any] | None = None,
) -> tuple[Tensor, ...] | Tensor:
    """``module(*inputs)`` with some of its weights replaced and no buffer changed.

    Args:
        module: The network, or the generator.
        weights: By name; those that are missing stay the module's own.
        inputs: What the module takes.
        call: (weights and buffers, inputs) → output, instead of an eager call of the module.
    """
    replaced = {**spare_buffers(module), **weights}
    with untracked(module):
        if call is not None:
            result = call(replaced, inputs)
        elif replaced:
            result = functional_call(module, replaced, inputs)
        else:
            result = module(*inputs)
    return result  # type: ignore[no-any-return]
