"""Several processes, each with a copy of the networks and its part of every batch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from maxl.worlds._world import World

BUCKET_BYTES = 25 * 2**20  # as much as is sent in one piece; copies of gradients live that long


class DataParallel(World):
    """The processes of a ``torch.distributed`` group, started by ``torchrun`` for instance. Exact.

    A step on n processes, each with its part of the batch, is the step of one process on the whole batch: the
    gradient of θ₁, the gradient v at the lookahead and the gradient of θ₂ are averaged over samples, and terms on
    all labels of the batch see all of them. Parts may differ in size. Networks stay unwrapped: the hooks of
    ``DistributedDataParallel`` do not see ``torch.autograd.grad``, and would leave a gradient to one process alone.

    BatchNorm on batch statistics normalises within a process unless the layers are synchronised.

    Args:
        group: The processes; all by default.

    Raises:
        ValueError: if no process group has been set up.
    """

    alone = False

    def __init__(self, group: dist.ProcessGroup | None = None) -> None:
        if not (dist.is_available() and dist.is_initialized()):
            raise ValueError(
                "maxl.DataParallel() needs a process group: start the script with torchrun and call "
                "torch.distributed.init_process_group() first"
            )
        self.group = group
        self.size = dist.get_world_size(group)
        self.rank = dist.get_rank(group)

    def share(self, count: int) -> float:
        """As ``World.share``.

        Raises:
            ValueError: if no process has a sample.
        """
        (total,) = self._sum_of_numbers([count])
        if not total:
            raise ValueError("a step needs samples; got none in any process")
        return count / total

    def sum(self, tensors: Sequence[Tensor | None], like: Sequence[Tensor]) -> list[Tensor | None]:
        """As ``World.sum``; sent in pieces of 25 MB, half precision as float32."""
        present = self._sum_of_numbers([t is not None for t in tensors])
        result: list[Tensor | None] = [None] * len(tensors)
        for bucket in _buckets([i for i, somewhere in enumerate(present) if somewhere], like):
            wide = _wide(like[bucket[0]].dtype)
            parts = [(tensors[i], like[i]) for i in bucket]
            flat = torch.cat(
                [
                    torch.zeros(p.numel(), dtype=wide, device=p.device)
                    if t is None
                    else t.detach().reshape(-1).to(wide)
                    for t, p in parts
                ]
            )
            dist.all_reduce(flat, group=self.group)
            pieces = torch.split(flat, [p.numel() for _, p in parts])
            for i, piece in zip(bucket, pieces, strict=True):
                result[i] = piece.view(like[i].shape).to(like[i].dtype)
        return result

    @contextmanager
    def summing(self, weights: Sequence[Tensor]) -> Iterator[None]:
        """As ``World.summing``; what was there in ``p.grad`` before is not sent again."""
        before = [p.grad for p in weights]
        for p in weights:
            p.grad = None
        try:
            yield
        except BaseException:
            for p, old in zip(weights, before, strict=True):
                p.grad = old
            raise
        sums = self.sum([p.grad for p in weights], weights)
        for p, old, new in zip(weights, before, sums, strict=True):
            p.grad = new if old is None else old if new is None else old.add_(new)

    def gather(self, *rows: Tensor) -> tuple[list[Tensor], int]:
        """As ``World.gather``, in the order of the ranks."""
        numbers = [0] * self.size
        numbers[self.rank] = len(rows[0])
        numbers = self._sum_of_numbers(numbers)
        longest = max(numbers)
        gathered = []
        for mine in rows:
            padded = mine.new_zeros((longest, *mine.shape[1:]))
            padded[: len(mine)] = mine.detach()
            all_of_them = [torch.empty_like(padded) for _ in range(self.size)]
            dist.all_gather(all_of_them, padded, group=self.group)
            gathered.append(torch.cat([part[:n] for part, n in zip(all_of_them, numbers, strict=True)]))
        return gathered, sum(numbers[: self.rank])

    def every(self, flag: bool) -> bool:
        """As ``World.every``."""
        (missing,) = self._sum_of_numbers([not flag])
        return not missing

    def align(self, *modules: nn.Module) -> None:
        """As ``World.align``."""
        first = 0 if self.group is None else dist.get_global_rank(self.group, 0)
        for module in modules:
            for tensor in (*module.parameters(), *module.buffers()):
                dist.broadcast(tensor.detach(), first, group=self.group)

    def _sum_of_numbers(self, numbers: Sequence[int]) -> list[int]:
        device = "cuda" if dist.get_backend(self.group) == "nccl" else "cpu"
        told = torch.tensor([int(n) for n in numbers], dtype=torch.int64, device=device)
        dist.all_reduce(told, group=self.group)
        result: list[int] = told.tolist()
        return result

    def __deepcopy__(self, memo: dict[int, Any]) -> DataParallel:
        return self  # a group of processes cannot be copied


def _buckets(indices: Sequence[int], like: Sequence[Tensor]) -> Iterator[list[int]]:
    """Neighbours of one type, up to ``BUCKET_BYTES`` together; the same in every process."""
    bucket: list[int] = []
    size = 0
    for i in indices:
        bytes_ = like[i].numel() * like[i].element_size()
        if bucket and (size + bytes_ > BUCKET_BYTES or like[i].dtype != like[bucket[0]].dtype):
            yield bucket
            bucket, size = [], 0
        bucket.append(i)
        size += bytes_
    if bucket:
        yield bucket


def _wide(dtype: torch.dtype) -> torch.dtype:
    """Half precision is summed in float32."""
    return torch.float32 if dtype in (torch.float16, torch.bfloat16) else dtype
