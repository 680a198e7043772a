"""What the README shows has to run: its Python as it stands, its commands as far as their flags go."""

from __future__ import annotations

import re
import shlex
import warnings
from pathlib import Path

import pytest

import maxl
from maxl.experiments.cli import parser

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
TUTORIALS = sorted((DOCS / "tutorials").glob("*.md"))
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.glob("*.md")), *TUTORIALS]


def blocks(language: str) -> list[tuple[str, str]]:
    """(page:number, code) of every fenced block in a language."""
    found = []
    for page in PAGES:
        codes = re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), flags=re.DOTALL | re.MULTILINE)
        found += [(f"{page.relative_to(ROOT).as_posix()}:{i}", code) for i, code in enumerate(codes)]
    return found


def commands() -> list[tuple[str, list[str]]]:
    """Every ``maxl`` command line in a bash block, as arguments."""
    found = []
    for where, code in blocks("bash"):
        for line in code.replace("\\\n", " ").splitlines():
            for part in line.split("&&"):
                words = shlex.split(part, comments=True)
                if "maxl" in words:
                    found.append((where, words[words.index("maxl") + 1 :]))
    return found


def test_there_is_something_to_check() -> None:
    assert len(blocks("python")) >= 1
    assert len(commands()) >= 3


def programs() -> list[tuple[str, str]]:
    """Each block by itself; those of a tutorial, which go on from each other, as one program."""
    tutorials = {page.relative_to(ROOT).as_posix() for page in TUTORIALS}
    found: dict[str, str] = {}
    for where, code in blocks("python"):
        page = where.partition(":")[0]
        key = page if page in tutorials else where
        found[key] = found.get(key, "") + code
    return list(found.items())


def test_every_tutorial_has_code() -> None:
    pages = {page.relative_to(ROOT).as_posix() for page in TUTORIALS if page.name != "index.md"}
    assert pages
    assert pages <= {where for where, _ in programs()}


@pytest.mark.parametrize(("where", "code"), programs())
def test_python_runs(where: str, code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    if "import lightning" in code:
        warnings.simplefilter("ignore")  # its advice on workers, and what it uses that is deprecated
    exec(compile(code, where, "exec"), {"__name__": "__main__"})


@pytest.mark.parametrize(("where", "words"), commands())
def test_commands_parse(where: str, words: list[str]) -> None:
    parser().parse_checked(words)


def test_the_readmes_presets_are_those_there_are() -> None:
    text = (ROOT / "README.md").read_text()
    assert re.findall(r"^\| `(\w+)` \|.*\|.*\|$", text, flags=re.MULTILINE) == list(maxl.PRESETS)


def test_the_ci_runs_the_readmes_test_command() -> None:
    readme = re.search(
        r"python -m pip install uv && (uv run bash dev/check)", (ROOT / "README.md").read_text()
    )
    assert readme is not None
    assert readme.group(1) in (ROOT / ".ci" / "run").read_text().splitlines()
