"""Checkpoints: saved whole, with a checksum and what they belong to; the one before the last is kept."""

from __future__ import annotations

import hashlib
import os
import pickle
import shutil
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from maxl.experiments.runs.files import RunWarning, sha256, write_whole
from maxl.experiments.runs.fingerprint import what_changed
from maxl.experiments.runs.folder import RunFolder
from maxl.experiments.runs.memory import bytes_asked, is_out_of_memory
from maxl.experiments.runs.values import as_now

_KINDS: dict[str, type | tuple[type, ...]] = {
    "epoch": int,
    "label": str,
    "train_seconds": float,
    "network": dict,
    "generator": (dict, type(None)),
    "optimizers": list,
    "learner": dict,
    "random": dict,
}
_SPARE = 1 << 30  # bytes that a tensor may claim beyond those that its file holds


def save_checkpoint(folder: RunFolder, state: Mapping[str, Any]) -> None:
    """The state after an epoch, at once or not at all; the one before becomes previous.pt.

    Raises:
        OSError: if it cannot be written; the checkpoints before it are still there.
    """
    folder.checkpoint.parent.mkdir(exist_ok=True)
    lines = folder.metrics.read_bytes()
    kept: dict[str, Any] = {**state, "metrics": {"bytes": len(lines), "sha256": sha256(lines)}}
    kept["checksum"] = content_checksum(kept)

    def write(file: BinaryIO) -> None:
        try:
            torch.save(kept, file)
        except RuntimeError as error:  # how torch says that the disk is full
            raise OSError(f"{folder.checkpoint} cannot be written: {str(error).splitlines()[0]}") from error

    fresh = folder.checkpoint.with_name("next.pt")
    write_whole(fresh, write)
    if folder.checkpoint.exists():
        os.replace(folder.checkpoint, previous(folder))
    os.replace(fresh, folder.checkpoint)


def previous(folder: RunFolder) -> Path:
    """Where the checkpoint before the last lies."""
    return folder.checkpoint.with_name("previous.pt")


def load_checkpoint(folder: RunFolder, identity: Mapping[str, Any]) -> dict[str, Any] | None:
    """The last state that is whole and belongs to the run, on the CPU; executes no code from the file.

    Warns where that is not the last one, which then becomes refused.pt.

    Args:
        folder: Of the run.
        identity: What the state has to belong to: "config" and "data".

    Returns:
        The state; None where there is none yet.

    Raises:
        ValueError: if there are checkpoints, but none that can be used.
        PermissionError: if one cannot be read.
        MemoryError, RuntimeError: if memory runs out, which says nothing about the file.
    """
    problems: list[str] = []
    for path in (folder.checkpoint, previous(folder)):
        if not os.path.lexists(path):
            continue
        try:
            state = _read(path)
            _check(state, folder, identity["config"], path)
            _check_data(state, identity["data"], path)
        except ValueError as error:
            problems.append(str(error))
            continue
        if problems:
            _set_aside(folder.checkpoint)  # else it would take the place of the good one
            warnings.warn(
                f"{problems[0]}; going on from the checkpoint before it, of epoch {state['epoch']}",
                RunWarning,
                stacklevel=2,
            )
        return state
    if problems:
        raise ValueError(
            f"{problems[0]}; to train from the start remove {folder.checkpoint.parent} and resume"
        )
    return None


def load_end(folder: RunFolder, config: Mapping[str, Any]) -> dict[str, Any]:
    """The state at the end of a finished run, on the CPU; executes no code from the file.

    Args:
        folder: Of the run.
        config: What the state has to belong to.

    Raises:
        ValueError: if it is missing, damaged, of another run or of an epoch before the last.
        PermissionError, MemoryError, RuntimeError: as ``load_checkpoint``.
    """
    path = folder.checkpoint
    if not path.is_file():
        raise ValueError(
            f"{path} needs to be a file, the run's state at its end; it is missing: train the run again"
        )
    state = _read(path)
    _check(state, folder, config, path)
    if state["epoch"] != config["epochs"] and not state.get("stopped"):
        raise ValueError(
            f"{path} needs to be of the run's last epoch, {config['epochs']}; it is of epoch {state['epoch']}: restore it"
        )
    return state


def kept_networks(state: Mapping[str, Any]) -> tuple[dict[str, Tensor], dict[str, Tensor] | None]:
    """The state of network and generator that a run kept: of its best epoch where it was to, else of its last."""
    of = (state.get("best") or {}) if (state.get("best") or {}).get("network") is not None else state
    return of["network"], of["generator"]


