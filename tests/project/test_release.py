"""What strangers get: the distributions, what the package index shows, the version, bounds of conda, the workflows."""

from __future__ import annotations

import email
import os
import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from email.message import Message
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement

import maxl

ROOT = Path(__file__).parents[2]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
RENAMED = {"torch": "pytorch", "kaleido": "python-kaleido", "ray": "ray-core"}  # what conda-forge calls them


@pytest.fixture(scope="session")
def distributions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel and the source distribution: those of dev/release-check, else built here."""
    if given := os.environ.get("MAXL_DISTRIBUTIONS"):
        return Path(given)
    folder = tmp_path_factory.mktemp("distributions")
    pytest.importorskip("hatch_fancy_pypi_readme", reason="building needs hatch-fancy-pypi-readme")
    command = [sys.executable, "-m", "hatchling", "build", "-d", str(folder)]
    subprocess.run(command, check=True, capture_output=True, cwd=ROOT)
    return folder


@pytest.fixture(scope="session")
def wheel(distributions: Path) -> Path:
    (found,) = distributions.glob("*.whl")
    return found


def description(wheel: Path) -> Message:
    """The metadata, whose payload is the page that a package index shows."""
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        return email.message_from_string(archive.read(name).decode())


# The distributions


def test_the_wheel_holds_the_package_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    information = f"maxl_torch-{PROJECT['version']}.dist-info/"
    kept = {name for name in names if not name.startswith(information)}
    assert kept == {
        path.relative_to(ROOT / "src").as_posix()
        for path in (ROOT / "src" / "maxl").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert "maxl/py.typed" in kept
    assert "maxl/experiments/report/report.css" in kept
    assert information + "licenses/LICENSE" in names


def test_the_source_distribution_can_be_read_tested_and_built(distributions: Path) -> None:
    (path,) = distributions.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    wanted = ["LICENSE", "CHANGELOG.md", "CITATION.cff", "CONTRIBUTING.md", "SECURITY.md", "pyproject.toml"]
    wanted += [
        "src/maxl/py.typed",
        "docs/guide.md",
        "tests/conftest.py",
        "examples/loop.py",
        "conda/recipe.yaml",
    ]
    wanted += ["dev/evidence/digits.csv", "recipes/paper.yaml", "benchmarks/step.py"]
    assert not set(wanted) - names
    tops = {name.split("/")[0] for name in names}
    assert not tops & {"shared", ".venv", "uv.lock", "dist", "build"}
    assert not any("__pycache__" in name or name.startswith("docs/_build") for name in names)


def test_a_package_index_takes_and_shows_them(distributions: Path) -> None:
    pytest.importorskip("twine", reason="asks twine")
    files = [str(path) for path in sorted(distributions.iterdir()) if path.suffix in (".whl", ".gz")]
    command = [sys.executable, "-m", "twine", "check", "--strict", *files]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_page_on_a_package_index_has_no_link_into_the_repository(wheel: Path) -> None:
    page = str(description(wheel).get_payload())
    targets = re.findall(r"\]\(([^)]*)\)", page)
    assert [target for target in targets if not target.startswith("https://")] == []
    assert "`docs/exactness.md` says what is exact" in page  # the words are still there


def test_its_code_is_the_readmes(wheel: Path) -> None:
    """Rewriting links changes no code, where brackets and parentheses stand side by side too."""
    code = re.compile(r"^```.*?^```", re.DOTALL | re.MULTILINE)
    readme = (ROOT / "README.md").read_text("utf-8")
    assert code.findall(str(description(wheel).get_payload())) == code.findall(readme)


def test_licence_and_types_are_told(wheel: Path) -> None:
    told = description(wheel)
    assert told["License-Expression"] == "MIT"
    assert told.get_all("License-File") == ["LICENSE"]
    assert "Typing :: Typed" in (told.get_all("Classifier") or [])


@pytest.mark.slow
def test_release_check_passes(tmp_path: Path) -> None:
    """Built in isolation and installed beside PyTorch alone; needs a package index."""
    out = tmp_path / "distributions"
    command = ["bash", str(ROOT / "dev" / "release-check"), str(out)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(list(out.glob("maxl_torch-*"))) == 2
    again = subprocess.run(command, capture_output=True, text=True, check=False)
    assert again.returncode == 2
    assert "exists; name a new folder" in again.stderr


# What is said twice


def test_the_version_is_the_same_everywhere() -> None:
    version = PROJECT["version"]
    assert maxl.__version__ == version
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))["version"] == version
    assert (
        yaml.safe_load((ROOT / "conda" / "recipe.yaml").read_text("utf-8"))["context"]["version"] == version
    )
    headings = re.findall(r"^## \[(.+?)\]", (ROOT / "CHANGELOG.md").read_text("utf-8"), re.MULTILINE)
    assert headings[:2] == ["Unreleased", version]


def test_the_citation_names_the_paper() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))
    assert {"cff-version", "message", "title", "authors", "license"} <= set(citation)
    paper = citation["preferred-citation"]
    assert [author["family-names"] for author in paper["authors"]] == ["Liu", "Davison", "Johns"]
    assert paper["title"] == "Self-Supervised Generalisation with Meta Auxiliary Learning"
    assert paper["year"] == 2019


def bounds(requirements: list[str]) -> dict[str, set[str]]:
    """Distribution to its bounds, the project's own extras left out; of two lower bounds the higher one."""
    found: dict[str, Requirement] = {}
    for text in requirements:
        one = Requirement(text)
        if one.name == "maxl-torch":
            continue
        assert one.marker is None, "conda's recipe knows no markers"
        before = found.get(one.name)
        if before is None or _lower(one) > _lower(before):
            found[one.name] = one
    return {name: {str(bound) for bound in one.specifier} for name, one in found.items()}


