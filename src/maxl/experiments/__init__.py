"""The laboratory: data sets, runs, studies, reports and the command line; needs ``maxl-torch[experiments]``."""

from __future__ import annotations

import re
from importlib import metadata
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from maxl.experiments.studies.advice import advise as advise


def _missing() -> list[str]:
    """The distributions of the extra ``experiments`` that are not installed, by the package's own metadata."""
    needed = [r for r in metadata.requires("maxl-torch") or [] if re.search(r"extra == .experiments.", r)]
    names = [re.split(r"[^\w.-]", requirement, maxsplit=1)[0] for requirement in needed]
    return [name for name in names if not any(metadata.distributions(name=name))]


if _absent := _missing():
    _more = f" and {len(_absent) - 2} more" if len(_absent) > 2 else ""
    raise ImportError(
        'the command line and the experiments need the extra "experiments"; not installed: '
        f'{", ".join(_absent[:2])}{_more}: pip install "maxl-torch[experiments]"'
    )


def __getattr__(name: str) -> Any:
    """``advise``, loaded when it is first used: a command line that prints its help never imports torch."""
    if name == "advise":
        from maxl.experiments.studies.advice import advise

        return advise
    raise AttributeError(f"module 'maxl.experiments' has no attribute {name!r}")
