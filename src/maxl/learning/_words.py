"""Options as words and functions, as ``maxl.PRESETS`` and the command line spell them, and the objects they stand for.

The one place that knows both.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.optim import LBFGS, SGD, Optimizer

from maxl.hypergradients import FiniteDifference, Forward, Way, as_way
from maxl.learning._lookahead import Lookahead
from maxl.learning._mix import Gated, Mix, Sum
from maxl.learning._next import Next
from maxl.learning._part import Part
from maxl.learning._schedule import Every, Schedule
from maxl.learning._taken import Taken
from maxl.learning._virtual import Virtual
from maxl.networks import MultiTaskNetwork, WeightedLabelGenerator
from maxl.presets import check_choice
from maxl.supervision import AuxiliaryLabels, Supervision, WeightedLabels
from maxl.tasks import Classification, Task, WithLoss
from maxl.worlds import Alone, World

_OF_TRAINING = ("primary_loss", "auxiliary_loss", "gate")
_OF_TEACHING = (
    *(
        "hypergradient",
        "entropy_weight",
        "lookahead_rule",
        "evaluate",
        "meta_every",
        "teach_part",
        "cache_size",
        "favour",
    ),
    "regulariser",
)
_LOOKAHEADS = ("virtual", "update")
_RENAMED = {"cache_labels": "cache_size"}  # the old word for it; on the command line that one is yes or no


@dataclass(frozen=True, kw_only=True)
class Choices:
    """What a learner is made of."""

    task: Task
    supervision: Supervision
    mix: Mix
    way: Way
    lookahead: Lookahead
    schedule: Schedule
    world: World
    cache_size: int


def choose(
    network: nn.Module,
    generator: nn.Module | None,
    optimizer: Optimizer,
    words: Mapping[str, Any],
    *,
    task: Task | None,
    supervision: Supervision | None,
    mix: Mix | None,
    way: Way | None = None,
    lookahead: Lookahead | str | None = None,
    schedule: Schedule | None = None,
    world: World | None = None,
    autocast: torch.dtype | None = None,
) -> Choices:
    """The objects given, those that words stand for, and defaults for the rest.

    Args:
        network: Its ``task``, if it has one, is the default.
        generator: None for a learner that trains none.
        optimizer: Holds θ₁.
        words: By name.
        task, supervision, mix, way, lookahead, schedule, world: Objects, or None; a lookahead may be a word too.
        autocast: Lower precision of the passes, or None.

    Raises:
        TypeError: if a word is unknown.
        ValueError: if a word's value is unknown, two choices do not go together, or an object and a word choose
            the same thing.
    """
    words = {_RENAMED.get(name, name): value for name, value in words.items()}
    known = _OF_TRAINING if generator is None else (*_OF_TRAINING, *_OF_TEACHING)
    for name in words:
        if name not in known:
            raise TypeError(f"a learner has no option {name!r}; there are {', '.join(known)}, and objects")
    given = {name: value for name, value in words.items() if value is not None}
    _once("task", task, given, "primary_loss")
    _once("supervision", supervision, given, "auxiliary_loss", "entropy_weight", "regulariser")
    _once("mix", mix, given, "gate")
    _once("way", way, given, "hypergradient")
    _once("schedule", schedule, given, "meta_every", "teach_part")
    if "primary_loss" in given and supervision is None and "auxiliary_loss" not in given:
        raise ValueError(
            "primary_loss= alone would leave the auxiliary task its focal loss; say auxiliary_loss= as well, "
            "or supervision="
        )
    mix = mix or (Gated(given["gate"]) if "gate" in given else Sum())
    _check_itself("optimizer", optimizer)
    _check_bare("network", network)
    ahead = _lookahead(lookahead, given, optimizer)
    if mix.splits and generator is not None and not ahead.follows:
        raise ValueError('a gate acts on the update that is taken; pass lookahead="update" with it')
    way = way or (as_way(given["hypergradient"]) if "hypergradient" in given else Forward())
    if autocast is not None and isinstance(way, FiniteDifference):
        raise ValueError(
            f"finite differences drown in the rounding of {str(autocast).removeprefix('torch.')}: train in float32, or "
            'differentiate by maxl.Forward(), hypergradient="forward"'
        )
    world = world or Alone()
    cache_size = given.get("cache_size", 0)
    if isinstance(cache_size, bool) or not isinstance(cache_size, int) or cache_size < 0:
        raise ValueError(
            f"cache_size needs to be the number of training samples, 0 for none; got {cache_size!r}"
        )
    if not world.alone:
        _check_parallel(mix, None if generator is None else ahead)
        _check_tables([m for m in (network, generator) if m is not None])
    return Choices(
        task=_task(network, task, given),
        supervision=supervision or _supervision(generator, given),
        mix=mix,
        way=way,
        lookahead=ahead,
        schedule=schedule or _schedule(given.get("meta_every", 1), given.get("teach_part", 1.0)),
        world=world,
        cache_size=cache_size,
    )


def _schedule(k: int, part: float) -> Schedule:
    return Every(k) if part == 1.0 else Part(part, k)


def _check_tables(modules: Sequence[nn.Module]) -> None:
    """Refuses what would make the processes' weights differ."""
    for name, table in (named for module in modules for named in module.named_modules()):
        if isinstance(table, (nn.Embedding, nn.EmbeddingBag)) and table.max_norm is not None:
            raise ValueError(
                f"an embedding with max_norm cuts the rows that a pass looks up, and each process looks up others; got {name}: "
                "drop max_norm, or train in one process"
            )


