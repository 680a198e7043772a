"""From a config and a data set to networks, optimizers, labels and a learner."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from maxl.experiments.data import IGNORED, DataSet
from maxl.experiments.runs import trunks
from maxl.experiments.runs.config import RunConfig
from maxl.experiments.runs.methods import (
    CLUSTER_METHODS,
    HUMAN_METHODS,
    JUDGED_METHODS,
    NOISE_METHODS,
    OWN,
    SHARED,
    WITHOUT_LABELS,
)
from maxl.experiments.runs.networks import (
    GENERATOR_METHODS,
    build_generator,
    build_judged,
    build_network,
    memory_format,
)
from maxl.experiments.runs.processes import ALONE, Processes
from maxl.experiments.runs.rates import Schedule, freeze_parts, network_groups, optimizer_of
from maxl.experiments.runs.sources import fixed_source
from maxl.experiments.runs.start import Start, load_start, starts_from_weights, told
from maxl.experiments.runs.supervisions import (
    Contrastive,
    FocalLoss,
    choose_supervision,
    judges_by_features,
    of_given_labels,
    robust,
)
from maxl.experiments.runs.text_encoders import check_tokens
from maxl.hierarchy import Hierarchy
from maxl.learning import MetaAuxiliaryLearner, MultiTaskLearner, cosine_gate
from maxl.networks import LabelGenerator, MultiTaskNetwork
from maxl.supervision import AuxiliaryLabels, LabelCorrector, WeightGenerator, generated
from maxl.tasks import Classification, MultiLabel, Regression, Segmentation, Task


@dataclass
class Setup:
    """All that trains in a run.

    Attributes:
        optimizers: Of the network and, where there is one, of the generator.
        rates: The learning rates of their parameter groups where the schedule's factor is 1.
        schedule: Factor on all of them.
        frozen: Modules of the network that stay in eval mode.
        tuner: Trains on trusted samples alone from the epoch ``tuned_from`` on, where that is asked for.
    """

    hierarchy: Hierarchy
    network: MultiTaskNetwork
    generator: LabelGenerator | WeightGenerator | LabelCorrector | None
    learner: MultiTaskLearner
    optimizers: list[Optimizer]
    rates: list[list[float]]
    schedule: Schedule
    frozen: list[nn.Module]
    tuner: MultiTaskLearner | None = None
    tuned_from: int = 0

    @property
    def labeller(self) -> LabelGenerator | None:
        """The generator, where it gives labels of a second task."""
        return self.generator if isinstance(self.generator, LabelGenerator) else None

    def learner_in(self, epoch: int) -> MultiTaskLearner:
        """What takes the steps of an epoch, counted from 0."""
        return self.learner if self.tuner is None or epoch < self.tuned_from else self.tuner

    def set_learning_rates(self, epoch: int, step: int = 0, steps: int = 1) -> float:
        """Sets the rates of a step, of so many of an epoch, both counted from 0; returns that of the heads.

        There is no state but these numbers.
        """
        factor = self.schedule(epoch, step, steps)
        for optimizer, rates in zip(self.optimizers, self.rates, strict=True):
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = rate * factor
        return self.rates[0][-1] * factor

    def train(self) -> None:
        """Sets the network to train, but for what is frozen."""
        self.network.train()
        for module in self.frozen:
            module.eval()


def resolve_device(name: str) -> torch.device:
    """ "auto" is CUDA, else MPS, else the CPU.

    Raises:
        ValueError: if the device does not exist here, or is none that computes.
    """
    if name == "auto":
        available = torch.accelerator.is_available()
        return (
            torch.device(torch.accelerator.current_accelerator() or "cpu")
            if available
            else torch.device("cpu")
        )
    if name.split(":")[0] not in ("cpu", *_ACCELERATORS):  # torch knows meta, opengl and others
        raise ValueError(f"--device {name} cannot be used here: choose cpu, cuda, mps or auto")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"--device {name} cannot be used here: {str(error).splitlines()[0]}") from error
    return device


_ACCELERATORS = ("cuda", "mps", "xpu", "mtia")


def choose_hierarchy(config: RunConfig, data: DataSet) -> Hierarchy:
    """ψ of the run.

    Raises:
        ValueError: if ψ has the wrong length, or human labels are asked for and there are none.
    """
    classes = 1 if data.task == "regression" else data.num_primary
    if config.method in HUMAN_METHODS and data.task != "classification":
        raise ValueError(
            f"--method {config.method} needs primary classes with finer human ones; the task is {data.task}, which has "
            "none: use single, uniform, random, kmeans or maxl"
        )
    if config.method in NOISE_METHODS and data.task != "classification":
        raise ValueError(
            f"--method {config.method} is for classes that are partly wrong; the task is {data.task}: use single"
        )
    if config.method in WITHOUT_LABELS:
        return Hierarchy.uniform(classes, 1)
    if data.task != "classification" and judges_by_features(config):
        raise ValueError(
            f"a contrastive term tells samples of a class apart, and needs one class a sample; the task is {data.task}: use "
            "--outer-term none, or another method"
        )
    if config.method in HUMAN_METHODS:
        if data.train.human is None or data.human_names is None:
            raise ValueError(f"--method {config.method} needs a column of finer labels: name it with --human")
        owner = torch.zeros(len(data.human_names), dtype=torch.int64)
        known = torch.zeros(len(data.human_names), dtype=torch.bool)
        for part in (data.train, data.test):
            if part.human is not None:
                owner[part.human], known[part.human] = part.primary, True
        if not known.all():
            missing = data.human_names[int((~known).nonzero()[0])]
            raise ValueError(f"--method {config.method} needs a sample of every class; {missing!r} has none")
        return Hierarchy.from_labels(owner, torch.arange(len(owner)))
    psi = config.psi * classes if len(config.psi) == 1 else config.psi
    if data.task == "regression" and len(psi) != 1:
        raise ValueError(
            f"--psi needs one number for regression, which has no primary classes; got {len(psi)} numbers"
        )
    if data.task == "multi-label" and len(psi) not in (classes, classes + 1):
        raise ValueError(
            f"--psi needs one number, one per label, or one more for samples without a label; got {len(psi)} for "
            f"{classes} labels"
        )
    if data.task != "multi-label" and len(psi) != classes:
        raise ValueError(
            f"--psi needs one number, or one per primary class; got {len(psi)} for {classes} classes"
        )
    return Hierarchy(psi)


def choose_task(config: RunConfig, data: DataSet) -> Task:
    """What the primary outputs of the run mean.

    Raises:
        ValueError: if a loss is asked for that goes with another task.
    """
    of_classes = data.task in ("classification", "segmentation")
    if config.huber is not None and data.task != "regression":
        raise ValueError(f"--huber is for numbers; this is {data.task}: drop it")
    if not of_classes and (config.class_weights != "none" or config.label_smoothing):
        flag = "--class-weights" if config.class_weights != "none" else "--label-smoothing"
        raise ValueError(f"{flag} is for classes; this is {data.task}: drop it")
    if data.task == "regression":
        return Regression(data.num_primary, config.huber)
    if not of_classes:
        return MultiLabel(data.num_primary)
    weights = _balanced(data) if config.class_weights == "balanced" else None
    if data.task == "segmentation":
        return Segmentation(IGNORED, config.gamma, weights, config.label_smoothing)
    return Classification(config.gamma, weights, config.label_smoothing)


def _balanced(data: DataSet) -> list[float]:
    """N / (C n_c) for each class c of the training set; 1 for one without a sample."""
    primary = data.train.primary
    counts = torch.bincount(primary[primary != IGNORED].flatten(), minlength=data.num_primary)
    weights = counts.sum() / (data.num_primary * counts.clamp_min(1))
    return [float(w) if n else 1.0 for w, n in zip(weights, counts, strict=True)]


def check(config: RunConfig, data: DataSet) -> str:
    """What can be refused before anything is trained or written: device, ψ, trunks, and weights to start from.

    Returns:
        What the run starts from, in a line; "" for fresh weights.

    Raises:
        ValueError: if the config does not fit the data or this machine.
    """
    resolve_device(config.device)
    hierarchy = choose_hierarchy(config, data)
    choose_task(config, data)
    check_clusters(config, data, hierarchy)
    check_tokens(config, data.tokens)
    start = load_start(config, data, hierarchy)
    with torch.random.fork_rng(devices=[]):
        for name in {config.trunk, config.generator_trunk} - {OWN, SHARED}:
            words = trunks.Words.of(config) if name == config.trunk else None
            trunk = trunks.build_for(name, data.task, data.input_shape, words)
            if name == config.trunk:
                freeze_parts(config, trunk)
                network_groups(config, nn.ModuleDict({"trunk": trunk, "head": nn.Linear(1, 1)}))
    return "" if start is None else told(start.record())


def check_clusters(config: RunConfig, data: DataSet, hierarchy: Hierarchy) -> None:
    """ValueError if a class has fewer training samples than a method clusters it into."""
    if config.method not in CLUSTER_METHODS or data.task != "classification":
        return
    sizes = data.train.primary.cpu().bincount(minlength=data.num_primary)
    for name, size, clusters in zip(data.primary_names, sizes.tolist(), hierarchy.psi, strict=True):
        if 0 < size < clusters:
            raise ValueError(
                f"--method {config.method} needs as many training samples of each class as it has clusters; class "
                f"'{name}' has {size} for {clusters}: lower --psi"
            )


def left_out(config: RunConfig, data: DataSet) -> str:
    """That a tenth or more of the training samples fill no batch and are left out of each epoch, in a line; else ""."""
    count, size = len(data.train), config.batch_size
    if count < size or 10 * (count % size) < count:
        return ""
    return (
        f"{count % size} of {count} training samples are left out of each epoch, drawn anew, as they fill no batch of {size}; "
        f"--batch-size {count // -(-count // size)} takes nearly all"
    )


def build(
    config: RunConfig,
    data: DataSet,
    device: torch.device,
    start: Start | None = None,
    processes: Processes = ALONE,
) -> Setup:
    """Everything of a run that trains, on its device, in one process or in several.

    Args:
        config: The run.
        data: Its data.
        device: Where everything is to be.
        start: Weights that its networks begin with; fresh ones by default, and where the config names none.
        processes: Those that train it.

    Raises:
        ValueError: if the config does not fit the data.
    """
    start = start if starts_from_weights(config) else None
    hierarchy, task = choose_hierarchy(config, data), choose_task(config, data)
    check_tokens(config, data.tokens)
    network = build_network(config, hierarchy, task, data.task, data.input_shape, start)
    layout = memory_format(config, device)
    network.to(device, memory_format=layout)  # type: ignore[call-overload]
    processes.synchronise(network)
    frozen = freeze_parts(config, network.trunk)
    groups = network_groups(config, network)
    optimizers = [optimizer_of(config.optimizer, groups, config.weight_decay, config.momentum)]
    generator: LabelGenerator | WeightGenerator | LabelCorrector | None = None
    if config.method in (*GENERATOR_METHODS, *JUDGED_METHODS):
        if config.method in JUDGED_METHODS:
            generator = build_judged(config, network, data.task, data.input_shape)
        else:
            generator = build_generator(config, network, data.task, data.input_shape, start)
        generator.to(device, memory_format=layout)  # type: ignore[call-overload]
        processes.synchronise(generator)
        if config.method != "frozen":
            trained = [p for p in generator.parameters() if p.requires_grad]
            group = {"params": trained, "lr": config.meta_learning_rate}
            optimizers.append(optimizer_of(config.meta_optimizer, [group], config.meta_weight_decay))
    alone = config.epochs_on_trusted
    shared: dict[str, Any] = {  # by all learners
        "task": network.task,
        "autocast": torch.bfloat16 if config.precision == "bf16" else None,
        "check_finite": device.type == "cpu",
        "compile": config.compile,
        "world": processes.world(),
    }
    return Setup(
        hierarchy=hierarchy,
        network=network,
        generator=generator,
        learner=_learner(config, data, device, network, generator, optimizers, hierarchy, start, shared),
        tuner=MultiTaskLearner(network, optimizers[0], **shared) if alone else None,
        tuned_from=config.epochs - alone,
        optimizers=optimizers,
        rates=[[group["lr"] for group in optimizer.param_groups] for optimizer in optimizers],
        schedule=Schedule(
            *(config.decay, config.epochs, config.warmup),
            anew=config.epochs - alone if 0 < alone < config.epochs else None,
        ),
        frozen=frozen,
    )


def _learner(
    config: RunConfig,
    data: DataSet,
    device: torch.device,
    network: MultiTaskNetwork,
    generator: LabelGenerator | WeightGenerator | LabelCorrector | None,
    optimizers: list[Optimizer],
    hierarchy: Hierarchy,
    start: Start | None,
    shared: dict[str, Any],
) -> MultiTaskLearner:
    """What trains the networks, from the words of a config."""
    cache_size = len(data.train) if config.cache_labels else 0
    if generator is None or config.method == "frozen":
        return MultiTaskLearner(
            network,
            optimizers[0],
            source=fixed_source(
                *(config, data, hierarchy, network.task, device),
                partial(build, data=data, device=device, start=start),
                start,
            )
            if generator is None
            else generated(
                generator, cache_size, shared["world"], autocast=shared["autocast"], compile=config.compile
            ),
            supervision=Contrastive(config.outer_weight)
            if config.method == "contrastive"
            else robust(config) or AuxiliaryLabels(FocalLoss(config.gamma), weight=config.auxiliary_weight),
            **shared,
        )
    # No step differentiates through an update where none follows it at once: keep no copy of it.
    follows = config.schedule == "iteration"
    optimizer, meta_optimizer = optimizers
    return MetaAuxiliaryLearner(
        network,
        generator,
        optimizer,
        meta_optimizer,
        supervision=of_given_labels(config) or choose_supervision(config, hierarchy),
        hypergradient=config.hypergradient,
        lookahead=config.lookahead if follows else "virtual",
        lookahead_rule=config.lookahead_rule,
        evaluate="next" if config.evaluate == "next" and follows else "same",
        meta_every=config.meta_every,
        teach_part=config.teach_part,
        cache_size=cache_size,
        gate=cosine_gate if config.method == "gated" else None,
        **shared,
    )
