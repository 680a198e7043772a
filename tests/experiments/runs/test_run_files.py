"""Files are written whole or not at all, and read as if a stranger had made them."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, BinaryIO

import pytest

from _run_helpers import files
from maxl.experiments.runs.files import read_bytes, read_json, read_yaml, write_at_once, write_whole


@pytest.mark.parametrize("broken", ["write", "fsync", "replace"])
def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(
    broken: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_at_once(tmp_path / "a", b"old")

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    def half(file: BinaryIO) -> None:
        file.write(b"ne")
        if broken == "write":
            full()
        file.write(b"w")

    if broken != "write":
        monkeypatch.setattr(os, broken, full)
    with pytest.raises(OSError, match="No space left"):
        write_whole(tmp_path / "a", half)
    monkeypatch.undo()
    assert files(tmp_path) == ["a"]
    assert (tmp_path / "a").read_bytes() == b"old"
    write_at_once(tmp_path / "a", b"new")
    assert (tmp_path / "a").read_bytes() == b"new"


def test_what_is_renamed_is_on_the_disk_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    sync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda d: (done.append("sync"), sync(d))[1])
    monkeypatch.setattr(os, "replace", lambda a, b: (done.append("rename"), replace(a, b))[1])
    write_at_once(tmp_path / "a", b"1")
    assert done == ["sync", "rename", "sync"]  # the file, its name, the folder


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "needs to be JSON"),
        (b"\xff\xfe", "needs to be JSON"),
        (b'{"a": ' + b"[" * 100_000, "needs to be JSON"),
        (b'{"a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "needs to be JSON"),
        (b'{"a": 1' + b"0" * 10_000 + b"}", "needs to be JSON"),
        (b"[]", "needs to hold JSON objects; got list"),
        (b"null", "needs to hold JSON objects; got NoneType"),
    ],
)
def test_json_that_is_refused(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(ValueError, match=rf"a\.json {message}"):
        read_json(tmp_path / "a.json")


@pytest.mark.parametrize(
    "text",
    [
        "a: [",
        "a: &x 1\nb: *x\n",
        "&x [*x]",
        "a: &a [lol]\nb: &b [*a, *a]\nc: [*b, *b]\n",
        "a: " + "[" * 5000 + "]" * 5000,
        "a: 2020-99-99",
        "a: !!python/name:os.system",
        "? [1]\n: 2\n",
        "\x00",
    ],
)
def test_yaml_that_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(text)
    with pytest.raises(ValueError, match=r"a\.yaml is not valid YAML: [^\n]*$"):
        read_yaml(tmp_path / "a.yaml")


def test_plain_values_are_read(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps({"a": [1, {"b": None}]}))
    assert read_json(tmp_path / "a.json") == {"a": [1, {"b": None}]}
    (tmp_path / "a.yaml").write_text("a: [1, {b: null}]\n")
    assert read_yaml(tmp_path / "a.yaml") == {"a": [1, {"b": None}]}


def test_a_file_is_a_file_and_not_larger_than_it_may_be(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"12345")
    assert read_bytes(tmp_path / "a", 5) == b"12345"
    with pytest.raises(ValueError, match=r"a needs to be at most 4 bytes; it has 5"):
        read_bytes(tmp_path / "a", 4)
    with pytest.raises(ValueError, match="needs to be a file; it is a folder"):
        read_bytes(tmp_path, 5)
    with pytest.raises(ValueError, match="needs to be a file; it is missing"):
        read_bytes(tmp_path / "b", 5)
