"""Layer outputs that a meta step takes from the training pass: those of the very layer, or made anew."""

from __future__ import annotations

import torch
from torch import Tensor, nn

import maxl


class Branches(nn.Module):
    """The sum of two branches on two halves of the input, which change places after the first call.

    The sum does not tell them apart, and neither do their shapes; which numbers pass the ReLU of a branch does.
    """

    feature_dim = 8

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Linear(3, 8), nn.Linear(3, 8)
        self.called = False

    def forward(self, x: Tensor) -> Tensor:
        branches = [(self.left, x[:, :3]), (self.right, x[:, 3:])]
        if self.called:
            branches.reverse()
        self.called = True
        first, second = (layer(half).relu() for layer, half in branches)
        return first + second


def taught(way: maxl.Way, trunk: nn.Module) -> list[Tensor]:
    """The generator after a step whose hypergradient is not compared."""
    torch.manual_seed(0)
    hierarchy = maxl.Hierarchy([2, 3, 1])
    network = maxl.MultiTaskNetwork(trunk, hierarchy).double()
    generator = maxl.LabelGenerator(nn.Linear(6, 8), hierarchy, feature_dim=8).double()
    optimizers = [torch.optim.SGD(m.parameters(), lr=0.3) for m in (network, generator)]
    learner = maxl.MetaAuxiliaryLearner(network, generator, *optimizers, way=way, check="never")
    draw = torch.Generator().manual_seed(1)
    learner.step(
        torch.randn(9, 6, dtype=torch.float64, generator=draw), torch.randint(0, 3, (9,), generator=draw)
    )
    return [p.detach() for p in generator.parameters()]


def test_layers_in_another_order_do_not_get_each_others_outputs() -> None:
    torch.manual_seed(2)
    trunks = [Branches(), Branches()]
    trunks[1].load_state_dict(trunks[0].state_dict())
    for ours, exact in zip(taught(maxl.Forward(), trunks[0]), taught(maxl.Reverse(), trunks[1]), strict=True):
        torch.testing.assert_close(ours, exact, rtol=1e-10, atol=1e-12)
