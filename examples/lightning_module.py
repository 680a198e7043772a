"""maxl in Lightning, with a Trainer of one's own, on scikit-learn's digits.

    python examples/lightning_module.py [--epochs 10]

Needs maxl-torch[lightning] and scikit-learn (for the data alone). A few seconds on a CPU.
"""

from __future__ import annotations

import argparse

import lightning
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import maxl
from maxl.integrations.lightning import MAXLModule


def trunk() -> nn.Module:
    """Any module from inputs to features (N, D)."""
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU())


def main(epochs: int) -> None:
    """Trains on 300 digits and prints the accuracy on the others."""
    lightning.seed_everything(0)
    x = torch.tensor(load_digits().images, dtype=torch.float32) / 16
    y = torch.tensor(load_digits().target)

    hierarchy = maxl.Hierarchy.uniform(num_primary=10, k=5)
    network = maxl.MultiTaskNetwork(trunk(), hierarchy, feature_dim=64)
    generator = maxl.LabelGenerator.sharing(network)
    learner = maxl.MetaAuxiliaryLearner(
        network,
        generator,
        torch.optim.Adam(network.parameters(), lr=3e-3),
        torch.optim.Adam(generator.parameters(), lr=1e-3),
    )
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(learner.optimizer, epochs)
    module = MAXLModule(learner, schedulers=[schedule], max_grad_norm=1.0)

    trainer = lightning.Trainer(
        max_epochs=epochs, accelerator="cpu", logger=False, enable_checkpointing=False
    )
    trainer.fit(module, DataLoader(TensorDataset(x[:300], y[:300]), batch_size=50, shuffle=True))
    (result,) = trainer.test(
        module, DataLoader(TensorDataset(x[300:], y[300:]), batch_size=500), verbose=False
    )
    print(f"{trainer.global_step} steps: test accuracy {result['test_accuracy']:.3f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--epochs", type=int, default=10)
    main(parser.parse_args().epochs)
