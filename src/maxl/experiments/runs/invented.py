"""The auxiliary labels that a finished run's generator invents for labelled samples."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from maxl.experiments.runs.build import resolve_device
from maxl.experiments.runs.checkpoint import kept_networks, load_end
from maxl.experiments.runs.config import MACHINE_FIELDS, RunConfig
from maxl.experiments.runs.evaluation import block_names, describe_labels, evaluating
from maxl.experiments.runs.files import RunWarning
from maxl.experiments.runs.folder import RunFolder
from maxl.experiments.runs.labelled import Labelled, labelled_samples
from maxl.experiments.runs.machine import threads
from maxl.experiments.runs.methods import LEARNED_METHODS, NOISE_METHODS, SHARED
from maxl.experiments.runs.model import PrimaryModel, load_model
from maxl.experiments.runs.networks import GENERATOR_METHODS, build_generator, build_network, memory_format
from maxl.experiments.runs.trainer import EVALUATION_BATCH
from maxl.hierarchy import Hierarchy
from maxl.hypergradients import as_tuple
from maxl.networks import MultiTaskNetwork
from maxl.tasks import Classification, MultiLabel, Regression, Task

_WITHOUT = {
    "single": "it trains without auxiliary labels",
    "uniform": "its labels are spread evenly over each class's block, and so say nothing of a sample",
    "random": "its labels were drawn for the training samples, one by one, and say nothing of others",
    "kmeans": "its labels are clusters of the training samples, whose centres are not kept",
    "kmeans-shuffled": "its labels are clusters of the training samples, dealt out by chance",
    "contrastive": "its labels are clusters of the training samples, whose centres are not kept",
    "prototypes": "its labels are learned for the training samples, by prototypes that are not kept",
    "prototypes-shuffled": "its labels are learned for the training samples, and dealt out by chance",
    "human-shuffled": "its labels are a column of the data, dealt out by chance",
    "prototypical": "its labels are the nearest prototypes of the training samples, which are not kept",
    **dict.fromkeys(NOISE_METHODS, "it trains without a generator"),
    "human": "its labels are a column of the data, which is there to be read",
}


_ENOUGH = 5  # samples a class, at which what labels say of them is told


@dataclass(frozen=True)
class InventedLabels:
    """Auxiliary labels of N samples over K auxiliary classes.

    Attributes:
        data: The samples.
        hierarchy: ψ, whose blocks are those of ``primary_names``, and maybe one of samples without a label; one block of
            a regression.
        primary_names: Of the C classes or labels, or of the numbers to predict.
        labels: Soft labels, float32 of shape (N, K); each row is a distribution over what its sample may use.
        weights: Of the samples' auxiliary losses, above 0, shape (N,); None where the method learns none.
        verdict: What is wrong with the labels, in words: that they say nothing of their samples; None too where there are few.
    """

    data: Labelled
    hierarchy: Hierarchy
    primary_names: tuple[str, ...]
    labels: Tensor
    weights: Tensor | None
    verdict: str | None

    @property
    def block_names(self) -> tuple[str, ...]:
        """A name for each block of ψ, that of its class or label, or "none" where samples have no label."""
        blocks = self.hierarchy.num_primary
        return ("all samples",) if blocks == 1 else block_names(self.primary_names, blocks)

    @property
    def likeliest(self) -> Tensor:
        """The likeliest auxiliary class of each sample, int64 of shape (N,) in [0, K)."""
        return self.labels.argmax(1)

    @property
    def entropy(self) -> Tensor:
        """Of each label, nats, float64 of shape (N,)."""
        entropy: Tensor = torch.special.entr(self.labels.double()).sum(1)
        return entropy

    @property
    def most_entropy(self) -> Tensor:
        """Of labels spread evenly over the classes that each sample may use, nats, float64 of shape (N,)."""
        blocks = (
            self.labels @ self.hierarchy.mask.T.float() > 0
        )  # a class of which may be at 0, where labels are hard
        most: Tensor = (blocks.double() @ self.hierarchy.mask.sum(1).double()).log()
        return most

    @property
    def within(self) -> Tensor:
        """The number of each auxiliary class within its block, from 0, int64 of shape (K,)."""
        owner = self.hierarchy.owner
        return torch.stack([(owner[:k] == owner[k]).sum() for k in range(len(owner))])


def invent(
    run: str | Path, source: str | Path, *, device: str = "auto", trust: bool = False
) -> InventedLabels:
    """The labels that a run's generator gives to labelled samples, as it was at the end of training, or in the epoch that was kept.

    The generator is in the checkpoint of the last epoch, of the best one where that is kept; the checkpoint has to have its
    checksum and to belong to the run. As after an epoch of training the generator is in eval mode, and samples are not
    augmented.

    Args:
        run: Folder of a finished run of a method with a generator.
        source: As for ``labelled_samples``.
        device: Where to compute.
        trust: As for ``load_model``.

    Raises:
        FileNotFoundError: if ``source`` does not exist.
        ValueError: if the run is unfinished, damaged, or its method has no generator; or as ``labelled_samples``.
    """
    run, source = Path(run), Path(source)
    folder = RunFolder(run)
    model = load_model(run, trust=trust)
    config, summary = folder.read_config(trust=trust), folder.read_summary()
    if config.method not in GENERATOR_METHODS:
        raise ValueError(
            f"labels come from the generator of a run; {run} is of method {config.method}, which has none: "
            f"{_WITHOUT.get(config.method, 'no network gives them')}"
        )
    if model.task == "segmentation":
        raise ValueError(
            f"labels are written one a sample; those of segmentation, as in {run}, are for pixels"
        )
    hierarchy = Hierarchy(_psi(folder, summary, model))
    data, (labels, *more) = signals_of_run(
        folder, config, str(summary["method"]), model, hierarchy, build_generator, source, device
    )
    if (reason := _by_batches(config, model)) is not None:
        warnings.warn(
            f"in training a label depended on the batch that its sample came in ({reason}); these are by running statistics",
            RunWarning,
            stacklevel=2,
        )
    verdict = None
    if len(data) >= _ENOUGH * hierarchy.num_primary:  # of a sample or two a class no label says anything
        verdict = describe_labels(labels, data.targets, hierarchy, _task(model)).verdict()
    return InventedLabels(data, hierarchy, model.primary_names, labels, more[0] if more else None, verdict)


def _by_batches(config: RunConfig, model: PrimaryModel) -> str | None:
    """Why labels in training were of their batches, not of their samples alone; None where they were of these."""
    if config.method in LEARNED_METHODS and config.generator_trunk == SHARED:
        batches = any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in model.trunk.modules())
        return "BatchNorm in the trunk that the generator shares" if batches else None
    return "label_statistics batch" if config.label_statistics == "batch" else None


def signals_of_run(
    folder: RunFolder,
    config: RunConfig,
    label: str,
    model: PrimaryModel,
    hierarchy: Hierarchy,
    make: Callable[[RunConfig, MultiTaskNetwork, str, tuple[int, ...]], nn.Module],
    source: Path,
    device: str,
) -> tuple[Labelled, list[Tensor]]:
    """Labelled samples, and what the generator in a run's last checkpoint gives to them.

    Args:
        folder: Of a finished run.
        config, label: Its settings, and the name of its method in its summary.
        model: Its primary model.
        hierarchy: ψ.
        make: Builds its generator, as it is before training.
        source, device: As for ``invent``.

    Raises:
        ValueError: if the checkpoint does not go with the run, or as ``labelled_samples``.
    """
    fixed = {name: value for name, value in config.to_dict().items() if name not in MACHINE_FIELDS}
    state = load_end(folder, {**fixed, "label": label})
    network = build_network(
        *(config, hierarchy, _task(model), model.task, model.input_shape),
        architecture=folder.read_architecture(),
    )
    generator = make(config, network, model.task, model.input_shape)
    of_network, of_generator = kept_networks(state)
    try:
        network.load_state_dict(of_network)
        generator.load_state_dict(of_generator or {})
    except RuntimeError as error:
        raise ValueError(
            f"{folder.checkpoint} does not fit the run: {' '.join(str(error).split())[:200]}"
        ) from error
    weights = network.state_dict()
    if not all(torch.equal(value, weights[name]) for name, value in model.state_dict().items()):
        raise ValueError(
            f"{folder.checkpoint} does not go with {folder.model}: one of them was changed; restore it"
        )
    where = resolve_device(device)
    layout = memory_format(config, where)
    with threads(config.threads):
        data = labelled_samples(folder.path, config, model, source)
        network.to(where, memory_format=layout)  # type: ignore[call-overload]
        generator.to(where, memory_format=layout)  # type: ignore[call-overload]
        return data, _signals(generator, data, where)


def _psi(folder: RunFolder, summary: Mapping[str, Any], model: PrimaryModel) -> Sequence[int]:
    """ψ of each block."""
    psi, blocks = summary.get("psi"), 1 if model.task == "regression" else len(model.primary_names)
    several = model.task == "multi-label"
    if not isinstance(psi, list) or len(psi) not in (blocks, blocks + several):
        raise ValueError(
            f"{folder.summary} needs a psi for each of {blocks} classes; got {psi}: train the run again"
        )
    return psi


def _task(model: PrimaryModel) -> Task:
    """What says which auxiliary classes a target may use; losses are not asked for."""
    if model.task == "regression":
        return Regression(len(model.primary_names))
    return MultiLabel(len(model.primary_names)) if model.task == "multi-label" else Classification()


def _signals(generator: nn.Module, data: Labelled, device: torch.device) -> list[Tensor]:
    done: list[tuple[Tensor, ...]] = []
    with evaluating(generator):
        for start in range(0, len(data), EVALUATION_BATCH):
            rows = range(start, min(start + EVALUATION_BATCH, len(data)))
            targets = data.targets[rows.start : rows.stop].to(device)
            signals = tuple(
                s.float().cpu() for s in as_tuple(generator(data.inputs(rows).to(device), targets))
            )
            finite = torch.stack(
                [s.flatten(1).isfinite().all(1) if s.dim() > 1 else s.isfinite() for s in signals]
            )
            data.require_finite(start, finite.all(0), "the generator gives no label")
            done.append(signals)
    return [torch.cat(parts) for parts in zip(*done, strict=True)]
