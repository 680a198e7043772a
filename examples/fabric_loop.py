"""maxl in a loop with Lightning's Fabric, in one process or several, on scikit-learn's digits.

    python examples/fabric_loop.py [--epochs 10] [--processes 2]

Fabric starts the processes and hands out the data; modules and optimizers stay as they are, since its wrappers do not see
a hypergradient, and ``maxl.DataParallel`` adds up what processes have found. Needs maxl-torch[lightning] and scikit-learn
(for the data alone). A few seconds on a CPU.
"""

from __future__ import annotations

import argparse

import torch
from lightning import Fabric
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import maxl


def trunk() -> nn.Module:
    """Any module from inputs to features (N, D)."""
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU())


def main(epochs: int, processes: int) -> None:
    """Trains on 300 digits and prints the accuracy on the others, once."""
    fabric = Fabric(accelerator="cpu", devices=processes)  # or "gpu"
    fabric.launch()
    fabric.seed_everything(0, verbose=False)
    x = torch.tensor(load_digits().images, dtype=torch.float32) / 16
    y = torch.tensor(load_digits().target)
    hierarchy = maxl.Hierarchy.uniform(num_primary=10, k=5)
    network = maxl.MultiTaskNetwork(trunk(), hierarchy, feature_dim=64).to(fabric.device)
    generator = maxl.LabelGenerator(trunk(), hierarchy, feature_dim=64).to(fabric.device)
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
    learner = maxl.MetaAuxiliaryLearner(
        network,
        generator,
        optimizer,
        torch.optim.Adam(generator.parameters(), lr=1e-3),
        world=maxl.DataParallel() if fabric.world_size > 1 else None,
    )
    size = 60 // fabric.world_size  # of the part that each process has of a batch
    loader = fabric.setup_dataloaders(
        DataLoader(TensorDataset(x[:300], y[:300]), batch_size=size, shuffle=True)
    )
    for epoch in range(epochs):
        if isinstance(loader.sampler, torch.utils.data.DistributedSampler):
            loader.sampler.set_epoch(epoch)  # another order in each
        for batch_x, batch_y in loader:
            result = learner.backward(batch_x, batch_y)
            nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimizer.step()
            learner.meta_step()
        fabric.print(f"epoch {epoch + 1:2}  loss {result.loss:.4f}")
    with torch.no_grad():
        found = network.predict(x[300:].to(fabric.device)).argmax(1).cpu()
    accuracy = (found == y[300:]).float().mean()
    fabric.print(f"{learner.steps} steps, processes: {fabric.world_size}: test accuracy {accuracy:.3f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--processes", type=int, default=1)
    options = parser.parse_args()
    main(options.epochs, options.processes)
