"""What a report is refused for, and names from outside."""

from __future__ import annotations

import math
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from _report_helpers import write_run, write_study
from _run_helpers import digits, tiny
from maxl.experiments.report import write_images, write_report
from maxl.experiments.report.runs import load_study
from maxl.experiments.runs.trainer import train


@pytest.fixture(scope="module")
def study_folder(tmp_path_factory):
    return write_study(tmp_path_factory.mktemp("study"), methods=("single", "maxl"), seeds=(0,))


def test_missing_and_empty_folders(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere is none"):
        write_report(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"holds none$"):
        write_report(tmp_path)
    write_run(tmp_path / "run").joinpath("summary.json").unlink()
    with pytest.raises(ValueError, match="holds none, only 1 unfinished"):
        write_report(tmp_path)


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("summary.json", "{", r"broken/summary.json needs to be JSON"),
        ("summary.json", "[]", r"broken/summary.json needs to hold JSON objects; got list"),
        ("summary.json", "{}", r"broken/summary.json needs 'method'"),
        ("metrics.jsonl", '{"epoch": 1}\n{', r"broken/metrics.jsonl, line 2, needs to be JSON"),
        ("metrics.jsonl", "", r"broken/metrics.jsonl needs one line an epoch"),
        ("metrics.jsonl", None, r"broken needs metrics.jsonl"),
        ("config.yaml", "a: [", r"broken/config.yaml is not valid YAML"),
        ("snapshot.npz", "no archive", r"broken/snapshot.npz needs to be a snapshot"),
    ],
)
def test_a_broken_run_is_named_in_one_line(tmp_path, file, content, message):
    write_run(tmp_path / "good", seed=1)
    path = write_run(tmp_path / "broken") / file
    path.unlink()
    if content is not None:
        path.write_text(content)
    with pytest.raises(ValueError, match=message) as caught:
        write_report(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("accuracy", [1.2, -0.1, math.nan, "high"])
def test_an_accuracy_is_a_share(tmp_path, accuracy):
    write_run(tmp_path / "run", test_accuracy=accuracy)
    with pytest.raises(ValueError, match=r"needs a test_accuracy in \[0, 1\]"):
        write_report(tmp_path)


def test_the_same_run_twice_is_refused(tmp_path):
    write_run(tmp_path / "a")
    write_run(tmp_path / "b")
    with pytest.raises(ValueError, match=r"a and .*b differ in nothing: remove one"):
        write_report(tmp_path)


def test_images_without_kaleido_say_what_to_install(monkeypatch, study_folder):
    monkeypatch.setitem(sys.modules, "kaleido", None)
    with pytest.raises(ImportError, match=r'pip install "maxl-torch\[images\]"'):
        write_images(study_folder)


def test_images_have_three_formats(study_folder):
    with pytest.raises(ValueError, match=r"images can be png, svg, pdf; got 'gif'"):
        write_images(study_folder, suffix="gif")


def test_runs_in_a_folder_that_cannot_be_read_are_not_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("open", "shut"):
        write_run(tmp_path / name, seed=len(name) + (name == "shut"))
    scandir = os.scandir

    def guarded(path: str) -> object:  # permissions do not bind root
        if os.path.basename(path) == "shut":
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", guarded)
    with pytest.raises(PermissionError, match="shut cannot be read"):
        write_report(tmp_path)


def test_names_from_outside_are_text(tmp_path):
    evil = '</script><script>alert("1")</script>'
    write_run(tmp_path / "run", data=evil, trunk=evil, label_verdict=evil)
    text = write_report(tmp_path).read_text()
    assert "<script>alert" not in text
    assert "&lt;script&gt;alert" in text
    data = re.findall(r'type="application/json"[^>]*>(.*?)</script>', text)
    assert data
    assert not any("<" in block for block in data)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda file, other: file.unlink(), r"config\.yaml is missing: restore it"),
        (
            lambda file, other: file.write_bytes(file.read_bytes().replace(b"epochs: 1", b"epochs: 9")),
            "its checksum",
        ),
        (
            lambda file, other: file.write_bytes(other.read_bytes()),
            r"another run's, with seed 5 in place of 0",
        ),
        (lambda file, other: file.write_bytes(b""), "needs every setting of the run"),
        (lambda file, other: file.write_bytes(b"hello\n"), "needs every setting of the run"),
        (
            lambda file, other: file.write_bytes(
                file.read_bytes().split(b"\n", 1)[1].replace(b"method: single", b"method: uniform")
            ),
            "another run's, with method uniform in place of single",
        ),
    ],
    ids=["missing", "changed", "another's", "empty", "foreign", "another method's"],
)
def test_settings_that_are_not_the_runs_are_refused_not_shown(
    change: Callable[[Path, Path], object], said: str, tmp_path: Path
) -> None:
    for seed in (0, 5):
        train(tiny(epochs=1, method="single", seed=seed), tmp_path / f"run{seed}", data=digits())
    change(*(tmp_path / f"run{seed}" / "config.yaml" for seed in (0, 5)))
    with pytest.raises(ValueError, match=said):
        load_study(tmp_path / "run0")
