"""Files read as they were written or are refused in one line, whichever values they hold and bytes are damaged.

What test_mutated_data draws from seeds, a search goes after here: it looks for the smallest file and the
smallest damage that is read wrongly.
"""

from __future__ import annotations

import csv
import gzip
import io
import itertools
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from hypothesis import event, example, given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from _data_helpers import pixels, png, rows_of_bytes
from _run_helpers import one_thread as one_thread
from maxl.experiments.data import load

ROWS = 8
# Several labels may be written in a cell, parted by ";" or "|": at the ends of names alone these part nothing.
_one = st.text(st.characters(codec="utf-8", exclude_characters="\0;|"), min_size=1, max_size=5)
names = st.builds(
    lambda mark, name, after: name + mark if after else mark + name,
    st.sampled_from(["", "", ";"]),
    _one,
    st.booleans(),
)
classes = st.lists(names, min_size=2, max_size=4, unique=True)
values = st.floats(allow_nan=False, allow_infinity=False, width=32)


def read(files: dict[str, bytes], name: str = ".", **options: Any) -> tuple[list[str], np.ndarray] | None:
    """Labels and samples of the training part of a folder of files; None where they are refused in one line."""
    with tempfile.TemporaryDirectory() as folder:
        for path, content in files.items():
            file = Path(folder, path)
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)
        try:
            place = {"data_dir": folder} if name != "." else {}
            data = load(folder if name == "." else name, **place, **options)
        except (ValueError, OSError) as error:
            refused = str(error)
        else:
            assert data.task == "classification"
            return [data.primary_names[i] for i in data.train.primary.tolist()], data.train.x.numpy()
    assert refused
    assert "\n" not in refused
    return None


@st.composite
def damages(draw: st.DrawFn) -> tuple[str, float, bytes]:
    """Where a file is cut, overwritten, or gets bytes between, as a fraction of its length."""
    kind = draw(st.sampled_from(["cut", "overwrite", "insert"]))
    return kind, draw(st.floats(0, 1, exclude_max=True)), draw(st.binary(min_size=1, max_size=4))


def damaged(content: bytes, damage: tuple[str, float, bytes]) -> bytes:
    kind, place, new = damage
    start = int(place * len(content))
    if kind == "cut":
        return content[:start]
    return content[:start] + new + content[start + (len(new) if kind == "overwrite" else 0) :]


@given(classes, st.lists(values, min_size=ROWS, max_size=ROWS), st.booleans())
@example(['"', "a,b"], [0.0] * ROWS, False)
@example(["\r", "\n"], [0.0] * ROWS, False)
@example(["NULL", "1", "01", "true"], [0.5] * ROWS, True)
@example([" a", "a "], [-0.0] * ROWS, True)
def test_a_csv_file_gives_the_labels_that_were_written_or_is_refused(
    labels: list[str], numbers: list[float], quoted: bool
) -> None:
    quoted = quoted or any("\r" in label for label in labels)  # which csv leaves bare: then it ends the line
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n", quoting=csv.QUOTE_ALL if quoted else csv.QUOTE_MINIMAL)
    rows = list(zip(numbers, itertools.cycle(labels), strict=False))
    writer.writerows([("a", "label"), *rows])
    content = text.getvalue().encode()
    found = read({"train.csv": content, "test.csv": content})
    if found is None:
        event("refused")
        return
    assert found[0] == [label for _, label in rows]
    check_order(found[1], numbers)


@given(classes, st.lists(values, min_size=ROWS, max_size=ROWS))
@example(["0", ";"], [0.0] * ROWS)
@example(["0", ";0"], [0.0] * ROWS)
def test_a_parquet_file_gives_the_labels_that_were_written_or_is_refused(
    labels: list[str], numbers: list[float]
) -> None:
    written = list(itertools.islice(itertools.cycle(labels), ROWS))
    stream = io.BytesIO()
    parquet.write_table(pa.table({"a": numbers, "label": written}), stream)
    found = read({"train.parquet": stream.getvalue(), "test.parquet": stream.getvalue()})
    if found is None:
        event("refused")
        return
    assert found[0] == written
    check_order(found[1], numbers)


def check_order(features: np.ndarray, numbers: list[float]) -> None:
    """Features are the numbers, shifted and scaled, in their order."""
    assert features.shape == (len(numbers), 1)
    assert np.isfinite(features).all()
    order = np.argsort(numbers, kind="stable")
    assert (np.diff(features[order, 0]) >= 0).all()


def formats() -> dict[str, tuple[dict[str, bytes], str, str]]:
    """Of each format whose bytes are under a checksum: files, the one that is damaged, and the data set's name."""
    images, labels = pixels(ROWS, 8, 8, 1)[..., 0], np.arange(ROWS, dtype=np.uint8) % 2

    def idx(content: np.ndarray) -> bytes:
        shape = np.array(content.shape, ">u4").tobytes()
        return gzip.compress(bytes((0, 0, 8, content.ndim)) + shape + content.tobytes(), mtime=0)

    mnist = {
        f"{part}-{kind}-ubyte.gz": idx(content)
        for part in ("train", "t10k")
        for kind, content in (("images-idx3", images), ("labels-idx1", labels))
    }
    stream = io.BytesIO()
    np.savez_compressed(stream, data=rows_of_bytes(pixels(ROWS, 8, 8)), labels=np.arange(ROWS) % 2 + 1)
    npz = {"train_data_batch_1.npz": stream.getvalue(), "val_data.npz": stream.getvalue()}
    stream = io.BytesIO()
    table = pa.table({"a": np.arange(ROWS) / 7, "label": ["no", "yes"] * (ROWS // 2)})
    parquet.write_table(table, stream, write_page_checksum=True)
    tables = {"train.parquet": stream.getvalue(), "test.parquet": stream.getvalue()}
    coloured = pixels(ROWS, 8, 8)
    folder = {f"{'ab'[i % 2]}/{i}.png": png(image) for i, image in enumerate(coloured)}
    return {
        "idx.gz images": (mnist, "train-images-idx3-ubyte.gz", "mnist"),
        "idx.gz labels": (mnist, "train-labels-idx1-ubyte.gz", "mnist"),
        "npz": (npz, "train_data_batch_1.npz", "imagenet32"),
        "parquet": (tables, "train.parquet", "."),
        "png": (folder, "a/0.png", "."),
    }


FORMATS = formats()
WHOLE = {kind: read(files, name) for kind, (files, _, name) in FORMATS.items()}


@settings(max_examples=150)
@given(st.sampled_from(sorted(FORMATS)), damages())
def test_damage_under_a_checksum_is_refused_or_changes_nothing(
    kind: str, damage: tuple[str, float, bytes]
) -> None:
    files, file, name = FORMATS[kind]
    found, whole = read({**files, file: damaged(files[file], damage)}, name), WHOLE[kind]
    assert whole is not None
    if found is not None:
        assert found[0] == whole[0]
        assert np.array_equal(found[1], whole[1])