def _lower(requirement: Requirement) -> tuple[int, ...]:
    (version,) = (bound.version for bound in requirement.specifier if bound.operator == ">=")
    return tuple(int(part) for part in version.split("."))


def test_condas_bounds_are_pyprojects() -> None:
    recipe = yaml.safe_load((ROOT / "conda" / "recipe.yaml").read_text("utf-8"))
    needed = recipe["requirements"]

    def conda(lines: list[str]) -> dict[str, set[str]]:
        pairs = (line.partition(" ")[::2] for line in lines)
        return {name: set(limits.split(",")) if limits else set() for name, limits in pairs}

    def renamed(found: dict[str, set[str]]) -> dict[str, set[str]]:
        return {RENAMED.get(name, name): limits for name, limits in found.items()}

    python = {"python": {PROJECT["requires-python"]}}
    extras = [line for lines in PROJECT["optional-dependencies"].values() for line in lines]
    assert conda(needed["run"]) == renamed(bounds(PROJECT["dependencies"])) | python
    assert conda(needed["run_constraints"]) == renamed(bounds(extras))
    system = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["build-system"]["requires"]
    assert conda(needed["host"]) == bounds(system) | python | {"pip": set()}
    (entry,) = recipe["build"]["python"]["entry_points"]
    assert entry == f"maxl = {PROJECT['scripts']['maxl']}"
    assert recipe["about"]["summary"] == PROJECT["description"]


# The workflows


def test_the_workflows_are_what_github_takes() -> None:
    pytest.importorskip("check_jsonschema", reason="asks check-jsonschema")
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.github-workflows"]
    done = subprocess.run([*command, *map(str, WORKFLOWS)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_systems_and_pythons_that_are_named_are_tested() -> None:
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "tests.yml").read_text("utf-8"))
    matrix = workflow["jobs"]["systems"]["strategy"]["matrix"]
    classified = re.findall(r"Python :: (3\.\d+)", "\n".join(PROJECT["classifiers"]))
    assert matrix["python"] == classified
    assert classified[0] == PROJECT["requires-python"].removeprefix(">=")
    systems = {"MacOS": "macos", "Microsoft :: Windows": "windows", "POSIX :: Linux": "ubuntu"}
    named = {
        line.removeprefix("Operating System :: ") for line in PROJECT["classifiers"] if "System ::" in line
    }
    assert {f"{systems[name]}-latest" for name in named} == set(matrix["os"])


def test_nothing_is_published_untested_or_with_a_token() -> None:
    publish = yaml.safe_load((ROOT / ".github" / "workflows" / "publish.yml").read_text("utf-8"))["jobs"]
    assert publish["tests"]["uses"] == "./.github/workflows/tests.yml"
    assert publish["build"]["needs"] == "tests"
    assert publish["publish"]["needs"] == "build"
    assert publish["publish"]["permissions"] == {"id-token": "write"}
    assert not any("secrets." in path.read_text("utf-8") for path in WORKFLOWS)


def test_every_script_that_a_workflow_runs_is_there() -> None:
    scripts = [path for text in WORKFLOWS for path in re.findall(r"bash (\S+)", text.read_text("utf-8"))]
    assert len(scripts) >= 4
    assert [script for script in scripts if not (ROOT / script).is_file()] == []
