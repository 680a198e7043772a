"""Files of runs that are damaged, exchanged or made by a stranger."""

from __future__ import annotations

import io
import json
import os
import random
import shutil
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from _faults.commands import Outcome, Result, judge, run, stop_after, train, what_counts

Change = Callable[[Path], object]


def _bases(work: Path) -> dict[str, Path]:
    """Runs to be damaged: finished ones, and ones that stopped after their second or third epoch."""
    made = {
        "finished": ("maxl", [], None),
        "other seed": ("maxl", ["--seed", 1], None),
        "stopped": ("maxl", [], 3),
        "stopped early": ("maxl", [], 1),
        "stopped, other seed": ("maxl", ["--seed", 1], 3),
        "stopped, other settings": ("maxl", ["--evaluate", "next"], 3),
        "stopped, other method": ("single", [], 3),
    }
    for name, (method, more, epoch) in made.items():
        before = (lambda: None) if epoch is None else stop_after(epoch)
        assert train(method, work / name, *more, before=before).code == (0 if epoch is None else 9)
    return {name: work / name for name in made}


def flipped(file: str, chance: random.Random) -> Change:
    """Turns one bit of a file."""
    place, bit = chance.random(), 1 << chance.randrange(8)

    def change(folder: Path) -> None:
        content = bytearray((folder / file).read_bytes())
        content[int(place * len(content))] ^= bit
        (folder / file).write_bytes(content)

    return change


def cut(file: str, part: float) -> Change:
    """Keeps the beginning of a file."""
    return lambda folder: os.truncate(folder / file, int(part * (folder / file).stat().st_size))


def replaced(file: str, content: bytes) -> Change:
    """Another content."""
    return lambda folder: (folder / file).write_bytes(content)


def gone(file: str) -> Change:
    """A folder where the file was."""
    return lambda folder: ((folder / file).unlink(), (folder / file).mkdir())


def edited(change: Callable[[dict[str, Any]], Any]) -> Change:
    """Loads a checkpoint, changes it, and saves it as torch does."""

    def apply(folder: Path) -> None:
        file = folder / "checkpoint" / "state.pt"
        state = torch.load(file, weights_only=True)
        changed = change(state)
        torch.save(state if changed is None else changed, file)

    return apply


def checkpoints(work: Path, cases: int, chance: random.Random) -> Iterator[Outcome]:
    """Last checkpoints that are damaged or belong elsewhere: resumed from the one before, or refused."""
    bases, file = _bases(work), "checkpoint/state.pt"
    whole = work / "resumed"
    shutil.copytree(bases["stopped"], whole)
    assert run("train", "--resume", whole).code == 0
    good = what_counts(whole)

    def first(change: Callable[[torch.Tensor], Any]) -> Change:
        def apply(state: dict[str, Any]) -> None:
            name = next(iter(state["network"]))
            state["network"][name] = change(state["network"][name])

        return edited(apply)

    def copied(source: str) -> Change:
        return lambda folder: shutil.copy(bases[source] / file, folder / file)

    changes: list[Change] = [
        *(cut(file, part) for part in (0, 0.001, 0.1, 0.5, 0.9, 0.999)),
        *(replaced(file, content) for content in (b"hello", b"\x80\x04K\x05.", b"PK" + bytes(1000))),
        *(copied(name) for name in bases if name != "finished"),
        gone(file),
        lambda folder: shutil.rmtree(folder / "checkpoint"),
        *(edited(lambda s, v=v: v) for v in (5, [1], {})),  # type: ignore[misc]
        *(edited(lambda s, e=e: s.update(epoch=e)) for e in (-1, 0, 1, 2, 99, 1.5, float("nan"), True)),  # type: ignore[misc]
        *(
            first(c)
            for c in (lambda t: t * torch.nan, torch.Tensor.double, lambda t: t[:1], lambda t: t + 1e-3)
        ),
        first(lambda t: t.to_sparse()),
        first(lambda t: torch.zeros(1).expand(1 << 40)),
        edited(lambda s: s.update(optimizers=s["optimizers"][::-1])),
        edited(lambda s: s["optimizers"][0]["param_groups"][0].update(weight_decay=0.5)),
        edited(lambda s: s["learner"].update(steps=1)),
        edited(lambda s: s.update(label="<b>")),
        edited(lambda s: s.pop("checksum") and None),
    ]
    for name in (
        "epoch",
        "label",
        "network",
        "generator",
        "optimizers",
        "learner",
        "random",
        "identity",
        "metrics",
    ):
        changes += [
            edited(lambda s, n=name: s.pop(n) and None),
            edited(lambda s, n=name: s.update({n: None})),
        ]
    changes += [flipped(file, chance) for _ in range(cases)]
    for change in _some(changes, cases, chance):
        folder = _changed(bases["stopped"], work / "try", change)
        yield judge(run("train", "--resume", folder), lambda: what_counts(work / "try") == good)


