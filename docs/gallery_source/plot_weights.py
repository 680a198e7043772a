"""
Weights of samples, judged by trusted ones
==========================================

Two classes, four in ten labels wrong on one side of the plane, and forty samples that can be trusted: what weight does each sample get?
"""

import matplotlib.pyplot as plt
import torch
from torch import Tensor, nn

import maxl
from maxl.supervision import SampleWeights

torch.manual_seed(0)
x = torch.randn(240, 2)
truth = (x[:, 0] > 0).long()
wrong = torch.rand(240) < 0.4 * (x[:, 1] > 0)
y = torch.where(wrong, 1 - truth, truth)
trusted_x = torch.randn(40, 2)
trusted_y = (trusted_x[:, 0] > 0).long()

# %%
# The generator looks at a sample and its given label.


class Weigher(nn.Module):
    """A weight in (0, 1) for each sample."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(4, 32), nn.ReLU(), nn.Linear(32, 1))

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        given = nn.functional.one_hot(y, 2).to(x)
        return torch.sigmoid(self.layers(torch.cat([x, given], 1))).squeeze(1)


network = nn.Sequential(nn.Linear(2, 32), nn.ReLU(), nn.Linear(32, 2))
weigher = Weigher()
learner = maxl.MetaAuxiliaryLearner(
    network,
    weigher,
    torch.optim.SGD(network.parameters(), lr=0.5),
    torch.optim.Adam(weigher.parameters(), lr=1e-2),
    task=maxl.Classification(gamma=0.0),
    supervision=SampleWeights(normalise=True),
)
for _ in range(80):
    learner.step(x, y, outer_batch=(trusted_x, trusted_y))

# %%
# Crosses are wrong labels. One toy problem and one seed; no study of ours says how much this helps elsewhere.

with torch.no_grad():
    weights = weigher(x, y)
figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
for kind, marker in ((~wrong, "o"), (wrong, "X")):
    points = axes.scatter(
        x[kind, 0],
        x[kind, 1],
        c=weights[kind],
        marker=marker,
        vmin=0,
        vmax=float(weights.max()),
        edgecolors="grey",
    )
figure.colorbar(points, label="weight")
axes.set(xlabel="first feature, which decides the class", ylabel="second feature")
