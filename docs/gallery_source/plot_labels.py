"""
What becomes of learned labels
==============================

The entropy of the labels while they are learned, on 200 of scikit-learn's digits, with the anti-collapse term and without it.
"""

import math

import matplotlib.pyplot as plt
import torch
from sklearn.datasets import load_digits
from torch import nn

import maxl
from maxl.supervision import AuxiliaryLabels

images = torch.tensor(load_digits().images, dtype=torch.float32)[:200] / 16
targets = torch.tensor(load_digits().target)[:200]

# %%
# Each of ten digits has five auxiliary classes. Labels that say nothing are spread evenly over the five: an entropy of log 5.


def trunk() -> nn.Module:
    """Any module from inputs to features."""
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU())


def entropies(entropy_weight: float, epochs: int = 8) -> list[float]:
    """Mean entropy of the labels, in nats, at the start and after each epoch."""
    torch.manual_seed(0)
    hierarchy = maxl.Hierarchy.uniform(num_primary=10, k=5)
    network = maxl.MultiTaskNetwork(trunk(), hierarchy, feature_dim=64)
    generator = maxl.LabelGenerator(trunk(), hierarchy, feature_dim=64)
    learner = maxl.MetaAuxiliaryLearner(
        network,
        generator,
        torch.optim.Adam(network.parameters(), lr=3e-3),
        torch.optim.Adam(generator.parameters(), lr=1e-2),
        task=maxl.Classification(gamma=0.0),
        supervision=AuxiliaryLabels(nn.functional.cross_entropy, weight=0.3, entropy_weight=entropy_weight),
    )
    found = []
    for _ in range(epochs + 1):
        with torch.no_grad():
            labels = generator(images, targets)
        found.append(float(torch.special.entr(labels).sum(1).mean()))
        for index in torch.randperm(200).split(100):
            learner.step(images[index], targets[index])
    return found


# %%
# With the anti-collapse term (λ = 0.2) and without it:

figure, axes = plt.subplots(figsize=(6, 3.6), layout="constrained")
for weight in (0.2, 0.0):
    axes.plot(entropies(weight), label=f"λ = {weight}")
axes.axhline(math.log(5), linestyle=":", color="black", label="uniform labels")
axes.set(xlabel="epoch", ylabel="mean entropy of labels, nats")
axes.legend()
