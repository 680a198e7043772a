"""What the values of a run's fields may be, and which of them go together."""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING

from maxl.experiments.runs.methods import (
    CLUSTER_METHODS,
    JUDGED_METHODS,
    LEARNED_METHODS,
    PROTOTYPE_METHODS,
    SHARED,
    WEIGHTED_METHODS,
)
from maxl.experiments.runs.noise_rules import check_noise
from maxl.experiments.runs.values import flag
from maxl.experiments.tracking import NAMES
from maxl.presets import check_choice

if TYPE_CHECKING:
    from maxl.experiments.runs.config import RunConfig

_SEEDS = 2**32  # as many as NumPy and scikit-learn take
_COUNT = 2**32  # of anything: beyond, sizes in bytes overflow
_WEIGHT_RANGE = 30  # weights up to 2^30, beyond which no loss is finite for long
_THREADS = 1024  # far more, and the OpenMP library ends the process

_AT_LEAST: dict[str, float] = {
    **dict.fromkeys(
        (
            "epochs",
            "batch_size",
            "meta_every",
            "look_every",
            "checkpoint_every",
            "image_size",
            "text_length",
            "threads",
            "workers",
        ),
        1,
    ),
    **dict.fromkeys(("probe_shots", "patience", "prototype_epochs"), 1),
    "warmup": 0,
    **dict.fromkeys(("seed", "ignore_index", "gamma", "momentum", "weight_decay", "meta_weight_decay"), 0),
    **dict.fromkeys(("entropy_weight", "auxiliary_weight", "validation_size"), 0),
}


def check_rules(config: RunConfig) -> None:
    """ValueError if a value is outside its range or two choices do not go together."""
    _check_ranges(config)
    check_noise(config)
    _check_combinations(config)


def _check_ranges(config: RunConfig) -> None:
    for f in dataclasses.fields(config):
        value = getattr(config, f.name)
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"{flag(f.name)} needs to be a finite number; got {value}")
    if config.seed >= _SEEDS:
        raise ValueError(f"--seed needs to be below {_SEEDS}; got {config.seed}")
    for name, low in _AT_LEAST.items():
        value = getattr(config, name)
        if value is not None and not value >= low:
            raise ValueError(f"{flag(name)} needs to be at least {low}; got {value}")
    for name in ("train_size", "validation_size"):  # of which a config does not tell 1 from 1.0
        if getattr(config, name) == 1:
            raise ValueError(
                f"{flag(name)} needs to be a fraction below 1, or a count of 2 or more; got 1, which may mean one sample or "
                "all of them: write how many"
            )
    for f in dataclasses.fields(config):
        value, most = getattr(config, f.name), _THREADS if f.name in ("threads", "workers") else _COUNT
        if isinstance(value, int) and value > most:
            raise ValueError(f"{flag(f.name)} needs to be at most {most}; got {value}")
    for name in (
        "learning_rate",
        "trunk_learning_rate",
        "meta_learning_rate",
        "max_grad_norm",
        "huber",
        "outer_weight",
    ):
        if getattr(config, name) is not None and not getattr(config, name) > 0:
            raise ValueError(f"{flag(name)} needs to be above 0; got {getattr(config, name)}")
    for f in dataclasses.fields(config):
        if f.metadata["choices"] is not None and not (f.default is None and getattr(config, f.name) is None):
            check_choice(flag(f.name), getattr(config, f.name), f.metadata["choices"])
    if not config.psi or any(k < 1 for k in config.psi):
        raise ValueError(f"--psi needs whole numbers of at least 1; got {' '.join(map(str, config.psi))}")
    if max(config.psi) > _COUNT:
        raise ValueError(f"--psi needs to be at most {_COUNT}; got {max(config.psi)}")
    if config.layer_decay is not None and not 0 < config.layer_decay <= 1:
        raise ValueError(f"--layer-decay needs to be above 0 and at most 1; got {config.layer_decay}")
    if not config.warmup < config.epochs:
        raise ValueError(
            f"--warmup needs to end before the last of {config.epochs} epochs; got {config.warmup:g}"
        )
    if not 0 < config.held_out < 1:
        raise ValueError(f"--held-out needs to be a fraction between 0 and 1; got {config.held_out}")
    if not 0 < config.prototype_softness < 1:
        raise ValueError(
            f"--prototype-softness needs to be above 0 and below 1; got {config.prototype_softness}"
        )
    if not 0 <= config.label_smoothing < 1:
        raise ValueError(f"--label-smoothing needs to be in [0, 1); got {config.label_smoothing}")
    if not 0 < config.teach_part <= 1:
        raise ValueError(f"--teach-part needs to be above 0 and at most 1; got {config.teach_part}")
    if not 0 < config.weight_range <= _WEIGHT_RANGE:
        raise ValueError(
            f"--weight-range needs to be above 0 and at most {_WEIGHT_RANGE}; got {config.weight_range}"
        )


