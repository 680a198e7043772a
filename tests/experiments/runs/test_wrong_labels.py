"""Methods for labels that are partly wrong: what they train on and are judged by, and what is refused."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from _run_helpers import Interrupted, digits, interrupt_after, metrics, model, tiny
from maxl.experiments.data import DataSet, Split
from maxl.experiments.runs.agreement import agreeing
from maxl.experiments.runs.config import RunConfig
from maxl.experiments.runs.folder import RunFolder
from maxl.experiments.runs.methods import NOISE_METHODS
from maxl.experiments.runs.rates import Schedule
from maxl.experiments.runs.trainer import Trainer, resume, train
from maxl.experiments.studies.variants import irrelevant_fields, same_setting
from maxl.supervision import LabelCorrector, WeightGenerator

TRUSTED = 20  # of a hundred training samples


def noisy(seed: int = 0) -> DataSet:
    """Digits, the labels of which are off by one but for the trusted ones."""
    data = digits(seed)

    def marked(split: Split, which: torch.Tensor) -> Split:
        return dataclasses.replace(split, trusted=which)

    which = torch.arange(len(data.train)) % 5 == 0
    wrong = dataclasses.replace(
        data.train, primary=torch.where(which, data.train.primary, (data.train.primary + 1) % 10)
    )
    every = torch.ones(len(data.test), dtype=torch.bool)
    return dataclasses.replace(data, train=marked(wrong, which), test=marked(data.test, every))


def config(method: str, **changes: Any) -> RunConfig:
    return tiny(**{"method": method, "trusted": "trusted", "epochs": 3, "trusted_epochs": 1, **changes})


def trainer(folder: Path, method: str, **changes: Any) -> Trainer:
    return Trainer(config(method, **changes), RunFolder(folder / "run"), noisy())


@pytest.mark.parametrize(
    ("method", "epoch"), [*((m, 2) for m in NOISE_METHODS if m != "corrected"), ("corrected", 1)]
)
def test_an_interrupted_run_goes_on_to_the_same_bits(method: str, epoch: int, tmp_path: Path) -> None:
    summary = train(config(method), tmp_path / "whole", data=noisy())
    assert (summary["method"], summary["psi"], summary["auxiliary_classes"]) == (method, None, 0)
    assert summary["train_size"] == 100
    assert summary["seconds_per_step"] * 12 > 0
    if method == "agreement":  # two networks come first
        assert summary["seconds_total"] > summary["seconds_per_step"] * 12
    else:
        assert summary["seconds_per_step"] * 12 == pytest.approx(summary["seconds_total"])
    row = metrics(tmp_path / "whole")[-1]
    assert not {"label_entropy", "gradient_cosine"} & {*row}
    assert (
        json.loads((tmp_path / "whole" / "summary.json").read_text())["test_accuracy"] == row["test_accuracy"]
    )
    with pytest.raises(Interrupted):
        train(config(method), tmp_path / "cut", data=noisy(), report=interrupt_after(epoch))
    resume(tmp_path / "cut", data=noisy())
    assert metrics(tmp_path / "whole") == metrics(tmp_path / "cut")
    for name, tensor in model(tmp_path / "whole").items():
        assert torch.equal(tensor, model(tmp_path / "cut")[name]), name


def test_methods_share_initial_weights_and_order(tmp_path: Path) -> None:
    first = trainer(tmp_path, "single")
    for method in NOISE_METHODS:
        run = trainer(tmp_path, method)
        weights = first.setup.network.state_dict()
        assert all(torch.equal(weights[n], w) for n, w in run.setup.network.state_dict().items())
        for ours, theirs in zip(run.stream.epoch(1), first.stream.epoch(1), strict=True):
            assert torch.equal(ours.index, theirs.index)


# What they train on


def _samples(run: Trainer, epoch: int) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Pixels of what is trained on in an epoch, and of what judges, as rows."""
    training, judging = [], []
    for batch, outer in run.outer.epoch(epoch):
        training.append(batch.x.flatten(1))
        if outer is not None:
            judging.append(outer[0].flatten(1))
    return training, judging


def _among(some: list[torch.Tensor], run: Trainer) -> bool:
    """Whether all samples are trusted ones."""
    assert run.data.train.trusted is not None
    trusted = torch.cat([b.x.flatten(1) for b in run.in_order(run.data.train.select(run.data.train.trusted))])
    rows = torch.cat(some)
    return bool((rows.unsqueeze(1) == trusted.unsqueeze(0)).all(-1).any(1).all())


