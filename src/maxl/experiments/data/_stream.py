"""Batches straight from tensors or from disk: gathered, cropped, flipped and normalised on the device."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from maxl.experiments.data._image_transform import ImageTransform
from maxl.experiments.data._mixed import beside
from maxl.experiments.data._streamed import read_batches
from maxl.experiments.data._types import Split


class Batch(NamedTuple):
    """One batch.

    Attributes:
        x: Inputs, float32, normalised, shape (B, C, H, W) or (B, D); of images beside columns (B, D + C·H·W); tokens, whole
            numbers of shape (B, L).
        primary: Targets, as in the split: classes of shape (B,), labels (B, C) or numbers (B, D).
        human: Human labels, int64, shape (B,), or None.
        index: Positions of the samples in the split, int64, shape (B,).
    """

    x: Tensor
    primary: Tensor
    human: Tensor | None
    index: Tensor  # type: ignore[assignment]  # hides tuple.index, which no batch needs


def normalise(x: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Bytes to normalised floats: (x / 255 - mean) / std by channel. Features and tokens pass through unchanged.

    Args:
        x: Images, uint8, shape (N, C, H, W), or features, float32, or tokens.
        mean, std: One value a channel, on the scale where white is 1.

    Returns: float32, the shape of `x`; tokens as they are.

    Raises:
        ValueError: if images come with a number of means that is not their number of channels.
    """
    if x.dtype != torch.uint8:
        return x
    return _scale(x, *_scale_and_shift(mean, std, x.shape[1], x.device))


def augment_batch(x: Tensor, dy: Tensor, dx: Tensor, flip: Tensor, pad: int) -> Tensor:
    """Shift each image inside a black border and mirror some of them.

    Equal to padding by `pad`, cropping back to the size at row `dy` and column `dx`, and flipping left to
    right where `flip` is set, one gather for the whole batch.

    Args:
        x: Images of any dtype, shape (B, C, H, W).
        dy, dx: Offsets of the crops, int64 in [0, 2 * pad], shape (B,); `pad` is the middle.
        flip: Which images to mirror, bool, shape (B,).
        pad: Width of the border in pixels.

    Returns: the dtype, shape and device of `x`.
    """
    batch, channels, height, width = x.shape
    rows = dy[:, None] + torch.arange(height, device=x.device)
    columns = torch.arange(width, device=x.device)
    columns = dx[:, None] + torch.where(flip[:, None], width - 1 - columns, columns)
    pixels = (rows[:, :, None] * (width + 2 * pad) + columns[:, None, :]).view(batch, 1, -1)
    padded = F.pad(x, (pad, pad, pad, pad)).flatten(2)
    return padded.gather(2, pixels.expand(-1, channels, -1)).view_as(x)


