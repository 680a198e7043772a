"""Docstrings and pages as they are readable without the site, in the words that Sphinx wants.

Docstrings have Markdown tables, and a line for several attributes at once. Pages lead into the repository, where the site
has no address: such a link becomes its words and the file's path, as on a package index.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sphinx.application import Sphinx


def with_tables(lines: list[str]) -> list[str]:
    """Markdown tables as the directive list-table."""
    found: list[str] = []
    rows = iter(range(len(lines)))
    for i in rows:
        line = lines[i]
        following = lines[i + 1].strip() if i + 1 < len(lines) else ""
        if not (line.strip().startswith("|") and re.fullmatch(r"[|\s:-]+", following) and following):
            found.append(line)
            continue
        indent = line[: len(line) - len(line.lstrip())]
        found += ["", f"{indent}.. list-table::", f"{indent}   :header-rows: 1", ""]
        last = i
        while last < len(lines) and lines[last].strip().startswith("|"):
            if last != i + 1:
                first, *others = [cell.strip() for cell in lines[last].strip().strip("|").split("|")]
                found.append(f"{indent}   * - {first}")
                found += [f"{indent}     - {cell}" for cell in others]
            last += 1
        found.append("")
        for _ in range(last - i - 1):
            next(rows)
    return found


def one_by_one(lines: list[str]) -> list[str]:
    """Attributes that share a line, each on its own."""
    found: list[str] = []
    within = False
    for line in lines:
        if re.fullmatch(r"\s*[A-Z]\w+:", line):
            within = line.strip() == "Attributes:"
        several = re.fullmatch(r"(\s+)(\w+(?:, \w+)+): (.*)", line) if within else None
        if several is None:
            found.append(line)
            continue
        indent, names, text = several.groups()
        found += [f"{indent}{name}: {text}" for name in names.split(", ")]
    return found


def docstring(app: Sphinx, what: str, name: str, obj: object, options: Any, lines: list[str]) -> None:
    """Both of these; before napoleon reads the sections."""
    lines[:] = one_by_one(with_tables(lines))


def page(app: Sphinx, name: str, content: list[str]) -> None:
    """Links out of this folder, as words and paths."""
    text = re.sub(r"\[([^\]]+)\]\((?:\.\./)\1\)", r"`\1`", content[0])
    content[0] = re.sub(r"\[([^\]]+)\]\(\.\./([^)#]+)(?:#[^)]*)?\)", named, text)


def named(link: re.Match[str]) -> str:
    """The path alone where the words are its name."""
    words, path = link.groups()
    return f"`{path}`" if words.strip("`") in path else f"{words} (`{path}`)"


def skipped(app: Sphinx, what: str, name: str, value: object, skip: bool, options: Any) -> bool | None:
    """Fields of named tuples, which the class's own docstring describes."""
    return True if (getattr(value, "__doc__", None) or "").startswith("Alias for field number") else None


def setup(app: Sphinx) -> dict[str, Any]:
    """Called by Sphinx."""
    app.connect("autodoc-process-docstring", docstring, priority=400)
    app.connect("autodoc-skip-member", skipped)
    app.connect("source-read", page)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
