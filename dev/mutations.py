"""Key lines broken on purpose, one at a time, each to be caught by tests: what the tests are worth.

    uv run python dev/mutations.py                       # all, in a copy that is thrown away; half an hour on one core
    uv run python dev/mutations.py --only update_rule    # those of files with that in their names

Ends with 1 if a change is caught by no test, and with 2 if the tests fail without one.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

ROOT = Path(__file__).parent.parent
COPIED = ("src", "tests", "pyproject.toml", "README.md")  # what the tests below read


class Mutation(NamedTuple):
    """A change of one place in the sources.

    Attributes:
        file: Below ``src/maxl``.
        old: Text that stands there once.
        new: What takes its place.
        tests: Files below ``tests``, one of which has to fail.
    """

    file: str
    old: str
    new: str
    tests: str


RULES = "hypergradients/test_update_rule.py hypergradients/test_update_rule_properties.py"
TRUTHS = "hypergradients/test_hypergradients.py hypergradients/test_right_or_refused.py hypergradients/test_taking_over.py"
LEARNERS = "learning/test_learner.py learning/test_verbs.py learning/test_verbs_refused.py learning/test_between_the_verbs.py"
MUTATIONS = (
    # The paper's losses and hierarchy.
    Mutation("losses.py", "** gamma) * log_p", "** 1.0) * log_p", "test_losses.py"),
    Mutation("losses.py", "(sample_weight * per_sample).mean()", "per_sample.mean()", "test_losses.py"),
    Mutation("losses.py", "mean = labels.mean(0)\n", "mean = labels[0]\n", "test_losses.py"),
    Mutation("losses.py", " - of_labels.mean()", "", "test_label_information.py"),
    Mutation("hierarchy.py", " & (y >= 0).unsqueeze(1)", "", "test_hierarchy.py test_networks.py"),
    Mutation(
        "hierarchy.py",
        "torch.repeat_interleave(torch.arange(len(psi)), torch.tensor(self.psi))",
        "torch.arange(sum(self.psi)) % len(psi)",
        "test_hierarchy.py",
    ),
    Mutation(
        "networks/_networks.py",
        "logits.masked_fill(~mask, ",
        "logits.masked_fill(mask & ~mask, ",
        "test_networks.py",
    ),
    # The update and its derivative.
    Mutation("hypergradients/_update_rule.py", '(1 - group["dampening"]) * g\n', "g\n", RULES),
    Mutation(
        "hypergradients/_update_rule.py", "share = 1.0 + momentum * share", "share = 1.0 + share", RULES
    ),
    Mutation("hypergradients/_update_rule.py", "(a * r - b * q * g) / root", "a * r / root", RULES),
    Mutation("hypergradients/_update_rule.py", "torch.where(held, a * root, moving)", "moving", RULES),
    Mutation("hypergradients/_update_rule.py", "(a * eps + moving)", "(moving)", RULES),
    Mutation("hypergradients/_update_rule.py", "sign * lr * slope", "lr * slope", RULES),
    # The double gradient, in its three ways.
    Mutation("hypergradients/_forward.py", "if g is None else -g for", "if g is None else g for", TRUTHS),
    Mutation("hypergradients/_reverse.py", "(g, -u_p)", "(g, u_p)", TRUTHS),
    Mutation("hypergradients/_finite_difference.py", "/ (2 * step) for", "/ step for", TRUTHS),
    Mutation("hypergradients/_dual_kernels.py", "parts[0].add_(parts[1])", "parts[0]", TRUTHS),
    Mutation("hypergradients/_dual_kernels.py", "db = -slope * mean if", "db = slope * mean if", TRUTHS),
    Mutation(
        "hypergradients/_dual_kernels.py",
        "return not any(",
        "return True or any(",
        "learning/test_kept_outputs.py",
    ),
    Mutation(
        "hypergradients/_dual_kernels.py",
        "make_dual(y, torch.ops.aten.threshold_backward(dx, y, 0))",
        "make_dual(y, dx)",
        TRUTHS,
    ),
    Mutation("hypergradients/_problem.py", "return not bool(gap > ", "return True or bool(gap > ", TRUTHS),
    Mutation("hypergradients/_problem.py", "None if v_p is None or f is None else v_p * f", "v_p", TRUTHS),
    Mutation(
        "hypergradients/_problem.py",
        "        if g is not None:\n            raise",
        "        if False:\n            raise",
        "learning/test_around_the_network.py",
    ),
    Mutation(
        "hypergradients/_purity.py",
        "start = {**start, **weights, **renormalised(module, weights)}",
        "start = {**start, **weights}",
        "learning/test_around_the_network.py",
    ),
    Mutation("hypergradients/_finite.py", " or all(", " or True or all(", "hypergradients/test_finite.py"),
    Mutation(
        "hypergradients/_random_state.py",
        "torch.set_rng_state(self.cpu)",
        "pass",
        "hypergradients/test_random_state.py",
    ),
    # The learner: a step remembered, judged and taught.
    Mutation("learning/_unmoved.py", "if now == self._noted:", "if True:", LEARNERS),
    Mutation("learning/_record.py", "_require_same(self._versions(), self.versions)", "pass", LEARNERS),
    Mutation(
        "learning/_tracker.py", "None or c is None else c * f for", "None or c is None else f for", LEARNERS
    ),
    Mutation(
        "learning/_tracker.py",
        "p._backward_hooks or",
        "False and",
        "hypergradients/test_right_or_refused.py",
    ),
    Mutation("learning/_teacher.py", "tuple(g + s[start:end] for", "tuple(g for", LEARNERS),
    Mutation(
        "learning/_multitask.py",
        "factor * losses.primary,",
        "losses.primary,",
        "learning/test_accumulation.py",
    ),
    Mutation(
        "worlds/_data_parallel.py",
        "return count / total",
        "return 1.0 / self.size",
        "worlds/test_data_parallel.py",
    ),
    Mutation("worlds/_reducer.py", "old.add_(new)", "new", "worlds/test_data_parallel.py"),
    Mutation("worlds/_bucketed_pass.py", "if changed:", "if False:", "worlds/test_overlapping.py"),
    Mutation("worlds/_data_parallel.py", "if failed:", "if False:", "worlds/test_overlapping.py"),
    # The laboratory: what is kept, what is refused, what is said of figures.
    Mutation(
        "experiments/runs/checkpoint.py",
        'if found != state["checksum"]:',
        "if False:",
        "experiments/runs/test_checkpoint.py",
    ),
    Mutation(
        "experiments/runs/checkpoint.py",
        "    if differing:",
        "    if False:",
        "experiments/runs/test_checkpoint.py",
    ),
    Mutation(
        "experiments/studies/intervals.py",
        "1 - SIGNIFICANCE / comparisons)",
        "1 - SIGNIFICANCE)",
        "experiments/studies/test_statistics.py",
    ),
)


def broken(root: Path, mutation: Mutation) -> tuple[Path, str]:
    """The file of a mutation and its text with the change.

    Raises:
        ValueError: if the text to be changed does not stand there exactly once.
    """
    file = root / "src" / "maxl" / mutation.file
    text = file.read_text("utf-8")
    if (times := text.count(mutation.old)) != 1:
        raise ValueError(
            f"a mutation needs its line once in {mutation.file}; got {times} times {mutation.old!r}: follow the source"
        )
    return file, text.replace(mutation.old, mutation.new)


def passes(root: Path, tests: str) -> bool:
    """Whether the tests of a copy pass, and they are those of the copy."""
    files = [str(Path("tests") / name) for name in tests.split()]
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *files]
    environment = {**os.environ, "PYTHONPATH": str(root / "src"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True)
    if done.returncode not in (0, 1):  # 1: tests failed; others: they did not run
        raise RuntimeError(
            f"pytest ended with {done.returncode}:\n{done.stdout[-3000:]}{done.stderr[-3000:]}"
        )
    return done.returncode == 0


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", default="", help="part of a file's name")
    chosen = [m for m in MUTATIONS if parser.parse_args().only in m.file]
    survived = 0
    with TemporaryDirectory() as folder:
        root = Path(folder)
        for name in COPIED:
            copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
            copy(ROOT / name, root / name)  # type: ignore[operator]
        for tests in dict.fromkeys(m.tests for m in chosen):
            if not passes(root, tests):
                print(
                    f"the tests need to pass before anything is changed; these do not: {tests}",
                    file=sys.stderr,
                )
                return 2
        for mutation in chosen:
            file, changed = broken(root, mutation)
            whole, start = file.read_text("utf-8"), time.perf_counter()
            file.write_text(changed, "utf-8")
            try:
                caught = not passes(root, mutation.tests)
            finally:
                file.write_text(whole, "utf-8")
            survived += not caught
            word = "caught  " if caught else "SURVIVED"
            print(
                f"{word} {time.perf_counter() - start:4.0f} s  {mutation.file}: {mutation.old.strip()!r}",
                flush=True,
            )
    print(f"{len(chosen) - survived} of {len(chosen)} caught")
    return 1 if survived else 0


if __name__ == "__main__":
    sys.exit(main())
