"""Several processes, each with a copy of the networks and its part of every batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from maxl.worlds._background import background, forget, has_failed, leave_in_order
from maxl.worlds._buckets import buckets, flattened, unflattened
from maxl.worlds._overlapping import OverlappingReducer
from maxl.worlds._reducer import Reducer
from maxl.worlds._world import World


class DataParallel(World):
    """The processes of a ``torch.distributed`` group, started by ``torchrun`` for instance. Exact.

    A step on n processes, each with its part of the batch, is the step of one process on the whole batch: the
    gradient of θ₁, the gradient v at the lookahead and the gradient of θ₂ are averaged over samples, and terms on
    all labels of the batch see all of them. Parts may differ in size. Networks stay unwrapped: the hooks of
    ``DistributedDataParallel`` do not see ``torch.autograd.grad``, and would leave a gradient to one process alone.

    Gradients are sent while the backward pass that gives them goes on, in buckets; the last bucket after it.

    BatchNorm on batch statistics normalises within a process unless the layers are synchronised.

    Args:
        group: The processes; all by default.
        bucket_bytes: Size in bytes of the messages in which gradients are sent. Smaller ones leave earlier, and each costs
            the latency of the network.

    Raises:
        ValueError: if no process group has been set up, this process is none of ``group``, or ``bucket_bytes`` is below 1.
    """

    alone = False

    def __init__(self, group: dist.ProcessGroup | None = None, *, bucket_bytes: int = 4 * 2**20) -> None:
        if not (dist.is_available() and dist.is_initialized()):
            raise ValueError(
                "maxl.DataParallel() needs a process group: start the script with torchrun and call "
                "torch.distributed.init_process_group() first"
            )
        if bucket_bytes < 1:
            raise ValueError(f"bucket_bytes needs to be at least 1; got {bucket_bytes}")
        self.group = None if group is dist.group.WORLD else group
        self.bucket_bytes = bucket_bytes
        if self.rank < 0:
            raise ValueError(
                "maxl.DataParallel(group) needs to be made by processes of that group; got one outside it"
            )
        leave_in_order()

    @property
    def size(self) -> int:
        """How many processes there are."""
        return dist.get_world_size(self.group)

    @property
    def rank(self) -> int:
        """Which of them this is, asked for anew, as a learner may have been saved by another."""
        return dist.get_rank(self.group)

    def share(self, count: int, alike: Mapping[str, int] | None = None) -> float:
        """As ``World.share``; whatever failed in the steps before is forgotten."""
        alike = alike or {}
        told = [count, self._overlaps and has_failed(), not count]
        # Numbers are the same everywhere if, and only if, size · Σh² = (Σh)² (Cauchy and Schwarz).
        total, failed, empty, *sums = self.sum_of_numbers(
            [*told, *alike.values(), *(h * h for h in alike.values())]
        )
        if failed:
            forget()
        if empty:
            none = "any process" if not total else f"{empty} of {self.size} processes"
            raise ValueError(
                f"a step needs samples in each process; {none} had none: leave out a last batch of fewer samples than processes"
            )
        for name, of_h, of_squares in zip(alike, sums, sums[len(alike) :], strict=False):
            if self.size * of_squares != of_h**2:
                raise ValueError(
                    f"in several processes the {name} need to be the same in each; got others in some: do the same in "
                    "every process (loading a checkpoint, freezing weights, padding all parts of a batch to the same length)"
                )
        return count / total

    def sum(self, tensors: Sequence[Tensor | None], like: Sequence[Tensor]) -> list[Tensor | None]:
        """As ``World.sum``; sent in buckets, half precision as float32."""
        present = self.sum_of_numbers([t is not None for t in tensors])
        result: list[Tensor | None] = [None] * len(tensors)
        some = [i for i, somewhere in enumerate(present) if somewhere]
        for bucket in buckets(some, like, self.bucket_bytes):
            kind = [like[i] for i in bucket]
            flat = flattened([tensors[i] for i in bucket], kind)
            dist.all_reduce(flat, group=self.group)
            for i, total in zip(bucket, unflattened(flat, kind), strict=True):
                result[i] = total
        return result

    def reducer(self) -> Reducer:
        """As ``World.reducer``; sums are sent while a backward pass goes on.

        Not so among some of all processes, which cannot set up a further group by themselves, and where a class of
        one's own sums in another way.

        Raises:
            ValueError: if processes have different ``bucket_bytes``.
        """
        sizes = [0] * self.size
        sizes[self.rank] = self.bucket_bytes
        if len(set(sizes := self.sum_of_numbers(sizes))) > 1:
            raise ValueError(f"bucket_bytes needs to be the same in every process; got {sizes}")
        if not self._overlaps:
            return Reducer(self)
        background()  # here, where all processes come by
        return OverlappingReducer(self)

    @property
    def _overlaps(self) -> bool:
        return self.group is None and type(self).sum is DataParallel.sum

    def gather(self, *rows: Tensor) -> tuple[list[Tensor], int]:
        """As ``World.gather``, in the order of the ranks."""
        numbers = [0] * self.size
        numbers[self.rank] = len(rows[0])
        numbers = self.sum_of_numbers(numbers)
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
        (missing,) = self.sum_of_numbers([not flag])
        return not missing

    def align(self, *modules: nn.Module) -> None:
        """As ``World.align``."""
        first = 0 if self.group is None else dist.get_global_rank(self.group, 0)
        for module in modules:
            for tensor in (*module.parameters(), *module.buffers()):
                mine = tensor.detach()
                whole = mine.contiguous()  # memory is sent as it lies, whatever the strides
                dist.broadcast(whole, first, group=self.group)
                if whole is not mine:
                    mine.copy_(whole)

    def sum_of_numbers(self, numbers: Sequence[int]) -> list[int]:
        """The sums of integers over all processes."""
        device = "cuda" if dist.get_backend(self.group) == "nccl" else "cpu"
        told = torch.tensor([int(n) for n in numbers], dtype=torch.int64, device=device)
        dist.all_reduce(told, group=self.group)
        result: list[int] = told.tolist()
        return result

    def __deepcopy__(self, memo: dict[int, Any]) -> DataParallel:
        return self  # a group of processes cannot be copied
