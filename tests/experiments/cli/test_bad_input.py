"""Data that cannot be meant: one line that names what is wrong and where, exit code 2, and nothing written."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from maxl.experiments.cli import main

Build = Callable[[Path], Sequence[str]]
ROWS = [[i, round(i / 7, 3), ("x", "y")[i % 2]] for i in range(24)]


def csv(text: str | bytes, *flags: str, name: str = "t.csv", primary: str = "kind") -> Build:
    """A file with this content, given as data."""

    def build(folder: Path) -> Sequence[str]:
        content = text.encode() if isinstance(text, str) else text
        (folder / name).write_bytes(content)
        return ["--data", str(folder / name), "--primary", primary, *flags]

    return build


def lines(
    *flags: str,
    header: str = "a,b,kind",
    change: dict[tuple[int, int], object] | None = None,
    primary: str = "kind",
    rows: Sequence[Sequence[object]] = ROWS,
) -> Build:
    """A table of numbers and two classes with some of its cells changed."""
    cells = [list(row) for row in rows]
    for (row, column), value in (change or {}).items():
        cells[row][column] = value
    return csv(
        "\n".join([header, *(",".join(map(str, row)) for row in cells)]) + "\n", *flags, primary=primary
    )


def images(
    change: Callable[[Path], object] = lambda folder: None,
    *flags: str,
    classes: Sequence[str] = ("cat", "dog"),
) -> Build:
    """A folder of small images, eight a class, and what is done to it."""

    def build(folder: Path) -> Sequence[str]:
        data = folder / "photos"
        data.mkdir()
        for number, name in enumerate(classes):
            for i in range(8):
                picture(data / name / f"{i}.png", seed=10 * number + i)
        change(data)
        return ["--data", str(data), *flags]

    return build


def picture(file: Path, size: tuple[int, ...] = (8, 8, 3), seed: int = 0, most: int = 256) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(most, size=size, dtype=np.uint8)).save(file)


def masks(change: Callable[[Path], object]) -> Build:
    """A folder of images and masks of three classes, and what is done to it."""

    def build(folder: Path) -> Sequence[str]:
        data = folder / "scenes"
        for i in range(8):
            picture(data / "images" / f"{i}.png", seed=i)
            picture(data / "masks" / f"{i}.png", (8, 8), seed=i, most=3)
        change(data)
        return ["--data", str(data)]

    return build


def paths(change: dict[int, str]) -> Build:
    """A table of paths of images."""

    def build(folder: Path) -> Sequence[str]:
        for i in range(12):
            picture(folder / f"{i}.png", seed=i)
        (folder / "broken.png").write_bytes(b"no image")
        rows = [change.get(i, f"{i}.png") + f",{'xy'[i % 2]}" for i in range(12)]
        (folder / "t.csv").write_text("\n".join(["image,kind", *rows]) + "\n")
        return ["--data", str(folder / "t.csv"), "--primary", "kind"]

    return build


def cut(file: Path, share: float = 0.5) -> None:
    content = file.read_bytes()
    file.write_bytes(content[: int(share * len(content))])


def parquet(change: Callable[[Path], object]) -> Build:
    def build(folder: Path) -> Sequence[str]:
        file = folder / "t.parquet"
        pd.DataFrame(ROWS, columns=["a", "b", "kind"]).to_parquet(file)
        change(file)
        return ["--data", str(file), "--primary", "kind"]

    return build


def plain(*flags: str) -> Build:
    return lambda folder: [flag.replace("FOLDER", str(folder)) for flag in flags]


MANY = "red,blue"  # labels of 0 and 1
LABELS = [[i, i / 3, i % 2, (i // 2) % 2] for i in range(24)]


def labels(change: dict[tuple[int, int], object]) -> Build:
    def build(folder: Path) -> Sequence[str]:
        made = list(lines(header="a,b,red,blue", change=change, rows=LABELS)(folder))
        return [*made[:2], "--primary", "red", "blue"]

    return build


def price(change: dict[tuple[int, int], object], *flags: str) -> Build:
    return lines("--task", "regression", *flags, change=change, primary="b")


def remove(file: Path) -> None:
    file.unlink()


CASES: dict[str, tuple[Build, str]] = {
    # Files
    "no file": (plain("--data", "FOLDER/nowhere.csv"), "no file or folder"),
    "unknown data set": (plain("--data", "digist"), "did you mean 'digits'"),
    "a hub name that is none": (plain("--data", "hf:no/such/name"), "is named hf:owner/name"),
    "no folder of files": (
        plain("--data", "cifar100", "--data-dir", "FOLDER/nowhere"),
        "nowhere' is no folder",
    ),
    "a folder without the files": (
        plain("--data", "mnist", "--data-dir", "FOLDER"),
        "holds no mnist: expected",
    ),
    "an empty file": (csv(""), "t.csv' cannot be read as a csv file: Empty CSV file"),
    "a header alone": (csv("a,b,kind\n"), "t.csv' is empty"),
    "no header": (csv("1.5,2,3\n" * 20, primary="3"), "needs a header line with the columns' names"),
    "another kind of file": (csv("a,kind\n1,x\n", name="t.xlsx"), "a data file must be .csv or .parquet"),
    "an image called .csv": (
        lambda f: (picture(f / "p.png"), (f / "p.png").rename(f / "t.csv"), ["--data", str(f / "t.csv")])[-1],
        "t.csv', line 1: no UTF-8 text",
    ),
    "text called .parquet": (
        csv("a,kind\n1,x\n", name="t.parquet"),
        "t.parquet' cannot be read as a parquet file",
    ),
    "a parquet file cut short": (parquet(cut), "t.parquet' cannot be read as a parquet file"),
    "not UTF-8": (csv("a,kind\n1,é\n2,y\n".encode("latin-1")), "t.csv', line 2: no UTF-8 text"),
    "a zero byte": (csv("a,kind\n1,x\0\n2,y\n"), "t.csv', line 2: a zero byte"),
    "semicolons": (csv("a;kind\n1;x\n2;y\n"), "separated by commas; got ';'"),
    "tabs": (csv("a\tkind\n1\tx\n2\ty\n"), "separated by commas; got '\\t'"),
    "an open quote": (csv('a,kind\n1,"x\n2,y\n'), "t.csv', line 2: the quotes of a value are not even"),
    "a short row": (csv("a,b,kind\n1,2,x\n3,y\n"), "Expected 3 columns, got 2: 3,y"),
    "a long row": (csv("a,b,kind\n1,2,x\n3,4,y,5\n"), "Expected 3 columns, got 4: 3,4,y,5"),
    # Columns
    "a column twice": (lines(header="a,a,kind"), "t.csv' has 2 called 'a'"),
    "a column without a name": (lines(header=",b,kind"), "column 1 has no name"),
    "no such column": (lines(primary="kid"), "no column 'kid'; did you mean 'kind'"),
    "the same column twice": (
        lines("--primary", "kind", "kind"),
        "--primary needs different columns; got kind, kind",
    ),
    "nothing to learn from": (
        lines("--drop", "a", "b"),
        "a table needs an image, text or numeric column besides its labels",
    ),
    "dropping what is not there": (lines("--drop", "c"), "--drop needs columns of the table; got 'c'"),
    "a type of no column": (
        lines("--types", "c=number"),
        "--types needs columns of the table that are no targets; got 'c'",
    ),
    "an unknown type": (
        lines("--types", "a=colour"),
        "--types needs one of number, category, date, text for each column; got a=colour",
    ),
    "a type without a column": (lines("--types", "number"), "--types needs COLUMN=KIND"),
    "text in a column of numbers": (
        lines("--types", "a=number", change={(7, 0): "many"}),
        "t.csv' needs to hold numbers; row 7 holds 'many'",
    ),
    "a date that is none": (
        lines("--types", "a=date", change={(7, 0): "many"}),
        "t.csv' needs to hold dates such as",
    ),
    "an infinite number": (lines(change={(7, 1): "inf"}), "column 'b', row 7 holds inf"),
    "a number beyond float32": (lines(change={(7, 1): "1e39"}), "column 'b', row 7 holds 1e+39"),
    "images dropped from": (images(lambda f: None, "--drop", "a"), "photos' has images"),
    # Classes
    "one class": (lines(change={(i, 2): "x" for i in range(24)}), "all of them are 'x'"),
    "a class with one sample": (lines(change={(3, 2): "z"}), "class 'z' has 1: add samples"),
    "a sample without a class": (lines(change={(3, 2): ""}), "labels in column 'kind': row 3 is empty"),
    "a class in two spellings": (lines(change={(3, 2): " y"}), "' y' and 'y' are one class in two spellings"),
    "a class that is a fraction": (
        lines("--task", "classification", primary="b"),
        "column 'b': row 1 is not a whole number",
    ),
    "no finer column": (lines("--human", "breed"), "human labels: no column 'breed'"),
    "finer classes that cross": (
        lines("--human", "a", change={(i, 0): i % 3 for i in range(24)}),
        "got '0' under both 'x' and 'y'",
    ),
    "no column to probe": (lines("--probe", "breed"), "probe labels: no column 'breed'"),
    "more samples than there are": (
        lines("--train-size", "1000"),
        "train_size must lie between 0 and the 19 samples there are; got 1000",
    ),
    "all samples for validation": (
        lines("--validation-size", "1000"),
        "validation_size must lie between 0 and the 19 samples there are; got 1000",
    ),
    "an unknown task": (lines("--task", "sorting"), "--task needs to be one of"),
    # Numbers and labels
    "targets all equal": (price({(i, 1): 5 for i in range(24)}), "those of column 'b' are all 5"),
    "an infinite target": (price({(3, 1): "inf"}), "column 'b': row 3 is missing or not finite (got inf"),
    "a missing target": (price({(3, 1): ""}), "column 'b': row 3 is missing or not finite (got nan"),
    "a target of text": (price({(3, 1): "cheap"}), "column 'b' of"),
    "a label that is neither": (labels({(3, 2): 2}), "column 'red': row 3 is neither 0 nor 1 (got 2"),
    "a missing label": (labels({(3, 2): ""}), "column 'red': row 3 is neither 0 nor 1 (got nan"),
    "no label at all": (labels({(i, j): 0 for i in range(24) for j in (2, 3)}), "has one of red, blue"),
    # Images
    "an empty folder": (
        lambda f: ((f / "e").mkdir(), ["--data", str(f / "e")])[-1],
        "e' has no images in subfolders",
    ),
    "images without classes": (
        lambda f: (picture(f / "p" / "0.png"), ["--data", str(f / "p")])[-1],
        "p' has no images in subfolders",
    ),
    "one folder": (images(classes=("cat",)), "all of them are 'cat'"),
    "a folder without images": (
        images(
            lambda f: (picture(f / "bird" / "0.png"), (f / "bird" / "0.png").rename(f / "bird" / "0.heic"))
        ),
        "bird' holds none, but",
    ),
    "a folder with one image": (images(lambda f: picture(f / "bird" / "0.png")), "class 'bird' has 1"),
    "an image cut short": (
        images(lambda f: cut(f / "cat" / "3.png")),
        "cat/3.png' cannot be decoded as an image: image file is truncated",
    ),
    "an image of no bytes": (
        images(lambda f: (f / "cat" / "3.png").write_bytes(b"")),
        "cat/3.png' cannot be decoded as an image: its format is none that is known",
    ),
    "text called .png": (
        images(lambda f: (f / "cat" / "3.png").write_text("meow")),
        "cat/3.png' cannot be decoded as an image: its format is none that is known",
    ),
    "images of several sizes": (
        images(lambda f: picture(f / "cat" / "3.png", (9, 8, 3))),
        "cat/3.png' is 9x8, the first is 8x8",
    ),
    "images of no size": (
        images(lambda f: None, "--image-size", "0"),
        "--image-size needs to be at least 1; got 0",
    ),
    "features for a network of images": (
        lines("--trunk", "vgg16"),
        "'vgg16' needs images of shape (C, H, W)",
    ),
    "a missing image of a table": (paths({3: "gone.png"}), "gone.png' is missing"),
    "an unreadable image of a table": (paths({3: "broken.png"}), "column 'image', row 3 of"),
    # Masks
    "an image without a mask": (masks(lambda f: remove(f / "masks" / "3.png")), "images/3.png' has none"),
    "a mask without an image": (masks(lambda f: remove(f / "images" / "3.png")), "masks/3.png' has none"),
    "a mask of another size": (
        masks(lambda f: picture(f / "masks" / "3.png", (9, 8), most=3)),
        "masks/3.png' is 9x8",
    ),
    "a mask in colour": (
        masks(lambda f: picture(f / "masks" / "3.png", (8, 8, 3))),
        "masks/3.png' has mode RGB",
    ),
    "a mask cut short": (
        masks(lambda f: cut(f / "masks" / "3.png")),
        "masks/3.png' cannot be decoded as a mask",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_one_line_and_nothing_written(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    build, message = CASES[name]
    given = build(tmp_path)
    out = tmp_path / "run"
    code = main(["train", *given, "--epochs", "1", "--device", "cpu", "--no-tensorboard", "--out", str(out)])
    said = capsys.readouterr()
    assert (code, said.out) == (2, ""), said.err
    assert len(said.err.splitlines()) == 1
    assert said.err.startswith("maxl: error: ")
    assert not out.exists()
    assert message in said.err
