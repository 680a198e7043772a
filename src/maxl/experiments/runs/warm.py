"""The networks of a finished run as the start of another: the trunk, and the heads and the generator where they fit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from maxl.experiments.data import DataSet, Features
from maxl.experiments.runs.checkpoint import kept_networks, load_end
from maxl.experiments.runs.config import MACHINE_FIELDS, RunConfig
from maxl.experiments.runs.folder import RunFolder
from maxl.experiments.runs.measures import task_of
from maxl.experiments.runs.methods import LEARNED_METHODS, OWN, SHARED, WITHOUT_LABELS
from maxl.experiments.runs.names import is_code
from maxl.experiments.runs.own_inputs import finished_run
from maxl.experiments.runs.trunks import chosen
from maxl.experiments.runs.weights_file import Fitted, fit
from maxl.hierarchy import Hierarchy

State = dict[str, Tensor]

# Methods whose generators decide the same things.
_ALIKE = (("maxl", "gated"), ("weighted",), ("wamal",))
_LAST = ("2.weight", "2.bias")  # of a head, see ``networks.head``


@dataclass(frozen=True)
class Warm:
    """What of another run's networks is taken beside the trunk; None for what is left.

    Attributes:
        taken, left: The same in words.
    """

    primary_head: State | None = None
    auxiliary_head: State | None = None
    generator: State | None = None
    taken: tuple[str, ...] = ()
    left: tuple[str, ...] = ()


def warm_start(
    config: RunConfig, data: DataSet, hierarchy: Hierarchy, trunk: nn.Module
) -> tuple[Fitted, Warm]:
    """Trunk, heads and generator of the run that ``config.from_run`` names, as far as they fit a new one.

    The trunk has to fit. The primary head is taken where classes, labels or targets have the same names; classes in
    another order are put in order, and numbers in other units are converted. The generator and the auxiliary head with
    it are taken where both methods train such a generator with the same ψ for the same classes.

    Args:
        config: Of the new run.
        data: Its data.
        hierarchy: Its ψ.
        trunk: Of its kind, whose state is to be met.

    Raises:
        ValueError: if there is no such run, it is damaged, or its trunk is another one.
    """
    folder = finished_run(config)
    summary, stored = folder.read_summary(), folder.read_config(trust=True)  # of which nothing is called here
    folder.verify(folder.model, summary)
    model = _model(folder)
    name = chosen(config.trunk, data.task, data.input_shape)
    if _plain(name) != _plain(summary["trunk"]) and not is_code(name):
        raise ValueError(
            f"--from {folder.path} has the trunk {summary['trunk']}; got --trunk {name}: leave --trunk out"
        )
    found = fit(_part(model, "trunk"), trunk.state_dict(), str(folder.model))
    taken, left = list[str](), list[str]()
    primary, words = _primary_head(_part(model, "primary_head"), summary, data)
    (taken if primary is not None else left).append(f"primary head ({words})")
    auxiliary, generator, why = _of_labels(folder, config, stored, summary, data, hierarchy)
    if auxiliary is not None:
        taken.append("auxiliary head" + (" and label generator" if generator is not None else ""))
    elif why is not None:
        left.append(f"auxiliary head and label generator ({why})")
    return found, Warm(primary, auxiliary, generator, tuple(taken), tuple(left))


def _model(folder: RunFolder) -> State:
    from safetensors.torch import load_file

    try:
        return dict(load_file(folder.model))
    except (SafetensorError, OSError) as error:
        raise ValueError(f"--from cannot read {folder.model}: {error}") from error


def _part(state: Mapping[str, Tensor], part: str) -> State:
    return {n.removeprefix(f"{part}."): t for n, t in state.items() if n.startswith(f"{part}.")}


def _plain(name: str) -> str:
    return name.removeprefix("timm:")


def _primary_head(state: State, summary: Mapping[str, Any], data: DataSet) -> tuple[State | None, str]:
    """The head as it is for the new run's outputs, or None; and in words what they are, or why not."""
    before, now, task = list(summary["primary_names"]), list(data.primary_names), task_of(summary)
    what = {"multi-label": "labels", "regression": "targets"}.get(task, "classes")
    if task != data.task:
        return None, f"of {task}, not {data.task}"
    if set(before) != set(now):
        return None, f"other {what}"
    order = torch.tensor([before.index(name) for name in now])
    state = {name: t[order] if name in _LAST else t for name, t in state.items()}
    if task == "regression":
        assert data.targets is not None
        old = summary["targets"]
        of = Features(tuple(old["names"]), tuple(old["mean"]), tuple(old["std"]))
        state = _in_other_units(state, of, data.targets, order)
    return state, f"the same {len(now)} {what}" + (", put in order" if before != now else "")


def _in_other_units(state: State, old: Features, new: Features, order: Tensor) -> State:
    """The last layer for targets that are standardised otherwise: (out · σ + μ − μ') / σ' are the same numbers."""
    (mean, std), (to_mean, to_std) = (
        tuple(torch.tensor(values, dtype=torch.float64) for values in (of.mean, of.std)) for of in (old, new)
    )
    mean, std = mean[order], std[order]
    if torch.equal(mean, to_mean) and torch.equal(std, to_std):
        return state
    weight, bias = (state[name].double() for name in _LAST)
    moved = (weight * (std / to_std).unsqueeze(1), (bias * std + mean - to_mean) / to_std)
    return {**state, **{name: t.float() for name, t in zip(_LAST, moved, strict=True)}}


def _of_labels(
    folder: RunFolder,
    config: RunConfig,
    stored: RunConfig,
    summary: Mapping[str, Any],
    data: DataSet,
    hierarchy: Hierarchy,
) -> tuple[State | None, State | None, str | None]:
    """Auxiliary head and generator where they go on with the same labels; else None, and why, if there was one."""
    if config.method in WITHOUT_LABELS or stored.method in WITHOUT_LABELS:
        return None, None, None if stored.method in WITHOUT_LABELS else f"--method {config.method} has none"
    learned = stored.method in LEARNED_METHODS
    alike = any({stored.method, config.method} <= {*methods} for methods in _ALIKE)
    if not alike and not (stored.method == config.method == "uniform"):
        return None, None, f"method {stored.method}, not {config.method}"
    if list(summary["primary_names"]) != list(data.primary_names) or task_of(summary) != data.task:
        return None, None, "other classes, or in another order"
    if list(hierarchy.psi) != summary.get("psi"):
        return None, None, "another psi"
    if learned and _generator_trunk(stored, summary) != _generator_trunk(config, summary):
        return None, None, "another --generator-trunk"
    if not folder.checkpoint.is_file():
        return None, None, f"{folder.path} has no checkpoint"
    fixed = {name: value for name, value in stored.to_dict().items() if name not in MACHINE_FIELDS}
    network, generator = kept_networks(load_end(folder, {**fixed, "label": summary["method"]}))
    return _part(network, "auxiliary_head"), generator if learned else None, None


def _generator_trunk(config: RunConfig, summary: Mapping[str, Any]) -> str:
    """What a generator's trunk is made from; that of the network itself unless it is named."""
    if config.generator_trunk == SHARED:
        return SHARED
    return _plain(str(summary["trunk"] if config.generator_trunk == OWN else config.generator_trunk))