def against_compiling(config: RunConfig) -> str | None:
    """Why the passes of a run's method cannot go through torch.compile; None where they can."""
    if config.method == "gated":
        return "--method gated cannot be compiled"
    return None


def _check_combinations(config: RunConfig) -> None:
    shared = config.generator_trunk == SHARED and config.method in (*LEARNED_METHODS, *JUDGED_METHODS)
    if config.label_statistics == "batch" and shared:
        raise ValueError(
            "--label-statistics batch is of a generator with a trunk of its own: add --generator-trunk own"
        )
    if config.teach_part < 1 and (config.lookahead != "update" or config.schedule != "iteration"):
        raise ValueError(
            "--teach-part takes samples of the batch whose step is followed: use it with --lookahead update and "
            "--schedule iteration"
        )
    normalises = config.method in WEIGHTED_METHODS and config.normalise_weights
    if config.teach_part < 1 and (normalises or config.method == "reweighted"):
        raise ValueError(
            "--teach-part takes samples that stand for their batch, and weights divided by their mean over it (--method reweighted, "
            "--normalise-weights) differ on a part: use --meta-every for fewer meta steps on whole batches"
        )
    if config.evaluate == "next" and config.lookahead != "update":
        raise ValueError("--evaluate next judges the update just taken: use it with --lookahead update")
    if config.schedule == "epochs" and config.evaluate == "next":
        raise ValueError("--schedule epochs has no next batch to train on: use --evaluate same or held-out")
    if config.method == "gated" and (config.lookahead != "update" or config.schedule != "iteration"):
        raise ValueError(
            "--method gated acts on the update just taken: use it with --lookahead update and "
            "--schedule iteration"
        )
    if config.compile and (reason := against_compiling(config)) is not None:
        raise ValueError(f"{reason}: drop --compile")
    if config.evaluate == "rotating" and (config.cache_labels or config.schedule == "epochs"):
        raise ValueError(
            "--evaluate rotating trains on other samples in each epoch: use it without --cache-labels "
            "and with --schedule iteration"
        )
    learned = config.prototype_epochs
    if config.method in PROTOTYPE_METHODS and learned is not None and not config.warmup < learned:
        raise ValueError(
            f"--warmup needs to end before the last of {learned} epochs of --prototype-epochs; got {config.warmup:g}"
        )
    _check_fine_tuning(config)
    if config.stream:
        _check_streaming(config)
    for name in config.track or ():
        check_choice("--track", name, NAMES)
    if "tensorboard" in (config.track or ()) and not config.tensorboard:
        raise ValueError("--track tensorboard and --no-tensorboard contradict each other: leave one out")
    if config.momentum and config.optimizer != "sgd":
        raise ValueError(f"--momentum goes with --optimizer sgd; got {config.optimizer}")


def _check_fine_tuning(config: RunConfig) -> None:
    starts = [name for name in ("pretrained", "weights", "from_run") if getattr(config, name)]
    if len(starts) > 1:
        raise ValueError(
            f"a run starts from one set of weights; got {' and '.join(map(flag, starts))}: drop one"
        )
    for name, given in (("patience", config.patience is not None), ("keep", config.keep == "best")):
        if not given:
            continue
        word = flag(name) + (" best" if name == "keep" else "")
        if not config.validation_size:
            raise ValueError(
                f"{word} goes by samples that are neither trained on nor tested: set some aside with --validation-size"
            )
        if config.method in CLUSTER_METHODS and config.cluster_features == "trunk":
            raise ValueError(
                f"--cluster-features trunk trains a single-task network to its last epoch: use it without {word}"
            )
    if "trunk" in (config.freeze or ()):
        for name in ("trunk_learning_rate", "layer_decay"):
            if getattr(config, name) is not None:
                raise ValueError(
                    f"{flag(name)} is of a trunk that is trained; --freeze trunk leaves none: drop one"
                )


def _check_streaming(config: RunConfig) -> None:
    if config.method in CLUSTER_METHODS and config.cluster_features != "trunk":
        raise ValueError(
            f"--method {config.method} clusters all training inputs at once, which --stream leaves on disk: use "
            "--cluster-features trunk, or another method"
        )
    if config.method == "prototypical":
        raise ValueError(
            "--method prototypical compares all training inputs at once, which --stream leaves on disk: use another method"
        )
    if config.probe is not None:
        raise ValueError(
            "--probe compares all inputs at once, which --stream leaves on disk: drop one of them"
        )
    if config.task == "segmentation":
        raise ValueError(
            "--stream holds targets in memory, and masks are wider than their images: leave it out"
        )
