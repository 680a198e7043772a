"""The learner in Hugging Face's Trainer: the plain loop's training, with the Trainer's conveniences."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import maxl
from _hugging_face_helpers import (
    HIERARCHY,
    LOOKAHEADS,
    TOKENS,
    Padding,
    Row,
    learner,
    rows,
    trainer,
    transformers,
    weights,
)
from _hugging_face_helpers import little_garbage as little_garbage
from _networks import same, snapshot
from maxl.supervision import FixedLabels, UniformLabels

pytestmark = pytest.mark.filterwarnings("ignore")  # its advice on devices, workers and names


def linear(optimizer: torch.optim.Optimizer, steps: int) -> Any:
    return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: (steps - step) / steps)


@pytest.mark.parametrize("lookahead", [*LOOKAHEADS, None])
def test_training_is_that_of_a_plain_loop(lookahead: str | None, tmp_path: Path) -> None:
    plain, within = learner(lookahead), learner(lookahead)
    collator = Padding()
    fit = trainer(within, tmp_path, data_collator=collator)
    fit.train()
    assert len(collator.batches) == 10
    schedule = linear(plain.optimizer, 10)
    for x, y in collator.batches:
        plain.step(x, y)
        schedule.step()
    assert torch.equal(weights(plain), weights(within))
    assert fit.state.global_step == within.steps == 10
    assert type(fit.optimizer) is not type(
        within.optimizer
    )  # Accelerate's, around the very one that is followed
    assert fit.optimizer.optimizer is within.optimizer


def by_step(batches: list[Any], accumulate: int, epoch: int = 5) -> list[list[Any]]:
    """Batches by the step that they are part of; no step goes on into the next epoch."""
    return [
        list(group)
        for whole in (batches[i : i + epoch] for i in range(0, len(batches), epoch))
        for group in (whole[i : i + accumulate] for i in range(0, len(whole), accumulate))
    ]


def test_accumulation_clipping_and_schedules_are_those_of_a_plain_loop(tmp_path: Path) -> None:
    plain, within, whole = learner(), learner(), learner()
    collator = Padding()
    fit = trainer(
        *(within, tmp_path),
        data_collator=collator,
        gradient_accumulation_steps=3,
        max_grad_norm=0.05,
        lr_scheduler_type="cosine",
        warmup_steps=1,
    )
    fit.train()
    groups = by_step(collator.batches, 3)
    assert [[len(y) for _, y in group] for group in groups] == 2 * [[4, 4, 4], [4, 2]]
    schedules = [
        transformers.get_cosine_schedule_with_warmup(one.optimizer, 1, len(groups)) for one in (plain, whole)
    ]
    for group in groups:
        count = sum(len(y) for _, y in group)
        for x, y in group:
            plain.backward(x, y, share=len(y) / count)
        longest = max(x["input_ids"].shape[1] for x, _ in group)
        padded = [
            {k: nn.functional.pad(t, (0, longest - t.shape[1])) for k, t in x.items()} for x, _ in group
        ]
        whole.backward(
            {k: torch.cat([x[k] for x in padded]) for k in padded[0]}, torch.cat([y for _, y in group])
        )
        for one, schedule in zip((plain, whole), schedules, strict=True):
            norm = nn.utils.clip_grad_norm_(one.network.parameters(), 0.05)
            assert norm > 0.05
            one.optimizer.step()
            one.meta_step()
            schedule.step()
            one.optimizer.zero_grad()
    assert torch.equal(weights(plain), weights(within))
    torch.testing.assert_close(weights(whole), weights(within), rtol=1e-8, atol=1e-8)
    assert fit.state.global_step == 4


def test_losses_are_logged_as_means_over_samples_and_steps(tmp_path: Path) -> None:
    plain, within = learner(), learner()
    collator = Padding()
    fit = trainer(
        *(within, tmp_path),
        data_collator=collator,
        gradient_accumulation_steps=3,
        logging_strategy="steps",
        logging_steps=2,
        num_train_epochs=1,
    )
    fit.train()
    (logged,) = [line for line in fit.state.log_history if "loss" in line]
    schedule, sums = linear(plain.optimizer, 2), dict.fromkeys(("primary_loss", "auxiliary_loss"), 0.0)
    taught = []
    for group in by_step(collator.batches, 3):
        for x, y in group:
            share = len(y) / sum(len(y) for _, y in group)
            result = plain.backward(x, y, share=share)
            sums = {name: total + share * float(getattr(result, name)) for name, total in sums.items()}
        plain.optimizer.step()
        taught.append(plain.meta_step())
        schedule.step()
        plain.optimizer.zero_grad()
    assert logged["primary_loss"] == pytest.approx(sums["primary_loss"] / 2)
    assert logged["auxiliary_loss"] == pytest.approx(sums["auxiliary_loss"] / 2)
    assert logged["loss"] == pytest.approx(sum(sums.values()) / 2)
    assert logged["outer_loss"] == pytest.approx(sum(float(t.outer_loss) for t in taught) / 2)
    assert logged["hypergradient_norm"] == pytest.approx(sum(float(t.hypergradient_norm) for t in taught) / 2)


@pytest.mark.parametrize("lookahead", [*LOOKAHEADS, None])
@pytest.mark.parametrize("at_the_end", [False, True])
def test_an_interrupted_training_goes_on_as_if_it_had_not_been(
    lookahead: str | None, at_the_end: bool, tmp_path: Path
) -> None:
    accumulate = 2 if lookahead in ("taken", None) else 1  # 3 or 5 steps an epoch
    step = 2 if not at_the_end else 3 if accumulate == 2 else 5
    saving = {
        "save_strategy": "steps",
        "save_steps": step,
        "lr_scheduler_type": "cosine",
        "gradient_accumulation_steps": accumulate,
    }
    whole = learner(lookahead, dropout=0.3)
    trainer(whole, tmp_path, **saving).train()
    resumed = learner(lookahead, dropout=0.3)
    with torch.no_grad():
        for p in itertools.chain(
            *(m.parameters() for m in (resumed.network, getattr(resumed, "generator", nn.Tanh())))
        ):
            p.add_(1.0)
    random = {
        "logging_strategy": "steps",
        "logging_steps": 1,
        "eval_strategy": "epoch",
        "eval_dataset": rows(),
    }
    fit = trainer(resumed, tmp_path, **saving, **random)
    torch.manual_seed(99)
    fit.train(resume_from_checkpoint=str(tmp_path / f"checkpoint-{step}"))
    assert torch.equal(weights(whole), weights(resumed))
    assert same_state(whole.optimizer, resumed.optimizer)
    assert whole.steps == resumed.steps == fit.state.global_step
    if lookahead is not None:
        assert same_state(whole.meta_optimizer, resumed.meta_optimizer)


def same_state(one: torch.optim.Optimizer, other: torch.optim.Optimizer) -> bool:
    states = [optimizer.state_dict()["state"] for optimizer in (one, other)]
    assert states[0]
    return all(
        torch.equal(states[0][i][name], states[1][i][name]) for i in states[0] for name in states[0][i]
    )


def test_evaluation_leaves_training_as_it_is(tmp_path: Path) -> None:
    alone, watched = learner("next", dropout=0.3), learner("next", dropout=0.3)
    trainer(alone, tmp_path).train()
    modes = []

    class Modes(transformers.TrainerCallback):
        def on_step_begin(self, *_: Any, **__: Any) -> None:
            modes.append(watched.generator.training)

        def on_optimizer_step(self, *_: Any, **__: Any) -> None:
            modes.append(watched.network.training)

    options = {"eval_strategy": "steps", "eval_steps": 2, "eval_dataset": rows(7), "callbacks": [Modes()]}
    trainer(watched, tmp_path, **options).train()
    assert torch.equal(weights(alone), weights(watched))
    assert modes == [True] * 20
    assert not watched.network.training  # as evaluation left it


def test_the_generators_mode_is_its_owners(tmp_path: Path) -> None:
    trained = learner()
    trained.generator.eval()
    trainer(trained, tmp_path, num_train_epochs=1, eval_strategy="epoch", eval_dataset=rows()).train()
    assert not trained.generator.training


def accuracy(found: Any) -> dict[str, float]:
    return {"accuracy": float((found.predictions.argmax(-1) == found.label_ids).mean())}


def test_evaluate_and_predict_are_those_of_the_primary_head(tmp_path: Path) -> None:
    trained = learner(task=maxl.Classification(gamma=0.0))
    fit = trainer(
        *(trained, tmp_path), eval_dataset=rows(11), compute_metrics=accuracy, per_device_eval_batch_size=4
    )
    fit.train()
    before = snapshot(trained.network), snapshot(trained.generator)
    batch = Padding()(rows(11))
    y = batch.pop("labels")
    trained.network.eval()
    logits = trained.network.predict(batch)
    found = fit.evaluate()
    assert found["eval_loss"] == pytest.approx(float(nn.functional.cross_entropy(logits, y)))
    assert found["eval_accuracy"] == pytest.approx(float((logits.argmax(1) == y).double().mean()))
    predicted = fit.predict(rows(11))
    torch.testing.assert_close(torch.tensor(predicted.predictions), logits.detach())
    assert predicted.label_ids.tolist() == y.tolist()
    unlabelled = fit.predict([{"input_ids": row["input_ids"]} for row in rows(11)])
    assert (unlabelled.predictions == predicted.predictions).all()
    assert unlabelled.label_ids is None
    assert "test_loss" not in unlabelled.metrics
    assert same(before[0], snapshot(trained.network))
    assert same(before[1], snapshot(trained.generator))


def test_the_best_network_is_loaded_at_the_end(tmp_path: Path) -> None:
    trained = learner()
    fit = trainer(
        *(trained, tmp_path),
        **{"eval_strategy": "epoch", "save_strategy": "epoch", "load_best_model_at_end": True},
        **{"metric_for_best_model": "accuracy", "greater_is_better": False, "num_train_epochs": 4},
        **{"eval_dataset": rows(), "compute_metrics": accuracy},
    )
    fit.train()
    best = min(line["eval_accuracy"] for line in fit.state.log_history if "eval_accuracy" in line)
    assert fit.evaluate()["eval_accuracy"] == best


# What is in a batch


@pytest.mark.parametrize("lookahead", LOOKAHEADS)
def test_what_is_masked_is_not_looked_at_by_network_or_generator(lookahead: str, tmp_path: Path) -> None:
    trained = []
    for fill in (0, 7):
        trained.append(learner(lookahead))
        trainer(trained[-1], tmp_path, data_collator=Padding(fill), gradient_accumulation_steps=1).train()
    assert torch.equal(weights(trained[0]), weights(trained[1]))


def test_columns_that_no_trunk_takes_are_dropped(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets", reason="needs datasets")
    plain, within = learner(), learner()
    trainer(plain, tmp_path).train()
    table = {name: [row[name] for row in rows()] for name in ("input_ids", "labels")}
    data = datasets.Dataset.from_dict({**table, "text": ["?"] * 18, "number": list(range(18))})
    trainer(within, tmp_path, train_dataset=data).train()
    assert torch.equal(weights(plain), weights(within))


def test_a_tensor_called_x_is_passed_as_it_is(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = maxl.MultiTaskNetwork(nn.Sequential(nn.Linear(4, 5), nn.Tanh()), HIERARCHY)
    trained = maxl.MultiTaskLearner(
        network, torch.optim.SGD(network.parameters(), lr=0.1), source=UniformLabels(HIERARCHY)
    )
    data = [{"x": torch.randn(4), "labels": i % 3, "name": "?"} for i in range(9)]
    before = weights(trained)
    trainer(trained, tmp_path, train_dataset=data, data_collator=None).train()
    assert not torch.equal(before, weights(trained))


def test_positions_reach_the_source(tmp_path: Path) -> None:
    table = torch.tensor([row["labels"] * 2 for row in rows()])
    plain, within = learner(None, source=FixedLabels(table)), learner(None, source=FixedLabels(table))
    data = [{**row, "place": i} for i, row in enumerate(rows())]
    collator = Padding()
    trainer(within, tmp_path, train_dataset=data, data_collator=collator, index_name="place").train()
    schedule = linear(plain.optimizer, 10)
    for x, y in collator.batches:
        plain.train_step(x, y, labels=2 * y)
        schedule.step()
    assert torch.equal(weights(plain), weights(within))


# Encoders of others


def bert(**options: Any) -> maxl.Features:
    """Without dropout, for which the Trainer draws other numbers than a loop."""
    config = transformers.BertConfig(
        vocab_size=TOKENS,
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=8,
        max_position_embeddings=8,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    return maxl.Features(transformers.BertModel(config), **options)


def vit() -> nn.Module:
    timm = pytest.importorskip("timm", reason="needs timm")
    sizes = {"img_size": 8, "patch_size": 4, "embed_dim": 8, "depth": 1, "num_heads": 2, "num_classes": 0}
    return timm.create_model("vit_tiny_patch16_224", **sizes)


def images(some: list[Row]) -> dict[str, Tensor]:
    random = torch.Generator().manual_seed(some[0]["input_ids"][0])
    return {
        "x": torch.randn(len(some), 3, 8, 8, generator=random),
        "labels": torch.tensor([row["labels"] for row in some]),
    }


@pytest.mark.parametrize("kind", ["bert", "bert, sharing", "vit"])
def test_an_encoder_of_others_trains_as_in_a_plain_loop(kind: str, tmp_path: Path) -> None:
    trained = []
    for _ in range(2):
        torch.manual_seed(0)
        first = vit() if kind == "vit" else bert(output="last_hidden_state", pool="mean")
        network = maxl.MultiTaskNetwork(first, HIERARCHY)
        if kind == "bert, sharing":
            generator = maxl.LabelGenerator.sharing(network)
        else:
            other = vit() if kind == "vit" else bert(output="pooler_output")
            generator = maxl.LabelGenerator(other, HIERARCHY)
        optimizers = [torch.optim.AdamW(m.parameters(), lr=1e-3) for m in (network, generator)]
        trained.append(maxl.MetaAuxiliaryLearner(network, generator, *optimizers))
    plain, within = trained
    batches: list[dict[str, Tensor]] = []

    def collate(some: list[Row]) -> dict[str, Tensor]:
        batches.append(images(some) if kind == "vit" else Padding()(some))
        return dict(batches[-1])

    fit = trainer(
        *(within, tmp_path),
        data_collator=collate,
        num_train_epochs=1,
        max_steps=2,
        remove_unused_columns=False,
        lr_scheduler_type="constant",
    )
    fit.train()
    for batch in batches[:2]:
        y = batch.pop("labels")
        plain.step(batch["x"] if kind == "vit" else batch, y)
    assert torch.equal(weights(plain), weights(within))
    assert within.steps == 2
