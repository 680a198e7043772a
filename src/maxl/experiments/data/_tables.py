"""Parquet and CSV files as tables, refused where they cannot be read for certain as they were meant."""

from __future__ import annotations

import csv
import io
import json
import re
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from maxl.experiments.data._files import require_regular
from maxl.experiments.data._memory import require_memory

_SHARD = re.compile(r"[-_.]?(?P<index>\d+)(-of-(?P<count>\d+))?(-[0-9a-f]+)?")

PLAIN_NUMBER = re.compile(r"\s*[-+]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][-+]?[0-9]+)?\s*")


@dataclass(frozen=True)
class Table:
    """A table.

    Attributes:
        content: Its columns.
        origin: How messages name it: "'file'" as a rule.
        files: The CSV files that it was read from, in the order of its rows, whose columns have the kinds that they look like;
            none where kinds were given.
    """

    content: pa.Table
    origin: str
    files: tuple[Path, ...] = ()


def validation_files(folder: Path) -> tuple[list[Path], str]:
    """The files of the validation part of a folder, as ``table_files`` gives them, and what its name begins with.

    It may be called `validation*`, or `valid` or `val`, alone or in numbered pieces.

    Raises:
        ValueError: if two of these are there; or as ``table_files``.
    """
    found = [(table_files(folder, "validation"), "validation")]
    found += [(table_files(folder, part, exactly=True), part) for part in ("valid", "val")]
    there = [(files, part) for files, part in found if files]
    if len(there) > 1:
        raise ValueError(
            f"a folder has one validation part; '{there[0][0][0]}' and '{there[1][0][0]}' both look like it: keep one of them"
        )
    return there[0] if there else ([], "validation")


def table_files(folder: Path, part: str, *, exactly: bool = False) -> list[Path]:
    """The files of one part of a folder, in the order of their rows: `<part>*.parquet`, or `<part>*.csv`; none where there are none.

    Args:
        folder: The folder.
        part: What their names begin with.
        exactly: Whether nothing else follows it in a name but the number of a piece.

    Raises:
        ValueError: if there are both, or several files that are not the numbered pieces of one table, or one of the pieces
            is missing.
    """
    by_kind = [sorted(folder.glob(f"{part}*{suffix}")) for suffix in (".parquet", ".csv")]
    if exactly:
        by_kind = [
            [file for file in files if file.stem == part or _SHARD.fullmatch(file.stem.removeprefix(part))]
            for files in by_kind
        ]
    if all(by_kind):
        raise ValueError(f"'{folder}' has {part} as .parquet and as .csv: keep one of them")
    files = by_kind[0] or by_kind[1]
    if files:
        _check_pieces(files, part)
    return files


def read_tables(files: Sequence[Path], origin: str) -> Table:
    """One table of its pieces.

    Args:
        files: One or more, in the order of their rows.
        origin: How messages name it, where there are several.

    Raises:
        ValueError: if they differ in their columns or class names; or as `read_table`.
    """
    require_memory(
        sum(map(_unpacked_bytes, files)),
        f"the columns of {origin if len(files) > 1 else repr(str(files[0]))}",
    )
    tables = [read_table(file) for file in files]
    first = tables[0]
    for table in tables[1:]:
        if {*table.content.column_names} != {*first.content.column_names}:
            raise ValueError(
                f"pieces of one table need the same columns; {table.origin} differs from {first.origin}"
            )
        check_same_names(first, table)
    try:
        whole = pa.concat_tables([table.content for table in tables], promote_options="permissive")
    except pa.ArrowException as error:
        raise ValueError(
            f"pieces of one table need columns of the same kinds; those of {first.origin} differ: {error}"
        ) from error
    pieces = tuple(file for table in tables for file in table.files)
    return Table(whole, first.origin if len(files) == 1 else origin, pieces)


