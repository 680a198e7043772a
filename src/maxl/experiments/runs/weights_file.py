"""Weights of a trunk from a file: read without running code, and fitted by name or refused."""

from __future__ import annotations

import pickle
import re
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from maxl.experiments.runs.memory import is_out_of_memory

SUFFIXES = (".safetensors", ".pt", ".pth", ".bin")
COUNTER = "num_batches_tracked"  # of BatchNorm: older files lack it, and it counts for nothing here
_SHOWN = 3  # names in a message


@dataclass(frozen=True)
class Fitted:
    """Weights under the names that a trunk has for them.

    Attributes:
        tensors: Every tensor of the trunk's state but BatchNorm's counters.
        left: What of the file is not of the trunk: "fc (2 tensors)".
    """

    tensors: dict[str, Tensor]
    left: tuple[str, ...]


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors in a .safetensors file, or in a .pt file that holds tensors alone.

    A .pt file is read with ``weights_only=True``, which builds tensors and plain containers and runs no code: most
    published weights come in such files. One that needs more is refused. Where it holds its weights beside other
    things, under "state_dict" for instance, they are taken if there is one such dictionary.

    Raises:
        ValueError: if the file is missing, damaged or of another kind, or holds several sets of weights.
        MemoryError, RuntimeError: if memory runs out.
    """
    if path.suffix not in SUFFIXES:
        raise ValueError(f"--weights needs a file {', '.join(SUFFIXES)}; got {path}")
    if not path.is_file():
        raise ValueError(f"--weights needs a file; {path} {'is none' if path.exists() else 'does not exist'}")
    try:
        found = _safetensors(path) if path.suffix == ".safetensors" else _torch(path)
    except PermissionError:
        raise
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"--weights needs a file that holds tensors alone; {path} asks for code to be run, or is damaged: save "
            "model.state_dict() as .safetensors"
        ) from error
    except Exception as error:  # whatever a broken archive makes torch raise
        if is_out_of_memory(error):
            raise
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"--weights cannot read {path}: {reason}") from error
    return _tensors(found, path)


def _safetensors(path: Path) -> Any:
    from safetensors.torch import load_file

    return load_file(path)


def _torch(path: Path) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what torch says about formats that it no longer writes
        return torch.load(path, map_location="cpu", weights_only=True)


def _tensors(found: Any, path: Path) -> dict[str, Tensor]:
    """The one set of named tensors in what a file holds."""
    if _is_weights(found):
        return dict(found)
    sets = [key for key, value in found.items() if _is_weights(value)] if isinstance(found, Mapping) else []
    if len(sets) != 1:
        what = f"{len(sets)} sets of weights, {', '.join(map(str, sets))}" if sets else type(found).__name__
        raise ValueError(
            f"--weights needs one set of named tensors; {path} holds {what}: save the one you mean as .safetensors"
        )
    return dict(found[sets[0]])


def _is_weights(value: Any) -> bool:
    if not isinstance(value, Mapping) or not value:
        return False
    return all(isinstance(k, str) for k in value) and all(isinstance(v, Tensor) for v in value.values())


def fit(found: Mapping[str, Tensor], wanted: Mapping[str, Tensor], where: str) -> Fitted:
    """A trunk's state from the tensors of a file.

    Names may begin with something that the trunk's do not, as ``module.`` or ``backbone.``, or the other way round,
    where one such difference alone gives every tensor of the trunk. What else is in the file is left out where it
    belongs to modules that the trunk does not have, as a classifier's ``fc``. A tensor within a module of the trunk that
    the trunk has no place for tells of another model, a deeper one for instance, and is refused.

    Args:
        found: The file's tensors.
        wanted: The trunk's state, whose names, shapes and kinds are to be met.
        where: What errors call the file.

    Raises:
        ValueError: if a tensor of the trunk is missing or has another shape, one of the file has no place, weights are
            not finite, or several differences in names fit.
    """
    wanted = {name: t for name, t in wanted.items() if not name.endswith(COUNTER)}
    tries = {pair: _matched(found, wanted, *pair) for pair in _differences(found, wanted)}
    complete = {pair: match for pair, match in tries.items() if len(match) == len(wanted)}
    distinct = {tuple(sorted(match.values())) for match in complete.values()}
    if len(distinct) > 1:
        names = " and ".join(repr(file or trunk) for file, trunk in complete)
        raise ValueError(
            f"{where} fits the trunk in several ways, below {names}: save the one you mean alone"
        )
    if not complete:
        raise ValueError(_unfit(found, wanted, max(tries.items(), key=lambda item: len(item[1])), where))
    (file_prefix, trunk_prefix), match = next(iter(complete.items()))
    used = {*match.values()}
    rest = [name for name in found if name not in used and not name.endswith(COUNTER)]
    inside = [name.removeprefix(file_prefix) for name in rest if name.startswith(file_prefix)]
    tops = {name.removeprefix(trunk_prefix).split(".")[0] for name in wanted}
    if odd := [name for name in inside if _of_the_trunk(name.split(".")[0], tops)]:
        raise ValueError(
            f"{where} is of another model than the trunk, which has no place for {_listed(odd)}: choose its --trunk, or "
            "leave them out of the file"
        )
    tensors = {}
    for name, key in match.items():
        if wanted[name].is_floating_point() and not bool(found[key].isfinite().all()):
            raise ValueError(f"{where} needs finite weights; {key} has others")
        tensors[name] = found[key].to(wanted[name].dtype)
    return Fitted(tensors, _counted(rest))


def _differences(found: Iterable[str], wanted: Iterable[str]) -> list[tuple[str, str]]:
    """(prefix of the file's names, prefix of the trunk's) that could be all that parts them, shortest first."""

    def prefixes(names: Iterable[str]) -> set[str]:
        return {name[: dot.end()] for name in names for dot in re.finditer(r"\.", name)}

    pairs = [("", ""), *((p, "") for p in prefixes(found)), *(("", p) for p in prefixes(wanted))]
    return sorted(pairs, key=lambda pair: (len(pair[0]) + len(pair[1]), pair))


def _matched(
    found: Mapping[str, Tensor], wanted: Mapping[str, Tensor], file: str, trunk: str
) -> dict[str, str]:
    """The file's name for each of the trunk's that it has in the same shape."""
    match = {}
    for name, tensor in wanted.items():
        key = file + name.removeprefix(trunk)
        if name.startswith(trunk) and key in found and found[key].shape == tensor.shape:
            match[name] = key
    return match


def _of_the_trunk(top: str, tops: set[str]) -> bool:
    """Whether a module is one of the trunk's, or one more of a series that the trunk has: layer5 after layer4."""
    series = {name.rstrip("0123456789") for name in tops if name[-1:].isdigit()}
    return top in tops or (top[-1:].isdigit() and top.rstrip("0123456789") in series)


