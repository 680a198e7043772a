"""What cannot be read is named, never left out."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from _data_helpers import pixels, write_folder, write_image
from maxl.experiments.data import files_below, load


@pytest.fixture
def forbidden(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Folders that the operating system refuses to list, whoever asks: permissions do not bind root."""
    refused: set[str] = set()
    scandir = os.scandir

    def guarded(path: Any = ".") -> Any:
        if os.path.basename(path) in refused:
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", guarded)
    return refused


def test_all_files_sorted_by_path(tmp_path: Path) -> None:
    for name in ("b/x/2.txt", "b/1.txt", "a.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert [str(p.relative_to(tmp_path)) for p in files_below(tmp_path)] == ["a.txt", "b/1.txt", "b/x/2.txt"]


def test_a_class_whose_folder_cannot_be_read_is_named(tmp_path: Path, forbidden: set[str]) -> None:
    write_folder(tmp_path, ("cat", "dog", "owl"), count=10, size=(6, 6))
    assert load(str(tmp_path)).primary_names == ("cat", "dog", "owl")
    forbidden.add("dog")
    with pytest.raises(PermissionError, match=r"dog cannot be read \(Permission denied\): make it readable"):
        load(str(tmp_path))


def test_an_image_that_cannot_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import builtins

    write_folder(tmp_path, ("cat", "dog"), count=10, size=(6, 6))
    write_image(tmp_path / "cat" / "secret.png", pixels(1, 6, 6)[0])
    original = builtins.open

    def guarded(file: Any, *rest: Any, **options: Any) -> Any:
        if str(file).endswith("secret.png"):
            raise PermissionError(13, "Permission denied", str(file))
        return original(file, *rest, **options)

    monkeypatch.setattr(builtins, "open", guarded)
    with pytest.raises(ValueError, match=r"secret.png' cannot be decoded as an image: .*Permission denied"):
        load(str(tmp_path))