def _check_parallel(mix: Mix, lookahead: Lookahead | None) -> None:
    """Refuses what would be another thing on parts of a batch than on the whole."""
    if mix.splits:
        raise ValueError(
            "a gate compares gradients of the whole batch, and each process has a part; train without it"
        )
    if lookahead is not None and not lookahead.parallel:
        raise ValueError(
            f"{type(lookahead).__name__} does not say that it averages over processes: set parallel = True once it "
            "does, or train in one process"
        )


def _check_itself(what: str, optimizer: Optimizer) -> None:
    """Refuses one that another library has wrapped: it may leave steps out, and tells nobody of those that it takes."""
    inner = getattr(optimizer, "optimizer", None)
    if isinstance(inner, Optimizer):
        raise ValueError(
            f"the {what} needs to be the one that steps; got {type(optimizer).__name__} around {type(inner).__name__}: pass "
            "its .optimizer; you may still step through the wrapper"
        )


_WRAPPERS = {
    "DistributedDataParallel": "DistributedDataParallel",
    "FullyShardedDataParallel": "FullyShardedDataParallel",
    "FSDPModule": "fully_shard",
    "_FabricModule": "Fabric's wrapper",
}
_THEIRS = ("torch.", "lightning.", "lightning_fabric.")  # where these classes are


def _check_bare(what: str, module: nn.Module) -> None:
    """Refuses what would average the gradients of training over processes, or change their precision, and not those of judging.

    Sharded weights are not in the graph of a pass, which goes through copies that hooks of the backward pass know of.
    """
    bases = {
        base for m in module.modules() for base in type(m).__mro__ if base.__module__.startswith(_THEIRS)
    }
    for name, kind in _WRAPPERS.items():
        if any(base.__name__ == name for base in bases):
            raise ValueError(
                f"a {what} needs to be a bare module, as {kind} does not see a hypergradient; got it within: pass what "
                "it was made of, whole on each device, and world=maxl.DataParallel() for several processes"
            )


def check_pair(
    network: nn.Module, generator: nn.Module, meta_optimizer: Optimizer, *, compile: bool = False
) -> None:
    """ValueError unless a meta step can move the generator, and will not move the network."""
    _check_itself("meta optimizer", meta_optimizer)
    _check_bare("generator", generator)
    shared = getattr(generator, "shared", None)
    if shared is not None and shared is not network:
        raise ValueError(
            "a generator that shares a trunk needs to be trained with that very network; got another one: copy both in "
            "one call, copy.deepcopy((network, generator))"
        )
    as_written = getattr(type(network), "forward", None) is MultiTaskNetwork.forward
    if shared is not None and compile and not as_written:
        raise ValueError(
            f"a compiled pass gives a shared trunk's features as maxl.MultiTaskNetwork makes them; got {type(network).__name__}, "
            "whose forward is its own: drop compile=True"
        )
    own = {id(p) for p in network.parameters()}
    if any(id(p) in own and p.requires_grad for p in generator.parameters()):
        raise ValueError(
            "network and generator need trainable weights of their own, since the meta step would move the network's; "
            "got some that both have: build the generator's trunk anew (copy.deepcopy), or freeze what is shared"
        )
    if isinstance(meta_optimizer, LBFGS):
        raise ValueError(
            "a meta optimizer needs to take one gradient a step; got LBFGS, which asks for several: take another"
        )
    _check_taught(network, generator, meta_optimizer)


