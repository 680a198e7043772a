"""maxl in a plain PyTorch loop, with gradient clipping and a scheduler, on scikit-learn's digits.

    python examples/loop.py [--epochs 20] [--method single|uniform|maxl]

Needs torch, maxl and scikit-learn (for the data alone). A few seconds on a CPU.
"""

from __future__ import annotations

import argparse

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

import maxl
from maxl.supervision import AuxiliaryLabels, UniformLabels


def trunk() -> nn.Module:
    """Any module from inputs to features (N, D)."""
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU())


def main(epochs: int, method: str, seed: int = 0) -> float:
    """Trains on 300 digits and returns the accuracy (0 to 1) on the others."""
    torch.manual_seed(seed)
    x = torch.tensor(load_digits().images, dtype=torch.float32) / 16
    y = torch.tensor(load_digits().target)
    train_x, train_y, test_x, test_y = x[:300], y[:300], x[300:], y[300:]

    hierarchy = maxl.Hierarchy.uniform(num_primary=10, k=5)
    network = maxl.MultiTaskNetwork(trunk(), hierarchy, feature_dim=64)
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
    choices = {  # cross-entropy for both tasks; the defaults are the paper's focal loss and weight 1
        "task": maxl.Classification(gamma=0.0),
        "supervision": AuxiliaryLabels(nn.functional.cross_entropy, weight=0.3),
    }
    learner: maxl.MultiTaskLearner
    if method == "maxl":
        generator = maxl.LabelGenerator(trunk(), hierarchy, feature_dim=64)
        meta_optimizer = torch.optim.Adam(generator.parameters(), lr=1e-3)
        learner = maxl.MetaAuxiliaryLearner(network, generator, optimizer, meta_optimizer, **choices)
    else:
        source = UniformLabels(hierarchy) if method == "uniform" else None
        learner = maxl.MultiTaskLearner(network, optimizer, source=source, **choices)

    for epoch in range(epochs):
        for index in torch.randperm(len(train_x)).split(50):
            result = learner.backward(train_x[index], train_y[index])
            nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimizer.step()
            if isinstance(learner, maxl.MetaAuxiliaryLearner):
                learner.meta_step()
        scheduler.step()
        if epoch % 5 == 4:
            print(
                f"epoch {epoch + 1:3}  loss {result.loss:.3f}  accuracy {accuracy(network, test_x, test_y):.3f}"
            )
    return accuracy(network, test_x, test_y)


def accuracy(network: maxl.MultiTaskNetwork, x: Tensor, y: Tensor) -> float:
    """Of the primary head, all that is left at test time."""
    with torch.no_grad():
        return float((network.predict(x).argmax(1) == y).float().mean())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--method", choices=("single", "uniform", "maxl"), default="maxl")
    options = parser.parse_args()
    print(f"{options.method}: test accuracy {main(options.epochs, options.method):.3f}")
