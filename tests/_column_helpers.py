"""A table with columns of each kind."""

from __future__ import annotations

import csv
import io
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

TOWNS = ["Bonn", "Ulm", "", "Ulm", "Jena"]


def rows(count: int = 60) -> list[dict[str, Any]]:
    """A table of each kind of column, with gaps."""
    start = datetime(2024, 1, 1)
    return [
        {
            "age": "" if i % 7 == 3 else 20 + i % 11,
            "height": 1.5 + 0.01 * (i % 13),
            "town": TOWNS[i % 5],
            "joined": (start + timedelta(days=i)).date().isoformat(),
            "note": f"a short note on case {i} of {'rain' if i % 2 else 'sunshine'}",
            "member": "true" if i % 3 else "false",
            "label": "yes" if i % 2 else "no",
        }
        for i in range(count)
    ]


def write(file: Path, table: list[dict[str, Any]], **changed: list[Any]) -> str:
    """A CSV file; ``changed`` replaces columns or adds some."""
    table = [{**row, **{name: values[i] for name, values in changed.items()}} for i, row in enumerate(table)]
    text = io.StringIO()
    writer = csv.DictWriter(text, list(table[0]))
    writer.writeheader()
    writer.writerows(table)
    file.write_text(text.getvalue())
    return str(file)