@pytest.mark.parametrize(
    "method", ["small-loss", "gce", "agreement", "fine-tuned", "reweighted", "corrected"]
)
def test_the_last_epochs_are_of_trusted_samples_alone(method: str, tmp_path: Path) -> None:
    run = trainer(tmp_path, method)
    for epoch in (0, 1):
        training, judging = _samples(run, epoch)
        assert not _among(training, run)
        assert bool(judging) == (method in ("reweighted", "corrected"))
        if judging:
            assert len(judging) == len(training) == 4
            assert _among(judging, run)
    training, judging = _samples(run, 2)
    assert _among(training, run)
    assert not judging
    assert len(training) == 4  # as many steps as any epoch has


def test_samples_are_left_out_whose_label_others_disagree_with(tmp_path: Path) -> None:
    data = blobs(wrong=12)
    settings = config("agreement", trunk="mlp", epochs=8, learning_rate=0.01, train_size=None)
    before = torch.get_rng_state()
    kept = agreeing(settings, data, torch.device("cpu"))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(agreeing(settings, data, torch.device("cpu")), kept)
    left_out = sorted({*range(len(data.train))} - {*kept.tolist()})
    assert left_out == list(range(2, 12))  # the first two of the wrong ones are trusted
    run = Trainer(settings, RunFolder(tmp_path / "run"), data)
    assert run.outer.paid_for == len(data.train)
    seen = torch.cat([batch.x for batch, _ in run.outer.epoch(0)])
    wrong = data.train.x[2:12]
    assert not (seen.unsqueeze(1) == wrong.unsqueeze(0)).all(-1).any()
    assert run.outer.steps(0) == len(run.outer.batches)


def test_a_run_that_knows_the_wrong_labels_by_heart_is_no_start_of_those_who_judge_them(
    tmp_path: Path,
) -> None:
    data = blobs(wrong=12)
    earlier = tiny(method="single", trunk="mlp", epochs=8, learning_rate=0.01, train_size=None)
    train(earlier, tmp_path / "earlier", data=data)
    # At such a rate networks predict what they would at their start.
    settings = config("agreement", trunk="mlp", learning_rate=1e-6, train_size=None)
    fresh = agreeing(settings, data, torch.device("cpu"))
    from_run = dataclasses.replace(settings, from_run=str(tmp_path / "earlier"))
    assert torch.equal(agreeing(from_run, data, torch.device("cpu")), fresh)
    # The run itself starts from the other one.
    run = Trainer(from_run, RunFolder(tmp_path / "run"), data)
    weights = model(tmp_path / "earlier")
    found = run.setup.network.state_dict()
    assert all(torch.equal(found[n], t) for n, t in weights.items() if n.startswith("trunk"))


def test_a_class_that_nobody_agrees_with_stays() -> None:
    data = blobs(wrong=12)
    alone = dataclasses.replace(
        data,
        train=dataclasses.replace(
            data.train, trusted=None, primary=torch.where(torch.arange(100) < 12, 2, data.train.primary)
        ),
    )
    alone = dataclasses.replace(alone, primary_names=("a", "b", "c"))
    settings = config("agreement", trusted=None, trunk="mlp", epochs=8, learning_rate=0.01, train_size=None)
    kept = agreeing(settings, alone, torch.device("cpu"))
    assert {*range(12)} <= {*kept.tolist()}


def test_networks_that_diverge_on_parts_are_refused() -> None:
    settings = config("agreement", trunk="mlp", optimizer="sgd", learning_rate=1e30, train_size=None)
    with pytest.raises(
        FloatingPointError, match="--method agreement trains networks on parts of the samples"
    ):
        agreeing(settings, blobs(wrong=12), torch.device("cpu"))


def blobs(wrong: int) -> DataSet:
    """A hundred points of two classes far apart; of the first so many the label is the other one, and two of these are trusted."""
    random = torch.Generator().manual_seed(0)
    truth = torch.arange(100) % 2
    x = torch.randn(100, 4, generator=random) + 6.0 * truth.unsqueeze(1)
    given = torch.where(torch.arange(100) < wrong, 1 - truth, truth)
    split = Split(x, given, None, trusted=torch.arange(100) < 2)
    plain = digits()
    return dataclasses.replace(
        plain,
        train=split,
        test=dataclasses.replace(split, trusted=torch.ones(100, dtype=torch.bool)),
        primary_names=("a", "b"),
        human_names=None,
        mean=(0.0,),
        std=(1.0,),
        augment=False,
    )


