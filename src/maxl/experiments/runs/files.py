"""Files of runs and studies: written whole or not at all, and read as if a stranger had made them."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import yaml

JSON_LIMIT = 64 << 20  # bytes; metrics of a thousand epochs take a few MiB
YAML_LIMIT = 1 << 20


class RunWarning(UserWarning):
    """Something about a run that its owner should know, though the run goes on."""


def write_whole(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Writes a file beside its place, brings it to the disk and renames it: the old content or the new, never half.

    Args:
        path: The file.
        write: Writes the content into an open file.

    Raises:
        OSError: if the disk is full or the folder cannot be written; the old file is untouched.
    """
    partial = path.with_name(path.name + ".partial")
    try:
        with partial.open("wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def write_at_once(path: Path, content: bytes) -> None:
    """``write_whole`` of bytes.

    Raises:
        OSError: as there.
    """
    write_whole(path, lambda file: file.write(content))


def _sync_folder(folder: Path) -> None:
    """Brings the rename itself to the disk, where folders can be opened: not on Windows."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256(content: bytes) -> str:
    """The checksum of bytes, as 64 hexadecimal digits."""
    return hashlib.sha256(content).hexdigest()


def read_bytes(path: Path, limit: int) -> bytes:
    """The content of a regular file of at most ``limit`` bytes.

    Raises:
        ValueError: if it is no file, or larger.
        OSError: if it cannot be read.
    """
    if not path.is_file():
        raise ValueError(f"{path} needs to be a file; it is {'a folder' if path.is_dir() else 'missing'}")
    if (size := path.stat().st_size) > limit:
        raise ValueError(f"{path} needs to be at most {limit:,} bytes; it has {size:,}: it is another file")
    return path.read_bytes()


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file.

    Raises:
        ValueError: if the file is missing, too large, no JSON, or JSON of another kind.
    """
    return parse_json(read_bytes(path, JSON_LIMIT), str(path))


def parse_json(content: bytes, where: str) -> dict[str, Any]:
    """One JSON object.

    Args:
        content: UTF-8.
        where: What errors call it.

    Raises:
        ValueError: if it is no JSON, nested beyond reason, or of another kind.
    """
    try:
        value = json.loads(content.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{where} needs to be JSON; reading it failed: {error}") from None
    if not isinstance(value, dict):
        raise ValueError(f"{where} needs to hold JSON objects; got {type(value).__name__}")
    return value


class _PlainLoader(yaml.SafeLoader):
    """Without anchors and aliases: with them a few lines stand for gigabytes, or for themselves."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        event = self.peek_event()  # type: ignore[no-untyped-call]
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None) is not None:
            raise yaml.YAMLError("anchors and aliases (& and *) are not taken")
        return super().compose_node(parent, index)


def read_yaml(path: Path) -> Any:
    """The plain value in a YAML file: mappings, lists, numbers and text.

    Raises:
        ValueError: if the file is missing, too large, or no such YAML.
    """
    return parse_yaml(read_bytes(path, YAML_LIMIT), str(path))


def parse_yaml(content: bytes | str, where: str) -> Any:
    """A plain value in YAML.

    Args:
        content: The text.
        where: What errors call it.

    Raises:
        ValueError: if it is no YAML, has anchors or aliases, or is nested beyond reason.
    """
    try:
        return yaml.load(content, _PlainLoader)
    except (yaml.YAMLError, ValueError, OverflowError) as error:  # of values: no such date, for one
        raise ValueError(f"{where} is not valid YAML: {' '.join(str(error).split())}") from None
    except RecursionError:
        raise ValueError(f"{where} is not valid YAML: nested too deep") from None
