"""BatchNorm layers that do more than normalise: none is replaced by one that does less."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from maxl.worlds import SyncBatchNorm

pytestmark = pytest.mark.usefixtures("float64")


class Activated(nn.BatchNorm2d):
    """As timm's ``BatchNormAct2d``."""

    def forward(self, input: Tensor) -> Tensor:
        return torch.relu(super().forward(input))


class OnSynchronised(SyncBatchNorm):
    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(super().forward(x))


class Named(nn.BatchNorm2d):
    """Another name, the same pass."""


def patched() -> nn.Module:
    layer = nn.BatchNorm2d(2)
    plain = layer.forward
    layer.forward = lambda input: torch.relu(plain(input))  # type: ignore[method-assign]
    return layer


@pytest.mark.parametrize("kind", [lambda: Activated(2), lambda: OnSynchronised(2), patched])
@pytest.mark.parametrize("within", [True, False])
def test_a_layer_with_a_forward_of_its_own_is_refused_and_nothing_is_changed(
    kind: Callable[[], nn.Module], within: bool
) -> None:
    module = nn.Sequential(nn.BatchNorm2d(2), nn.Sequential(nn.Conv2d(2, 2, 1), kind())) if within else kind()
    before = [type(m) for m in module.modules()]
    words = r"got 1\.1, a .* with a forward of its own" if within else "got the module, a .* with a forward"
    with pytest.raises(ValueError, match=words):
        SyncBatchNorm.convert(module)
    assert [type(m) for m in module.modules()] == before


@pytest.mark.parametrize(
    "kind", [nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm, Named, SyncBatchNorm]
)
def test_layers_that_normalise_alone_are_converted_and_give_the_same(kind: type[nn.Module]) -> None:
    axes = {nn.BatchNorm1d: (), nn.BatchNorm3d: (2, 2, 2)}.get(kind, (2, 2))
    module = nn.Sequential(kind(3), nn.Tanh())
    nn.init.normal_(module[0].weight)
    x = torch.randn(4, 3, *axes)
    converted = SyncBatchNorm.convert(copy.deepcopy(module))
    assert type(converted[0]) is SyncBatchNorm  # type: ignore[index]
    centred = x - x.mean([0, *range(2, x.dim())], keepdim=True)
    variance = centred.square().mean([0, *range(2, x.dim())], keepdim=True)
    scale = module[0].weight.view(1, 3, *[1] * len(axes))
    torch.testing.assert_close(converted(x), (centred / (variance + 1e-5).sqrt() * scale).tanh())


def test_a_network_of_timm_that_activates_in_its_norms_is_refused_by_name() -> None:
    timm = pytest.importorskip("timm")
    network = timm.create_model("mobilenetv3_small_100", pretrained=False, num_classes=0)
    with pytest.raises(ValueError, match=r"got bn1, a timm\.layers\..*BatchNormAct2d with a forward"):
        SyncBatchNorm.convert(network)
