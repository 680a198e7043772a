"""A vision transformer of timm, fine-tuned with labels that a head on its own features learns, on scikit-learn's digits.

    python examples/timm_vit.py [--epochs 10] [--pretrained]

Needs torch, timm, maxl and scikit-learn (for the data alone). A minute on a CPU. ``--pretrained`` loads timm's weights, which
are of images of 224 pixels, for digits enlarged to that size; without it a small transformer starts from nothing.
"""

from __future__ import annotations

import argparse

import timm
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

import maxl

NAME = "vit_tiny_patch16_224"
SMALL = {"img_size": 8, "patch_size": 2, "depth": 2, "embed_dim": 64, "num_heads": 4, "global_pool": "avg"}


def main(epochs: int, pretrained: bool = False, seed: int = 0) -> float:
    """Trains on 1,000 digits and returns the accuracy (0 to 1) on the others."""
    torch.manual_seed(seed)
    trunk = timm.create_model(
        NAME, num_classes=0, in_chans=1, pretrained=pretrained, **({} if pretrained else SMALL)
    )
    x = torch.tensor(load_digits().images, dtype=torch.float32)[:, None] / 8 - 1
    y = torch.tensor(load_digits().target)
    size = trunk.patch_embed.img_size

    def images(index: Tensor) -> Tensor:
        return nn.functional.interpolate(x[index], size=size, mode="bilinear")

    hierarchy = maxl.Hierarchy.uniform(num_primary=10, k=5)
    network = maxl.MultiTaskNetwork(trunk, hierarchy, feature_dim=trunk.num_features)
    generator = maxl.LabelGenerator.sharing(network)  # a head on the same features: no second transformer
    heads = [p for name, p in network.named_parameters() if not name.startswith("trunk.")]
    rate = 1e-4 if pretrained else 2e-3
    groups = [{"params": list(trunk.parameters()), "lr": rate}, {"params": heads, "lr": 1e-3}]
    optimizer = torch.optim.AdamW(groups, weight_decay=0.05)
    meta_optimizer = torch.optim.Adam(generator.parameters(), lr=1e-3)
    learner = maxl.MetaAuxiliaryLearner(network, generator, optimizer, meta_optimizer)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)

    for epoch in range(epochs):
        for index in torch.randperm(1000).split(20):
            result = learner.step(images(index), y[index])
        scheduler.step()
        print(f"epoch {epoch + 1:3}  loss {result.loss:.3f}")
    with torch.no_grad():
        network.eval()
        answers = [network.predict(images(i)).argmax(1) for i in torch.arange(1000, len(y)).split(100)]
    return float((torch.cat(answers) == y[1000:]).float().mean())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--pretrained", action="store_true", help="timm's weights, which it downloads")
    options = parser.parse_args()
    print(f"test accuracy {main(options.epochs, options.pretrained):.3f}")