def _set_aside(path: Path) -> None:
    """Renames what cannot be used to refused.pt."""
    refused = path.with_name("refused.pt")
    if refused.is_dir():
        shutil.rmtree(refused)
    refused.unlink(missing_ok=True)
    os.replace(path, refused)


def content_checksum(value: Any) -> str:
    """SHA-256 of nested dicts and lists of tensors, numbers and text, whatever file or device they lie in.

    Raises:
        TypeError: if there is something else among them.
    """
    digest = hashlib.sha256()
    _feed(digest, value)
    return digest.hexdigest()


def _feed(digest: Any, value: Any) -> None:
    if isinstance(value, Mapping):
        digest.update(f"dict {len(value)}".encode())
        for key, item in value.items():
            _feed(digest, key)
            _feed(digest, item)
    elif isinstance(value, list | tuple):
        digest.update(f"list {len(value)}".encode())
        for item in value:
            _feed(digest, item)
    elif isinstance(value, Tensor):
        digest.update(f"tensor {value.dtype} {tuple(value.shape)}".encode())
        if value.numel():
            flat = value.detach().cpu().contiguous().reshape(-1)
            digest.update(flat.view(torch.uint8).numpy().data)
    elif value is None or isinstance(value, bool | int | float | str):
        digest.update(f"{type(value).__name__} {value!r}".encode())
    else:
        raise TypeError(f"a checkpoint holds tensors, numbers and text; got {type(value).__name__}")


def _read(path: Path) -> dict[str, Any]:
    """The dict in a file; ValueError for anything else."""
    damaged = f"{path} is damaged"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what torch says about formats that it no longer writes
            state = torch.load(path, map_location="cpu", weights_only=True)
    except PermissionError:  # not damaged: its owner can help
        raise
    except pickle.UnpicklingError as error:
        raise ValueError(f"{damaged}, or holds something else than a checkpoint") from error
    except Exception as error:  # whatever a broken archive makes torch raise
        if is_out_of_memory(error) and (bytes_asked(error) or 0) <= path.stat().st_size + _SPARE:
            raise
        raise ValueError(
            f"{damaged}: {str(error).splitlines()[0] if str(error) else type(error).__name__}"
        ) from error
    if not isinstance(state, dict):
        raise ValueError(f"{damaged}: it holds {type(state).__name__}")
    return state


def _check(state: dict[str, Any], folder: RunFolder, config: Mapping[str, Any], path: Path) -> None:
    """ValueError unless a state is whole and belongs to the run of a config."""
    for name, kind in _KINDS.items():
        if name not in state or not isinstance(state[name], kind) or isinstance(state[name], bool):
            raise ValueError(f"{path} is damaged: {name} is missing or of another kind")
    if not 1 <= state["epoch"] <= config["epochs"]:
        raise ValueError(f"{path} is damaged: it is of epoch {state['epoch']}")
    if "checksum" not in state:
        if folder.sealed:
            raise ValueError(f"{path} is damaged: its checksum is missing")
        return  # of an older version
    try:
        _refuse_claims(state)
        found = content_checksum({name: value for name, value in state.items() if name != "checksum"})
    except (TypeError, RuntimeError, RecursionError) as error:
        if is_out_of_memory(error):
            raise
        raise ValueError(f"{path} is damaged: {str(error).splitlines()[0]}") from error
    if found != state["checksum"]:
        raise ValueError(f"{path} is damaged: it does not have its checksum")
    saved = state["identity"]["config"]
    differing = [n for n, v in saved.items() if n in config and config[n] != as_now(n, v)]
    if differing:
        raise ValueError(f"{path} belongs to another run: it differs in {', '.join(sorted(differing))}")
    lines = folder.metrics.read_bytes() if folder.metrics.is_file() else b""
    before = state["metrics"]
    if sha256(lines[: before["bytes"]]) != before["sha256"]:
        raise ValueError(f"{path} does not go with {folder.metrics}: one of them was damaged or changed")


def _check_data(state: dict[str, Any], data: Mapping[str, Any], path: Path) -> None:
    """ValueError if a state is of other data; one of an older version does not say."""
    if "checksum" not in state:
        return
    if (changed := what_changed(state["identity"]["data"], dict(data))) is not None:
        raise ValueError(f"the data has changed since {path} was written, {changed}: put it back")


def _refuse_claims(value: Any) -> None:
    """RuntimeError, as of a file that is cut short, for a tensor that says it is far larger than what its file holds."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list | tuple):
        for item in value:
            _refuse_claims(item)
    elif isinstance(value, Tensor):
        size = value.numel() * value.element_size()
        if size > value.untyped_storage().nbytes() + _SPARE:
            raise RuntimeError(f"a tensor claims {size:,} bytes that are not there")
