"""Where the memory of a step is at its peak: what runs at that moment, and what is held, by what made it.

    uv run --group bench python benchmarks/memory.py --network vgg16 --batch 100

Counted, not measured: the bytes of every tensor that PyTorch's operators give out in the second and third cycle of a step, until
it is freed; the peak is that of the third, which with the next batch as judge holds what the second left. Weights and optimizers'
state that were there before are not in it, nor is what a kernel takes for itself while it runs. A tensor belongs to the innermost
function of maxl that was running when it was made, which has a name in words below; outputs of products that are kept for the
tangent pass count there, though a backward pass may need them as well.
"""

from __future__ import annotations

import argparse
import sys
import weakref
from collections import Counter
from types import FrameType
from typing import Any

from contenders import MULTI, SHAPES, Bench, contenders
from torch import Tensor
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from maxl.hypergradients import Recording

CONTENDERS = (
    MULTI,
    "maxl shared trunk, same batch",
    "maxl shared trunk, same, low memory",
    "maxl shared trunk, next batch",
    "maxl forward, same batch",
    "maxl forward, same, low memory",
    "maxl forward, next batch",
)

PRODUCTS = (F.linear, F.conv1d, F.conv2d, F.conv3d)  # whose outputs a recording keeps
_RECORDED = Recording.__torch_function__.__code__
WORDS = {  # of the functions that make what counts
    "trunks.ConvTrunk.forward": "layer outputs kept for a backward pass",
    "_dual_kernels.Recording.__torch_function__": "layer outputs kept for the tangent pass",
    "_mix.Sum.backward": "gradient of θ₁",
    "_tracker.UpdateTracker.before_step": "θ₁ before the step",
    "_problem.differentiate": "v, the gradient that judges",
    "_next.Next.judge": "v, the gradient that judges",
    "_problem.scale": "u, the direction of the tangent",
    "_dual_kernels._product": "layer outputs and tangents of the tangent pass",
    "_dual_kernels._batch_norm": "layer outputs and tangents of the tangent pass",
}


class Held(TorchDispatchMode):
    """Bytes that are held, by what made them, and a copy of that at the moment of the peak.

    Attributes:
        peak: Bytes by maker, at the peak.
        during: What was running then.
    """

    def __init__(self) -> None:
        super().__init__()
        self.peak: Counter[str] = Counter()
        self.during = ""
        self._now: Counter[str] = Counter()
        self._known: dict[int, Any] = {}

    def begin(self) -> None:
        """Forgets the peak so far, not what is held."""
        self.peak, self.during = Counter(self._now), "what the cycle before has left"

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        given = {t.untyped_storage()._cdata for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)}
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor) and tensor.untyped_storage()._cdata not in given:
                self._add(tensor)
        return result

    def _add(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key, size, maker = storage._cdata, storage.nbytes(), running(sys._getframe())
        if key in self._known:
            return

        def freed(_: object) -> None:
            del self._known[key]
            self._now[maker] -= size

        self._known[key] = weakref.ref(storage, freed)
        self._now[maker] += size
        if self._now.total() > self.peak.total():
            self.peak, self.during = Counter(self._now), maker


def running(frame: FrameType | None) -> str:
    """The innermost function of maxl in words, or as module.function."""
    while frame is not None:
        module = frame.f_globals.get("__name__", "")
        # A recorded pass runs within the recording, which keeps the outputs of products alone.
        passing = frame.f_code is _RECORDED and frame.f_locals["func"] not in PRODUCTS
        if module.startswith("maxl.") and not passing:
            name = f"{module}.{frame.f_code.co_qualname}".split(".<locals>")[0]
            return next((words for end, words in WORDS.items() if name.endswith(end)), name)
        frame = frame.f_back
    return "the training pass by hand"


def held(network: str, batch: int, name: str) -> Held:
    """What the third cycle of a contender's step holds: those before compare, and make what is made once."""
    bench = Bench.build(network, batch, "cpu")
    cycle = contenders()[name].whole_cycle(bench)
    cycle()
    with Held() as found:
        cycle()
        found.begin()
        cycle()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--network", choices=sorted(SHAPES), default="vgg16")
    parser.add_argument("--batch", type=int, default=100)
    parser.add_argument("--only", nargs="+", metavar="CONTENDER", choices=CONTENDERS, default=CONTENDERS)
    args = parser.parse_args()
    for name in args.only:
        found = held(args.network, args.batch, name)
        print(f"{name}: {found.peak.total() / 1e6:.0f} MB at most, at: {found.during}")
        for maker, size in found.peak.most_common():
            if size > 0.005 * found.peak.total():
                print(f"  {size / 1e6:8.1f} MB  {maker}")
        print()


if __name__ == "__main__":
    main()
