"""Everything that defines a run, in one place: the command line, config.yaml and Python share it."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from maxl.experiments.runs.files import YAML_LIMIT, parse_yaml, read_bytes
from maxl.experiments.runs.methods import METHODS, SHARED, TUNED_METHODS
from maxl.experiments.runs.names import refuse_code
from maxl.experiments.runs.rules import check_rules
from maxl.experiments.runs.values import as_now, coerce, nearest

_TASKS = (
    "auto",
    "classification",
    "multi-label",
    "regression",
    "segmentation",
)  # those of ``data``, which --help cannot wait for
# Fields that may differ between the calls that share a run or a study.
MACHINE_FIELDS = frozenset(
    (
        *("data_dir", "stream", "workers", "device", "threads"),
        *("tensorboard", "track", "checkpoint_every", "look_every"),
    )
)


def option(default: Any, help: str, *, group: str, choices: tuple[str, ...] | None = None) -> Any:
    """A field with what a command line needs to know about it."""
    metadata = {"help": help, "group": group, "choices": choices}
    return field(default=default, metadata=metadata)


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """One training run. Each field is a flag of ``maxl train`` (--name) and a key of config.yaml.

    Defaults lie among what our study found to serve single-task training and fixed labels well (docs/guide.md); they are not
    the paper's settings, which recipes/paper.yaml holds.

    Raises:
        ValueError: if a value is outside its range or two choices do not go together.
    """

    data: str = option("digits", "name, folder, CSV, parquet, hf:owner/name", group="data")
    data_dir: str | None = option(None, "local copies of the data set's files", group="data")
    primary: str | tuple[str, ...] | None = option(
        None, "column to predict, of classes or numbers; or several", group="data"
    )
    task: str = option("auto", "what that column holds", group="data", choices=_TASKS)
    human: str | None = option(None, "finer classes by people: a column, or a CSV file", group="data")
    probe: str | None = option(None, "column that a probe of the features predicts", group="data")
    trusted: str | None = option(None, "yes/no column: whose labels are known to be right", group="data")
    probe_shots: int = option(5, "training samples of each of its classes that the probe sees", group="data")
    ignore_index: int = option(255, "value of masks that stands for no class (segmentation)", group="data")
    drop: tuple[str, ...] | None = option(None, "columns of a table to leave out", group="data")
    types: tuple[str, ...] | None = option(
        None, "COLUMN=KIND: number, category, date or text; beside images: columns learned from", group="data"
    )
    train_size: float | None = option(None, "training samples: 2 or more, or a fraction", group="data")
    validation_size: float = option(0.0, "set aside for validation, likewise", group="data")
    image_size: int | None = option(None, "side in pixels to which images are resized", group="data")
    text_length: int | None = option(
        None, "tokens of a text for an encoder (default: 128, or the model's most)", group="data"
    )
    stream: bool = option(False, "leave the samples on disk; same results", group="data")
    augment: str = option(
        "auto",
        "random crops (an eighth of the side) and flips; auto: of colour photographs alone",
        group="data",
        choices=("auto", "none", "crop", "crop-flip"),
    )
    transform: tuple[str, ...] | None = option(
        None,
        "what else changes training images at random: classes of torchvision.transforms.v2 such as RandAugment, or "
        "module:function on one image",
        group="data",
    )

    method: str = option("maxl", "single, uniform, human, maxl and others", group="method", choices=METHODS)
    psi: tuple[int, ...] = option((5,), "finer classes that each class is split into", group="method")
    trunk: str = option(
        "auto",
        "network: vgg16, mlp, a timm model, torchvision:NAME, hf:NAME, module:function; auto: what suits",
        group="method",
    )
    trunk_output: str | None = option(
        None, "where the trunk's features are in its outputs: a key, or a position in a tuple", group="method"
    )
    trunk_pool: str | None = option(
        None,
        "how features of tokens or pixels become a sample's: mean, or the first token's",
        group="method",
        choices=("mean", "first"),
    )
    generator_trunk: str = option(
        SHARED,
        "of the label generator: shared, a head on the network's features; own, a second one like --trunk; or a name",
        group="method",
    )
    gamma: float = option(
        0.0, "focal loss exponent of both tasks; 0 is cross-entropy, the paper takes 2", group="method"
    )
    class_weights: str = option(
        "none",
        "factors on the primary loss of classes: none, or balanced, in inverse proportion to their samples",
        group="method",
        choices=("none", "balanced"),
    )
    label_smoothing: float = option(
        0.0, "part of each primary label that is spread over all classes", group="method"
    )
    huber: float | None = option(
        None,
        "Huber's loss for numbers, linear beyond this many standard deviations, in place of the squared error",
        group="method",
    )
    cluster_features: str = option(
        "auto-encoder",
        "what kmeans and prototypes cluster: an auto-encoder's codes, the inputs, or features of a single-task network "
        "that is trained first on the same samples",
        group="method",
        choices=("auto-encoder", "input", "trunk"),
    )
    prototype_epochs: int | None = option(
        None,
        "epochs in which prototypes learns its labels, on 1 / --held-out networks before the run (default: --epochs)",
        group="method",
    )
    prototype_softness: float = option(
        0.5,
        "entropy of the first labels of prototypes as a share of uniform labels' (near 0: hard clusters)",
        group="method",
    )
    outer_term: str = option(
        "none", "another outer loss for prototypes", group="method", choices=("none", "contrastive")
    )
    outer_weight: float = option(1.0, "its factor; that of method contrastive, too", group="method")
    weight_range: float = option(
        5.0, "R of wamal: weights of samples from 2^-R to 2^R, as published 1/32 to 32", group="method"
    )
    normalise_weights: bool = option(
        False, "divide the weights of weighted and wamal by their mean over the batch", group="method"
    )
    trusted_epochs: int | None = option(
        None,
        "last epochs, on trusted samples alone, of methods for wrong labels (default: a fifth of them)",
        group="method",
    )
    effective_samples: float = option(
        0.3, "least effective sample size of a batch of reweighted, as a share", group="method"
    )
    confidence: float = option(
        0.85, "probability of the given label that corrected starts from", group="method"
    )
    keep_part: float = option(
        0.7, "part of a batch's samples with the smallest losses that small-loss keeps", group="method"
    )
    auxiliary_weight: float = option(0.3, "factor on the auxiliary loss; the paper takes 1", group="method")

    pretrained: bool = option(
        False, "start from the weights that come with the model of --trunk", group="fine-tuning"
    )
    weights: str | None = option(
        None,
        "start the trunk from the tensors in a .safetensors or .pt file, which runs no code",
        group="fine-tuning",
    )
    from_run: str | None = option(
        None,
        "start from the networks of a finished run, and its --trunk where that is auto; see --trust",
        group="fine-tuning",
    )
    normalisation: str = option(
        "auto",
        "of images: data, our own; model, as the trunk's weights are used to, size and colours too; auto: model where "
        "they start from such weights",
        group="fine-tuning",
        choices=("auto", "data", "model"),
    )
    freeze: tuple[str, ...] | None = option(
        None,
        "parts of the trunk that are not trained, by name as layers.0, or trunk for all of it",
        group="fine-tuning",
    )
    trunk_learning_rate: float | None = option(
        None, "learning rate of the trunk (default: that of the heads, --learning-rate)", group="fine-tuning"
    )
    layer_decay: float | None = option(
        None,
        "factor by which the learning rate falls from each layer of the trunk to the one before",
        group="fine-tuning",
    )

    epochs: int = option(200, "passes over the training set", group="training")
    batch_size: int = option(100, "samples in a batch", group="training")
    optimizer: str = option(
        "adam", "optimizer of the network", group="training", choices=("sgd", "adam", "adamw")
    )
    learning_rate: float = option(
        None, "its learning rate (1e-3; with sgd the paper's 0.01)", group="training"
    )
    momentum: float = option(0.0, "its momentum (sgd)", group="training")
    weight_decay: float = option(0.0, "its weight decay", group="training")
    max_grad_norm: float | None = option(
        None, "clip its gradients to this norm; the label generator takes that into account", group="training"
    )
    decay: str = option(
        "cosine",
        "learning rates: halved at each quarter, cosine to 0, or constant",
        group="training",
        choices=("step", "cosine", "constant"),
    )
    warmup: float = option(
        0.0,
        "epochs in which learning rates rise from 0, step by step, before --decay begins",
        group="training",
    )
    patience: int | None = option(
        None, "end after so many epochs without a better validation result", group="training"
    )
    keep: str = option(
        "last",
        "the network of the last epoch, or of the one with the best validation result",
        group="training",
        choices=("last", "best"),
    )

    entropy_weight: float = option(0.2, "weight of the anti-collapse term (lambda)", group="meta")
    regulariser: str = option(
        "entropy",
        "of the labels: the paper's term, or per-class mutual information",
        group="meta",
        choices=("entropy", "information"),
    )
    meta_optimizer: str = option(
        "adam", "optimizer of the generator", group="meta", choices=("sgd", "adam", "adamw")
    )
    meta_learning_rate: float = option(1e-3, "learning rate of the generator", group="meta")
    meta_weight_decay: float = option(5e-4, "its weight decay", group="meta")
    hypergradient: str = option(
        "forward",
        "how the double gradient is computed",
        group="meta",
        choices=("forward", "reverse", "finite-difference"),
    )
    schedule: str = option(
        "iteration",
        "meta step in each iteration, or whole epochs in turn as the authors do",
        group="meta",
        choices=("iteration", "epochs"),
    )
    lookahead: str = option(
        "update",
        "differentiate through the update just taken, or a virtual further one",
        group="meta",
        choices=("update", "virtual"),
    )
    lookahead_rule: str = option(
        "optimizer",
        "the lookahead steps as the optimizer does, or as plain sgd (the paper)",
        group="meta",
        choices=("optimizer", "sgd"),
    )
    evaluate: str = option(
        "same",
        "samples on which the lookahead is judged",
        group="meta",
        choices=("same", "next", "augmented", "held-out", "rotating"),
    )
    held_out: float = option(
        0.1,
        "part of the training set that judges, for good (held-out) or in turn (rotating, prototypes)",
        group="meta",
    )
    meta_every: int = option(1, "iterations from one meta step to the next", group="meta")
    teach_part: float = option(
        1.0, "part of each batch's samples that a meta step takes; not with --lookahead virtual", group="meta"
    )
    cache_labels: bool = option(
        False,
        "train on each sample's last label between meta steps; useful with --meta-every above 1",
        group="meta",
    )
    label_statistics: str = option(
        "running",
        "BatchNorm of a generator trunk of its own: running statistics (a label depends on its sample alone), or batch",
        group="meta",
        choices=("running", "batch"),
    )

    seed: int = option(0, "seed of all random draws", group="machine")
    device: str = option("auto", "cpu, cuda, mps or auto", group="machine")
    threads: int = option(
        1, "CPU threads of a run; another number rounds differently and gives other bits", group="machine"
    )
    workers: int = option(2, "threads that read batches ahead with --stream", group="machine")
    precision: str = option(
        "float32",
        "of the passes; weights stay float32. tf32: float32 with TF32 matrix products, on GPUs that have them",
        group="machine",
        choices=("float32", "tf32", "bf16"),
    )
    compile: bool = option(False, "passes through torch.compile; pays on long runs", group="machine")
    channels_last: bool = option(
        True, "convolution weights in channels-last layout, which is faster", group="machine"
    )
    tensorboard: bool = option(True, "also write TensorBoard logs", group="machine")
    track: tuple[str, ...] | None = option(
        None, "also follow the run in mlflow, wandb or tensorboard; several may be named", group="machine"
    )
    look_every: int = option(
        1, "epochs between evaluations of test set and labels; they change nothing", group="machine"
    )
    checkpoint_every: int = option(1, "epochs between checkpoints", group="machine")

    def __post_init__(self) -> None:
        if isinstance(self.primary, (list, tuple)):
            one = len(self.primary) == 1
            object.__setattr__(self, "primary", self.primary[0] if one else tuple(self.primary) or None)
        if vars(self)["learning_rate"] is None:
            object.__setattr__(self, "learning_rate", 0.01 if self.optimizer == "sgd" else 1e-3)
        check_rules(self)

    @property
    def epochs_on_trusted(self) -> int:
        """How many epochs at the end train on trusted samples alone."""
        if self.trusted is None or self.method not in (*TUNED_METHODS, "trusted-only"):
            return 0
        if self.method == "trusted-only":
            return self.epochs
        return max(1, round(self.epochs / 5)) if self.trusted_epochs is None else self.trusted_epochs

    @classmethod
    def from_dict(cls, values: dict[str, Any], source: str = "config") -> RunConfig:
        """Checked construction from plain values; unknown keys are refused with the nearest name."""
        fields = {f.name: f for f in dataclasses.fields(cls)}
        for key in values:
            if key not in fields:
                raise ValueError(f"{source} has an unknown key {key!r}{nearest(str(key), fields)}")
        cleaned = {key: coerce(fields[key], as_now(key, value), source) for key, value in values.items()}
        return cls(**cleaned)

    @classmethod
    def read_named(cls, path: Path) -> dict[str, Any]:
        """The plain values that a YAML file names, checked; others are left to their defaults. Errors as for ``read``."""
        content = _content(path)
        values = cls.parse(content, str(path), trust=True).to_dict()
        return {name: values[name] for name in parse_yaml(content, str(path))}

    @classmethod
    def read(cls, path: Path, *, trust: bool = False) -> RunConfig:
        """From a YAML file.

        Args:
            path: The file.
            trust: Take a trunk ``module:function``, which runs code, from the file.

        Raises:
            ValueError: if the file is missing or no config, or names code and is not trusted.
        """
        return cls.parse(_content(path), str(path), trust=trust)

    @classmethod
    def parse(cls, content: bytes, source: str, *, trust: bool = False) -> RunConfig:
        """From YAML; arguments and errors as for ``read``."""
        values = parse_yaml(content, source)
        if not isinstance(values, dict):
            raise ValueError(f"{source} needs to hold one 'name: value' a line; got {type(values).__name__}")
        config = cls.from_dict(values, source)
        if not trust:
            refuse_code(config.to_dict(), source)
        return config

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as in config.yaml."""
        values = dataclasses.asdict(self)
        return {name: list(v) if isinstance(v, tuple) else v for name, v in values.items()}

    def write(self, path: Path) -> None:
        """To a YAML file that ``read`` takes."""
        path.write_text(self.to_yaml())

    def to_yaml(self) -> str:
        """One 'name: value' a line, every field in its order."""
        return yaml.safe_dump(self.to_dict(), sort_keys=False)


def _content(path: Path) -> bytes:
    if not path.is_file():
        raise ValueError(f"--config needs a file; {path} does not exist")
    return read_bytes(path, YAML_LIMIT)
