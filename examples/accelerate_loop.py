"""maxl in a loop with Hugging Face's Accelerate, in one process or several, on scikit-learn's digits.

    python examples/accelerate_loop.py [--epochs 10]
    accelerate launch --cpu --num_processes 2 examples/accelerate_loop.py

Accelerate prepares the data; modules and optimizers stay as they are, since its wrappers do not see a hypergradient, and
``maxl.DataParallel`` adds up what processes have found. Needs accelerate, maxl and scikit-learn (for the data alone). A
few seconds on a CPU.
"""

from __future__ import annotations

import argparse

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import maxl


def trunk() -> nn.Module:
    """Any module from inputs to features (N, D)."""
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU())


def main(epochs: int) -> None:
    """Trains on 300 digits and prints the accuracy on the others, once."""
    accelerator = Accelerator(cpu=True)  # without cpu=True on the device that there is
    set_seed(0)
    x = torch.tensor(load_digits().images, dtype=torch.float32) / 16
    y = torch.tensor(load_digits().target)
    hierarchy = maxl.Hierarchy.uniform(num_primary=10, k=5)
    network = maxl.MultiTaskNetwork(trunk(), hierarchy, feature_dim=64).to(accelerator.device)
    generator = maxl.LabelGenerator(trunk(), hierarchy, feature_dim=64).to(accelerator.device)
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
    learner = maxl.MetaAuxiliaryLearner(
        network,
        generator,
        optimizer,
        torch.optim.Adam(generator.parameters(), lr=1e-3),
        world=maxl.DataParallel() if accelerator.num_processes > 1 else None,
    )
    size = 60 // accelerator.num_processes  # of the part that each process has of a batch
    loader = accelerator.prepare(DataLoader(TensorDataset(x[:300], y[:300]), batch_size=size, shuffle=True))
    # Accelerator.save_state then writes checkpoints that training goes on from.
    accelerator.register_for_checkpointing(network, generator, optimizer, learner.meta_optimizer, learner)
    for epoch in range(epochs):
        for batch_x, batch_y in loader:
            result = learner.backward(batch_x, batch_y)
            nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimizer.step()
            learner.meta_step()
        accelerator.print(f"epoch {epoch + 1:2}  loss {result.loss:.4f}")
    with torch.no_grad():
        found = network.predict(x[300:].to(accelerator.device)).argmax(1).cpu()
    accuracy = (found == y[300:]).float().mean()
    accelerator.print(
        f"{learner.steps} steps, processes: {accelerator.num_processes}: test accuracy {accuracy:.3f}"
    )
    accelerator.end_training()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--epochs", type=int, default=10)
    main(parser.parse_args().epochs)
