"""CSV files for spreadsheets and terminals: text in them is text, whatever it looks like."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence

from maxl.experiments.cli.terminal import visible


def csv_text(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Lines of comma-separated cells; the header's are made safe here, those of rows by the caller, as ``cell`` does."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([cell(name) for name in header])
    writer.writerows(rows)
    return text.getvalue()


def cell(text: str) -> str:
    """A text as a cell that neither a spreadsheet takes for a formula nor a terminal for commands."""
    from maxl.experiments.data import as_cell  # late, as everything that takes time to load

    return visible(as_cell(text))


def number(value: float | None) -> str:
    """A number to the nine digits that float32 has; nothing where there is none."""
    return "" if value is None else str(value) if isinstance(value, int) else f"{value:.9g}"
