"""Damaged data files load as they were or are refused in one line: no other exception, no hang, no other labels.

Every mutation is drawn from its number, so that a failure repeats.
"""

from __future__ import annotations

import gzip
import io
import json
import random
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from pyarrow import parquet

from _data_helpers import pixels, rows_of_bytes, write_image
from _run_helpers import one_thread as one_thread
from _run_helpers import tiny
from maxl.experiments.data import load
from maxl.experiments.runs.inference import predict
from maxl.experiments.runs.trainer import train

MUTATIONS = 32  # of each format
ROWS = 24
SECONDS = 10  # for one file of a few kilobytes
Labels = list[str]
Mutate = Callable[[bytes, random.Random], bytes]


@contextmanager
def no_longer_than(seconds: int) -> Iterator[None]:
    """AssertionError in place of a hang, where the system has alarms: Windows has none."""
    if not hasattr(signal, "SIGALRM"):
        yield
        return

    def stop(*_: Any) -> None:
        raise AssertionError(f"reading took more than {seconds} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def outcome(name: str, **options: Any) -> tuple[Labels, np.ndarray] | None:
    """Labels and samples of the training part; None where the data are refused in one line."""
    with no_longer_than(SECONDS):
        try:
            data = load(name, **options)
        except (ValueError, OSError) as error:
            refused = str(error)
        else:
            return [data.primary_names[i] for i in data.train.primary.tolist()], data.train.x.numpy()
    assert refused
    assert "\n" not in refused
    return None


def truncate(content: bytes, draw: random.Random) -> bytes:
    return content[: draw.randrange(len(content))]


def flip(content: bytes, draw: random.Random) -> bytes:
    changed = bytearray(content)
    for _ in range(draw.choice((1, 1, 2, 8))):
        changed[draw.randrange(len(changed))] ^= 1 << draw.randrange(8)
    return bytes(changed)


def replace(content: bytes, draw: random.Random) -> bytes:
    """Some bytes become as many others, one value, or none."""
    start = draw.randrange(len(content))
    stop = min(len(content), start + draw.choice((1, 4, 32)))
    new = draw.choice((draw.randbytes(stop - start), b"\0" * (stop - start), b"\xff" * (stop - start), b""))
    return content[:start] + new + content[stop:]


def repeat(content: bytes, draw: random.Random) -> bytes:
    start, stop = sorted(draw.choices(range(len(content)), k=2))
    return content[:stop] + content[start:stop] + content[stop:]


BYTES: tuple[Mutate, ...] = (truncate, flip, flip, replace, repeat)


def mutated(file: Path, draw: random.Random, swap: Mutate) -> bool:
    """Damages a file: its bytes, or with `swap` the types of its content; whether it was the bytes."""
    content, mutate = file.read_bytes(), draw.choice((*BYTES, swap))
    file.write_bytes(mutate(content, draw))
    return mutate is not swap


VALUES = (None, "", "x", 0, -1, 2**70, 1e39, float("nan"), True, [], [[1]], {}, {"a": 1}, "\u0000", "9" * 400)


def table(count: int) -> dict[str, list[Any]]:
    return {
        "a": [i + 0.5 for i in range(count)],
        "b": [7 * i % 5 for i in range(count)],
        "label": ["no", "yes", "other"] * (count // 3),
    }


def csv_of(columns: dict[str, list[Any]]) -> bytes:
    rows = zip(*columns.values(), strict=True)
    return "\n".join([",".join(columns), *(",".join(map(str, row)) for row in rows), ""]).encode()


def swap_cell(content: bytes, draw: random.Random) -> bytes:
    lines = content.decode().split("\n")
    row = draw.randrange(len(lines) - 1)
    cells = lines[row].split(",")
    cells[draw.randrange(len(cells))] = json.dumps(draw.choice(VALUES))
    return "\n".join([*lines[:row], ",".join(cells), *lines[row + 1 :]]).encode()


@pytest.mark.parametrize("seed", range(MUTATIONS))
def test_csv_files(tmp_path: Path, seed: int) -> None:
    whole = csv_of(table(ROWS))
    (tmp_path / "test.csv").write_bytes(csv_of(table(6)))
    file = tmp_path / "train.csv"
    file.write_bytes(whole)
    mutated(file, random.Random(seed), swap_cell)
    found = outcome(str(tmp_path))
    if found is None:
        return
    # The lines tell: a row that the damage did not touch keeps its label, in its place among the others.
    lines = [
        line.split(b",")[-1].strip().strip(b'"')
        for line in file.read_bytes().split(b"\n")[1:]
        if line.strip()
    ]
    assert found[0] == [line.decode() for line in lines]


def parquet_of(columns: dict[str, Any]) -> bytes:
    names = {"info": {"features": {"label": {"_type": "ClassLabel", "names": ["no", "yes", "other"]}}}}
    stream = io.BytesIO()
    whole = pa.table(columns).replace_schema_metadata({"huggingface": json.dumps(names)})
    parquet.write_table(whole, stream, write_page_checksum=True)
    return stream.getvalue()


def numbered(count: int) -> dict[str, Any]:
    return table(count) | {"label": [0, 1, 2] * (count // 3)}


def swap_column(content: bytes, draw: random.Random) -> bytes:
    whole = parquet.read_table(io.BytesIO(content))
    name = draw.choice(whole.column_names)
    columns = {column: whole[column].to_pylist() for column in whole.column_names}
    row = draw.randrange(len(whole))
    new = draw.choice(
        (
            [str(value) for value in columns[name]],
            [[value] for value in columns[name]],
            [None if i == row else value for i, value in enumerate(columns[name])],
            [-5 if i == row else int(value) for i, value in enumerate(columns[name])],
            [b"x"] * len(whole),
            [{"bytes": b"x", "path": None}] * len(whole),
            [None] * len(whole),
        )
    )
    return parquet_of(columns | {name: new})


@pytest.mark.parametrize("seed", range(MUTATIONS))
def test_parquet_files(tmp_path: Path, seed: int) -> None:
    (tmp_path / "test.parquet").write_bytes(parquet_of(numbered(6)))
    file = tmp_path / "train.parquet"
    file.write_bytes(parquet_of(numbered(ROWS)))
    whole = outcome(str(tmp_path))
    assert whole is not None
    damaged = mutated(file, random.Random(seed), swap_column)
    found = outcome(str(tmp_path))
    if found is not None:
        assert found[0] == whole[0]
        assert not damaged or np.array_equal(found[1], whole[1])  # a checksum guards the pages


def swap_mode(content: bytes, draw: random.Random) -> bytes:
    image = Image.open(io.BytesIO(content))
    mode = draw.choice(("1", "P", "LA", "RGBA", "I;16", "RGB"))
    other = image.convert("I").convert(mode) if mode == "I;16" else image.convert(mode)
    stream = io.BytesIO()
    other.save(stream, format=draw.choice(("png", "tiff")))
    return stream.getvalue()


@pytest.mark.parametrize("seed", range(MUTATIONS))
def test_png_files(tmp_path: Path, seed: int) -> None:
    images = pixels(2 * ROWS, 8, 8, 1)
    for i, image in enumerate(images):
        write_image(tmp_path / ("train", "test")[i // ROWS] / "abc"[i % 3] / f"{i // 3:02d}.png", image)
    whole = outcome(str(tmp_path))
    assert whole is not None
    draw = random.Random(seed)
    mutated(tmp_path / "train" / draw.choice("abc") / "01.png", draw, swap_mode)
    found = outcome(str(tmp_path))
    if found is None:
        return
    assert found[0] == whole[0]
    if found[1].shape == whole[1].shape:  # not so where another mode makes all of them coloured
        assert sum(not np.array_equal(x, y) for x, y in zip(found[1], whole[1], strict=True)) <= 1


def idx(content: np.ndarray) -> bytes:
    return bytes((0, 0, 8, content.ndim)) + np.array(content.shape, ">u4").tobytes() + content.tobytes()


def swap_idx(content: bytes, draw: random.Random) -> bytes:
    """Another type, number of axes or shape, compressed as it should be."""
    inner = bytearray(gzip.decompress(content))
    inner[draw.choice((2, 3, 4, 7, 11 if inner[3] == 3 else 6))] = draw.choice((0, 1, 9, 14, 255))
    return gzip.compress(bytes(inner))


@pytest.mark.parametrize("seed", range(MUTATIONS))
def test_idx_files(tmp_path: Path, seed: int) -> None:
    for prefix in ("train", "t10k"):
        images, labels = pixels(ROWS, 8, 8, 1)[..., 0], np.arange(ROWS, dtype=np.uint8) % 3
        (tmp_path / f"{prefix}-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(images)))
        (tmp_path / f"{prefix}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(labels)))
    whole = outcome("mnist", data_dir=tmp_path)
    assert whole is not None
    draw = random.Random(seed)
    mutated(tmp_path / f"train-{draw.choice(('images-idx3', 'labels-idx1'))}-ubyte.gz", draw, swap_idx)
    found = outcome("mnist", data_dir=tmp_path)
    if found is not None:  # a checksum guards the content
        assert found[0] == whole[0]
        assert np.array_equal(found[1], whole[1])


def batch(count: int) -> dict[str, np.ndarray]:
    return {"data": rows_of_bytes(pixels(count, 8, 8)), "labels": np.arange(count) % 3 + 1}


def npz_of(arrays: dict[str, Any]) -> bytes:
    stream = io.BytesIO()
    np.savez_compressed(stream, **arrays)
    return stream.getvalue()


def swap_array(content: bytes, draw: random.Random) -> bytes:
    with np.load(io.BytesIO(content)) as stored:
        arrays: dict[str, Any] = dict(stored)
    name = draw.choice(sorted(arrays))
    array = arrays[name]
    arrays[name] = draw.choice(
        (
            array.astype(np.float64) + 0.5,
            array.astype("U"),
            array[:-1],
            array[None],
            array.astype("M8[s]"),
            np.array(5),
        )
    )
    return npz_of(arrays)


@pytest.mark.parametrize("seed", range(MUTATIONS))
def test_npz_files(tmp_path: Path, seed: int) -> None:
    (tmp_path / "val_data.npz").write_bytes(npz_of(batch(6)))
    file = tmp_path / "train_data_batch_1.npz"
    file.write_bytes(npz_of(batch(ROWS)))
    whole = outcome("imagenet32", data_dir=tmp_path)
    assert whole is not None
    mutated(file, random.Random(seed), swap_array)
    found = outcome("imagenet32", data_dir=tmp_path)
    if found is not None:
        assert (found[0], found[1].tolist()) == (whole[0], whole[1].tolist())


def mat_of(content: dict[str, Any]) -> bytes:
    from scipy.io import savemat

    stream = io.BytesIO()
    savemat(stream, content, do_compression=True)
    return stream.getvalue()


def digits(count: int) -> dict[str, Any]:
    return {"X": pixels(count, 8, 8).transpose(1, 2, 3, 0), "y": np.arange(count)[:, None] % 3 + 1}


def swap_variable(content: bytes, draw: random.Random) -> bytes:
    whole = digits(ROWS)
    name = draw.choice(("X", "y"))
    array = whole[name]
    return mat_of(
        whole
        | {
            name: draw.choice(
                (
                    array + 0.5,
                    array[..., :-1],
                    array[None],
                    "text",
                    {"field": array},
                    np.array([[1], "a"], dtype=object),
                )
            )
        }
    )


@pytest.mark.parametrize("seed", range(MUTATIONS))
def test_mat_files(tmp_path: Path, seed: int) -> None:
    (tmp_path / "test_32x32.mat").write_bytes(mat_of(digits(6)))
    file = tmp_path / "train_32x32.mat"
    file.write_bytes(mat_of(digits(ROWS)))
    whole = outcome("svhn", data_dir=tmp_path)
    assert whole is not None
    mutated(file, random.Random(seed), swap_variable)
    found = outcome("svhn", data_dir=tmp_path)
    if found is not None:
        assert (found[0], found[1].tolist()) == (whole[0], whole[1].tolist())


def swap_value(content: bytes, draw: random.Random) -> bytes:
    """Another value, of any type, somewhere in a JSON file."""
    whole = json.loads(content)
    place = whole
    while True:
        key = draw.choice(sorted(place)) if isinstance(place, dict) else draw.randrange(len(place))
        inner = place[key]
        if not isinstance(inner, (dict, list)) or not inner or draw.random() < 0.3:
            break
        place = inner
    place[key] = draw.choice(VALUES)
    return json.dumps(whole).encode()


@pytest.mark.parametrize("seed", range(MUTATIONS))
def test_json_files(tmp_path: Path, seed: int) -> None:
    pairs = [[f"{('red', 'blue')[i % 4 // 2]} word{i % 5}", f"intent{i % 4}"] for i in range(ROWS)]
    domains = {"one": ["intent0", "intent1"], "two": ["intent2", "intent3"]}
    (tmp_path / "data_full.json").write_text(json.dumps({part: pairs for part in ("train", "val", "test")}))
    (tmp_path / "domains.json").write_text(json.dumps(domains))
    draw = random.Random(seed)
    mutated(tmp_path / draw.choice(("data_full.json", "domains.json")), draw, swap_value)
    found = outcome("clinc150", data_dir=tmp_path)
    if found is None:
        return
    stored = json.loads((tmp_path / "data_full.json").read_text())["train"]
    domain_of = {
        intent: domain
        for domain, intents in json.loads((tmp_path / "domains.json").read_text()).items()
        for intent in intents
    }
    assert found[0] == [domain_of[intent] for _, intent in stored]


@pytest.fixture(scope="module")
def text_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("text")
    lines = [f"{('red cold', 'blue warm')[i % 2]} thing{i},{'ab'[i % 2]}" for i in range(20)]
    (root / "t.csv").write_text("\n".join(["sentence,label", *lines]))
    train(
        tiny(data=str(root / "t.csv"), train_size=None, method="single", batch_size=8, epochs=1), root / "run"
    )
    return root / "run"


def swap_line(content: bytes, draw: random.Random) -> bytes:
    lines = content.split(b"\n")
    lines[draw.randrange(len(lines))] = draw.choice(
        (b"", b"\0", b"\xff", b"\x0c\x0b\x1c", b"x" * 10_000, "\u2028".encode())
    )
    return b"\n".join(lines)


@pytest.mark.parametrize("seed", range(MUTATIONS))
def test_text_files(text_run: Path, tmp_path: Path, seed: int) -> None:
    file = tmp_path / "new.txt"
    file.write_bytes("".join(f"{('red', 'blue')[i % 2]} th\u00eeng{i}\n" for i in range(ROWS)).encode())
    mutated(file, random.Random(seed), swap_line)
    try:
        with no_longer_than(SECONDS):
            found = predict(text_run, file)
    except (ValueError, OSError) as error:
        refused = str(error)
    else:
        refused = ""
    assert "\n" not in refused
    if refused:
        return
    content = file.read_bytes()
    assert len(found) == content.count(b"\n") + (not content.endswith(b"\n"))
