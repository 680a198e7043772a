"""Parts of a study beside each other in one folder, and the job array of Slurm that is made of them."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from _run_helpers import TINY, files, runs_here, tiny
from _run_helpers import one_thread as one_thread
from maxl.experiments.cli import main
from maxl.experiments.runs.folder import RunFolder
from maxl.experiments.runs.lock import locked
from maxl.experiments.studies.slurm import array_script
from maxl.experiments.studies.study import Study

MEASURED = ["seconds_per_step", "seconds_total", "peak_memory_bytes"]  # what two equal runs do not share
SMALL = (
    f"--data digits --train-size {TINY['train_size']} --trunk mlp --psi 3 --epochs 1 --batch-size 25 "
    "--no-tensorboard --device cpu"
).split()


@pytest.fixture
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    runs_here(monkeypatch)
    monkeypatch.setattr("maxl.experiments.studies.workers.os.cpu_count", lambda: 1)


def same_tables(first: Path, second: Path) -> None:
    one, other = (pd.read_csv(folder / "results.csv").drop(columns=MEASURED) for folder in (first, second))
    pd.testing.assert_frame_equal(one, other, check_exact=True)
    assert (first / "comparisons.csv").read_bytes() == (second / "comparisons.csv").read_bytes()


@pytest.mark.usefixtures("in_this_process")
def test_parts_make_the_runs_of_the_whole(tmp_path: Path) -> None:
    study = Study(tiny(epochs=1), ["single", "uniform"], [0], {"auxiliary_weight": [0.3, 1.0]})
    out, whole = tmp_path / "parts", tmp_path / "whole"
    made = [[p.path for p in study.run_part(out, (k, 2))] for k in (2, 1)]
    assert sorted(path for part in made for path in part) == sorted(p.path for p in study.plan())
    assert [len(part) for part in made] == [1, 2]
    assert not (out / "results.csv").exists()
    assert study.missing(out) == []
    before = {path: (out / path).stat().st_mtime_ns for path in files(out) if path.endswith("summary.json")}
    study.run(out)
    assert {path: (out / path).stat().st_mtime_ns for path in before} == before
    study.run(whole)
    same_tables(out, whole)
    assert files(out) == files(whole)


@pytest.mark.usefixtures("in_this_process")
def test_a_part_is_refused_while_another_has_the_whole_study(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("maxl.experiments.studies.study._A_MOMENT", 0.1)
    with locked(tmp_path), pytest.raises(ValueError, match="is in use by process"):
        Study(tiny(epochs=1), ["single"], [0]).run_part(tmp_path, (1, 1))
    assert not (tmp_path / "runs").exists()


@pytest.mark.usefixtures("in_this_process")
def test_a_part_belongs_to_its_study(tmp_path: Path) -> None:
    Study(tiny(epochs=1), ["single"], [0, 1]).run_part(tmp_path, (1, 2))
    with pytest.raises(ValueError, match="was made with epochs 1, not 2"):
        Study(tiny(epochs=2), ["single"], [0, 1]).run_part(tmp_path, (2, 2))


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--part 0/3", "--part needs K/N with K from 1 to N; got 0/3"),
        ("--part 4/3", "--part needs K/N with K from 1 to N; got 4/3"),
        ("--part two", "--part needs K/N with K from 1 to N, as 2/12; got 'two'"),
        ("--part 1/2 --launcher slurm", "--part is what --launcher slurm gives to each task"),
        ("--ray-address auto", "--ray-address needs --launcher ray"),
        ("--launcher slurm --jobs 0", "--jobs needs to be at least 1; got 0"),
        ("--launcher slurm --device cuda:1", "each run gets its own: give cuda"),
        ("--launcher slurm --psi 0", "--psi needs whole numbers"),
        ("--launcher moon", "argument --launcher: invalid choice: 'moon'"),
    ],
)
def test_what_cannot_be_launched_is_one_line(
    flags: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "study"
    try:
        code: object = main(["compare", *SMALL, "--out", str(out), *flags.split()])
    except SystemExit as left:
        code = left.code
    assert code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
    assert not out.exists()


def test_a_part_names_the_command_of_the_table(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    in_this_process: None,
) -> None:
    monkeypatch.chdir(tmp_path)
    line = ["compare", *SMALL, "--methods", "single", "--seeds", "0", "1"]
    assert main([*line, "--part=1/2"]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0] == "Part 1 of 2, 1 run: study"
    assert said[1].endswith(shlex.join(["maxl", *line]))
    assert [RunFolder(tmp_path / f"study/runs/single/seed{s}").finished for s in (0, 1)] == [True, False]


def test_an_array_has_a_task_for_each_run_that_is_missing() -> None:
    script = array_script(
        *(["maxl", "compare", "--out", "my study; rm -rf *"], [7, 1, 2, 3, 9, 10], 12),
        folder=Path("/data/it's $HOME"),
        threads=4,
        gpu=True,
        most=5,
    )
    lines = script.splitlines()
    assert lines[0] == "#!/bin/bash"
    options = [line.removeprefix("#SBATCH ") for line in lines if line.startswith("#SBATCH ")]
    assert {"--array=1-3,7,9-10%5", "--cpus-per-task=4", "--gres=gpu:1", "--requeue"} <= set(options)
    assert shlex.split(lines[-2]) == ["cd", "--", "/data/it's $HOME", "||", "exit", "1"]
    assert shlex.split(lines[-1])[:-1] == [
        *("exec", "maxl", "compare", "--out", "my study; rm -rf *", "--part"),
    ]
    assert lines[-1].endswith('"$SLURM_ARRAY_TASK_ID/12"')
    assert "gres" not in array_script(["maxl"], [1], 1, folder=Path("/"), threads=1, gpu=False)


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="needs bash")
def test_the_script_of_a_job_array_makes_the_runs_and_the_command_beside_it_the_table(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    in_this_process: None,
) -> None:
    place = tmp_path / "it's a $HOME; place"
    place.mkdir()
    monkeypatch.chdir(place)
    line = ["compare", *SMALL, "--methods", "single", "--seeds", "0", "1", "2", "--out", "a study"]
    study = Study(tiny(epochs=1), ["single"], [0, 1, 2])
    study.run_part(Path("a study"), (2, 3))  # one that is there already
    assert main([*line, "--launcher", "slurm", "--jobs", "2"]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0] == "2 of 3 runs are missing. Train them:"
    assert said[1].strip() == "sbatch 'a study/slurm.sh'"
    script = Path("a study/slurm.sh")
    assert "#SBATCH --array=1,3%2" in script.read_text().splitlines()
    tasks = [
        subprocess.Popen(
            ["bash", script.resolve()], cwd=tmp_path, env={**os.environ, "SLURM_ARRAY_TASK_ID": k}
        )
        for k in ("1", "3")
    ]
    assert [task.wait() for task in tasks] == [0, 0]
    assert study.missing(Path("a study")) == []
    collect = shlex.split(said[3])
    assert collect == ["maxl", *line, "--jobs", "2"]
    assert main(collect[1:]) == 0
    assert main([*line[:-1], "whole"]) == 0
    same_tables(Path("a study"), Path("whole"))
    assert set(files(Path("a study"))) == set(files(Path("whole"))) | {"slurm.sh"}
    assert main([*line, "--launcher", "slurm"]) == 0
    assert "No run is missing." in capsys.readouterr().out
    assert sys.executable in script.read_text()


@pytest.mark.skipif(sys.platform != "linux", reason="other systems name folders by characters")
def test_a_job_array_in_a_folder_whose_name_is_no_utf_8(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, in_this_process: None
) -> None:
    place = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9"))
    place.mkdir()
    monkeypatch.chdir(place)
    line = ["compare", *SMALL, "--methods", "single", "--seeds", "0", "--out", "study"]
    assert main([*line, "--launcher", "slurm"]) == 0
    change, _ = Path("study/slurm.sh").read_bytes().split(b"cd -- ")[1].split(b"\n", 1)
    there = subprocess.run(["bash", "-c", b"cd -- " + change + b" && pwd"], capture_output=True, check=True)
    assert there.stdout.rstrip(b"\n") == os.fsencode(place)