def test_trusted_only_never_sees_another(tmp_path: Path) -> None:
    run = trainer(tmp_path, "trusted-only")
    for epoch in range(3):
        training, judging = _samples(run, epoch)
        assert _among(training, run)
        assert not judging
        assert len(training) == 4


def test_steps_on_trusted_samples_are_plain_ones(tmp_path: Path) -> None:
    """The generator is left alone, and so is the loss that bears wrong labels."""
    for method in ("reweighted", "corrected", "gce"):
        run = trainer(tmp_path, method)
        assert run.setup.tuner is not None
        assert [run.setup.learner_in(e) is run.setup.tuner for e in range(3)] == [False, False, True]
        x, y = next((b.x, b.primary) for b, _ in run.outer.epoch(2))
        before = [p.detach().clone() for p in run.setup.generator.parameters()] if run.setup.generator else []
        loss = run.setup.tuner.train_step(x, y).primary_loss
        expected = torch.nn.functional.cross_entropy(
            trainer(tmp_path, method).setup.network.predict(x), y
        ).detach()
        torch.testing.assert_close(loss.detach(), expected)
        if run.setup.generator is not None:
            after = list(run.setup.generator.parameters())
            assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_without_trusted_samples_losses_stay_and_judges_are_held_out(tmp_path: Path) -> None:
    data = digits()
    for method, changes in (
        ("gce", {}),
        ("small-loss", {}),
        ("reweighted", {"evaluate": "held-out"}),
        ("corrected", {"evaluate": "rotating"}),
    ):
        run = Trainer(tiny(method=method, epochs=2, **changes), RunFolder(tmp_path / method), data)
        assert run.setup.tuner is None
        judged = [outer is not None for _, outer in run.outer.epoch(1)]
        assert all(judged) if changes else not any(judged)
        run.fit()


def test_generators_of_their_own_trunk_and_of_the_networks(tmp_path: Path) -> None:
    for method, kind in (("reweighted", WeightGenerator), ("corrected", LabelCorrector)):
        own = trainer(tmp_path, method, generator_trunk="own").setup.generator
        assert isinstance(own, kind)
        assert own.shared is None
        run = trainer(tmp_path, method)
        assert isinstance(run.setup.generator, kind)
        assert run.setup.generator.shared is run.setup.network
        run.fit()
        (tmp_path / "run").rename(tmp_path / method)


@pytest.mark.parametrize(("trunk", "times"), [("own", 1.5), ("shared", 1.2)])
def test_corrections_are_learned_from_the_trusted(trunk: str, times: float, tmp_path: Path) -> None:
    asked = config("corrected", epochs=30, meta_learning_rate=0.01, generator_trunk=trunk)
    run = Trainer(asked, RunFolder(tmp_path / "run"), noisy())
    run.fit()
    given, trusted = run.data.train.primary, run.data.train.trusted
    assert trusted is not None
    truth = torch.where(trusted, given, (given - 1) % 10)
    probability = _signals(run)[torch.arange(100), truth]
    assert probability[~trusted].mean() > times * 0.15 / 9  # what it began with


def _signals(run: Trainer) -> torch.Tensor:
    generator = run.setup.generator
    assert generator is not None
    with torch.no_grad():
        return torch.cat([generator(b.x, b.primary) for b in run.in_order(run.data.train)])


def test_a_temperature_is_fitted_on_labels_that_are_right(tmp_path: Path) -> None:
    """On the others, nearly all wrong, a network that is right would seem far too sure of itself."""
    run = trainer(tmp_path, "trusted-only", epochs=20)
    summary = run.fit()
    assert summary["temperature_from"] == "training"
    assert summary["temperature"] < 3
    with torch.no_grad():
        logits = torch.cat([run.setup.network.predict(b.x) for b in run.in_order(run.data.train)])
    right = (logits.argmax(1) == run.data.train.primary).float()
    assert run.data.train.trusted is not None
    assert right[run.data.train.trusted].mean() > 0.9 > 0.3 > right[~run.data.train.trusted].mean()


# Rates


