"""Variants of a method within a study: their names, and which runs they may be compared with."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from maxl.experiments.runs.methods import (
    CLUSTER_METHODS,
    HUMAN_METHODS,
    JUDGED_METHODS,
    LEARNED_METHODS,
    PROTOTYPE_METHODS,
    TUNED_METHODS,
    WEIGHTED_METHODS,
    WITHOUT_LABELS,
)

# Fields that do not matter to some methods: a grid over them repeats no run of these methods.
_LABEL_FIELDS = ("auxiliary_weight", "psi")
_GENERATOR_FIELDS = ("generator_trunk", "label_statistics")
_META_FIELDS = (
    *("entropy_weight", "regulariser", "meta_optimizer", "meta_learning_rate", "meta_weight_decay"),
    *("hypergradient", "schedule", "lookahead", "lookahead_rule", "evaluate", "held_out", "meta_every"),
    *("cache_labels", "teach_part"),
)
# Those of them that matter where labels are learned before a run.
_TAUGHT_FIELDS = (
    *("entropy_weight", "regulariser", "meta_optimizer", "meta_learning_rate", "hypergradient", "lookahead"),
    *("lookahead_rule", "held_out", "meta_every"),
)
# Fields that matter to some methods alone.
_FIELDS_OF = (
    (CLUSTER_METHODS, ("cluster_features",)),
    (PROTOTYPE_METHODS, ("prototype_epochs", "prototype_softness", "outer_term")),
    (("contrastive", *PROTOTYPE_METHODS), ("outer_weight",)),
    (WEIGHTED_METHODS, ("normalise_weights",)),
    (("wamal",), ("weight_range",)),
    (TUNED_METHODS, ("trusted_epochs",)),
    (("reweighted",), ("effective_samples",)),
    (("corrected",), ("confidence",)),
    (("small-loss",), ("keep_part",)),
)

# What no folder's name can hold, on Windows or elsewhere, and the sign of what stands for it.
_NO_NAME = re.compile(r'[/\\:*?"<>|%\x00-\x1f]')


def irrelevant_fields(method: str) -> tuple[str, ...]:
    """Fields of ``RunConfig`` that make no difference to a method's runs."""
    others = [fields for methods, fields in _FIELDS_OF if method not in methods]
    special = tuple(name for fields in others for name in fields)
    if method in JUDGED_METHODS:
        return (*special, *_LABEL_FIELDS, "entropy_weight", "regulariser")
    if method in WITHOUT_LABELS:
        return (*special, *_LABEL_FIELDS, *_GENERATOR_FIELDS, *_META_FIELDS)
    if method in LEARNED_METHODS:
        return special
    if method == "frozen":  # a label that is kept has another crop or batch than one made anew
        return (*special, *(name for name in _META_FIELDS if name != "cache_labels"))
    if method in PROTOTYPE_METHODS:
        return (*special, *_GENERATOR_FIELDS, *(name for name in _META_FIELDS if name not in _TAUGHT_FIELDS))
    if method == "contrastive":  # a loss of its own
        return (*special, "auxiliary_weight", *_GENERATOR_FIELDS, *_META_FIELDS)
    psi = ("psi",) if method in HUMAN_METHODS else ()
    return (*special, *psi, *_GENERATOR_FIELDS, *_META_FIELDS)


def variant_name(method: str, values: Mapping[str, Any]) -> str:
    """A method's name with the fields that tell the variant from others.

    Example:
        >>> variant_name("maxl", {"entropy_weight": 0.0})
        'maxl entropy_weight=0'
    """
    return " ".join([method, *(f"{name}={value_text(value)}" for name, value in values.items())])


def base_method(name: str) -> str:
    """The method of a variant's name."""
    return name.split(" ")[0]


def same_setting(first: str, second: str) -> bool:
    """Whether two variants of different methods agree in every field that matters to both.

    Example:
        >>> same_setting("maxl auxiliary_weight=5", "single")  # which has no auxiliary loss
        True
        >>> same_setting("maxl auxiliary_weight=5", "uniform")
        False
    """
    methods = base_method(first), base_method(second)
    values = values_of(first), values_of(second)
    shared = {
        name
        for name in {**values[0], **values[1]}
        if not any(name.rsplit(".", 1)[-1] in irrelevant_fields(method) for method in methods)
    }
    return methods[0] != methods[1] and all(values[0].get(name) == values[1].get(name) for name in shared)


def value_text(value: Any) -> str:
    """A field's value as it stands in names and paths, another one for every other value."""
    items = value if isinstance(value, (list, tuple)) else [value]
    return "-".join(_number(i) if isinstance(i, float) else _NO_NAME.sub(_escape, str(i)) for i in items)


def _number(value: float) -> str:
    short = f"{value:g}"
    return short if float(short) == value else repr(value)


def _escape(found: re.Match[str]) -> str:
    return f"%{ord(found[0]):02X}"


def values_of(name: str) -> dict[str, str]:
    """The fields of a variant's name and their values, as they stand there."""
    parts = re.split(r" (?=[\w.]+=)", name)[1:]
    return dict(part.split("=", 1) for part in parts)
