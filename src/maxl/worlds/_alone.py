"""One process."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from maxl.worlds._world import World


class Alone(World):
    """The batch is the whole batch; nothing is sent, nothing costs anything."""

    alone = True

    def share(self, count: int, alike: Mapping[str, int] | None = None) -> float:
        """1."""
        return 1.0

    def sum(self, tensors: Sequence[Tensor | None], like: Sequence[Tensor]) -> list[Tensor | None]:
        """The tensors themselves."""
        return list(tensors)

    def gather(self, *rows: Tensor) -> tuple[list[Tensor], int]:
        """The rows themselves, which begin at 0."""
        return list(rows), 0

    def every(self, flag: bool) -> bool:
        """The flag itself."""
        return flag

    def align(self, *modules: nn.Module) -> None:
        """Nothing."""