def _check_taught(network: nn.Module, generator: nn.Module, meta_optimizer: Optimizer) -> None:
    held = {id(p) for group in meta_optimizer.param_groups for p in group["params"]}
    trained = [p for p in generator.parameters() if p.requires_grad]
    if not trained:
        raise ValueError(
            "a generator needs trainable weights, for a meta step to move them; got none: unfreeze it, or train on its "
            "labels as they are with maxl.MultiTaskLearner"
        )
    if missing := sum(id(p) not in held for p in trained):
        raise ValueError(
            f"the meta optimizer needs to hold every trainable weight of the generator; {missing} of {len(trained)} are "
            "missing: add them, or freeze them with requires_grad_(False)"
        )
    if any(id(p) in held and p.requires_grad for p in network.parameters()):
        raise ValueError(
            "the meta optimizer needs to hold the generator's weights alone; got some of the network's, which a meta step "
            "would move: give it generator.parameters()"
        )


def _task(network: nn.Module, task: Task | None, given: Mapping[str, Any]) -> Task:
    meant: Task = task or getattr(network, "task", None) or Classification()
    return WithLoss(meant, given["primary_loss"]) if "primary_loss" in given else meant


def _supervision(generator: nn.Module | None, given: Mapping[str, Any]) -> Supervision:
    options = {
        name: given[word]
        for name, word in (
            ("loss", "auxiliary_loss"),
            ("entropy_weight", "entropy_weight"),
            ("regulariser", "regulariser"),
        )
        if word in given
    }
    if isinstance(generator, WeightedLabelGenerator):
        return WeightedLabels(**options)
    return AuxiliaryLabels(**options)


def _lookahead(chosen: Lookahead | str | None, given: Mapping[str, Any], optimizer: Optimizer) -> Lookahead:
    words = {name: given[name] for name in ("lookahead_rule", "evaluate", "favour") if name in given}
    if isinstance(chosen, Lookahead):
        if words:
            raise ValueError(
                f"lookahead= is an object that holds its own settings; drop {next(iter(words))}="
            )
        return chosen
    kind = chosen or "update"
    check_choice("lookahead", kind, _LOOKAHEADS)
    rule = words.get("lookahead_rule", "optimizer")
    evaluate = words.get("evaluate", "same")
    favour = words.get("favour", "time")
    check_choice("lookahead_rule", rule, ("optimizer", "sgd"))
    check_choice("evaluate", evaluate, ("same", "next"))
    check_choice("favour", favour, ("time", "memory"))
    recompute = favour == "memory"
    if kind == "virtual":
        if evaluate == "next":
            raise ValueError('evaluate="next" judges the update just taken; pass lookahead="update" with it')
        return Virtual(rule, recompute=recompute)
    if rule == "sgd" and not _is_plain(optimizer):
        raise ValueError(
            'lookahead_rule="sgd" is the paper\'s plain step; the update that was taken is followed as '
            f'{type(optimizer).__name__} took it: drop it, or pass lookahead="virtual" with it'
        )
    return Next(recompute=recompute) if evaluate == "next" else Taken(recompute=recompute)


def _is_plain(optimizer: Optimizer) -> bool:
    """Whether its steps depend on their gradient as plain SGD's do."""
    return type(optimizer) is SGD and not any(
        group["nesterov"] or group["dampening"] or group["maximize"] for group in optimizer.param_groups
    )


def _once(name: str, value: object, given: Mapping[str, Any], *words: str) -> None:
    if value is not None and (twice := [word for word in words if word in given]):
        raise ValueError(f"{name}= and {twice[0]}= set the same thing; pass one of them")
