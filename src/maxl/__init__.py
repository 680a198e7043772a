"""maxl: learned supervision for PyTorch; labels, weights and corrections that a second network decides.

Names are loaded when they are first used, so that a command line that only prints its help never imports torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from maxl.check import HypergradientReport, check_hypergradient
    from maxl.hierarchy import Hierarchy
    from maxl.hypergradients import hypergradient
    from maxl.learning import AccumulatingLearner, MetaAuxiliaryLearner, MultiTaskLearner, StepResult
    from maxl.losses import focal_loss, label_information, negative_entropy, weighted_focal_loss
    from maxl.networks import (
        LabelGenerator,
        Logits,
        MultiTaskNetwork,
        WeightedLabelGenerator,
        masked_softmax,
    )
    from maxl.presets import PRESETS

_HOMES = {
    "maxl.check": ("HypergradientReport", "check_hypergradient"),
    "maxl.hierarchy": ("Hierarchy",),
    "maxl.hypergradients": ("hypergradient",),
    "maxl.learning": ("AccumulatingLearner", "MetaAuxiliaryLearner", "MultiTaskLearner", "StepResult"),
    "maxl.losses": ("focal_loss", "label_information", "negative_entropy", "weighted_focal_loss"),
    "maxl.networks": (
        *("LabelGenerator", "Logits", "MultiTaskNetwork", "WeightedLabelGenerator", "masked_softmax"),
    ),
    "maxl.presets": ("PRESETS",),
}

__all__ = [
    "PRESETS",
    "AccumulatingLearner",
    "Hierarchy",
    "HypergradientReport",
    "LabelGenerator",
    "Logits",
    "MetaAuxiliaryLearner",
    "MultiTaskLearner",
    "MultiTaskNetwork",
    "StepResult",
    "WeightedLabelGenerator",
    "check_hypergradient",
    "focal_loss",
    "hypergradient",
    "label_information",
    "masked_softmax",
    "negative_entropy",
    "weighted_focal_loss",
]


def __getattr__(name: str) -> Any:
    from importlib import import_module, metadata

    if name == "__version__":
        return metadata.version("maxl-torch")
    for home, names in _HOMES.items():
        if name in names:
            value = getattr(import_module(home), name)
            globals()[name] = value
            return value
    raise AttributeError(f"module 'maxl' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