def files(work: Path, cases: int, chance: random.Random) -> Iterator[Outcome]:
    """Other files of a run that are damaged: the same report, predictions, model or run, or a refusal."""
    bases = _bases(work)
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(work / "a.png")
    deep = b"[" * 100_000 + b"]" * 100_000
    contents = [
        b"",
        b"hello\n",
        b"[1]\n",
        b"5\n",
        b"{}\n",
        b"null",
        bytes(range(256)),
        b'{"a": ' + deep + b"}\n",
    ]
    contents += [b"a: &a [*a]\n", b"? [1]\n: 2\n", b"5: x\n", b"\xff\xfe", deep]
    names = ("config.yaml", "metrics.jsonl", "summary.json", "snapshot.npz", "model.safetensors")
    changes: list[tuple[str, Change]] = []
    for name in names:
        changes += [(name, replaced(name, content)) for content in contents]
        changes += [(name, cut(name, part)) for part in (0.3, 0.9, 0.999)]
        changes.append((name, gone(name)))
        if name != "snapshot.npz":  # a report without it says so
            changes.append((name, lambda folder, n=name: (folder / n).unlink()))
        changes += [(name, lambda folder, n=name: shutil.copy(bases["other seed"] / n, folder / n))]
        changes += [(name, flipped(name, chance)) for _ in range(max(3, cases // 10))]
    for part in (1, 5, 20):  # cut between two lines
        changes.append(("config.yaml", lambda folder, p=part: _keep_lines(folder / "config.yaml", -p)))
    good: dict[str, Any] = {}
    for kind in ("resume", "report", "predict", "export"):
        folder = _changed(bases["stopped" if kind == "resume" else "finished"], work / "try", lambda _: None)
        good[kind] = _made(kind, run(*_line(kind, folder, work)), folder)
    for name, change in _some(changes, cases, chance):
        kinds = ("resume",) if name == "metrics.jsonl" else ()
        kinds += ("report",) if name not in ("model.safetensors",) else ()
        kinds += ("predict", "export") if name not in ("metrics.jsonl", "snapshot.npz") else ()
        kinds += ("resume",) if name == "config.yaml" else ()
        kind = chance.choice(kinds)
        base = bases["stopped" if kind == "resume" else "finished"]
        folder = _changed(base, work / "try", change)
        result = run(*_line(kind, folder, work))
        outcome, seen = judge(result, lambda r=result, k=kind: _made(k, r, work / "try") == good[k])  # type: ignore[misc]
        yield outcome, f"{kind} with another {name}: {seen}"


def strangers(work: Path, cases: int, chance: random.Random) -> Iterator[Outcome]:
    """Folders without checksums whose values are of other kinds: a refusal, or what they say, and no traceback."""
    bases = _bases(work)
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(work / "a.png")
    wild = [
        None,
        True,
        -1,
        0,
        1.5,
        10**400,
        float("nan"),
        "x",
        "",
        "[/red]",
        [],
        {},
        [[1]],
        ["a"] * 10,
        {"a": [1]},
    ]
    summary = json.loads((bases["finished"] / "summary.json").read_text())
    row = json.loads((bases["finished"] / "metrics.jsonl").read_text().splitlines()[-1])
    settings = (bases["finished"] / "config.yaml").read_text().splitlines()[1:]
    changes: list[Change] = []
    for name in summary:
        changes += [_stranger("summary.json", lambda s, n=name, v=v: s.update({n: v})) for v in wild]
        changes.append(_stranger("summary.json", lambda s, n=name: s.pop(n, None)))
    for shape in ([10**6] * 3, [1, 16, 16], [3, 8, 8], [-1, 8, 8], ["1", "8", "8"], [0, 8, 8]):
        changes.append(_stranger("summary.json", lambda s, v=shape: s.update(input_shape=v)))
    for name in row:
        changes += [_stranger("metrics.jsonl", lambda s, n=name, v=v: s.update({n: v})) for v in wild]
    for line in settings:
        if ":" in line:
            name = line.split(":")[0]
            for value in (
                "null",
                "x",
                "[]",
                "-1",
                "1e999",
                "2020-99-99",
                "!!python/name:os.system",
                "[[1]]",
                "{a: b}",
            ):
                changes.append(_stranger("config.yaml", f"{name}: {value}"))
    for name in (
        "features",
        "feature_primary",
        "primary_names",
        "gallery_images",
        "gallery_scores",
        "gallery_primary",
    ):
        for change in (lambda a: a[:0], lambda a: a.astype("U3"), lambda a: a[..., None], lambda a: a[:1]):
            changes.append(_stranger_array(name, change))
        header = "{'descr': '<f8', 'fortran_order': False, 'shape': (1000000, 1000000), }"
        changes += [_stranger_header(name, header), _stranger_header(name, "{'descr': " + "(" * 3000 + "}")]
    for change in _some(changes, cases, chance):
        kind = chance.choice(("report", "predict", "export"))
        folder = _changed(bases["finished"], work / "try", change)
        yield judge(run(*_line(kind, folder, work)), lambda: True)


def _changed(base: Path, folder: Path, change: Change) -> Path:
    """A changed copy of a run."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(base, folder)
    change(folder)
    return folder


def _some(changes: list[Any], cases: int, chance: random.Random) -> list[Any]:
    """As many of them, at random, as there are cases."""
    return chance.sample(changes, min(cases, len(changes)))


def _line(kind: str, folder: Path, work: Path) -> list[Any]:
    return {
        "resume": ["train", "--resume", folder],
        "report": ["report", folder, "--out", folder / "report.html"],
        "predict": ["predict", folder, work / "a.png"],
        "export": ["export", folder, "--out", folder / "m.safetensors"],
    }[kind]


def _made(kind: str, result: Result, folder: Path) -> Any:
    """What a command has made."""
    if kind == "resume":
        return what_counts(folder)
    if kind == "export":
        return (folder / "m.safetensors").read_bytes(), (folder / "m.safetensors.json").read_text()
    return result.out if kind == "predict" else (folder / "report.html").read_text()


def _keep_lines(file: Path, count: int) -> None:
    file.write_text("".join(file.read_text().splitlines(keepends=True)[:count]))


def _stranger(name: str, change: Any) -> Change:
    """Takes the checksums out of a run and changes a value: of a JSON object, or a line of the settings."""

    def apply(folder: Path) -> None:
        _without_checksums(folder)
        file = folder / name
        lines = file.read_text().splitlines()
        if name == "config.yaml":
            key = change.split(":")[0] + ":"
            lines = [change if line.startswith(key) else line for line in lines]
            file.write_text("\n".join(lines) + "\n")
            return
        text = lines[-1] if name == "metrics.jsonl" else "\n".join(lines)
        value = json.loads(text)
        change(value)
        kept = lines[:-1] if name == "metrics.jsonl" else []
        file.write_text("\n".join([*kept, json.dumps(value)]) + "\n")

    return apply


def _stranger_array(name: str, change: Callable[[Any], Any]) -> Change:
    def apply(folder: Path) -> None:
        _without_checksums(folder)
        arrays = dict(np.load(folder / "snapshot.npz"))
        np.savez_compressed(folder / "snapshot.npz", **{**arrays, name: change(arrays[name])})

    return apply


def _stranger_header(name: str, header: str) -> Change:
    def apply(folder: Path) -> None:
        _without_checksums(folder)
        file = folder / "snapshot.npz"
        with zipfile.ZipFile(file) as archive:
            members = {member: archive.read(member) for member in archive.namelist()}
        text = header.encode() + b" " * (-(len(header) + 11) % 64) + b"\n"
        members[f"{name}.npy"] = b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text
        made = io.BytesIO()
        with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as archive:
            for member, content in members.items():
                archive.writestr(member, content)
        file.write_bytes(made.getvalue())

    return apply


def _without_checksums(folder: Path) -> None:
    summary = json.loads((folder / "summary.json").read_text())
    plain = {name: value for name, value in summary.items() if name not in ("checksum", "checksums")}
    (folder / "summary.json").write_text(json.dumps(plain))
    config = folder / "config.yaml"
    config.write_text(config.read_text().split("\n", 1)[1])
