"""The benchmark commands run, their tables are whole, and the libraries compared with agree."""

from __future__ import annotations

import importlib
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pandas as pd
import pytest
import torch

import maxl
from maxl.experiments.data import load

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
FOUR_WAYS = [
    f"maxl {trunk}, {batch} batch" for trunk in ("shared trunk", "forward") for batch in ("same", "next")
]


@pytest.fixture(autouse=True)
def benchmarks(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The benchmarks' modules can be imported, and are gone afterwards, as is the number of threads."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    before, threads = set(sys.modules), torch.get_num_threads()
    yield
    torch.set_num_threads(threads)
    for name in {
        "contenders",
        "peers",
        "step",
        "cost",
        "families",
        "figures",
        "gpu",
        "growth",
        "memory",
        "overlap",
        "several_gpus",
        "streaming",
    } & (set(sys.modules) - before):
        del sys.modules[name]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Runs a command in this process and gives what it prints."""

    def command(script: str, *flags: str) -> str:
        monkeypatch.setattr(sys, "argv", [script, *flags])
        importlib.import_module(script).main()
        return capsys.readouterr().out

    return command


@pytest.mark.filterwarnings("ignore")  # of the libraries compared with, where they are installed
def test_step_times_and_counts_every_contender(run: Callable[..., str], tmp_path: Path) -> None:
    out = tmp_path / "rows.csv"
    printed = run("step", "--quick", "--no-memory", "--device", "cpu", "--csv", str(out))
    rows = pd.read_csv(out).set_index("contender").to_dict("index")
    assert "hypergradient of maxl forward" in printed
    assert rows["single-task, by hand"]["time_ratio"] == 1.0
    assert all(row["seconds"] > 0 for row in rows.values())
    counts = {name: row["forward_passes"] for name, row in rows.items()}
    assert 2.5 < counts["single-task, by hand"] <= 3.0
    assert counts["maxl forward, next batch"] < counts["maxl forward, same batch"]
    assert counts["maxl forward, same batch"] < counts["maxl forward, virtual step"]
    assert counts["maxl everyday preset"] < 6
    assert counts["maxl forward, virtual step"] < counts["paper's equations, plainly"]


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the peak is read from Linux's /proc")
def test_step_measures_peak_memory(run: Callable[..., str]) -> None:
    flags = "--network", "tiny", "--batch", "4096", "--device", "cpu", "--memory-of"
    multi = int(run("step", *flags, "multi-task, by hand"))
    plain = int(run("step", *flags, "paper's equations, plainly"))
    assert 0 < multi < plain


@pytest.mark.slow
def test_step_measures_each_contender_in_a_process_of_its_own() -> None:
    command = [sys.executable, str(BENCHMARKS / "step.py"), "--quick", "--device", "cpu", "--only", "reverse"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "maxl reverse, virtual step" in done.stdout


@pytest.mark.parametrize("peer", ["paper's equations, plainly", "higher", "torchopt", "betty-ml"])
@pytest.mark.filterwarnings("ignore")  # the libraries' own
@pytest.mark.usefixtures("float64")
def test_peers_give_the_same_hypergradient(peer: str) -> None:
    from contenders import Bench
    from peers import ENTROPY_WEIGHT, PEERS, reason_missing

    if reason := reason_missing(peer):
        pytest.skip(reason)
    bench = Bench.build("tiny", 6, "cpu", torch.float64)
    x, y, _, _ = bench.batches[0]
    expected = maxl.hypergradient(bench.network, bench.generator, x, y, 0.1, entropy_weight=ENTROPY_WEIGHT)
    before = {name: value.clone() for name, value in bench.network.named_parameters()}
    found = PEERS[peer](bench.network, bench.generator, x, y, 0.1)
    for h, e in zip(found, expected, strict=True):
        torch.testing.assert_close(h, e, rtol=1e-9, atol=1e-12)
    for name, value in bench.network.named_parameters():
        assert torch.equal(value, before[name])


def test_a_wrong_hypergradient_stops_the_benchmark(monkeypatch: pytest.MonkeyPatch) -> None:
    import step

    monkeypatch.setitem(step.PEERS, "higher", lambda *args: [2 * h for h in maxl.hypergradient(*args)])
    monkeypatch.setattr(step, "reason_missing", lambda name: None if name == "higher" else "left out")
    with pytest.raises(ArithmeticError, match="agree to 1e-6"):
        step.agreement("tiny", 4, "cpu")


def test_cost_prints_a_table_for_each_quantity(run: Callable[..., str]) -> None:
    quantities = ["batch size", "depth", "a meta step every"]
    printed = run("cost", "--quick", "--device", "cpu")
    heads = [line.split("|")[1].strip() for line in printed.splitlines() if line.startswith("|")]
    assert [head for head in heads if head in quantities] == quantities
    assert printed.count("next, shared trunk |") == 3


@pytest.mark.slow
def test_growth_prints_a_table_for_each_quantity_and_counts_processes(run: Callable[..., str]) -> None:
    printed = run("growth", "--quick")
    tables = re.findall(r"^\| ([^|]+?) \|(?: \d+ \|)+$", printed, flags=re.MULTILINE)
    sizes = ["batch size", "depth", "width", "auxiliary classes"]
    assert tables == [*sizes, "processes", "processes, by the model", "runs of a study"]
    rows = dict(re.findall(r"^\| ([^|]+?) \| (.+) \|$", printed, flags=re.MULTILINE))
    assert rows["operations of each, of one process's"] == "1.00 | 0.50"
    alone, shared = map(float, rows["MB that each hands over in a step"].split(" | "))
    assert alone == 0 < shared
    assert all(float(f) > 0 for f in rows["time of each, of a run outside a study"].split(" | "))
    for trunk in ("shared trunk", "a trunk of its own"):
        assert all(float(f) > 0 for f in rows[f"time, of a single-task step: {trunk}"].split(" | "))


def test_held_memory_is_counted_to_the_byte() -> None:
    from memory import Held

    with Held() as found:
        a = torch.zeros(1000)
        b = a.view(10, 100) + 1  # a view holds nothing of its own
        del a
        c = b * 2
        del b, c
    assert found.peak.total() == 2 * 4000
    assert found._now.total() == 0


def test_memory_is_told_by_what_holds_it(run: Callable[..., str]) -> None:
    import memory

    printed = run("memory", "--network", "tiny", "--batch", "8", "--only", "multi-task, by hand", *FOUR_WAYS)
    of = {block.split(":")[0]: block for block in printed.strip().split("\n\n")}
    assert list(of) == ["multi-task, by hand", *FOUR_WAYS]
    assert "maxl." not in printed  # a function that was renamed has no words
    assert {words for words in memory.WORDS.values() if words in printed} >= {
        "gradient of θ₁",
        "θ₁ before the step",
        "v, the gradient that judges",
        "layer outputs kept for a backward pass",
        "layer outputs kept for the tangent pass",
        "u, the direction of the tangent",
    }


def test_the_model_of_a_cluster_is_what_it_says() -> None:
    import growth

    free = growth.Rank(operations=1, bytes=0, messages=0)
    assert growth.speed_up(8, 2.0, free, latency=1.0, bandwidth=1.0) == 8
    each = growth.Rank(operations=1, bytes=1000, messages=3)
    assert growth.speed_up(2, 1.0, each, latency=0.1, bandwidth=1e4) == pytest.approx(1 / (0.5 + 0.3 + 0.1))


def test_the_model_of_overlap_is_what_it_says() -> None:
    from overlap import Message, played

    waited = [Message(1, 0.25, 0.25), Message(3, 0.5, 0.5)]
    assert played(waited, 0.5) == pytest.approx(1.5)
    hidden = [Message(1, 0.25, 0.75), Message(1, 0.5, 0.75)]
    assert played(hidden, 0.4) == pytest.approx(1.0)
    assert played(hidden, 1.0) == pytest.approx(
        1.5
    )  # the second arrives at 0.25 + 2 * 0.5, and is needed at 0.75
    assert played([Message(1, 0.9, 1.0)], 0.3) == pytest.approx(1.2)
    assert played([Message(1, 0.2, 0.2), Message(1, 0.4, 1.0)], 0.8) == pytest.approx(
        1.4
    )  # late, then hidden


@pytest.mark.slow
def test_overlap_counts_what_is_sent_early(run: Callable[..., str]) -> None:
    printed = run("overlap", "--network", "tiny", "--batch", "4", "--bucket", "0.01")
    rows = dict(re.findall(r"^\| ([^|]+?) \| (.+) \|$", printed, flags=re.MULTILINE))
    for step in ("exact", "next"):
        during, after = (rows[f"{step}, {when}"].split(" | ") for when in ("during passes", "after them"))
        assert during[1] == after[1] != "0.0"
        assert after[2:] == ["0 %", "1.10", "1.25", "1.50", "2.00", "3.00"]
        assert float(during[2].removesuffix(" %")) > 50
        assert float(during[4]) < 1.1


def test_gpu_checks_the_gradient_before_it_times(run: Callable[..., str]) -> None:
    printed = run("gpu", "--quick", "--device", "cpu")
    errors = re.findall(r"^(.+?) +differs from float64 by (.+)$", printed, flags=re.MULTILINE)
    assert [name for name, _ in errors] == [
        *("hypergradient in float32", "hypergradient in bf16"),
        *("plain training gradient in float32", "plain training gradient in bf16"),
    ]
    assert float(errors[0][1]) < 1e-4
    assert printed.index("differs from float64") < printed.index("| batch 8")
    rows = re.findall(
        r"^\| (single|human|MAXL exact|MAXL next|MAXL everyday|reverse mode, float32)[ ,]",
        printed,
        re.MULTILINE,
    )
    assert {row: rows.count(row) for row in rows} == {
        **dict.fromkeys(("single", "human", "MAXL everyday", "reverse mode, float32"), 1),
        **{"MAXL exact": 4, "MAXL next": 2},
    }


def test_several_gpus_agree_with_one_before_they_are_timed(run: Callable[..., str]) -> None:
    printed = run("several_gpus", "--quick")
    [gap] = re.findall(r"of one by (\S+) in float64", printed)
    assert float(gap) < 1e-9
    times = re.findall(r"^\| (MAXL .+?) +\| (\S+) +\| (\S+) ", printed, re.MULTILINE)
    assert [name for name, *_ in times] == [
        *("MAXL exact", "MAXL next", "MAXL exact, own trunk", "MAXL everyday")
    ]
    assert all(float(t) > 0 for _, *both in times for t in both)


def test_precision_is_told_part_by_part(run: Callable[..., str]) -> None:
    printed = run("precision", "--quick", "--device", "cpu")
    errors = {
        name.strip(): float(e) for name, e in re.findall(r"^\| (.+?) \| (\d\S+)", printed, re.MULTILINE)
    }
    assert errors["meta step, float32"] < 1e-4
    parts = [
        errors[f"meta step, {part} in bf16"]
        for part in ("training", "outer gradient", "tangent", "generator")
    ]
    assert all(1e-3 < error < errors["meta step, all in bf16"] for error in parts)
    assert errors["plain gradient, float32"] < 1e-4 < errors["plain gradient, bf16"]


@pytest.mark.slow
def test_families_says_what_it_found(run: Callable[..., str], tmp_path: Path) -> None:
    out = tmp_path / "families.md"
    run("families", "regnet", "deit", "--out", str(out))
    page = out.read_text()
    assert "of 4 rows forward mode" in page
    assert "The others" not in page
    assert f"torch {torch.__version__}" in page
    assert page.count("| regnet | regnetx_002 |") == 2


def test_every_guard_of_a_run_is_found_and_timed() -> None:
    """In a process of its own, as the clocks stay where they were put."""
    command = [sys.executable, str(BENCHMARKS / "guards.py"), "--"]
    flags = [
        "--data",
        "digits",
        "--trunk",
        "mlp",
        "--epochs",
        "1",
        "--train-size",
        "60",
        "--batch-size",
        "30",
    ]
    done = subprocess.run([*command, *flags], capture_output=True, text=True, check=True)
    rows = re.findall(r"^\| (.+?) +\| +(\d+) \| +([\d.]+) \| +([\d.]+)% \|$", done.stdout, re.M)
    assert len(rows) == 8
    assert all(int(calls) > 0 for _, calls, _, _ in rows)
    assert 0 < sum(float(share) for *_, share in rows) < 100


@pytest.mark.parametrize("kind", ["images", "numbers"])
def test_streaming_writes_the_data_it_is_asked_for(kind: str, tmp_path: Path) -> None:
    streaming = importlib.import_module("streaming")
    size = streaming.write(tmp_path, streaming.bytes_of("1.5MB"), kind, 16)
    assert 1.5e6 < size < 3e6
    data = load(str(tmp_path), stream=True)
    assert data.num_primary == 10
    assert data.input_shape == ((3, 16, 16) if kind == "images" else (1024,))
    assert torch.equal(data.test.x[:3], load(str(tmp_path)).test.x[:3])


@pytest.mark.skipif(sys.platform != "linux", reason="asks /proc what memory a process has")
def test_streaming_counts_what_a_process_and_its_children_have_of_their_own() -> None:
    streaming = importlib.import_module("streaming")
    resident, own = streaming.memory(os.getpid())
    assert resident > own > 0  # the code of libraries is nobody's own
    hoard = "import sys; x = bytearray(10**8); x[::4096] = b'x' * len(x[::4096]); print(1, flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", hoard], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        assert child.stdout is not None
        child.stdout.readline()
        assert streaming.memory(os.getpid())[1] - own > 0.9e8


@pytest.mark.slow
def test_streaming_compares_both_ways(run: Callable[..., str], tmp_path: Path) -> None:
    flags = ("--size", "500KB", "--kind", "numbers", "--trunk", "mlp", "--folder", str(tmp_path))
    printed = run("streaming", *flags)
    assert re.search(r"^memory +resident +[0-9.]+ GB, of its own +[0-9.]+ GB", printed, re.MULTILINE)
    assert re.search(r"streamed: \d+% of the speed in memory", printed)
    assert not list(tmp_path.iterdir())
