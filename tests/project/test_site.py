"""The documentation site: every public name is in its reference, no link is dead, formulas and figures can be shown."""

from __future__ import annotations

import importlib
import importlib.util
import os
import pkgutil
import re
import runpy
import subprocess
import sys
import zlib
from pathlib import Path

import pytest

import maxl

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = [path for path in sorted(DOCS.rglob("*.md")) if not {"_build", "gallery"} & set(path.parts)]
OWN = [ROOT / name for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md")]
REFERENCE = {path.stem: path.read_text("utf-8") for path in sorted((DOCS / "api").glob("*.md"))}
GALLERY = sorted((DOCS / "gallery_source").glob("*.py"))


def prose(page: Path) -> str:
    """A page without its blocks of code."""
    return re.sub(r"^```.*?^```", "", page.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)


def public_modules() -> set[str]:
    found = {module.name for module in pkgutil.walk_packages(maxl.__path__, "maxl.")}
    return {name for name in found if "._" not in name and not name.endswith("__main__")}


def sentences() -> list[str]:
    """Names that the reference describes in sentences of its own: types and constants, which have no docstrings."""
    found, module = [], ""
    for line in "\n".join(REFERENCE.values()).splitlines():
        if line.startswith(".. py:currentmodule:: "):
            module = line.split()[-1]
        elif line.startswith(".. py:data:: "):
            found.append(f"{module}.{line.split()[-1]}")
    return found


# The reference


def test_every_public_module_is_in_the_reference() -> None:
    described = re.findall(r"^\.\. automodule:: (\S+)$", "\n".join(REFERENCE.values()), re.MULTILINE)
    assert len(described) == len(set(described))
    assert set(described) == public_modules()


def test_every_name_of_the_roof_is_in_its_table() -> None:
    rows = re.findall(r"^\| \{py:obj\}`maxl\.(\w+)` \| `([\w.]+)` \|$", REFERENCE["index"], re.MULTILINE)
    assert [name for name, _ in rows] == maxl.__all__
    for name, home in rows:
        assert getattr(maxl, name) is getattr(importlib.import_module(home), name)


@pytest.mark.parametrize("module", sorted(public_modules()))
def test_every_public_name_has_something_to_show(module: str) -> None:
    """What a package names in ``__all__``: with a docstring of its own, or a sentence in the reference."""
    home = importlib.import_module(module)
    assert (home.__doc__ or "").strip()
    given = set(sentences())
    for name in getattr(home, "__all__", ()):
        value = getattr(home, name)
        own = isinstance(value, type) or hasattr(value, "__code__") or hasattr(value, "__wrapped__")
        assert (own and (value.__doc__ or "").strip()) or f"{module}.{name}" in given, f"{module}.{name}"


# Links


def anchors(page: Path) -> set[str]:
    """Of a page's headings, as Markdown renderers make them."""
    titles = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    plain = [re.sub(r"[^\w\- ]", "", title.lower()) for title in titles]
    return {title.strip().replace(" ", "-") for title in plain}


@pytest.mark.parametrize("page", [*PAGES, *OWN], ids=lambda page: page.relative_to(ROOT).as_posix())
def test_no_link_within_the_project_is_dead(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), f"{target} leads nowhere"
        if anchor:
            assert anchor in anchors(file), f"{target}: no such heading"


def test_every_page_is_in_a_table_of_contents() -> None:
    listed = {DOCS / "index.md"}
    for page in PAGES:
        for block in re.findall(
            r"^```\{toctree\}\n(.*?)^```", page.read_text("utf-8"), re.MULTILINE | re.DOTALL
        ):
            names = [line for line in block.splitlines() if line and not line.startswith(":")]
            listed |= {(page.parent / f"{name}.md").resolve() for name in names}
    assert set(PAGES) <= listed


# Formulas and figures


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(DOCS).as_posix())
def test_formulas_leave_no_command_behind(page: Path) -> None:
    converter = pytest.importorskip("latex2mathml.converter", reason="formulas are shown by latex2mathml")
    text = prose(page)
    formulas = re.findall(r"\$\$(.+?)\$\$", text, re.DOTALL)
    formulas += re.findall(r"(?<!\$)\$([^$]+)\$(?!\$)", text)
    for formula in formulas:
        assert not re.search(r">\\[a-zA-Z]", converter.convert(formula)), formula


def test_there_are_formulas() -> None:
    assert prose(DOCS / "mathematics.md").count("$$") > 20


@pytest.mark.parametrize("program", GALLERY, ids=lambda program: program.stem)
def test_the_gallery_runs(program: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    matplotlib = pytest.importorskip("matplotlib", reason="the gallery draws with matplotlib")
    matplotlib.use("Agg")
    runpy.run_path(str(program), run_name="__main__")
    pyplot = importlib.import_module("matplotlib.pyplot")
    assert pyplot.get_fignums()
    pyplot.close("all")


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("sphinx") is None, reason="the site is built by Sphinx")
def test_the_site_is_built_without_a_warning() -> None:
    """As ``dev/docs`` builds it; then every public name has a place in its inventory."""
    environment = {k: v for k, v in os.environ.items() if k != "MAXL_DOCS_INTERSPHINX"}
    done = subprocess.run(
        ["bash", str(ROOT / "dev" / "docs"), "-E"],
        capture_output=True,
        text=True,
        check=False,
        env=environment | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    inventory = (DOCS / "_build" / "html" / "objects.inv").read_bytes().split(b"\n", 4)[4]
    names = {line.split()[0] for line in zlib.decompress(inventory).decode().splitlines()}
    for module in public_modules():
        for name in getattr(importlib.import_module(module), "__all__", ()):
            assert f"{module}.{name}" in names
