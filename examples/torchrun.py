"""maxl in several processes, each with its part of every batch, on scikit-learn's digits.

    torchrun --nproc-per-node=2 examples/torchrun.py [--epochs 10]    (in a clone: uv run torchrun ...)

The result is that of one process with the whole batches (``python examples/torchrun.py``). Needs torch, maxl and
scikit-learn (for the data alone). A few seconds on a CPU.
"""

from __future__ import annotations

import argparse
import os

import torch
import torch.distributed as dist
from sklearn.datasets import load_digits
from torch import nn

import maxl


def trunk() -> nn.Module:
    """Any module from inputs to features (N, D); its BatchNorm normalises over all processes once it is converted."""
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 64, bias=False), nn.BatchNorm1d(64), nn.ReLU())


def main(epochs: int) -> None:
    """Trains on 300 digits and prints the accuracy on the others, once."""
    together = "RANK" in os.environ  # torchrun says who we are
    if together:
        dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    rank, size = (dist.get_rank(), dist.get_world_size()) if together else (0, 1)
    torch.manual_seed(0)
    x = torch.tensor(load_digits().images, dtype=torch.float32) / 16
    y = torch.tensor(load_digits().target)
    hierarchy = maxl.Hierarchy.uniform(num_primary=10, k=5)
    network = maxl.MultiTaskNetwork(trunk(), hierarchy, feature_dim=64)
    generator = maxl.LabelGenerator(trunk(), hierarchy, feature_dim=64)
    if together:
        maxl.worlds.SyncBatchNorm.convert(network)
        maxl.worlds.SyncBatchNorm.convert(generator)
    learner = maxl.MetaAuxiliaryLearner(
        network,
        generator,
        torch.optim.Adam(network.parameters(), lr=3e-3),
        torch.optim.Adam(generator.parameters(), lr=1e-3),
        world=maxl.DataParallel() if together else None,
    )
    for epoch in range(epochs):
        order = torch.randperm(300, generator=torch.Generator().manual_seed(epoch))  # the same everywhere
        for batch in order.split(50):
            mine = batch.tensor_split(size)[rank]
            result = learner.step(x[mine], y[mine])  # losses are those of the whole batch
        if rank == 0:
            print(f"epoch {epoch + 1:2}  loss {result.loss:.4f}  outer loss {result.outer_loss:.4f}")
    if rank == 0:
        network.eval()
        with torch.no_grad():
            accuracy = (network.predict(x[300:]).argmax(1) == y[300:]).float().mean()
        print(f"{size} process{'es' * (size > 1)}: test accuracy {accuracy:.3f}")
    if together:
        dist.barrier()  # none leaves while another still talks
        dist.destroy_process_group()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--epochs", type=int, default=10)
    main(parser.parse_args().epochs)
