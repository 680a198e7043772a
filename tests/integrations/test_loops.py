"""The learner in loops of Accelerate and Fabric: modules and optimizers as they are, data as those libraries hand it out."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, TensorDataset

import maxl
from _networks import flatten
from maxl.supervision import UniformLabels

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # their imports' own
    accelerate = pytest.importorskip("accelerate", reason="needs accelerate")
    lightning = pytest.importorskip("lightning", reason="needs lightning")

pytestmark = pytest.mark.filterwarnings("ignore")  # their advice on devices and workers
HIERARCHY = maxl.Hierarchy.uniform(3, 2)
Parts = tuple[Any, Any, Any, Any]


def parts() -> Parts:
    torch.manual_seed(0)
    network, generator = (
        kind(nn.Sequential(nn.Linear(6, 8), nn.Tanh()), HIERARCHY, feature_dim=8)
        for kind in (maxl.MultiTaskNetwork, maxl.LabelGenerator)
    )
    return (
        *(network, generator),
        torch.optim.Adam(network.parameters(), lr=1e-2),
        torch.optim.Adam(generator.parameters(), lr=1e-2),
    )


def loader() -> DataLoader[tuple[Tensor, ...]]:
    random = torch.Generator().manual_seed(1)
    x = torch.randn(22, 6, generator=random)
    return DataLoader(TensorDataset(x, (x[:, 0] > 0).long() + (x[:, 1] > 0).long()), batch_size=4)


def weights(made: Parts) -> Tensor:
    return flatten([*made[0].parameters(), *made[1].parameters()])


def plain() -> Tensor:
    made = parts()
    learner = maxl.MetaAuxiliaryLearner(*made)
    for x, y in loader():
        learner.backward(x, y)
        nn.utils.clip_grad_norm_(made[0].parameters(), 0.1)
        made[2].step()
        learner.meta_step()
    return weights(made)


def test_accelerates_loop_is_a_plain_one() -> None:
    accelerator = accelerate.Accelerator(cpu=True)
    made = parts()
    learner = maxl.MetaAuxiliaryLearner(*made)
    optimizer, batches = accelerator.prepare(made[2], loader())
    for x, y in batches:
        learner.backward(x, y)
        accelerator.clip_grad_norm_(made[0].parameters(), 0.1)
        optimizer.step()
        learner.meta_step()
    assert torch.equal(weights(made), plain())


def test_accelerates_checkpoints_hold_all_that_training_goes_on_from(tmp_path: Path) -> None:
    accelerator = accelerate.Accelerator(cpu=True)
    whole, halves = parts(), parts()
    learners = [maxl.MetaAuxiliaryLearner(*made, lookahead=maxl.Next()) for made in (whole, halves)]
    batches = list(loader())
    for x, y in batches[:3]:
        learners[0].step(x, y)
    accelerator.register_for_checkpointing(*whole, learners[0])
    accelerator.save_state(str(tmp_path))
    for x, y in batches[3:]:
        learners[0].step(x, y)
    other = accelerate.Accelerator(cpu=True)
    other.register_for_checkpointing(*halves, learners[1])
    other.load_state(str(tmp_path))
    for x, y in batches[3:]:
        learners[1].step(x, y)
    assert torch.equal(weights(whole), weights(halves))
    assert learners[1].steps == 6


def test_fabrics_loop_is_a_plain_one() -> None:
    fabric = lightning.Fabric(accelerator="cpu", devices=1)
    made = parts()
    learner = maxl.MetaAuxiliaryLearner(*made)
    for x, y in fabric.setup_dataloaders(loader()):
        learner.backward(x, y)
        nn.utils.clip_grad_norm_(made[0].parameters(), 0.1)
        made[2].step()
        learner.meta_step()
    assert torch.equal(weights(made), plain())


@pytest.mark.parametrize("which", [2, 3])
@pytest.mark.parametrize("library", ["accelerate", "fabric"])
def test_an_optimizer_that_they_have_wrapped_is_refused(library: str, which: int) -> None:
    made: list[Any] = list(parts())
    if library == "accelerate":
        made[which] = accelerate.Accelerator(cpu=True).prepare(made[which])
    else:
        fabric = lightning.Fabric(accelerator="cpu", devices=1)
        made[which] = fabric.setup(made[which - 2], made[which])[1]
    name = {2: "optimizer", 3: "meta optimizer"}[which]
    with pytest.raises(ValueError, match=rf"the {name} needs to be the one that steps; got \w+ around Adam"):
        maxl.MetaAuxiliaryLearner(*made)
    if which == 2:
        with pytest.raises(ValueError, match="the optimizer needs to be the one that steps"):
            maxl.MultiTaskLearner(made[0], made[2])


def sharded(module: nn.Module) -> nn.Module:
    """Its weights cut over processes."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    fully_shard(module, mesh=init_device_mesh("cpu", (1,)))
    return module


@pytest.mark.skipif(
    not (dist.is_available() and dist.is_gloo_available()), reason="this PyTorch has no gloo to talk through"
)
@pytest.mark.parametrize("wrap", [DistributedDataParallel, sharded], ids=["copied", "sharded"])
@pytest.mark.parametrize("which", [0, 1])
def test_a_module_that_averages_gradients_itself_is_refused(
    which: int, wrap: Callable[[nn.Module], nn.Module], tmp_path: Path
) -> None:
    made: list[Any] = list(parts())
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/meet", rank=0, world_size=1)
    try:
        made[which] = wrap(made[which])
        name = ("network", "generator")[which]
        with pytest.raises(ValueError, match=rf"a {name} needs to be a bare module.*what it was made of"):
            maxl.MetaAuxiliaryLearner(*made)
    finally:
        dist.destroy_process_group()


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "bf16-true"])
@pytest.mark.parametrize("which", ["network", "generator"])
def test_fabrics_wrapped_modules_are_refused_and_its_bare_ones_taken(which: str, precision: str) -> None:
    fabric = lightning.Fabric(accelerator="cpu", devices=1, precision=precision)
    made = parts()
    at = ("network", "generator").index(which)
    bare = made[at]
    wrapped = [*made]
    wrapped[at] = fabric.setup_module(bare)
    with pytest.raises(
        ValueError, match=rf"a {which} needs to be a bare module, as Fabric's.*what it was made of"
    ):
        maxl.MetaAuxiliaryLearner(*wrapped)
    if which == "network":
        with pytest.raises(ValueError, match="a network needs to be a bare module"):
            maxl.MultiTaskLearner(wrapped[0], made[2], source=UniformLabels(HIERARCHY))
        within = nn.Sequential(wrapped[0])
        with pytest.raises(ValueError, match="got it within"):
            maxl.MultiTaskLearner(
                within, made[2], task=maxl.Classification(), source=UniformLabels(HIERARCHY)
            )
    maxl.MetaAuxiliaryLearner(*made)


def test_accelerates_lower_precision_is_taken_as_it_is() -> None:
    accelerate.state.AcceleratorState._reset_state(reset_partial_state=True)  # which holds for the process
    try:
        accelerator = accelerate.Accelerator(cpu=True, mixed_precision="bf16")
        made = [*parts()]
        made[0] = accelerator.prepare(made[0])
        learner = maxl.MetaAuxiliaryLearner(*made)
        x, y = next(iter(loader()))
        assert float(learner.step(x, y).loss) > 0
    finally:
        accelerate.state.AcceleratorState._reset_state(reset_partial_state=True)
