"""How fast batches are made: `BatchStream` against a DataLoader with torchvision's transforms.

Both draw shuffled, cropped, mirrored and normalised CIFAR-shaped batches from the same uint8 tensor, one
after the other in one process, several rounds in turn; the table gives the median. Then both outputs are
compared as distributions: mean and variance of the pixels, share of mirrored images, spread of the offsets.

    python benchmarks/data.py [--images 20000] [--batch-size 100] [--workers 2] [--rounds 3] [--device cuda]
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Iterable

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from maxl.experiments.data import BatchStream, Split

MEAN, STD = (0.5, 0.5, 0.5), (0.2, 0.2, 0.2)


class ImageDataset(Dataset[tuple[Tensor, Tensor]]):
    """The usual way: one image at a time through torchvision's transforms."""

    def __init__(self, split: Split) -> None:
        self.split = split
        self.transform = v2.Compose(
            [
                v2.RandomCrop(32, padding=4),
                v2.RandomHorizontalFlip(),
                v2.ToDtype(torch.float32, scale=True),
                v2.Normalize(MEAN, STD),
            ]
        )

    def __len__(self) -> int:
        return len(self.split)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.transform(self.split.x[index]), self.split.primary[index]


def marked_images(count: int) -> Split:
    """Images whose crop can be read off: one bright pixel, and a darker one to its right."""
    x = torch.zeros(count, 3, 32, 32, dtype=torch.uint8)
    x[:, :, 15, 15], x[:, :, 15, 16] = 200, 100
    return Split(x, torch.zeros(count, dtype=torch.int64))


def images_per_second(batches: Iterable[Tensor], device: str) -> float:
    """Throughput of one pass, workers' start included, as each epoch pays for it."""
    start, count = time.perf_counter(), 0
    for x in batches:
        count += len(x.to(device))
    if device == "cuda":
        torch.cuda.synchronize()
    return count / (time.perf_counter() - start)


def describe(x: Tensor) -> dict[str, float]:
    """Statistics of normalised, augmented `marked_images`, shape (N, 3, 32, 32)."""
    pixels = (x[:, 0] * STD[0] + MEAN[0]).mul(255).round().flatten(1)
    bright, dark = pixels.eq(200).int().argmax(1), pixels.eq(100).int().argmax(1)
    offsets = torch.stack([bright // 32, torch.where(bright > dark, 31 - bright % 32, bright % 32)]).float()
    return {
        "pixel mean": x.mean().item(),
        "pixel variance": x.var().item(),
        "mirrored": (bright > dark).float().mean().item(),
        "offset mean": offsets.mean().item() - 15,  # 0 if uniform on -4..4
        "offset variance": offsets.var(1).mean().item(),  # 80 / 12 = 6.67 if uniform
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--batch-size", type=int, default=100)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()

    split = marked_images(options.images)
    stream = BatchStream(
        split, options.batch_size, mean=MEAN, std=STD, augment=True, seed=0, device=options.device
    )
    loader = DataLoader(
        ImageDataset(split), options.batch_size, shuffle=True, num_workers=options.workers, drop_last=True
    )
    ways = {
        "BatchStream": lambda epoch: (batch.x for batch in stream.epoch(epoch)),
        f"DataLoader, {options.workers} workers": lambda epoch: (x for x, _ in loader),
    }
    speeds: dict[str, list[float]] = {name: [] for name in ways}
    for epoch in range(options.rounds):
        for name, batches in ways.items():
            speeds[name].append(images_per_second(batches(epoch), options.device))

    medians = {name: statistics.median(values) for name, values in speeds.items()}
    slowest = min(medians.values())
    print(f"torch {torch.__version__}, {options.device}, {torch.get_num_threads()} threads, ", end="")
    print(f"{options.images} images, batch {options.batch_size}, median of {options.rounds}")
    for name, speed in medians.items():
        print(f"{name:<24}{speed:>12,.0f} images/s{speed / slowest:>8.1f}x")
    columns = {name: describe(torch.cat([x.cpu() for x in batches(99)])) for name, batches in ways.items()}
    for statistic in next(iter(columns.values())):
        print(f"{statistic:<24}" + "".join(f"{column[statistic]:>12.4f}" for column in columns.values()))


if __name__ == "__main__":
    main()
