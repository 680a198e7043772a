"""Names in annotations and pages lead to where the reference describes them, whatever module they are defined in.

An annotation says ``maxl.tasks._task.Task``, a user ``maxl.Classification``; the reference has ``maxl.tasks.Task`` and
``maxl.tasks.Classification``. Names of other packages are let through as plain text.
"""

from __future__ import annotations

import builtins
import importlib
import inspect
import pkgutil
import re
import typing
from typing import TYPE_CHECKING, Any

from sphinx import addnodes

import maxl

if TYPE_CHECKING:
    from docutils import nodes
    from sphinx.application import Sphinx
    from sphinx.environment import BuildEnvironment

OTHERS = {
    "PIL",
    "collections",
    "lightning",
    "mlflow",
    "numpy",
    "optuna",
    "pandas",
    "pathlib",
    "pyarrow",
    "sklearn",
    "huggingface_hub",
    "os",
    "torch",
    "transformers",
    "wandb",
    "typing",
}
OTHERS |= {
    "abc",
    "argparse",
    "go",
    "np",
    "pd",
    "torchmetrics",
    "contextlib",
    "dataclasses",
    "enum",
    "plotly",
    "types",
    "multiprocessing",
    "scipy",
    "rich",
}
SHORT = {
    "Arrays",
    "Build",
    "IntArray",
    "PathLike",
    "Metric",
    "Progress",
    "Tensor",
    "Path",
    "Sequence",
    "Callable",
    "Iterable",
    "Iterator",
    "Mapping",
    "Self",
    "Module",
    "Optimizer",
}


def public_modules() -> list[str]:
    """Every module without an underscore, the roof and the command's door left out."""
    found = [module.name for module in pkgutil.walk_packages(maxl.__path__, "maxl.")]
    return sorted(name for name in found if "._" not in name and not name.endswith("__main__"))


def names_of(module: str) -> list[str]:
    """What a module shows: its ``__all__``, else what is defined in it without an underscore."""
    home = importlib.import_module(module)
    if hasattr(home, "__all__"):
        return list(home.__all__)
    return [
        name
        for name, value in vars(home).items()
        if not name.startswith("_")
        and getattr(value, "__module__", None) == module
        and hasattr(value, "__name__")
    ]


def homes() -> dict[str, str]:
    """Where an object is defined, and other names for it, to where the reference has it."""
    found: dict[str, str] = {}
    for module in public_modules():
        home = importlib.import_module(module)
        for name in names_of(module):
            value = getattr(home, name)
            # An alias such as Sequence[Tensor] passes for what it is made of.
            if hasattr(value, "__qualname__") and value.__module__.startswith("maxl."):
                found.setdefault(f"{value.__module__}.{value.__qualname__}", f"{module}.{name}")
            found.setdefault(name, f"{module}.{name}")
    for name in maxl.__all__:
        if name in found:
            found[f"maxl.{name}"] = found[name]
    return found


_HOMES: dict[str, str] = {}


def resolve(
    app: Sphinx, env: BuildEnvironment, node: addnodes.pending_xref, text: nodes.TextElement
) -> nodes.reference | nodes.TextElement | None:
    """A link to the reference, the text itself for names of others, None for a name that is not there."""
    if node.get("refdomain") != "py":
        return None
    target: str = node["reftarget"]
    if not _HOMES:
        _HOMES.update(homes())
    parts = target.split(".")
    for cut in range(len(parts), 0, -1):
        home = _HOMES.get(".".join(parts[:cut]))
        if home is not None:
            name = ".".join([home, *parts[cut:]])
            python = env.domains.python_domain
            found = python.resolve_xref(env, node["refdoc"], app.builder, "obj", name, node, text)
            if found is not None:
                return found
    outside = (
        parts[0] in OTHERS or target in SHORT or hasattr(builtins, parts[0]) or hasattr(typing, parts[0])
    )
    outside = outside or hasattr(builtins, target.partition("[")[0]) or private(target)
    return text if outside and "sphinx.ext.intersphinx" not in app.extensions else None


def qualify(app: Sphinx, tree: nodes.document) -> None:
    """A bare name in an annotation is that of its module, or of what it imports, where several packages have the name."""
    for node in tree.findall(addnodes.pending_xref):
        module = node.get("py:module")
        if node.get("refdomain") != "py" or "." in node["reftarget"] or not module:
            continue
        home, name = importlib.import_module(module), node["reftarget"]
        value = getattr(home, name, None)
        if isinstance(value, type) and value.__module__ != "builtins":
            node["reftarget"] = f"{value.__module__}.{value.__qualname__}"
        elif value is None:  # imported for type checkers alone
            found = re.search(rf"from (\S+) import .*\b{re.escape(name)}\b", inspect.getsource(home))
            node["reftarget"] = f"{found[1]}.{name}" if found else name


def private(target: str) -> bool:
    """Whether a name is there, but shown by no package: a type variable, a base class, the type of an inner part."""
    module, _, name = target.rpartition(".")
    if not module.startswith("maxl."):
        return False
    try:
        value = getattr(importlib.import_module(module), name, None)
    except ImportError:  # not a module: a name within a class
        return False
    return isinstance(value, typing.TypeVar) or ("._" in module and value is not None)


def setup(app: Sphinx) -> dict[str, Any]:
    """Called by Sphinx."""
    app.connect("missing-reference", resolve, priority=900)  # after intersphinx
    app.connect("doctree-read", qualify)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
