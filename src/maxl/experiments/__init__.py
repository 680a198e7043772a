"""The laboratory: data sets, runs, studies, reports and the command line; needs ``maxl-torch[experiments]``."""

from __future__ import annotations

import re
from importlib import metadata
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from maxl.experiments.hub import RunModel
    from maxl.experiments.studies.advice import advise as advise
    from maxl.experiments.studies.tuning import tune as tune


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


def load(run: str | PathLike[str], *, trust: bool = False) -> RunModel:
    """The model of a finished run, in eval mode on the CPU: from samples to logits, or to numbers in their units.

    Args:
        run: Folder of the run, or one that ``save_pretrained`` has written.
        trust: Call a trunk ``module:function`` that the folder's config names.

    Returns:
        A ``torch.nn.Module``, whose ``forward`` says what it takes, with ``save_pretrained``, ``push_to_hub`` and
        ``from_pretrained`` of the Hugging Face hub.

    Raises:
        ValueError: if the folder holds no run, an unfinished or a damaged one, or names code and is not trusted.
    """
    from maxl.experiments.hub import RunModel

    return RunModel.of_run(Path(run), trust=trust)


def __getattr__(name: str) -> Any:
    """``advise`` and ``tune``, loaded when first used: a command line that prints its help never imports torch."""
    if name == "advise":
        from maxl.experiments.studies.advice import advise

        return advise
    if name == "tune":
        from maxl.experiments.studies.tuning import tune

        return tune
    raise AttributeError(f"module 'maxl.experiments' has no attribute {name!r}")
