"""The walls: what may import what, and what runs where torch alone is installed."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest

import maxl

ROOT = Path(__file__).parents[2]
SRC = ROOT / "src"
FOLDERS = [
    ROOT / name
    for name in ("src", "tests", "benchmarks", "dev", "recipes", "examples")
    if (ROOT / name).is_dir()
]
FILES = sorted(file for folder in FOLDERS for file in folder.rglob("*.py"))
COMMANDS = (
    "demo",
    "train",
    "compare",
    "check",
    "report",
    "evaluate",
    "predict",
    "labels",
    "export",
    "advise",
    "tune",
)
HINT = 'pip install "maxl-torch[experiments]"'


# Who imports what, by the syntax of the files


def imported(source: str) -> Iterator[str]:
    """Every imported module, and every imported name as ``module.name``."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute here"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def owner(parts: list[str]) -> Path | None:
    """The folder or file of this project in which a module or name may be private; None for others' packages."""
    *outer, private = parts
    for folder in FOLDERS:
        home = folder.joinpath(*outer)
        if not outer and ((home / private).is_dir() or (home / f"{private}.py").is_file()):
            return home
        if outer and home.is_dir():
            return home
        if outer and home.with_suffix(".py").is_file():
            return home.with_suffix(".py")
    return None


def trespasses(source: str, file: Path) -> list[str]:
    """What is private elsewhere and imported in this file."""
    found = []
    for name in imported(source):
        parts = name.split(".")
        for i, part in enumerate(parts):
            if part.startswith("_") and not part.endswith("__"):
                home = owner(parts[: i + 1])
                if home is not None and not file.is_relative_to(home):
                    found.append(name)
    return found


def test_nothing_private_is_imported_from_outside_its_package() -> None:
    found = {
        str(file.relative_to(ROOT)): names for file in FILES if (names := trespasses(file.read_text(), file))
    }
    assert found == {}


@pytest.mark.parametrize(
    ("source", "file", "trespass"),
    [
        ("from maxl.check._case import Case", "tests/check/test_check.py", True),
        ("from maxl.check import _case", "src/maxl/experiments/runs/checking.py", True),
        ("import maxl.check._case as case", "benchmarks/step.py", True),
        ("from maxl.experiments.studies.study import _execute", "tests/test_losses.py", True),
        ("from _networks import pair", "benchmarks/step.py", True),
        ("from maxl.check._case import Case", "src/maxl/check/_report.py", False),
        ("from _networks import pair", "tests/check/test_check.py", False),
        ("from maxl.__main__ import main", "tests/project/test_walls.py", False),
        ("from torch.nn.modules.batchnorm import _BatchNorm", "tests/test_losses.py", False),
    ],
)
def test_the_wall_around_private_names_has_no_hole(source: str, file: str, trespass: bool) -> None:
    assert bool(trespasses(source, ROOT / file)) is trespass


def test_nothing_inside_imports_the_roof() -> None:
    def roof(name: str) -> bool:
        path = SRC.joinpath(*name.split("."))
        return name == "maxl" or (name.count(".") == 1 and path.parent.name == "maxl" and not exists(path))

    def exists(path: Path) -> bool:
        return path.is_dir() or path.with_suffix(".py").is_file()

    inside = [file for file in FILES if file.is_relative_to(SRC)]
    found = {str(file.relative_to(SRC)): [*filter(roof, imported(file.read_text()))] for file in inside}
    assert len(found) > 50
    assert {file: names for file, names in found.items() if names} == {}


def test_both_contracts_name_every_module_of_the_library() -> None:
    tops = {path.stem for path in (SRC / "maxl").iterdir() if path.suffix == ".py" or any(path.glob("*.py"))}
    library = {f"maxl.{name}" for name in tops - {"__init__", "__main__", "experiments", "integrations"}}
    layers, forbidden = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"][
        "contracts"
    ]
    named = {name.strip() for layer in layers["layers"] for name in re.split("[|:]", layer)}
    assert library | {"maxl.integrations"} <= named
    assert {"maxl.integrations", "maxl.experiments"} <= set(forbidden["forbidden_modules"])
    assert library == set(forbidden["source_modules"])
    laboratory = {
        f"maxl.experiments.{path.parent.name}" for path in SRC.glob("maxl/experiments/*/__init__.py")
    }
    assert laboratory <= named


# What is imported when it runs


def third_party(modules: list[str]) -> set[str]:
    """The packages among some modules that are neither Python's nor this one."""
    return {m.partition(".")[0] for m in modules} & set(metadata.packages_distributions()) - {"maxl"}


def newly_imported(before: str, code: str) -> set[str]:
    """Packages of others that some code imports on top of what other code did, in a process of its own."""
    script = f"import json, sys\n{before}\nbefore = {{*sys.modules}}\ntry:\n    {code}\nfinally:\n"
    script += "    print(json.dumps([*({*sys.modules} - before)]), file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return third_party(json.loads(done.stderr.splitlines()[-1]))


def test_importing_maxl_after_torch_imports_nothing_of_others() -> None:
    assert newly_imported("import torch", "import maxl") == set()


