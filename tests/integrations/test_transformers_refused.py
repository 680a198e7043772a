"""What Hugging Face's Trainer would do otherwise than the learner says is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import maxl
from _hugging_face_helpers import (
    HIERARCHY,
    MAXLTrainer,
    learner,
    rows,
    trainer,
    transformers,
    trunk,
    weights,
)
from _hugging_face_helpers import little_garbage as little_garbage

pytestmark = pytest.mark.filterwarnings("ignore")  # its advice on devices, workers and names


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"bf16": True}, "bf16 is not for the arguments.*autocast=torch.bfloat16"),
        ({"bf16_full_eval": True}, "bf16_full_eval is not for"),
        ({"label_smoothing_factor": 0.1}, "label_smoothing_factor.*maxl.Classification"),
        ({"torch_compile": True}, "torch_compile.*compile=True"),
        ({"auto_find_batch_size": True}, "auto_find_batch_size is not for"),
        ({"neftune_noise_alpha": 5.0}, "neftune_noise_alpha is not for"),
        ({"gradient_checkpointing": True}, "checkpointing.*on the encoder"),
        ({"learning_rate": 1e-3}, "learning_rate=0.001 in the arguments: say it where the optimizer is made"),
        ({"weight_decay": 0.1}, "weight_decay=0.1"),
        ({"optim": "sgd"}, "optim="),
        ({"adam_beta1": 0.8}, "adam_beta1=0.8"),
        ({"label_names": ["a", "b"]}, "label_names needs one name.*got a, b"),
    ],
)
def test_arguments_that_would_be_ignored_are_refused(
    options: dict[str, Any], words: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=words):
        trainer(learner(), tmp_path, **options)


def test_what_the_optimizer_has_may_be_said_twice(tmp_path: Path) -> None:
    trained = learner()
    trainer(trained, tmp_path, learning_rate=2e-2, weight_decay=1e-2).train()
    trainer(trained, tmp_path, learning_rate=2e-2)  # though the schedule has ended at 0


def test_several_devices_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    args = transformers.TrainingArguments(str(tmp_path), use_cpu=True, report_to="none")
    monkeypatch.setattr(type(args), "n_gpu", property(lambda self: 2))
    with pytest.raises(ValueError, match=r"trains on one device.*CUDA_VISIBLE_DEVICES=0"):
        MAXLTrainer(learner(), args)
    monkeypatch.undo()
    monkeypatch.setattr(type(args), "world_size", property(lambda self: 2))
    with pytest.raises(ValueError, match=r"got 2 processes.*maxl.DataParallel"):
        MAXLTrainer(learner(), args)


@pytest.mark.parametrize(
    "options",
    [{"model_init": learner}, {"optimizers": (None, None)}, {"compute_loss_func": max}, {"model": nn.Tanh()}],
)
def test_what_the_learner_decides_is_refused(options: dict[str, Any], tmp_path: Path) -> None:
    args = transformers.TrainingArguments(str(tmp_path), use_cpu=True)
    with pytest.raises(
        ValueError, match=f"come from the learner; got {next(iter(options))}: pass them to it"
    ):
        MAXLTrainer(learner(), args, **options)


def test_what_is_no_learner_of_a_network_with_two_heads_is_refused(tmp_path: Path) -> None:
    network = maxl.MultiTaskNetwork(trunk(), HIERARCHY)
    with pytest.raises(ValueError, match=r"needs a learner that takes batches whole.*got MultiTaskNetwork"):
        trainer(network, tmp_path)
    parts = learner()
    own = maxl.AccumulatingLearner(
        *(parts.network, parts.generator, parts.optimizer, parts.meta_optimizer), microbatch=2
    )
    with pytest.raises(ValueError, match=r"got AccumulatingLearner.*the Trainer accumulates"):
        trainer(own, tmp_path)
    plain = nn.Linear(3, 3)
    other = maxl.MultiTaskLearner(plain, torch.optim.SGD(plain.parameters(), lr=0.1))
    with pytest.raises(ValueError, match=r"a learner of a maxl.MultiTaskNetwork.*got Linear"):
        trainer(other, tmp_path)


@pytest.mark.parametrize(
    ("collate", "words"),
    [
        (
            lambda some: {"input_ids": torch.zeros(4, 2, dtype=torch.int64)},
            "its targets as 'labels'; got input_ids",
        ),
        (
            lambda some: {"labels": torch.zeros(4, dtype=torch.int64)},
            "needs inputs beside its targets; got labels",
        ),
        (lambda some: [torch.zeros(4, 2), torch.zeros(4)], "mappings of tensors with 'labels'; got list"),
    ],
)
def test_a_batch_without_inputs_or_targets_is_refused(collate: Any, words: str, tmp_path: Path) -> None:
    trained = learner()
    before = weights(trained)
    with pytest.raises(ValueError, match=words):
        trainer(trained, tmp_path, data_collator=collate).train()
    assert torch.equal(before, weights(trained))


def test_accumulation_that_a_lookahead_cannot_follow_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"accumulate with lookahead=maxl.Taken"):
        trainer(learner("next"), tmp_path, gradient_accumulation_steps=2).train()


def test_targets_may_have_another_name(tmp_path: Path) -> None:
    plain, within = learner(), learner()
    trainer(plain, tmp_path).train()

    data = [{"intent": row["labels"], "input_ids": row["input_ids"]} for row in rows()]
    trainer(within, tmp_path, train_dataset=data, label_names=["intent"]).train()
    assert torch.equal(weights(plain), weights(within))


def test_a_precision_from_the_environment_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As ``accelerate launch --mixed_precision bf16`` sets it: passes of training alone would have it."""
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(reset_partial_state=True)
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    try:
        with pytest.raises(ValueError, match="got bf16 from Accelerate: unset ACCELERATE_MIXED_PRECISION"):
            trainer(learner(), tmp_path)
    finally:
        AcceleratorState._reset_state(reset_partial_state=True)


def test_training_goes_on_from_the_best_network(tmp_path: Path) -> None:
    """A step that was to be judged by the next batch led to other weights, and is let go."""
    trained = trainer(
        learner("next"),
        tmp_path,
        eval_dataset=rows(9),
        save_strategy="epoch",
        eval_strategy="epoch",
        load_best_model_at_end=True,
        metric_for_best_model="eval_loss",
    )
    trained.train()
    before = trained.learner.steps
    trained.train()
    assert trained.learner.steps == 2 * before
