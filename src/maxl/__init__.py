"""maxl: learned supervision for PyTorch; labels, weights and corrections that a second network decides.

Names are loaded when they are first used, so that a command line that only prints its help never imports torch.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from maxl.check import HypergradientReport, check_hypergradient
    from maxl.experiments import load as load
    from maxl.hierarchy import Hierarchy
    from maxl.hypergradients import FiniteDifference, Forward, Reverse, hypergradient
    from maxl.learning import (
        AccumulatingLearner,
        Every,
        Gated,
        MetaAuxiliaryLearner,
        MultiTaskLearner,
        Next,
        Part,
        StepResult,
        Taken,
        Virtual,
    )
    from maxl.losses import focal_loss, label_information, negative_entropy, weighted_focal_loss
    from maxl.networks import (
        LabelGenerator,
        Logits,
        MultiTaskNetwork,
        PowerOfTwo,
        PrototypeGenerator,
        WeightedLabelGenerator,
        masked_softmax,
    )
    from maxl.presets import PRESETS
    from maxl.supervision import LabelCorrector, WeightGenerator
    from maxl.tasks import Classification, MultiLabel, Regression, Segmentation
    from maxl.trunks import Features
    from maxl.worlds import DataParallel

    __version__: str

_HOMES = {
    "maxl.check": ("HypergradientReport", "check_hypergradient"),
    "maxl.hierarchy": ("Hierarchy",),
    "maxl.hypergradients": ("FiniteDifference", "Forward", "Reverse", "hypergradient"),
    "maxl.learning": (
        *("AccumulatingLearner", "Every", "Gated", "MetaAuxiliaryLearner", "MultiTaskLearner", "Next"),
        *("Part", "StepResult", "Taken", "Virtual"),
    ),
    "maxl.losses": ("focal_loss", "label_information", "negative_entropy", "weighted_focal_loss"),
    "maxl.networks": (
        *("LabelGenerator", "Logits", "MultiTaskNetwork", "PowerOfTwo", "PrototypeGenerator"),
        *("WeightedLabelGenerator", "masked_softmax"),
    ),
    "maxl.presets": ("PRESETS",),
    "maxl.supervision": ("LabelCorrector", "WeightGenerator"),
    "maxl.tasks": ("Classification", "MultiLabel", "Regression", "Segmentation"),
    "maxl.trunks": ("Features",),
    "maxl.worlds": ("DataParallel",),
}

# Of the laboratory, which an installation may lack: a short way to it, and no part of ``__all__``.
_LABORATORY = {"maxl.experiments": ("load",)}

# Whoever wants to read what the package says adds a handler of their own; without one it is silent.
logging.getLogger(__name__).addHandler(logging.NullHandler())

_PACKAGES = ("check", "hypergradients", "learning", "networks", "supervision", "tasks", "worlds")

__all__ = [
    "PRESETS",
    "AccumulatingLearner",
    "Classification",
    "DataParallel",
    "Every",
    "Features",
    "FiniteDifference",
    "Forward",
    "Gated",
    "Hierarchy",
    "HypergradientReport",
    "LabelCorrector",
    "LabelGenerator",
    "Logits",
    "MetaAuxiliaryLearner",
    "MultiLabel",
    "MultiTaskLearner",
    "MultiTaskNetwork",
    "Next",
    "Part",
    "PowerOfTwo",
    "PrototypeGenerator",
    "Regression",
    "Reverse",
    "Segmentation",
    "StepResult",
    "Taken",
    "Virtual",
    "WeightGenerator",
    "WeightedLabelGenerator",
    "check_hypergradient",
    "focal_loss",
    "hypergradient",
    "label_information",
    "masked_softmax",
    "negative_entropy",
    "weighted_focal_loss",
]


if not TYPE_CHECKING:  # to a type checker any name would be there, and a misspelt one no mistake

    def __getattr__(name: str) -> Any:
        from importlib import import_module, metadata

        if name == "__version__":
            return metadata.version("maxl-torch")
        for home, names in (_HOMES | _LABORATORY).items():
            if name in names:
                value = getattr(import_module(home), name)
                globals()[name] = value
                return value
        if name in _PACKAGES:
            return import_module(f"maxl.{name}")
        raise AttributeError(f"module 'maxl' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
