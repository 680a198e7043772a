"""What a run has learned of given labels, for samples of a user's: which of them it doubts."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from maxl.experiments.runs.files import RunWarning
from maxl.experiments.runs.folder import RunFolder
from maxl.experiments.runs.invented import signals_of_run
from maxl.experiments.runs.labelled import Labelled
from maxl.experiments.runs.methods import JUDGED_METHODS, SHARED
from maxl.experiments.runs.model import load_model
from maxl.experiments.runs.networks import build_judged
from maxl.hierarchy import Hierarchy


@dataclass(frozen=True)
class DoubtedLabels:
    """What the generator of a run of ``JUDGED_METHODS`` makes of N labelled samples of C classes.

    Attributes:
        data: The samples; its targets are the given labels.
        primary_names: Of the classes.
        corrected: What each label should have been, float32 of shape (N, C); None of method reweighted.
        weights: What each sample counted, above 0, of shape (N,), on a scale that means nothing; None of method corrected.
    """

    data: Labelled
    primary_names: tuple[str, ...]
    corrected: Tensor | None
    weights: Tensor | None


def doubts(
    run: str | Path, source: str | Path, *, device: str = "auto", trust: bool = False
) -> DoubtedLabels:
    """The corrections or weights that a run's generator gives to labelled samples, as ``invent`` has it.

    Args:
        run: Folder of a finished run of method corrected or reweighted.
        source, device, trust: As for ``invent``.

    Raises:
        FileNotFoundError: if ``source`` does not exist.
        ValueError: if the run is unfinished, damaged, or of another method; or as ``labelled_samples``.
    """
    run, source = Path(run), Path(source)
    model = load_model(run, trust=trust)
    folder = RunFolder(run)
    config, summary = folder.read_config(trust=trust), folder.read_summary()
    if config.method not in JUDGED_METHODS:
        raise ValueError(
            f"doubts need a run of method {' or '.join(JUDGED_METHODS)}; {run} is of method {config.method}"
        )
    hierarchy = Hierarchy.uniform(len(model.primary_names), 1)
    label = str(summary["method"])
    data, (signal,) = signals_of_run(folder, config, label, model, hierarchy, build_judged, source, device)
    if config.epochs_on_trusted and config.generator_trunk == SHARED:
        warnings.warn(
            f"the trunk whose features the generator looks at was trained for {config.epochs_on_trusted} epochs after it had "
            "been taught, on trusted samples, and doubts are read from the features of now: --generator-trunk own keeps them",
            RunWarning,
            stacklevel=2,
        )
    of_weights = config.method == "reweighted"
    return DoubtedLabels(
        data, model.primary_names, None if of_weights else signal, signal if of_weights else None
    )
