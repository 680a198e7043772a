"""What the README and docs/speed.md say that an iteration costs is what benchmarks/step.py measured."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

ROOT = Path(__file__).parents[2]
CONTENDERS = {
    "single-task": "single-task, by hand",
    "human, random or k-means labels": "multi-task, by hand",
    "MAXL, `exact`, shared trunk": "maxl shared trunk, same batch",
    "MAXL, `next`, shared trunk": "maxl shared trunk, next batch",
    "`exact` on an eighth of each batch, shared trunk": "maxl shared trunk, same batch, an eighth",
    "MAXL, `everyday`": "maxl everyday preset",
    "MAXL, `exact`, a trunk of its own": "maxl forward, same batch",
    "MAXL, `next`, a trunk of its own": "maxl forward, next batch",
    "the same in each eighth step, labels kept in between": "maxl forward, everyday, labels kept",
    "the paper's equations, plainly": "paper's equations, plainly",
    "higher 0.2.1": "higher",
    "torchopt 0.7.3": "torchopt",
    "betty-ml 0.2.1": "betty-ml",
}
LOW_MEMORY = {
    "MAXL, `exact`, shared trunk": "maxl shared trunk, same, low memory",
    "MAXL, `exact`, a trunk of its own": "maxl forward, same, low memory",
}


@pytest.fixture(scope="module")
def measured() -> pd.DataFrame:
    rows = pd.read_csv(ROOT / "dev/evidence/step-vgg16.csv").set_index("contender")
    assert set(rows.network) == {"vgg16"}
    assert set(rows.batch) == {100}
    assert set(rows.device) == {"cpu"}
    return rows


def number(value: float) -> str:
    """A count of forward passes, without digits that say nothing."""
    return f"{value:.1f}".removesuffix(".0")


def test_the_table_of_costs_is_the_one_that_was_measured(measured: pd.DataFrame) -> None:
    section = (ROOT / "docs/speed.md").read_text().partition("## What an iteration costs")[2]
    lines = [line for line in section.partition("###")[0].splitlines() if line.startswith("| ")][1:]
    told = {
        cells[0].partition(" (`")[0].strip(): cells[1:] for line in lines if (cells := line[2:].split(" | "))
    }
    assert told.keys() == CONTENDERS.keys()
    for name, (time, passes, memory) in told.items():
        run = measured.loc[CONTENDERS[name]]
        assert time == f"{run.time_ratio:.2f}", name
        assert float(passes) == pytest.approx(run.forward_passes, abs=0.06), name
        low = "" if name not in LOW_MEMORY else measured.loc[LOW_MEMORY[name]]
        beside = (
            ""
            if name not in LOW_MEMORY
            else f' ({low.memory_ratio:.2f} with `favour="memory"`, at {low.time_ratio:.2f} times the time)'
        )
        assert memory.removesuffix(" |") == f"{run.memory_ratio:.2f}{beside}", name


def test_the_readme_says_what_was_measured(measured: pd.DataFrame) -> None:
    readme = " ".join((ROOT / "README.md").read_text().split())
    ratio = measured.time_ratio

    def times(name: str) -> str:
        return f"{ratio[CONTENDERS.get(name, name)]:.1f}"

    own, shared = times("MAXL, `exact`, a trunk of its own"), times("MAXL, `exact`, shared trunk")
    twice = times("the paper's equations, plainly")
    assert (
        f"(a VGG-16 iteration costs {own} plain steps, {shared} if both networks share features; differentiating twice costs "
        f"{twice})" in readme
    )
    assert (
        f"`exact`, the default, costs {own} plain single-task steps with the paper's two networks" in readme
    )
    peers = [times(name) for name in ("the paper's equations, plainly", "higher 0.2.1", "betty-ml 0.2.1")]
    assert "({} by the paper's own equations, {} with higher, {} with betty)".format(*peers) in readme
    assert (
        f"on shared features, the default, it costs {shared}, and `everyday` {times('MAXL, `everyday`')}"
        in readme
    )
    faq = " ".join((ROOT / "docs/faq.md").read_text().split())
    assert (
        f"takes {shared} plain single-task steps ({own} with a generator trunk of its own), with `everyday` {times('MAXL, `everyday`')}"
        in faq
    )