def test_rates_begin_anew_with_the_trusted_samples(tmp_path: Path) -> None:
    schedule = Schedule("cosine", 10, warmup=2, anew=8)
    assert [schedule(e) for e in (8, 9)] == [1.0, 0.5]
    before = Schedule("cosine", 8, warmup=2)
    assert [schedule(e, 1, 4) for e in range(8)] == [before(e, 1, 4) for e in range(8)]
    run = trainer(tmp_path, "fine-tuned", epochs=10, trusted_epochs=2)
    assert [run.setup.schedule(e) for e in (0, 8, 9)] == [1.0, 1.0, 0.5]
    assert trainer(tmp_path, "trusted-only").setup.schedule.anew is None


@pytest.mark.parametrize(("epochs", "found"), [(2, 1), (10, 2), (40, 8)])
def test_a_fifth_of_the_epochs_by_default(epochs: int, found: int) -> None:
    assert config("corrected", epochs=epochs, trusted_epochs=None).epochs_on_trusted == found
    assert config("single", epochs=epochs, trusted_epochs=None).epochs_on_trusted == 0
    assert config("trusted-only", epochs=epochs).epochs_on_trusted == epochs
    assert tiny(method="gce", epochs=epochs).epochs_on_trusted == 0


# What is refused


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"method": "fine-tuned", "trusted": None}, "whose labels are right: name the column"),
        ({"method": "trusted-only", "trusted": None}, "whose labels are right: name the column"),
        ({"method": "fine-tuned", "trusted_epochs": 0}, "use it without --trusted-epochs 0"),
        ({"method": "gce", "trusted_epochs": 3}, "needs to leave epochs for all samples; got 3 of 3"),
        ({"method": "gce", "trusted_epochs": -1}, "--trusted-epochs needs to be at least 0"),
        ({"method": "corrected", "trusted": None}, "is judged by other samples than it trains on"),
        ({"method": "reweighted", "evaluate": "held-out"}, "is judged by the trusted samples: drop --eva"),
        ({"method": "reweighted", "schedule": "epochs"}, "drop --schedule epochs"),
        ({"method": "corrected", "cache_labels": True}, "drop --cache-labels"),
        ({"method": "gce", "patience": 2, "validation_size": 5}, "add --trusted-epochs 0"),
        ({"method": "gce", "warmup": 2}, "--warmup needs to end before the epochs on trusted samples, at 2"),
        ({"effective_samples": 1.0}, "--effective-samples needs to be above 0 and below 1"),
        ({"confidence": 0.0}, "--confidence needs to be above 0 and below 1"),
        ({"keep_part": 0.0}, "--keep-part needs to be above 0 and at most 1"),
    ],
)
def test_settings_that_do_not_go_together(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        config(**{"method": "single", **changes})


def test_other_tasks_and_no_trusted_training_sample(tmp_path: Path) -> None:
    numbers = load_regression()
    for method in NOISE_METHODS:
        with pytest.raises(ValueError, match="is for classes that are partly wrong; the task is regression"):
            Trainer(config(method), RunFolder(tmp_path / "run"), numbers)
    data = noisy()
    none = dataclasses.replace(
        data, train=dataclasses.replace(data.train, trusted=torch.zeros(100, dtype=torch.bool))
    )
    with pytest.raises(ValueError, match="needs trusted training samples; all of them test or validate"):
        Trainer(config("corrected"), RunFolder(tmp_path / "run"), none)


def load_regression() -> DataSet:
    data = noisy()

    def numbers(split: Split) -> Split:
        return dataclasses.replace(split, primary=split.primary.float().unsqueeze(1))

    return dataclasses.replace(
        data, task="regression", train=numbers(data.train), test=numbers(data.test), primary_names=("y",)
    )


# Studies


def test_fields_that_make_no_difference() -> None:
    for method in NOISE_METHODS:
        fields = irrelevant_fields(method)
        assert {"auxiliary_weight", "psi", "entropy_weight"} <= {*fields}
        assert ("meta_learning_rate" in fields) == (method not in ("reweighted", "corrected"))
        assert ("trusted_epochs" in fields) == (method == "trusted-only")
        assert ("keep_part" in fields) == (method != "small-loss")
        assert ("confidence" in fields) == (method != "corrected")
        assert ("effective_samples" in fields) == (method != "reweighted")
    assert "trusted_epochs" in irrelevant_fields("single")
    assert not same_setting("corrected trusted_epochs=3", "fine-tuned")
    assert same_setting("corrected trusted_epochs=3", "single")
