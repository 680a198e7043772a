"""
What a hypergradient is
=======================

One label, one step, and the loss after it: the derivative that :func:`maxl.hypergradient` gives is the slope of that curve.
"""

import matplotlib.pyplot as plt
import torch
from torch import nn

import maxl

torch.manual_seed(0)

# %%
# A network with two auxiliary classes, and a generator that is a table: the share of the first class in each sample's label.

hierarchy = maxl.Hierarchy.flat(2)
task = maxl.Regression(num_targets=1)
trunk = nn.Sequential(nn.Linear(2, 8), nn.Tanh())
network = maxl.MultiTaskNetwork(trunk, hierarchy, feature_dim=8, task=task).double()
x = torch.randn(4, 2, dtype=torch.float64)
y = x.sum(1, keepdim=True)


class Table(nn.Module):
    """Labels (share, 1 − share)."""

    def __init__(self) -> None:
        super().__init__()
        self.share = nn.Parameter(torch.full((4,), 0.5, dtype=torch.float64))

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return torch.stack([self.share, 1 - self.share], 1)


rate = 0.5
generator = Table()
(slope,) = maxl.hypergradient(
    network,
    generator,
    x,
    y,
    learning_rate=rate,
    primary_loss=task.loss,
    auxiliary_loss=nn.functional.cross_entropy,
)

# %%
# The curve itself: for each share of the first sample's label take the step, and look at the primary loss after it.

shares = torch.linspace(0, 1, 21, dtype=torch.float64)
losses = []
for share in shares:
    table = Table()
    table.share.data[0] = share
    primary, auxiliary = network(x)
    labels = table(x, y).detach()
    training = task.loss(primary, y) + nn.functional.cross_entropy(auxiliary, labels)
    weights = dict(network.named_parameters())
    gradients = torch.autograd.grad(training, list(weights.values()))
    ahead = {name: p - rate * g for (name, p), g in zip(weights.items(), gradients, strict=True)}
    with torch.no_grad():
        losses.append(float(task.loss(torch.func.functional_call(network, ahead, (x,))[0], y)))

# %%
# The tangent at one half has the slope that the library computed without differentiating a backward pass.

figure, axes = plt.subplots(figsize=(6, 3.6), layout="constrained")
axes.plot(shares, losses, label="primary loss after the step")
middle = losses[10]
axes.plot(shares, middle + float(slope[0]) * (shares - 0.5), "--", label="slope by maxl.hypergradient")
axes.plot(0.5, middle, "o", color="black")
axes.set(xlabel="share of the first auxiliary class in one label", ylabel="loss")
axes.legend()

between = (losses[11] - losses[9]) / (shares[11] - shares[9])
print(f"slope {slope[0]:.5f}, by neighbouring points {between:.5f}")
assert abs(slope[0] - between) < 0.05 * abs(between)
