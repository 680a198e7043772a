"""The laboratory: data sets, runs, studies, reports and the command line; needs ``maxl-torch[experiments]``."""

from __future__ import annotations

import re
from importlib import metadata


def _missing() -> list[str]:
    """The distributions of the extra ``experiments`` that are not installed, by the package's own metadata."""
    needed = [r for r in metadata.requires("maxl-torch") or [] if re.search(r"extra == .experiments.", r)]
    names = [re.split(r"[^\w.-]", requirement, maxsplit=1)[0] for requirement in needed]
    return [name for name in names if not any(metadata.distributions(name=name))]


if _absent := _missing():
    raise ImportError(
        f"the experiments and the command line need more than torch: {', '.join(_absent)} not installed; "
        'pip install "maxl-torch[experiments]"'
    )
