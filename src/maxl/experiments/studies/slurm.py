"""A study as a job array of Slurm: a script for sbatch, each of whose tasks makes one run."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path


def array_script(
    command: Sequence[str],
    runs: Sequence[int],
    total: int,
    *,
    folder: Path,
    threads: int,
    gpu: bool,
    most: int | None = None,
) -> str:
    """The script.

    Args:
        command: The words that make the study; ``--part K/TOTAL`` is put behind them.
        runs: Numbers of the runs that are to be made, from 1, at least one.
        total: Runs of the study.
        folder: Where the command is called.
        threads: CPUs of a run.
        gpu: Whether each run is to have a GPU.
        most: Runs at a time at most.
    """
    options = [
        "--job-name=maxl",
        f"--array={_ranges(runs)}{'' if most is None else f'%{most}'}",
        "--ntasks=1",
        f"--cpus-per-task={threads}",
        *(["--gres=gpu:1"] if gpu else []),
        "--requeue",  # of a node that fails: the run goes on from its checkpoint
        "--open-mode=append",
    ]
    return "\n".join(
        [
            "#!/bin/bash",
            *(f"#SBATCH {option}" for option in options),
            f"cd -- {shlex.quote(str(folder))} || exit 1",
            f'exec {shlex.join(command)} --part "$SLURM_ARRAY_TASK_ID/{total}"',
            "",
        ]
    )


def _ranges(numbers: Sequence[int]) -> str:
    """Numbers as sbatch takes them.

    Example:
        >>> _ranges([1, 2, 3, 7])
        '1-3,7'
    """
    spans: list[list[int]] = []
    for number in sorted(numbers):
        if spans and number == spans[-1][1] + 1:
            spans[-1][1] = number
        else:
            spans.append([number, number])
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in spans)
