"""Whether weights are still where they were: the hypergradient of a step is one at the weights that it knows."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor


class Unmoved:
    """Weights as they stand, told apart by their versions: costs no copy and no pass over them.

    Args:
        weights: θ₁ by name.
    """

    def __init__(self, weights: Mapping[str, Tensor]) -> None:
        self._noted = _notes(weights)

    def check(self, weights: Mapping[str, Tensor], between: str, remedy: str) -> None:
        """Refuses weights that have been written to since, or are trained no more.

        Args:
            weights: θ₁ by name, now.
            between: Since when, for the message.
            remedy: What to do, for the message.

        Raises:
            ValueError: naming the first such weight.
        """
        now = _notes(
            {name: p for name, p in weights.items() if name in self._noted}
        )  # new ones were not stepped
        if now == self._noted:
            return
        name = next(n for n in self._noted if self._noted[n] != now.get(n))
        what = "was written to" if name in now else "was frozen"
        raise ValueError(
            f"trained weights need to stay as they are between {between}; {name} {what}: {remedy}"
        )


def _notes(weights: Mapping[str, Tensor]) -> dict[str, tuple[int, int, int]]:
    return {name: (id(p), p._version, p.data_ptr()) for name, p in weights.items()}