def test_importing_maxl_alone_does_not_import_torch() -> None:
    assert newly_imported("", "import maxl") == set()


@pytest.mark.parametrize(
    "line", ["--version", "--help", *(f"{command} --help" for command in COMMANDS), "train --help-all"]
)
def test_no_help_waits_for_a_large_import(line: str) -> None:
    before = f"sys.argv = {['maxl', *line.split()]}\nfrom maxl.__main__ import main"
    found = newly_imported(before, "sys.exit(main())")
    assert found <= {"yaml", "_yaml"}
    assert "--help" in line or not found


# Where torch alone is installed


def needed_by(name: str) -> set[str]:
    """A distribution and all that it needs, by their metadata, as far as they are installed."""
    found: set[str] = set()
    waiting = [name]
    while waiting:
        name = re.sub(r"[-_.]+", "-", waiting.pop()).lower()
        if name in found or not any(metadata.distributions(name=name)):
            continue
        found.add(name)
        for requirement in metadata.requires(name) or []:
            if "extra ==" not in requirement:
                waiting.append(re.split(r"[^\w.-]", requirement, maxsplit=1)[0])
    return found


@pytest.fixture(scope="module")
def torch_alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of packages with torch, what it needs, and this package's metadata; links to the installed ones."""
    folder = tmp_path_factory.mktemp("site-packages")
    for name in needed_by("maxl-torch"):
        distribution = metadata.distribution(name)
        for top in {file.parts[0] for file in distribution.files or []} - {"..", "maxl", "__pycache__"}:
            link = folder / top
            if not link.exists():
                link.symlink_to(str(distribution.locate_file(top)))
    return folder


def python(packages: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Python with the packages of one folder, and this one, alone."""
    path = os.pathsep.join((str(Path(maxl.__file__).parents[1]), str(packages)))
    environment = os.environ | {"PYTHONPATH": path}
    return subprocess.run(
        [sys.executable, "-S", *arguments], env=environment, cwd=packages, capture_output=True, text=True
    )


STEPS = """
from importlib.util import find_spec
import torch
import maxl

for name in {refused}:
    assert find_spec(name) is None, name
for name in maxl.__all__:
    getattr(maxl, name)
hierarchy = maxl.Hierarchy.uniform(num_primary=3, k=2)
trunks = [torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU()) for _ in range(2)]
network = maxl.MultiTaskNetwork(trunks[0], hierarchy, feature_dim=8)
generator = maxl.LabelGenerator(trunks[1], hierarchy, feature_dim=8)
optimizers = [torch.optim.SGD(m.parameters(), lr=0.1) for m in (network, generator)]
learner = maxl.MetaAuxiliaryLearner(network, generator, *optimizers)
before = [p.clone() for p in (*network.parameters(), *generator.parameters())]
for _ in range(3):
    result = learner.step(torch.randn(6, 4), torch.tensor([0, 1, 2] * 2))
after = [*network.parameters(), *generator.parameters()]
assert not any(torch.equal(a, b) for a, b in zip(before, after, strict=True))
print("three steps")
"""


def test_the_library_works_where_torch_alone_is_installed(torch_alone: Path) -> None:
    refused = (
        *("numpy", "scipy", "pandas", "sklearn", "timm", "yaml", "rich", "plotly", "PIL", "datasets"),
        *("pyarrow", "safetensors", "torchvision"),
    )
    done = python(torch_alone, "-c", STEPS.format(refused=refused))
    assert (done.returncode, done.stdout) == (0, "three steps\n"), done.stderr


@pytest.mark.parametrize("line", ["train", "--help", "demo --seeds 0", ""])
def test_without_the_extra_the_command_says_in_one_line_what_to_install(torch_alone: Path, line: str) -> None:
    done = python(torch_alone, "-m", "maxl", *line.split())
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1), done.stderr
    assert done.stderr.startswith("maxl: error: the command line and the experiments need the extra")
    assert "not installed: datasets, huggingface-hub and " in done.stderr
    assert done.stderr.endswith(f"{HINT}\n")


def test_without_the_extra_the_command_tells_its_version(torch_alone: Path) -> None:
    done = python(torch_alone, "-m", "maxl", "--version")
    assert (done.returncode, done.stdout) == (0, f"maxl {maxl.__version__}\n"), done.stderr


@pytest.mark.parametrize("module", ["runs.trainer", "report", "studies.study", "data"])
def test_without_the_extra_an_import_says_what_to_install(torch_alone: Path, module: str) -> None:
    done = python(torch_alone, "-c", f"import maxl.experiments.{module}")
    last = done.stderr.splitlines()[-1]
    assert last.startswith("ImportError: the command line and the experiments need the extra")
    assert last.endswith(HINT)


# What a reader takes in at one sitting


def test_no_file_of_the_package_is_longer_than_400_lines() -> None:
    lengths = {str(f.relative_to(SRC)): len(f.read_text().splitlines()) for f in SRC.rglob("*.py")}
    assert {file: length for file, length in lengths.items() if length > 400} == {}


def test_the_package_has_at_most_eight_modules_at_its_top() -> None:
    assert 1 < len(list((SRC / "maxl").glob("*.py"))) <= 8
