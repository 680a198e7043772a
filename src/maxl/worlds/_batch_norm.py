"""BatchNorm on the statistics of a batch that several processes have parts of."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


class SyncBatchNorm(_BatchNorm):
    """BatchNorm whose batch is that of all processes; in eval mode, or in one process, as torch's.

    ``torch.nn.SyncBatchNorm`` has neither a forward-mode formula nor a second derivative, and needs a GPU; this one has
    both, and runs anywhere. Inputs of shape (N, C, ...).

    Args:
        num_features, options: As for ``torch.nn.BatchNorm2d``.
        group: The processes; all by default.
    """

    def __init__(self, num_features: int, *, group: dist.ProcessGroup | None = None, **options: Any) -> None:
        super().__init__(num_features, **options)
        self.group = group

    @classmethod
    def convert(cls, module: nn.Module, group: dist.ProcessGroup | None = None) -> nn.Module:
        """The module with its BatchNorm layers replaced by such layers, which keep their weights and statistics.

        Args:
            module: Changed in place, but for a module that is a BatchNorm layer itself.
            group: As for the layer.

        Raises:
            ValueError: if one of them has a forward of its own, which would be lost; nothing is changed then.
        """
        for name, m in module.named_modules():
            _check_plain(name, m)
        made: dict[nn.Module, nn.Module] = {}  # a layer in two places stays one

        def converted(m: nn.Module) -> nn.Module:
            if m not in made:
                made[m] = cls._like(m, group) if isinstance(m, _BatchNorm) else m
                for name, child in made[m]._modules.items():
                    if child is not None:
                        setattr(made[m], name, converted(child))
            return made[m]

        return converted(module)

    @classmethod
    def _like(cls, module: _BatchNorm, group: dist.ProcessGroup | None) -> nn.Module:
        layer = cls(
            module.num_features,
            group=group,
            eps=module.eps,
            momentum=module.momentum,
            affine=module.affine,
            track_running_stats=module.track_running_stats,
        )
        for name in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked"):
            setattr(layer, name, getattr(module, name))
        return layer.train(module.training)

    def forward(self, x: Tensor) -> Tensor:
        """Shape as x.

        Raises:
            ValueError: if all processes together have one value for each channel, which has no variance.
        """
        together = dist.is_available() and dist.is_initialized() and dist.get_world_size(self.group) > 1
        if not (self.training and together):
            return super().forward(x)
        axes = [0, *range(2, x.dim())]
        shape = [1, -1] + [1] * (x.dim() - 2)
        wide = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
        count = x.numel() // x.shape[1]
        number = _Sum.apply(wide.new_tensor([float(count)]), self.group)
        if count < 2 and float(number) < 2:
            raise ValueError("BatchNorm needs more than one value for each channel in training; got one")
        mean = _Sum.apply(wide.sum(axes), self.group) / number
        centred = wide - mean.view(shape)
        variance = _Sum.apply((centred * centred).sum(axes), self.group) / number
        if self.track_running_stats:
            self._track(mean.detach(), (variance * number / (number - 1)).detach())
        y = centred * torch.rsqrt(variance + self.eps).view(shape)
        if self.affine:
            y = y * self.weight.view(shape) + self.bias.view(shape)
        normalised: Tensor = y.to(x.dtype)
        return normalised

    @torch.no_grad()
    def _track(self, mean: Tensor, variance: Tensor) -> None:
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        self.num_batches_tracked.add_(1)
        rate = 1.0 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), rate)
        self.running_var.lerp_(variance.to(self.running_var.dtype), rate)

    def _check_input_dim(self, input: Tensor) -> None:
        if input.dim() < 2:
            raise ValueError(f"SyncBatchNorm needs inputs of shape (N, C, ...); got {tuple(input.shape)}")


def _check_plain(name: str, module: nn.Module) -> None:
    known = (_BatchNorm.forward, nn.SyncBatchNorm.forward, SyncBatchNorm.forward)
    if not isinstance(module, _BatchNorm) or (
        type(module).forward in known and "forward" not in vars(module)
    ):
        return
    kind = type(module)
    raise ValueError(
        "SyncBatchNorm.convert takes the place of layers that normalise and do nothing else; got "
        f"{name or 'the module'}, a {kind.__module__}.{kind.__qualname__} with a forward of its own (an activation, dropout), "
        "which would be lost: put maxl.worlds.SyncBatchNorm and what else it does in its place, or train in one process"
    )


class _Sum(torch.autograd.Function):
    """The sum over processes; linear and self-adjoint, so it is its own derivative in both modes."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, group: dist.ProcessGroup | None) -> Tensor:
        ctx.group = group
        total = x.detach().clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total, group=group)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return _Sum.apply(gradient, ctx.group), None

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, _: None) -> Tensor:
        total: Tensor = _Sum.apply(tangent, ctx.group)
        return total
