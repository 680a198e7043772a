"""k-means for segmentation: the points are pixels, which are too many to hold all of their features."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from maxl.experiments.data import Batch
from maxl.experiments.runs.baselines import cluster_centres
from maxl.hierarchy import Hierarchy
from maxl.hypergradients import RandomState
from maxl.tasks import Task

Features = Callable[[Tensor], Tensor]  # of images (N, C, H, W): (N, D, H, W)

_PIXELS = 10_000  # of a class, which its clusters are found from
_SQUARES = (5, 17)  # pixels a side


def pixel_cluster_labels(
    images: Callable[[], Iterable[Batch]],
    features: Features,
    primary: Tensor,
    hierarchy: Hierarchy,
    task: Task,
    seed: int,
) -> Tensor:
    """k-means with ψ[c] clusters within the pixels of each primary class c.

    Clusters are found from at most 10,000 pixels of a class, drawn from all images; every pixel is given the nearest centre of
    its class. Images pass twice, a batch at a time.

    Args:
        images: Batches of all training images, in order, anew at each call. The distances of a batch's pixels to all K
            centres are held at once.
        features: What is clustered.
        primary: Masks, int64 of shape (N, H, W) on the CPU, in [0, C); anything else is to be ignored.
        hierarchy: ψ.
        task: What masks mean.
        seed: Draws pixels and starts k-means; torch's global generator is not touched.

    Returns:
        Auxiliary labels, int64 of shape (N, H, W) in [0, K) on the CPU. A pixel to ignore has any.

    Raises:
        ValueError: if a class has pixels, but fewer than clusters.
        FloatingPointError: if a feature is not finite.
    """
    drawn = _drawn(primary, hierarchy, seed)
    size, points, first = primary[0].numel(), list[Tensor](), 0
    for batch in images():
        mine = drawn[(drawn >= first * size) & (drawn < (first + len(batch.x)) * size)] - first * size
        if len(mine):
            found = features(batch.x)
            inside = (mine // size, mine % size)
            points.append(found.flatten(2)[inside[0].to(found.device), :, inside[1].to(found.device)].cpu())
        first += len(batch.x)
    chosen = torch.cat(points).float()
    if not chosen.isfinite().all():
        raise FloatingPointError("features of pixels are not finite")
    centres = cluster_centres(chosen, primary.flatten()[drawn], hierarchy, seed)
    mask = hierarchy.mask
    labels = [
        _nearest(features(b.x), centres, task.rows(b.primary, mask.to(b.primary.device))) for b in images()
    ]
    return torch.cat(labels)


def _drawn(primary: Tensor, hierarchy: Hierarchy, seed: int) -> Tensor:
    """Positions among all pixels, in order, of at most ``_PIXELS`` of each class."""
    generator = torch.Generator().manual_seed(seed)
    flat, some = primary.flatten(), list[Tensor]()
    for c in range(hierarchy.num_primary):
        members = (flat == c).nonzero().squeeze(1)
        some.append(members[torch.randperm(len(members), generator=generator)[:_PIXELS]])
    return torch.cat(some).sort().values


def _nearest(features: Tensor, centres: Tensor, allowed: Tensor) -> Tensor:
    """Of each pixel the nearest centre that it may have, (N, H, W)."""
    points = features.movedim(1, -1).float()
    distances = torch.cdist(points.flatten(0, -2), centres.to(points.device))
    distances = distances.masked_fill(~allowed.to(points.device).flatten(0, -2), torch.inf)
    return distances.argmin(1).reshape(points.shape[:-1]).cpu()


def surroundings(x: Tensor) -> Tensor:
    """The channels of each pixel, and their means over the squares of 5 and 17 pixels around it: (N, C, H, W) to (N, 3C, H, W).

    Squares end at the edge of the image.
    """
    means = [F.avg_pool2d(x, side, stride=1, padding=side // 2, count_include_pad=False) for side in _SQUARES]
    return torch.cat([x, *means], 1)


class PixelAutoEncoder(nn.Module):
    """Convolutional: a code for each square of four by four pixels.

    Args:
        channels: Of the images.
        latent_dim: Size of a code.
    """

    def __init__(self, channels: int, latent_dim: int = 16) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Conv2d(channels, 32, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(32, 64, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(64, latent_dim, 1),
        )
        self.decoder = nn.Sequential(
            nn.Conv2d(latent_dim, 64, 3, padding=1),
            nn.ReLU(),
            nn.Upsample(scale_factor=2),
            nn.Conv2d(64, 32, 3, padding=1),
            nn.ReLU(),
            nn.Upsample(scale_factor=2),
            nn.Conv2d(32, channels, 3, padding=1),
        )

    def forward(self, x: Tensor) -> Tensor:
        """The reconstruction, of the input's shape."""
        larger: Tensor = self.decoder(self.encoder(x))
        return larger[..., : x.shape[-2], : x.shape[-1]]

    def codes(self, x: Tensor) -> Tensor:
        """Of each pixel, between those of the squares around it: (N, C, H, W) to (N, latent_dim, H, W)."""
        return F.interpolate(self.encoder(x), size=x.shape[-2:], mode="bilinear", align_corners=False)


def trained_auto_encoder(
    epochs: Iterable[Iterable[Batch]], channels: int, device: torch.device, seed: int
) -> PixelAutoEncoder:
    """Trained on the images themselves: the mean squared error is minimised with Adam, at 0.001.

    Args:
        epochs: Passes over the images, in batches.
        channels: Of the images.
        device: Where they are.
        seed: Draws the weights; torch's global generator is left as it was.
    """
    with RandomState.capture(device).replay():
        torch.manual_seed(seed)
        model = PixelAutoEncoder(channels).to(device)
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
        for epoch in epochs:
            for batch in epoch:
                loss = F.mse_loss(model(batch.x), batch.x)
                optimizer.zero_grad(set_to_none=True)
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
    return model.eval()
