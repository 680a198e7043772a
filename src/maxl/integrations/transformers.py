"""Hugging Face's Trainer around a learner: ``MAXLTrainer(learner, args, train_dataset=...).train()``."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any, cast

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler
from transformers import Trainer, TrainerCallback, TrainingArguments

from maxl.hypergradients import Inputs, RandomState
from maxl.learning import AccumulatingLearner, MetaAuxiliaryLearner, MultiTaskLearner, StepResult
from maxl.networks import MultiTaskNetwork
from maxl.trunks import Features

_WEIGHTS = "model.safetensors"
_STATE = "maxl.pt"
_CHECKPOINT = (_WEIGHTS, "optimizer.pt", "scheduler.pt", "rng_state.pth", _STATE)
_NOT_FOR_INFERENCE = "auxiliary_head."

# Arguments that the Trainer would obey and a learner does not hear of, and where to say it instead.
_ELSEWHERE = {
    "fp16": "pass autocast=torch.bfloat16 to the learner, or use a loop of your own with a GradScaler",
    "bf16": "pass autocast=torch.bfloat16 to the learner",
    "fp16_full_eval": "predictions have the learner's precision, autocast=",
    "bf16_full_eval": "predictions have the learner's precision, autocast=",
    "torch_compile": "pass compile=True to the learner",
    "gradient_checkpointing": "call it on the encoder, with use_reentrant=False",
    "activation_checkpointing": "call it on the encoder, with use_reentrant=False",
    "label_smoothing_factor": "use task=maxl.Classification(label_smoothing=...)",
    "neftune_noise_alpha": "add noise in a module of the network",
    "use_liger_kernel": "choose kernels when the network is made",
    "auto_find_batch_size": "a step that ran out of memory has moved the learner: find the size before",
    "deepspeed": "one device, or torchrun with a loop of your own and world=maxl.DataParallel()",
    "fsdp": "one device, or torchrun with a loop of your own and world=maxl.DataParallel()",
    "parallelism_config": "one device, or torchrun with a loop of your own and world=maxl.DataParallel()",
}
# What the learner's optimizer says already, by its own names.
_OPTIMIZERS: dict[str, str | None] = {
    "learning_rate": "lr",
    "weight_decay": "weight_decay",
    "adam_epsilon": "eps",
    "adam_beta1": None,
    "adam_beta2": None,
    "optim": None,
    "optim_args": None,
    "optim_target_modules": None,
}


class MAXLTrainer(Trainer):
    """Trains by a learner's three verbs within the Trainer's loop.

    Batches are mappings of tensors with ``labels`` (or the one of ``args.label_names``). What else is in them is x: by
    name, or the tensor itself where it is alone and called ``x``. Columns of a data set that no ``maxl.Features`` of network
    and generator takes are dropped, as the Trainer does; trunks that are none take ``x``, or need
    ``remove_unused_columns=False``.

    The Trainer accumulates (``gradient_accumulation_steps``; micro-batches count by their samples, so that a shorter last
    one weighs less), clips, schedules, logs, saves and resumes. Checkpoints also hold the generator, its optimizer and what
    the learner remembers, in ``maxl.pt``: a training that is resumed goes on bit by bit as if it had not been
    interrupted, for data sets and samplers that draw no random numbers. Evaluation draws none that training would have drawn. It
    reports the task's loss, and predictions are the primary outputs.

    Logged with the loss, as means over the steps since: ``primary_loss``, ``auxiliary_loss``, ``outer_loss`` and
    ``hypergradient_norm``.

    Args:
        learner: Holds networks and optimizers; its network is a ``maxl.MultiTaskNetwork``. Learning rates and weight
            decay are its optimizer's. The network is put in training mode at every step; the generator's mode is yours.
        args: ``transformers.TrainingArguments``; its schedule (linear to 0 unless said) is that of the learner's optimizer.
        scheduler: Of the learner's optimizer, stepped after each step, in place of that of the arguments.
        index_name: Entry of a batch with the samples' positions in the training set, for a source that needs them.
        options: As for the Trainer: data_collator, train_dataset, eval_dataset, processing_class, compute_metrics,
            callbacks, preprocess_logits_for_metrics.

    Raises:
        ValueError: if the learner cannot be trained so, or an argument asks for what is decided elsewhere: precision,
            compiling, label smoothing, the optimizer; several devices.
    """

    def __init__(
        self,
        learner: MultiTaskLearner,
        args: TrainingArguments | None = None,
        *,
        scheduler: LRScheduler | None = None,
        index_name: str | None = None,
        **options: Any,
    ) -> None:
        args = TrainingArguments("tmp_trainer") if args is None else args
        _check(learner, args, options)
        self.learner = learner
        self.index_name = index_name
        self._means = _Means()
        optimizers: Any = (learner.optimizer, scheduler)
        super().__init__(learner.network, args, optimizers=optimizers, **options)
        kind = self.accelerator.mixed_precision  # which it reads from the environment, too
        if kind != "no":
            raise ValueError(
                f"lower precision is the learner's; got {kind} from Accelerate: unset ACCELERATE_MIXED_PRECISION, and pass "
                "autocast=torch.bfloat16 to the learner"
            )
        self.label_names = self.args.label_names or ["labels"]
        if isinstance(learner, MetaAuxiliaryLearner):
            learner.generator.to(self.args.device)
            self.add_callback(_AfterStep(self._teach))

    def get_train_dataloader(self) -> Any:
        """As the Trainer's, in an order that hangs on the arguments' ``data_seed``, else ``seed``, and on nothing else.

        Not so for samplers that draw as they go: ``train_sampling_strategy="group_by_length"``, ``use_seedable_sampler=False``.
        """
        with RandomState.capture(self.args.device).replay():
            torch.manual_seed(self.args.seed if self.args.data_seed is None else self.args.data_seed)
            return super().get_train_dataloader()

    # One step: batches are fetched, each is trained on, the Trainer clips and steps, the generator is taught.

    def get_batch_samples(self, *args: Any, **options: Any) -> Any:
        """The batches of a step, as the Trainer gives them; their samples are counted."""
        fetched = super().get_batch_samples(*args, **options)
        self._count = sum(len(self._parts(batch)[1]) for batch in fetched[0])
        self._begun = False
        return fetched

    def training_step(
        self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Tensor | int | None = None
    ) -> Tensor:
        """``backward`` with the batch's share in the step; the same share of the loss."""
        model.train()
        if not self._begun:  # a step that was broken off may have left gradients
            self.learner.optimizer.zero_grad()
            self._begun = True
        x, y, index = self._parts(self._prepare_inputs(inputs))
        share = len(y) / self._count
        result = self.learner.backward(x, y, index, share=share)
        self._means.add(result, share)
        return share * result.loss.detach()

    def _teach(self) -> None:
        self._means.add(cast(MetaAuxiliaryLearner, self.learner).meta_step(), 1.0)

    def log(self, logs: dict[str, float], *args: Any) -> None:
        """As the Trainer, with the learner's losses where it logs the loss of training."""
        if "loss" in logs:
            logs = {**logs, **self._means.drained()}
        super().log(logs, *args)

    # Evaluation

    def evaluation_loop(self, *args: Any, **options: Any) -> Any:
        """As the Trainer's, and random numbers go on where they were."""
        with RandomState.capture(self.args.device).replay():
            return super().evaluation_loop(*args, **options)

    def prediction_step(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        prediction_loss_only: bool,
        ignore_keys: list[str] | None = None,
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """The task's loss where there are labels, primary outputs, and labels."""
        x, y, _ = self._parts(self._prepare_inputs(inputs), labelled=False)
        dtype = self.learner.autocast
        with (
            torch.no_grad(),
            nullcontext() if dtype is None else torch.autocast(self.args.device.type, dtype),
        ):
            outputs: Tensor = cast(MultiTaskNetwork, self.learner.network).predict(x)
        outputs = outputs.float() if outputs.dtype in (torch.float16, torch.bfloat16) else outputs
        loss = None if y is None else self.learner.task.loss(outputs, y).detach()
        return (loss, None, None) if prediction_loss_only else (loss, outputs, y)

    # Batches

    def _parts(self, batch: Any, *, labelled: bool = True) -> tuple[Inputs, Any, Tensor | None]:
        """x, y and index."""
        name = self.label_names[0]
        if not isinstance(batch, Mapping):
            raise ValueError(
                f"batches need to be mappings of tensors with {name!r}; got {type(batch).__name__}: let data_collator make "
                "them"
            )
        x = dict(batch)
        y = x.pop(name, None)
        index = None if self.index_name is None else x.pop(self.index_name, None)
        if y is None and labelled:
            raise ValueError(
                f"a batch to train on needs its targets as {name!r}; got {', '.join(batch) or 'nothing'}: name them in "
                "label_names of the arguments, or in the data set"
            )
        if not x:
            raise ValueError(
                f"a batch needs inputs beside its targets; got {', '.join(batch)}: columns that no maxl.Features takes "
                "are dropped unless remove_unused_columns=False"
            )
        return (x["x"] if x.keys() == {"x"} else x), y, index

    def _set_signature_columns_if_needed(self) -> None:
        if self._signature_columns is None:
            extra = [] if self.index_name is None else [self.index_name]
            names = [*_columns(self.learner), "label", "label_ids", *self.label_names, *extra]
            self._signature_columns: Any = list(dict.fromkeys(names))

    # Files

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """``model.safetensors`` with what inference needs, trunk and primary head: see ``from_pretrained``.

        Checkpoints hold the whole network.
        """
        if _internal_call or self.args.push_to_hub:
            super().save_model(output_dir, _internal_call)
        else:
            whole = self.learner.network.state_dict()
            kept = {name: w for name, w in whole.items() if not name.startswith(_NOT_FOR_INFERENCE)}
            self._save(output_dir, state_dict=kept)

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        state = self.learner.network.state_dict() if state_dict is None else state_dict
        super()._save(output_dir, state_dict=_apart(state))

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        super()._save_optimizer_and_scheduler(output_dir)
        state: dict[str, Any] = {"learner": self.learner.state_dict()}
        if isinstance(self.learner, MetaAuxiliaryLearner):
            state["generator"] = self.learner.generator.state_dict()
            state["meta_optimizer"] = self.learner.meta_optimizer.state_dict()
        torch.save(state, Path(output_dir) / _STATE)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        folder = Path(resume_from_checkpoint)
        if missing := [name for name in _CHECKPOINT if not (folder / name).is_file()]:
            raise ValueError(
                f"training goes on from a checkpoint that this Trainer wrote, with all that it holds; {folder} has no "
                f"{', '.join(missing)}: train with save_only_model=False, or load weights by from_pretrained"
            )
        _read(
            folder, self.learner.network
        )  # refuses those of another network, of which the Trainer only warns
        super()._load_from_checkpoint(resume_from_checkpoint, model)

    def _load_best_model(self) -> None:
        super()._load_best_model()
        if isinstance(self.learner, MetaAuxiliaryLearner):  # a step that led elsewhere cannot be judged here
            self.learner.take_update()

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is None:
            return
        state = torch.load(Path(checkpoint) / _STATE, map_location=self.args.device, weights_only=True)
        if isinstance(self.learner, MetaAuxiliaryLearner):
            self.learner.generator.load_state_dict(state["generator"])
            self.learner.meta_optimizer.load_state_dict(state["meta_optimizer"])
        self.learner.load_state_dict(state["learner"])


def from_pretrained(folder: str | Path, network: MultiTaskNetwork) -> MultiTaskNetwork:
    """The network with the weights that ``MAXLTrainer.save_model`` or a checkpoint has kept, in evaluation mode.

    The auxiliary head, which nothing needs to predict, stays as it is where the folder does not have it.

    Args:
        folder: Holds ``model.safetensors``.
        network: Made as the one that was trained.

    Raises:
        ValueError: if the weights are those of another network; it is then unchanged.
        FileNotFoundError: if there are none.
    """
    network.load_state_dict(_read(Path(folder), network, optional=_NOT_FOR_INFERENCE), strict=False)
    return network.eval()


def _read(folder: Path, network: nn.Module, optional: str | None = None) -> dict[str, Tensor]:
    """Weights in a folder, if they are a network's."""
    found = load_file(folder / _WEIGHTS)
    needed = {name: tuple(w.shape) for name, w in network.state_dict().items()}
    wrong = [
        name
        for name in (needed | found)
        if (name not in found and not (optional and name.startswith(optional)))
        or (name in found and tuple(found[name].shape) != needed.get(name))
    ]
    if wrong:
        raise ValueError(
            f"weights need to be those of the network, by name and shape; {folder / _WEIGHTS} differs in "
            f"{', '.join(wrong[:3])}{' and others' * (len(wrong) > 3)}: make the network as it was trained"
        )
    return found


def _apart(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state whose weights share no memory, which the file format refuses."""
    seen: set[int] = set()
    kept = {}
    for name, w in state.items():
        place = w.untyped_storage().data_ptr()
        kept[name] = w.clone(memory_format=torch.contiguous_format) if place in seen else w.contiguous()
        seen.add(place)
    return kept


class _AfterStep(TrainerCallback):
    """Calls what follows an optimizer's step."""

    def __init__(self, call: Callable[[], None]) -> None:
        self.call = call

    def on_optimizer_step(self, *_: Any, **__: Any) -> None:
        self.call()


class _Means:
    """Means of losses since they were last asked for; nothing is read from a device before."""

    def __init__(self) -> None:
        self._sums: dict[str, tuple[Tensor, float]] = {}

    def add(self, result: StepResult, weight: float) -> None:
        """Of a training step's part by its share; what a meta step gave counts as one."""
        for name in ("primary_loss", "auxiliary_loss", "outer_loss", "hypergradient_norm"):
            if (value := getattr(result, name)) is not None:
                by = 1.0 if name in ("outer_loss", "hypergradient_norm") else weight
                total, count = self._sums.get(name, (0.0, 0.0))
                self._sums[name] = total + by * value.detach(), count + by

    def drained(self) -> dict[str, float]:
        """The means by name."""
        sums, self._sums = self._sums, {}
        return {name: float(total) / count for name, (total, count) in sums.items()}


def _columns(learner: MultiTaskLearner) -> list[str]:
    """What the trunks take by keyword; ``x`` alone is passed by position."""
    modules = [learner.network, *([learner.generator] if isinstance(learner, MetaAuxiliaryLearner) else [])]
    found = ["x"]
    for trunk in (getattr(module, "trunk", None) for module in modules):
        if isinstance(trunk, Features):
            found += inspect.signature(trunk.module.forward).parameters
            found += ["attention_mask"] if trunk.pool == "mean" else []  # which the pooling takes
    return found


def _check(learner: Any, args: TrainingArguments, options: Mapping[str, Any]) -> None:
    """ValueError for what would be ignored, or wrong."""
    if not isinstance(learner, MultiTaskLearner) or isinstance(learner, AccumulatingLearner):
        raise ValueError(
            "MAXLTrainer needs a learner that takes batches whole, maxl.MetaAuxiliaryLearner or maxl.MultiTaskLearner; got "
            f"{type(learner).__name__}: it holds networks and optimizers, and the Trainer accumulates"
        )
    if not isinstance(learner.network, MultiTaskNetwork):
        raise ValueError(
            "MAXLTrainer needs a learner of a maxl.MultiTaskNetwork, whose primary head predicts; got "
            f"{type(learner.network).__name__}: use its encoder as the trunk of one, by maxl.Features"
        )
    if taken := {"model", "model_init", "compute_loss_func", "optimizers", "optimizer_cls_and_kwargs"} & set(
        options
    ):
        raise ValueError(
            f"networks, losses and optimizers come from the learner; got {', '.join(sorted(taken))}: pass them to it instead"
        )
    if args.world_size > 1 or args.n_gpu > 1 or not learner.world.alone:
        raise ValueError(
            f"MAXLTrainer trains on one device, as wrapped networks do not see a hypergradient; got {args.world_size} "
            f"processes with {max(args.n_gpu, 1)} devices each: set CUDA_VISIBLE_DEVICES=0, or use torchrun with a loop of "
            "your own and world=maxl.DataParallel()"
        )
    if len(names := args.label_names or ["labels"]) != 1:
        raise ValueError(f"label_names needs one name, that of the targets; got {', '.join(names)}")
    defaults = {f.name: f.default for f in fields(args) if f.default is not MISSING}
    for name, remedy in _ELSEWHERE.items():
        if getattr(args, name, None) not in (None, False, 0.0, "", [], defaults.get(name)):
            raise ValueError(f"{name} is not for the arguments of MAXLTrainer: {remedy}")
    for name, own in _OPTIMIZERS.items():
        value = getattr(args, name, None)
        said = {g.get(f"initial_{own}", g.get(own)) for g in learner.optimizer.param_groups if own}
        if value != defaults.get(name) and value not in said:
            raise ValueError(
                f"the optimizer is the learner's, with settings of its own; got {name}={value} in the arguments: say it "
                "where the optimizer is made"
            )