def _unpacked_bytes(file: Path) -> int:
    """What a table takes in memory at least; 0 where its file does not say, or cannot be read, which is said elsewhere."""
    from pyarrow import parquet

    if not file.is_file():
        return 0
    if file.suffix.lower() != ".parquet":
        return file.stat().st_size
    try:
        metadata = parquet.read_metadata(file)
    except (pa.ArrowException, OSError):
        return 0
    return sum(metadata.row_group(i).total_byte_size for i in range(metadata.num_row_groups))


def _check_pieces(files: Sequence[Path], part: str) -> None:
    """ValueError unless there is one file, or the numbered pieces of one table, all of them."""
    matches = [_SHARD.fullmatch(file.stem.removeprefix(part)) for file in files]
    counts = {match["count"] for match in matches if match}
    odd = [file for file, match in zip(files, matches, strict=True) if match is None]
    if len(files) > 1 and (odd or len(counts) > 1):
        one = odd[-1] if odd else files[-1]
        raise ValueError(
            f"a part is one file or numbered pieces ({part}-00000-of-00002); '{one}' lies beside "
            f"'{files[0] if one != files[0] else files[1]}': move away what does not belong to it"
        )
    if counts and (count := counts.pop()) is not None:
        present = [int(match["index"]) for match in matches if match]
        missing = sorted({*range(int(count))} - {*present})
        if missing or len(present) != int(count):
            what = f"piece {missing[0]} is missing" if missing else "one is there twice"
            raise ValueError(
                f"'{files[0].parent}' needs each of the {int(count)} pieces of {part} once; {what}"
            )


def read_table(file: Path, text: Sequence[str] = ()) -> Table:
    """A parquet or CSV file (comma-separated UTF-8 with a header line).

    Args:
        file: The file.
        text: Columns of a CSV file that are read as they are written, whatever they look like.

    Raises:
        FileNotFoundError: if there is none.
        ValueError: if the file cannot be read as what its suffix says, or two columns share a name.
    """
    require_regular(file)
    is_csv = file.suffix.lower() == ".csv"
    try:
        content = _read_csv(file, text) if is_csv else _read_parquet(file)
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"'{file}' cannot be read as a {file.suffix[1:]} file: {reason}") from error
    name, times = Counter(content.column_names).most_common(1)[0] if content.column_names else ("", 0)
    if times > 1:
        raise ValueError(f"columns need different names; '{file}' has {times} called '{name}'")
    return Table(content, f"'{file}'", (file,) if is_csv else ())