class BatchStream:
    """Endless shuffled training batches, the same for the same seed and epoch wherever and whenever.

    Order, crops and flips of an epoch are a pure function of (seed, epoch): a run resumed at any epoch sees
    the batches it would have seen, and a GPU sees those of a CPU. Torch's global generator is not touched.

    Args:
        split: The samples; moved to `device` once, as bytes, or batch by batch where they are streamed.
        batch_size: Samples a batch.
        mean, std: Normalisation, one value a channel; see `normalise`.
        augment: Whether to crop at random (and flip).
        seed: Selects order and augmentation.
        device: Where batches are made; None leaves them where the split is.
        drop_last: Leave out the last batch of an epoch where it is not full. A split smaller than one batch
            is one batch as a whole.
        pad: Border of the random crop in pixels. None takes an eighth of the shorter side: the paper's 4 of 32.
        flip: Whether augmentation mirrors half of the images; pass `DataSet.flip`.
        transform: What changes images at random before they are cropped; see ``ImageTransform``.
        part: (i, n) gives the i-th of n parts of every batch, equal to within a sample, instead of the whole.

    Raises:
        ValueError: if the split is empty, the batch size is not positive, a batch has less than a sample for each
            part, or features are to be augmented.
    """

    def __init__(
        self,
        split: Split,
        batch_size: int,
        *,
        mean: Sequence[float],
        std: Sequence[float],
        augment: bool,
        seed: int,
        device: torch.device | str | None = None,
        drop_last: bool = True,
        pad: int | None = None,
        flip: bool = True,
        transform: ImageTransform | None = None,
        part: tuple[int, int] = (0, 1),
    ) -> None:
        if batch_size < 1 or len(split) == 0:
            raise ValueError(
                f"a stream needs samples and a batch size of 1 or more; got {len(split)}, {batch_size}"
            )
        if min(batch_size, len(split)) < part[1]:
            raise ValueError(
                f"each of {part[1]} processes needs a sample of every batch; got batches of {min(batch_size, len(split))}: "
                "use fewer processes, or larger batches"
            )
        if augment and split.x.ndim != 4:
            raise ValueError(
                f"only images (N, C, H, W) can be augmented; got features of shape {tuple(split.x.shape)}"
            )
        self.device = split.x.device if device is None else torch.device(device)
        self.split = split.to(self.device)
        self.batch_size = min(batch_size, len(split))
        # On the device once, rather than copied there for every batch.
        self._scaling = (
            None if split.x.ndim == 2 else _scale_and_shift(mean, std, split.x.shape[1], self.device)
        )
        self.augment, self.flip = augment, flip
        self.pad = max(1, min(split.x.shape[2:], default=0) // 8) if pad is None else pad
        self.seed = seed
        self.drop_last = drop_last
        self.transform = transform
        self._part = part

    def __len__(self) -> int:
        """The number of batches an epoch."""
        full, rest = divmod(len(self.split), self.batch_size)
        return full + (rest > 0 and not self.drop_last)

    def epoch(self, epoch: int, view: int = 0) -> Iterator[Batch]:
        """The batches of one epoch, counted from 0; each sample at most once.

        Args:
            epoch: Selects order and augmentation, with the seed.
            view: Another number: the same samples in the same order, augmented anew.
        """
        size, split, device = len(self.split), self.split, self.device
        generator = _generator(self.seed, epoch)
        # Drawn on the CPU for all samples at once: the same numbers on every device, and one copy an epoch.
        order = torch.randperm(size, generator=generator)
        if view:
            generator = _generator(self.seed, epoch, view)
        shifts = flips = torch.zeros(0)
        if self.augment:
            shifts = torch.randint(2 * self.pad + 1, (2, size), generator=generator).to(device)
            flips = (torch.rand(size, generator=generator, dtype=torch.float32) < 0.5).to(device) & self.flip
        order = order.to(split.x.device)
        steps = [
            self._taken(i * self.batch_size, min((i + 1) * self.batch_size, size)) for i in range(len(self))
        ]
        samples = read_batches(split.x, (order[taken] for taken in steps))
        for taken, x in zip(steps, samples, strict=True):
            index = order[taken]
            if self.transform is not None:
                x = self.transform(x, [(self.seed, epoch, view, i) for i in index.tolist()])
            x, index = x.to(device), index.to(device)
            if self.augment:
                x = augment_batch(x, shifts[0, taken], shifts[1, taken], flips[taken], self.pad)
            x = x if self._scaling is None else _scale(x, *self._scaling)
            x = beside(None if split.columns is None else split.columns[index], x)
            yield Batch(x, split.primary[index], None if split.human is None else split.human[index], index)

    def _taken(self, start: int, end: int) -> slice:
        """The positions of this stream's part of a batch."""
        number, parts = self._part
        return slice(*(start + (end - start) * (number + side) // parts for side in (0, 1)))


def evaluation_batches(
    split: Split,
    batch_size: int,
    mean: Sequence[float],
    std: Sequence[float],
    device: torch.device | str | None = None,
) -> Iterator[Batch]:
    """Every sample once, in order and unaugmented; the last batch may be smaller."""
    device = split.x.device if device is None else device
    indices = torch.split(torch.arange(len(split), device=split.x.device), batch_size)
    for index, x in zip(indices, read_batches(split.x, indices), strict=True):
        index, x = index.to(device), x.to(device)
        primary, human, columns = (
            None if part is None else part[index.to(part.device)].to(device)
            for part in (split.primary, split.human, split.columns)
        )
        assert primary is not None
        yield Batch(beside(columns, normalise(x, mean, std)), primary, human, index)


def _scale_and_shift(
    mean: Sequence[float], std: Sequence[float], channels: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Factor and offset of the normalisation of bytes, shape (C, 1, 1), on a device."""
    if not len(mean) == len(std) == channels:
        raise ValueError(
            f"mean and std need one value a channel; got {len(mean)} and {len(std)} for {channels} channels"
        )
    means, stds = torch.tensor([mean, std], dtype=torch.float32, device=device)[:, :, None, None]
    return 1 / (255 * stds), means / stds


def _scale(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    return x.float().mul_(scale).sub_(shift)


def _generator(*numbers: int) -> torch.Generator:
    # SeedSequence mixes them, so that neighbouring seeds and epochs share nothing.
    state = np.random.SeedSequence(numbers).generate_state(2)
    return torch.Generator().manual_seed(int(state[0]) << 31 ^ int(state[1]))
