"""The learner in Lightning: the plain loop's training, with the Trainer's conveniences."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import maxl
from _networks import flatten

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # its imports' own
    lightning = pytest.importorskip("lightning", reason="needs lightning")
    from lightning.pytorch.callbacks import ModelCheckpoint
    from lightning.pytorch.plugins.precision import MixedPrecision

    from maxl.integrations.lightning import MAXLModule

pytestmark = pytest.mark.filterwarnings("ignore")  # Lightning's advice on workers, loggers and folders
HIERARCHY = maxl.Hierarchy.uniform(3, 2)
LOOKAHEADS = {"taken": maxl.Taken, "next": maxl.Next, "virtual": maxl.Virtual}
logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)


def learner(lookahead: str | None = "taken", dropout: float = 0.0) -> maxl.MultiTaskLearner:
    torch.manual_seed(0)

    def trunk() -> nn.Module:
        return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Dropout(dropout))

    network = maxl.MultiTaskNetwork(trunk(), HIERARCHY, feature_dim=8)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-2)
    if lookahead is None:
        return maxl.MultiTaskLearner(network, optimizer)
    generator = maxl.LabelGenerator(trunk(), HIERARCHY, feature_dim=8)
    meta_optimizer = torch.optim.Adam(generator.parameters(), lr=1e-2)
    return maxl.MetaAuxiliaryLearner(
        network, generator, optimizer, meta_optimizer, lookahead=LOOKAHEADS[lookahead]()
    )


def data(count: int = 40) -> TensorDataset:
    random = torch.Generator().manual_seed(1)
    x = torch.randn(count, 6, generator=random)
    return TensorDataset(x, (x[:, 0] > 0).long() + (x[:, 1] > 0).long())


def trainer(folder: Path, epochs: int = 3, **options: Any) -> Any:
    return lightning.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
        **{"enable_checkpointing": False, **options},
    )


def weights(trained: Any) -> Tensor:
    modules = [trained.network, *([trained.generator] if hasattr(trained, "generator") else [])]
    return flatten([p for m in modules for p in m.parameters()])


@pytest.mark.parametrize("lookahead", [*LOOKAHEADS, None])
def test_training_is_that_of_a_plain_loop(lookahead: str | None, tmp_path: Path) -> None:
    plain, within = learner(lookahead), learner(lookahead)
    for _ in range(3):
        for x, y in DataLoader(data(), batch_size=8):
            plain.step(x, y)
    fit = trainer(tmp_path)
    fit.fit(MAXLModule(within), DataLoader(data(), batch_size=8))
    assert torch.equal(weights(plain), weights(within))
    assert fit.global_step == within.steps == 15


def test_clipping_and_accumulation_are_those_of_a_plain_loop(tmp_path: Path) -> None:
    plain, within = learner(), learner()
    batches = list(DataLoader(data(), batch_size=8))
    for group in (batches[:2], batches[2:4], batches[4:]):
        plain.optimizer.zero_grad()
        for x, y in group:
            plain.backward(x, y, share=1 / len(group))
        nn.utils.clip_grad_norm_(plain.network.parameters(), 0.1)
        plain.optimizer.step()
        plain.meta_step()
    fit = trainer(tmp_path, epochs=1)
    fit.fit(MAXLModule(within, max_grad_norm=0.1, accumulate=2), DataLoader(data(), batch_size=8))
    assert torch.equal(weights(plain), weights(within))
    assert fit.global_step == 3


@pytest.mark.parametrize("lookahead", LOOKAHEADS)
def test_an_interrupted_training_goes_on_as_if_it_had_not_been(lookahead: str, tmp_path: Path) -> None:
    results = []
    for resumed in (False, True):
        torch.manual_seed(3)
        model = MAXLModule(learner(lookahead, dropout=0.3))
        loader = DataLoader(data(), batch_size=8, shuffle=True)
        torch.manual_seed(4)
        if resumed:
            callback = ModelCheckpoint(dirpath=tmp_path / lookahead, save_last=True)
            trainer(tmp_path, 2, enable_checkpointing=True, callbacks=[callback]).fit(model, loader)
            model = MAXLModule(learner(lookahead, dropout=0.3))
            torch.manual_seed(99)
            trainer(tmp_path, 4).fit(
                model, loader, ckpt_path=tmp_path / lookahead / "last.ckpt", weights_only=True
            )
        else:
            trainer(tmp_path, 4).fit(model, loader)
        results.append(weights(model.learner))
    assert torch.equal(*results)


def test_what_is_logged_can_be_watched(tmp_path: Path) -> None:
    model = MAXLModule(learner())
    best = ModelCheckpoint(dirpath=tmp_path, monitor="val_accuracy", mode="max")
    fit = trainer(tmp_path, 5, enable_checkpointing=True, callbacks=[best])
    fit.fit(model, DataLoader(data(), batch_size=8), DataLoader(data(), batch_size=40))
    assert {"train_loss", "train_primary_loss", "train_auxiliary_loss", "val_loss", "val_accuracy"} <= set(
        fit.callback_metrics
    )
    assert best.best_model_score is not None
    (tested,) = fit.test(model, DataLoader(data(), batch_size=40), verbose=False)
    accuracy = (model(data().tensors[0]).argmax(1) == data().tensors[1]).float().mean()
    assert tested["test_accuracy"] == pytest.approx(float(accuracy))
    (found,) = fit.predict(model, DataLoader(data(), batch_size=40))
    assert torch.equal(found, model.network.eval().predict(data().tensors[0]))


def test_several_loaders_are_judged_each_by_its_own_name(tmp_path: Path) -> None:
    model, parts = MAXLModule(learner()), [DataLoader(data(n), batch_size=8) for n in (8, 24)]
    fit = trainer(tmp_path, 1)
    fit.fit(model, DataLoader(data(), batch_size=8), parts)
    assert {"val_loss/dataloader_idx_0", "val_accuracy/dataloader_idx_1"} <= {*fit.callback_metrics}
    found = fit.test(model, parts, verbose=False)
    for i, (part, values) in enumerate(zip(parts, found, strict=True)):
        x, y = part.dataset[:]
        accuracy = float((model(x).argmax(1) == y).float().mean())
        assert values[f"test_accuracy/dataloader_idx_{i}"] == pytest.approx(accuracy)
    assert [len(torch.cat(outputs)) for outputs in fit.predict(model, parts)] == [8, 24]


def test_schedulers_step_once_an_epoch(tmp_path: Path) -> None:
    within = learner()
    scheduler = torch.optim.lr_scheduler.StepLR(within.optimizer, 1, gamma=0.5)
    trainer(tmp_path).fit(MAXLModule(within, schedulers=[scheduler]), DataLoader(data(), batch_size=8))
    assert within.optimizer.param_groups[0]["lr"] == pytest.approx(1e-2 / 8)


def test_half_precision_trains(tmp_path: Path) -> None:
    within = learner()
    trainer(tmp_path, precision="bf16-mixed").fit(MAXLModule(within), DataLoader(data(), batch_size=8))
    assert weights(within).isfinite().all()


@pytest.mark.parametrize(
    ("options", "words"),
    [({"accumulate": 0}, "accumulate needs"), ({"max_grad_norm": 0.0}, "max_grad_norm needs")],
)
def test_a_wrong_option_is_named(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        MAXLModule(learner(), **options)


@pytest.mark.parametrize(
    ("saving", "options"),
    [
        ({}, {"check_val_every_n_epoch": 2}),
        ({"save_on_train_epoch_end": False}, {}),
        ({"every_n_train_steps": 5}, {}),
    ],
    ids=["no validation", "after validation", "by steps"],
)
def test_rates_and_order_go_on_from_a_checkpoint_of_an_epochs_end(
    saving: dict[str, Any], options: dict[str, Any], tmp_path: Path
) -> None:
    """By steps the samples come in another order, which is said; the rates are those of the epochs all the same."""
    shuffled = "every_n_train_steps" not in saving

    def fit(folder: Path, seed: int, path: Path | None = None) -> Tensor:
        made = learner()
        scheduler = torch.optim.lr_scheduler.StepLR(made.optimizer, 1, 0.5)
        module = MAXLModule(made, schedulers=[scheduler])
        torch.manual_seed(seed)
        loaders = DataLoader(data(), batch_size=8, shuffle=shuffled), DataLoader(data(8), batch_size=8)
        keep = ModelCheckpoint(dirpath=folder, filename="{epoch}", save_top_k=-1, **saving)
        trainer(tmp_path, 4, callbacks=[keep], enable_checkpointing=True, **options).fit(
            module, *loaders, ckpt_path=path
        )
        return torch.cat([weights(made), torch.tensor([made.optimizer.param_groups[0]["lr"]])])

    whole = fit(tmp_path / "whole", 7)
    assert whole[-1] == pytest.approx(1e-2 / 16)
    resumed = fit(tmp_path / "resumed", 99, tmp_path / "whole" / "epoch=1.ckpt")
    assert torch.equal(resumed, whole)


def test_batches_of_a_training_that_was_stopped_are_not_trained_on_in_the_next(tmp_path: Path) -> None:
    class Stopped(MAXLModule):
        def on_train_batch_end(self, *args: Any) -> None:
            self.trainer.should_stop = self.trainer.fit_loop.epoch_loop.batch_idx == 2

    module = Stopped(learner(), accumulate=2)
    loader = DataLoader(data(), batch_size=8)
    trainer(tmp_path, 1).fit(module, loader)
    assert len(module._waiting) == 1
    before = module.learner.steps
    module.on_train_epoch_start()
    assert not module._waiting
    assert before == 1


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"devices": 2, "strategy": "ddp_spawn"}, "trains on one device, .* got 2 devices: pass devices=1"),
        (
            {"plugins": [MixedPrecision("16-mixed", "cpu")]},
            "no gradient scaler, which float16 needs; got precision=16-mixed",
        ),
    ],
    ids=["devices", "float16"],
)
def test_what_a_trainer_would_do_wrongly_is_refused(
    options: dict[str, Any], words: str, tmp_path: Path
) -> None:
    module = MAXLModule(learner())
    module.trainer = trainer(tmp_path, **options)
    with pytest.raises(ValueError, match=words):
        module.setup("fit")


def test_a_scheduler_that_waits_for_a_figure_is_refused() -> None:
    made = learner()
    with pytest.raises(ValueError, match="without a figure to look at"):
        MAXLModule(made, schedulers=[torch.optim.lr_scheduler.ReduceLROnPlateau(made.optimizer)])


def test_a_test_from_a_checkpoint_draws_as_it_would_without(tmp_path: Path) -> None:
    module, loader = MAXLModule(learner()), DataLoader(data(8), batch_size=8)
    fitted = trainer(tmp_path, 1)
    fitted.fit(module, loader)
    fitted.save_checkpoint(tmp_path / "kept.ckpt")
    drawn = []
    for path in (None, tmp_path / "kept.ckpt"):
        torch.manual_seed(5)
        trainer(tmp_path).test(module, loader, ckpt_path=path, verbose=False)
        drawn.append(torch.rand(1))
    assert torch.equal(*drawn)


def test_float16_is_refused_in_every_form(tmp_path: Path) -> None:
    alone = trainer(tmp_path, precision="16-true")
    with pytest.raises(ValueError, match="float16 needs; got precision=16-true: use bf16-mixed"):
        alone.fit(MAXLModule(learner()), DataLoader(data(), batch_size=8))


@pytest.mark.parametrize("task", [maxl.Regression(1), maxl.Segmentation(ignore_index=255)])
def test_accuracy_is_told_of_classes_alone(tmp_path: Path, task: Any) -> None:
    """A number has none, and of rows that the task ignores an argmax would be called wrong."""
    hierarchy = maxl.Hierarchy.flat(2) if isinstance(task, maxl.Regression) else HIERARCHY
    network = maxl.MultiTaskNetwork(nn.Linear(4, 4), hierarchy, feature_dim=4, task=task)
    single = maxl.MultiTaskLearner(network, torch.optim.SGD(network.parameters(), lr=0.1), task=task)
    batches = DataLoader(TensorDataset(torch.randn(8, 4), torch.zeros(8, dtype=torch.long)), batch_size=8)
    [told] = trainer(tmp_path).validate(MAXLModule(single), batches, verbose=False)
    assert set(told) == {"val_loss"}