def _unfit(
    found: Mapping[str, Tensor],
    wanted: Mapping[str, Tensor],
    nearest: tuple[tuple[str, str], dict[str, str]],
    where: str,
) -> str:
    """What of a trunk a file lacks, and what it has instead."""
    (file, trunk), match = nearest
    keys = {name: file + name.removeprefix(trunk) for name in wanted if name not in match}
    shapes = [
        f"{key} is {tuple(found[key].shape)}, not {tuple(wanted[name].shape)}"
        for name, key in keys.items()
        if key in found
    ]
    missing = [name for name, key in keys.items() if key not in found]
    named = {*match.values(), *keys.values()}
    unexpected = [key for key in found if key not in named and not key.endswith(COUNTER)]
    told = [f"{len(match)} of {len(wanted)} tensors fit"]
    told += [f"missing: {_listed(missing)}"] if missing else []
    told += [f"unexpected: {_listed(unexpected)}"] if unexpected else []
    told += [f"of another shape: {_listed(shapes)}"] if shapes else []
    return f"{where} does not hold the weights of the trunk: {'; '.join(told)}: choose its --trunk and --image-size"


def _listed(names: list[str]) -> str:
    more = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {more} more" if more > 0 else "")


def _counted(names: list[str]) -> tuple[str, ...]:
    """'fc (2 tensors)' for each module that names belong to."""
    tops: dict[str, int] = {}
    for name in names:
        tops[name.split(".")[0]] = tops.get(name.split(".")[0], 0) + 1
    return tuple(f"{top} ({count} tensor{'s' * (count > 1)})" for top, count in tops.items())