def as_written(table: Table, names: Sequence[str]) -> Table:
    """A table whose columns of these names are text, as its CSV files write it; it stays as it is where it is of other files.

    Raises:
        ValueError: if a file has changed since it was read.
    """
    schema = table.content.schema
    names = [name for name in names if not pa.types.is_string(schema.field(name).type)]
    if not names or not table.files:
        return table
    try:
        texts = pa.concat_tables([_parse_csv(file.read_bytes(), names, names) for file in table.files])
    except (pa.ArrowException, OSError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{table.origin} cannot be read again: {reason}") from error
    if len(texts) != len(table.content):
        raise ValueError(f"{table.origin} has changed since it was read: read it again")
    content = table.content
    for name in names:
        content = content.set_column(schema.get_field_index(name), name, texts[name])
    return Table(content, table.origin, table.files)


def _read_parquet(file: Path) -> pa.Table:
    from pyarrow import parquet

    with parquet.ParquetFile(file, page_checksum_verification=True, pre_buffer=False) as opened:
        table = opened.read(use_threads=False)
    table.validate(full=True)  # text that is not UTF-8, and offsets that lead nowhere
    return table


def _read_csv(file: Path, text: Sequence[str]) -> pa.Table:
    content = file.read_bytes()
    _check_csv(file, content)
    table = _parse_csv(content, text)
    if "" in table.column_names:
        raise ValueError(
            f"'{file}': column {table.column_names.index('') + 1} has no name (an index written along?): "
            "name it or leave it out"
        )
    if all(map(PLAIN_NUMBER.fullmatch, table.column_names)) and any(
        "." in name for name in table.column_names
    ):
        raise ValueError(
            f"'{file}' needs a header line with the columns' names; its first line holds the numbers "
            f"{', '.join(table.column_names[:3])}"
        )
    return table


def _parse_csv(content: bytes, text: Sequence[str], only: Sequence[str] = ()) -> pa.Table:
    """All columns, or only some, those in ``text`` as they are written."""
    from pyarrow import csv as arrow_csv

    return arrow_csv.read_csv(
        pa.BufferReader(content),
        # Arrow's threads outlive the reading, and a process that ends early, with a message, may be aborted by them.
        read_options=arrow_csv.ReadOptions(use_threads=False),
        parse_options=arrow_csv.ParseOptions(newlines_in_values=True),
        convert_options=arrow_csv.ConvertOptions(
            column_types=dict.fromkeys(text, pa.string()), include_columns=[*only]
        ),
    )


def _check_csv(file: Path, content: bytes) -> None:
    """ValueError, with the line, if `content` is no UTF-8, or has other separators or uneven quotes.

    Arrow would take such text for other columns, values or rows than were meant.
    """
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ValueError(f"'{file}', line {line}: no UTF-8 text: save it as UTF-8") from error
    if (zero := text.find("\0")) >= 0:
        line = text.count("\n", 0, zero) + 1
        raise ValueError(f"'{file}', line {line}: a zero byte, so this is no text: save it as UTF-8")
    header = text.lstrip("\r\n").split("\n", 1)[0]
    if "," not in header and (other := next((mark for mark in ";\t|" if mark in header), None)):
        raise ValueError(f"'{file}': columns need to be separated by commas; got {other!r} in the first line")
    if '"' in text:
        limit = csv.field_size_limit(sys.maxsize)  # a text may be long
        reader = csv.reader(io.StringIO(text, newline=""), strict=True)
        start = 1
        try:
            for _ in reader:
                start = reader.line_num + 1
        except csv.Error as error:
            raise ValueError(
                f"'{file}', line {start}: the quotes of a value are not even ({error})"
            ) from error
        finally:
            csv.field_size_limit(limit)


def class_names(table: Table) -> dict[str, tuple[str, ...]]:
    """The names of each column of class labels, which the field's parquet files carry in their metadata.

    Raises:
        ValueError: if that metadata is damaged, or two classes of a column share a name.
    """
    metadata: Mapping[bytes, bytes] = table.content.schema.metadata or {}
    if b"huggingface" not in metadata:
        return {}
    try:
        described = json.loads(metadata[b"huggingface"])
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{table.origin} has damaged metadata of the hub: {error}") from error
    info = described.get("info") if isinstance(described, dict) else None
    features = (info.get("features") or {}) if isinstance(info, dict) else None
    if not isinstance(features, dict):
        raise ValueError(f"{table.origin} has damaged metadata of the hub: it describes no features")
    return {
        column: _distinct(feature["names"], column, table.origin)
        for column, feature in features.items()
        if isinstance(feature, dict) and feature.get("_type") == "ClassLabel" and feature.get("names")
    }


def _distinct(names: object, column: str, origin: str) -> tuple[str, ...]:
    if (
        not isinstance(names, list)
        or not all(isinstance(name, str) for name in names)
        or len({*names}) < len(names)
    ):
        raise ValueError(
            f"{origin}: the classes of column '{column}' need a list of different names; got {names}"
        )
    return tuple(names)


def check_same_names(one: Table, other: Table) -> None:
    """ValueError if a number may stand for another class in `other` than in `one`."""
    known, found = class_names(one), class_names(other)
    for column in {**known, **found}:
        if known.get(column) != found.get(column):
            raise ValueError(
                f"column '{column}' needs the same classes in the same order in every file; "
                f"those that {other.origin} names differ from {one.origin}"
            )
