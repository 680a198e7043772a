"""Folders and files that are made to run code."""

from __future__ import annotations

import io
import json
import os
import pickle
import random
import shutil
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from _faults.commands import Outcome, run, stop_after, train


def harm(work: Path, cases: int, chance: random.Random) -> Iterator[Outcome]:
    """Trunks that are commands, modules beside the run, pickles in every file: refused, and nothing has run."""
    mark = work / "mark"
    assert train("maxl", work / "finished").code == 0
    assert train("maxl", work / "stopped", before=stop_after(2)).code == 9
    for name in ("finished", "stopped"):  # as a stranger would send it
        config = work / name / "config.yaml"
        config.write_text(config.read_text().split("\n", 1)[1])

    def trunk(folder: Path, field: str, value: str, shape: Any = None) -> None:
        text = (folder / "config.yaml").read_text()
        old = next(line for line in text.splitlines() if line.startswith(f"{field}:"))
        (folder / "config.yaml").write_text(text.replace(old, f"{field}: {value}"))
        (folder / "evil.py").write_text(f"open({str(mark)!r}, 'w')\ndef make(shape): raise SystemExit\n")
        if shape is not None and (folder / "summary.json").exists():
            summary = json.loads((folder / "summary.json").read_text())
            summary.pop("checksum")
            (folder / "summary.json").write_text(json.dumps({**summary, "input_shape": shape}))

    bomb = pickle.dumps(_Bomb(f"touch {mark}"))
    zipped = io.BytesIO()
    torch.save({"epoch": _Bomb(f"touch {mark}")}, zipped)
    array = io.BytesIO()
    np.save(array, np.array([_Bomb(f"touch {mark}")], dtype=object), allow_pickle=True)
    arrays = io.BytesIO()
    with zipfile.ZipFile(arrays, "w") as archive:
        archive.writestr("features.npy", array.getvalue())
    tag = f"!!python/object/apply:os.system ['touch {mark}']".encode()
    shape = ["touch", str(mark)]
    changes: list[Callable[[Path], object]] = [
        *(lambda f, n=n: trunk(f, n, "subprocess:call", shape) for n in ("trunk", "generator_trunk")),  # type: ignore[misc]
        *(lambda f, n=n: trunk(f, n, "evil:make") for n in ("trunk", "generator_trunk")),  # type: ignore[misc]
        lambda f: trunk(f, "trunk", "os:system", [f"touch {mark}"]),
    ]
    for file in ("config.yaml", "summary.json", "metrics.jsonl", "model.safetensors", "snapshot.npz"):
        changes += [lambda f, n=file, b=b: (f / n).write_bytes(b) for b in (bomb, zipped.getvalue(), tag)]  # type: ignore[misc]
    changes += [lambda f: (f / "snapshot.npz").write_bytes(arrays.getvalue())]
    changes += [lambda f, b=b: _poison(f, b) for b in (bomb, zipped.getvalue())]  # type: ignore[misc]
    lines: list[tuple[str, list[str]]] = [
        ("finished", ["predict", ".", "evil.py"]),
        ("finished", ["export", ".", "--out", "m.safetensors"]),
        ("finished", ["report", "."]),
        ("stopped", ["train", "--resume", "."]),
    ]
    tries = [(change, *line) for change in changes for line in lines]
    for change, base, line in chance.sample(tries, min(cases, len(tries))):
        folder = work / "try"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(work / base, folder)
        change(folder)
        result = run(*line, cwd=folder)
        if mark.exists():
            mark.unlink()
            yield "wrong", f"{line[0]}: code has run"
        elif result.code == 0:  # the file that was changed is none that the command reads
            yield "right", ""
        else:
            yield ("refused" if result.refused else "wrong", result.told())


def _poison(folder: Path, content: bytes) -> None:
    for name in ("state.pt", "previous.pt"):
        (folder / "checkpoint" / name).write_bytes(content)


class _Bomb:
    """Runs a command when it is unpickled."""

    def __init__(self, command: str) -> None:
        self._command = command

    def __reduce__(self) -> Any:
        return os.system, (self._command,)
