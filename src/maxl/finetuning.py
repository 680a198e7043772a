"""Training what was trained before: its layers in order, learning rates by layer, and parts that stay as they are.

All of it is ordinary PyTorch: parameter groups for an optimizer, ``requires_grad`` and eval mode. Learners train what
``requires_grad`` says, and the double gradient follows each group's own learning rate.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from torch import nn


def ordered(module: nn.Module, parts: Iterable[str], *, apart: bool = True) -> list[list[str]]:
    """Names of a module's parameters, layer by layer, where its parts are called one after another.

    A part is a layer. Parts without a matrix, as those of normalisation, belong to the layer before them.

    Args:
        module: Holds the parts.
        parts: Their names, as for ``get_submodule``, from the inputs to the features.
        apart: Whether a part that is an ``nn.Sequential`` is as many layers as it has parts.
    """
    layers: list[list[str]] = []
    opened = False  # whether the last layer has a matrix, to which what follows belongs
    for part in _pieces(module, parts) if apart else parts:
        inside = module.get_submodule(part)
        names = [f"{part}.{name}" for name, _ in inside.named_parameters()]
        matrix = any(p.dim() > 1 for p in inside.parameters())
        if not names:
            continue
        if not layers or (matrix and opened):
            layers.append(names)
        else:
            layers[-1] += names
        opened = opened or matrix
    return layers


def _pieces(module: nn.Module, parts: Iterable[str]) -> Iterable[str]:
    for part in parts:
        inside = module.get_submodule(part)
        if isinstance(inside, nn.Sequential) and type(inside).forward is nn.Sequential.forward:
            yield from _pieces(module, [f"{part}.{name}" for name, _ in inside.named_children()])
        else:
            yield part


def parameter_layers(trunk: nn.Module) -> list[list[str]]:
    """Names of a trunk's parameters, layer by layer from the inputs to the features.

    A trunk says it in a method of this name without arguments; the layers of an ``nn.Sequential`` are its modules.
    Nothing is guessed from names, or from the order in which a module happens to hold its parts.

    Raises:
        ValueError: if the trunk is of another kind, or what it says is not each of its parameters once.
    """
    if callable(stated := getattr(trunk, "parameter_layers", None)):
        layers = [list(layer) for layer in stated()]
    elif isinstance(trunk, nn.Sequential) and type(trunk).forward is nn.Sequential.forward:
        layers = ordered(trunk, [name for name, _ in trunk.named_children()])
    else:
        raise ValueError(
            f"rates by layer need a trunk whose layers have an order; {type(trunk).__name__} does not say it: give it a "
            "method parameter_layers(), the names of its parameters layer by layer from the inputs on, or make it an "
            "nn.Sequential"
        )
    said = [name for layer in layers for name in layer]
    there = [name for name, _ in trunk.named_parameters()]
    if shared := {name for name, _ in trunk.named_parameters(remove_duplicate=False)} - {*there}:
        said = [name for name in said if name not in shared]  # a weight that two layers share is of the first
        layers = [[name for name in layer if name not in shared] for layer in layers]
    if sorted(said) != sorted(there):
        odd = sorted({*said} ^ {*there}) or sorted(name for name in said if said.count(name) > 1)
        raise ValueError(
            f"rates by layer need each parameter of the trunk in one layer; of {type(trunk).__name__} {odd[0]} "
            f"{'is in no layer' if odd[0] not in said else 'is in several, or is no parameter of it'}"
        )
    return [layer for layer in layers if layer]


def parameter_groups(
    network: nn.Module, lr: float, *, trunk_lr: float | None = None, layer_decay: float | None = None
) -> list[dict[str, Any]]:
    """Parameter groups for an optimizer of ``torch.optim``: the heads at ``lr``, the trunk slower, layer by layer.

    The rate of a trunk's layer is ``trunk_lr`` · ``layer_decay``^d, where d counts the layers from it to the heads: 1 for
    the last layer, so that with ``trunk_lr`` = ``lr`` the heads, at d = 0, continue the series (Clark et al. 2020,
    ELECTRA; Bao et al. 2022, BEiT). Parameters that are frozen are left out.

    Args:
        network: Has a ``trunk``; all its other parameters are heads.
        lr: Learning rate of the heads, above 0.
        trunk_lr: Of the trunk, before the decay; ``lr`` by default.
        layer_decay: In (0, 1]; None gives the whole trunk one rate.

    Raises:
        ValueError: if a number is out of its range, nothing is left to train, or the layers are not known; see
            ``parameter_layers``.
    """
    for name, value in (("lr", lr), ("trunk_lr", trunk_lr)):
        if value is not None and not value > 0:
            raise ValueError(f"{name} needs to be above 0; got {value}")
    if layer_decay is not None and not 0 < layer_decay <= 1:
        raise ValueError(f"layer_decay needs to be above 0 and at most 1; got {layer_decay}")
    trunk = network.get_submodule("trunk")
    named = dict(trunk.named_parameters())
    rate = lr if trunk_lr is None else trunk_lr
    layers = [list(named)] if layer_decay is None else parameter_layers(trunk)
    scales = [1.0] if layer_decay is None else [layer_decay ** (len(layers) - i) for i in range(len(layers))]
    of_trunk = {id(p) for p in named.values()}
    groups: list[dict[str, Any]] = [
        {"params": [named[name] for name in layer if named[name].requires_grad], "lr": rate * scale}
        for layer, scale in zip(layers, scales, strict=True)
    ]
    heads = [p for p in network.parameters() if p.requires_grad and id(p) not in of_trunk]
    groups = [group for group in [*groups, {"params": heads, "lr": lr}] if group["params"]]
    if not groups:
        raise ValueError("an optimizer needs parameters to train; all of them are frozen")
    return groups


def freeze(trunk: nn.Module, parts: Sequence[str] = ()) -> list[nn.Module]:
    """Freezes a trunk or parts of it: no gradient reaches their parameters, and they are in eval mode.

    In eval mode BatchNorm keeps its statistics and takes them for those of the batch, and nothing is dropped: the part
    computes what it did where its weights come from. ``network.train()`` ends that, so call ``eval()`` on what is
    returned after each.

    Args:
        trunk: Whose parameters are frozen.
        parts: Names of its modules or parameters, as "layers.0"; the whole trunk by default.

    Returns:
        The modules that are frozen, to be kept in eval mode.

    Raises:
        ValueError: if the trunk has no parameter in a part of that name.
    """
    frozen: list[nn.Module] = []
    for part in parts or ("",):
        found = [p for name, p in trunk.named_parameters() if _within(name, part)]
        if not found:
            raise ValueError(
                f"what is frozen needs to be a part of the trunk that has parameters; {type(trunk).__name__} has none "
                f"below {part!r}: there are {', '.join(_parts_near(trunk, part))}"
            )
        for p in found:
            p.requires_grad_(False)
        frozen += [module for name, module in trunk.named_modules() if _within(name, part)]
    for module in frozen:
        module.eval()
    return frozen


def _parts_near(trunk: nn.Module, part: str) -> list[str]:
    """The parts with parameters below what there is of a part's name."""
    names = [name for name, _ in trunk.named_parameters()]
    while part and not any(_within(name, part) for name in names):
        part = part.rpartition(".")[0]
    depth = part.count(".") + 1 + bool(part)
    return list(dict.fromkeys(".".join(n.split(".")[:depth]) for n in names if _within(n, part)))


def _within(name: str, part: str) -> bool:
    return not part or name == part or name.startswith(f"{part}.")
