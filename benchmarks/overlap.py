"""How much of what processes say to each other hides behind the backward passes.

    uv run python benchmarks/overlap.py --network vgg16     # two processes; two minutes
    uv run python benchmarks/overlap.py --quick             # that it runs

Counted in a real exact step of two processes (gloo): bytes and messages, and after how many of the step's operations each
is handed over and waited for. A model of a cluster then plays the step: operations take equal times, messages follow
each other on the wire, and what is not waited for costs nothing. It says how long a step takes, of its operations alone, at
several ratios of time on the wire to time for operations, with gradients sent during the backward passes, as ``DataParallel``
does, and after them. "Sent early" is the share of bytes that leave before they are waited for.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import torch
import torch.distributed as dist
from contenders import SHAPES
from processes import meet, sendings, started
from torch.utils.flop_counter import FlopCounterMode

import maxl
from maxl.experiments.runs.trunks import build
from maxl.worlds import Reducer

STEPS = 3  # of which the last is counted: the first compares, and fills what is made once
RATIOS = (0.1, 0.25, 0.5, 1.0, 2.0)  # time on the wire, of the time for operations
LOOKAHEADS = {"exact": "same", "next": "next"}


class AfterPasses(maxl.DataParallel):
    """Sends all gradients once their backward pass has ended."""

    def reducer(self) -> Reducer:
        """By ``sum``."""
        return Reducer(self)


@dataclass(frozen=True)
class Message:
    """Something that a process hands over in a step.

    Attributes:
        bytes: Of it.
        sent: Share of the step's operations that are done by then.
        awaited: The same, when the process goes no further without it.
    """

    bytes: int
    sent: float
    awaited: float


def rank(
    number: int, store: str, network: str, batch: int, evaluate: str, early: bool, bucket: int
) -> list[Message]:
    """The messages of the third step of one of two processes, each with ``batch`` samples."""
    meet(number, store, 2)
    trunk, shape, classes, psi = SHAPES[network]
    torch.manual_seed(0)
    hierarchy = maxl.Hierarchy.uniform(classes, psi)
    model = maxl.MultiTaskNetwork(build(trunk, shape), hierarchy)
    generator = maxl.LabelGenerator(build(trunk, shape), hierarchy)
    learner = maxl.MetaAuxiliaryLearner(
        model,
        generator,
        torch.optim.SGD(model.parameters(), lr=0.01),
        torch.optim.SGD(generator.parameters(), lr=0.001),
        evaluate=evaluate,
        world=(maxl.DataParallel if early else AfterPasses)(bucket_bytes=bucket),
    )
    x, y = torch.randn(batch, *shape), torch.randint(classes, (batch,))
    for _ in range(STEPS - 1):
        learner.step(x, y)
    with FlopCounterMode(display=False) as count, sendings(count.get_total_flops) as told:
        learner.step(x, y)
    dist.destroy_process_group()
    total = count.get_total_flops()
    return [Message(s.bytes, s.sent / total, s.awaited[0] / total) for s in told]


def messages(network: str, batch: int, evaluate: str, early: bool, bucket: int) -> list[Message]:
    """Of the first of two processes."""
    first, _ = started(__file__, 2, "rank", network, batch, evaluate, int(early), bucket)
    return [Message(**m) for m in first]


def played(told: Sequence[Message], ratio: float) -> float:
    """The time of a step, of that of its operations alone, by the model.

    Args:
        told: Messages in the order in which they are sent.
        ratio: Time on the wire of all of them, of the time for operations.
    """
    each = ratio / sum(m.bytes for m in told)
    free = 0.0  # when the wire is free again
    late = 0.0  # how much later than without any message the process is
    arrivals: list[tuple[float, float]] = []  # (share of operations at which it is waited for, its time)

    def wait(until: float) -> None:
        nonlocal late
        for awaited, arrival in sorted(arrivals):
            if awaited <= until:
                late = max(late, arrival - awaited)
        arrivals[:] = [a for a in arrivals if a[0] > until]

    for message in told:
        wait(message.sent)
        free = max(free, message.sent + late) + message.bytes * each
        arrivals.append((message.awaited, free))
    wait(1.0)
    return 1.0 + late


def table(network: str, batch: int, bucket: int) -> str:
    """Markdown: the two presets, sent during the passes and after them, by ratio."""
    rows = [["step", "messages", "MB", "sent early", *(f"{r:g}" for r in RATIOS)]]
    rows.append(["---"] * len(rows[0]))
    for name, evaluate in LOOKAHEADS.items():
        for early, when in ((True, "during passes"), (False, "after them")):
            told = messages(network, batch, evaluate, early, bucket)
            total = sum(m.bytes for m in told)
            ahead = sum(m.bytes for m in told if m.awaited > m.sent)
            sizes = [str(len(told)), f"{total / 1e6:.1f}", f"{100 * ahead / total:.0f} %"]
            rows.append([f"{name}, {when}", *sizes, *(f"{played(told, ratio):.2f}" for ratio in RATIOS)])
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--network", choices=SHAPES, default="vgg16")
    parser.add_argument("--batch", type=int, default=16, help="samples of each process (16)")
    parser.add_argument("--bucket", type=float, default=4.0, help="MiB of a message (4)")
    parser.add_argument("--quick", action="store_true", help="a tiny network")
    parser.add_argument("--rank", nargs=7, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.rank:
        torch.set_num_threads(1)
        number, store, network, batch, evaluate, early, bucket = args.rank
        told = rank(int(number), store, network, int(batch), evaluate, early == "1", int(bucket))
        print(json.dumps([asdict(m) for m in told]))
        return
    network, batch = ("tiny", 4) if args.quick else (args.network, args.batch)
    print(
        f"{network}, two processes of {batch} samples, messages of {args.bucket:g} MiB; time of a step, of its operations alone, where\n"
        "the wire takes 0.1 to 2 times their time:\n"
    )
    print(table(network, batch, int(args.bucket * 2**20)))


if __name__ == "__main__":
    main()
