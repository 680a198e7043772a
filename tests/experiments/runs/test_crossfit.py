"""Labels that are learned before a run: where they start, who judges them, and that all of it is a function of the seed."""

from __future__ import annotations

import dataclasses
import itertools
import math
import os
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from _run_helpers import Interrupted, digits, interrupt_after, metrics, model, tiny
from _run_helpers import one_thread as one_thread
from maxl.experiments.data import DataSet
from maxl.experiments.runs import crossfit
from maxl.experiments.runs.baselines import cluster_centres, cluster_labels
from maxl.experiments.runs.build import build, check, choose_hierarchy, choose_task
from maxl.experiments.runs.config import RunConfig
from maxl.experiments.runs.crossfit import Turn, labels_of, starting_generator, temperature_of
from maxl.experiments.runs.invented import invent
from maxl.experiments.runs.sources import fixed_source
from maxl.experiments.runs.start import load_start
from maxl.experiments.runs.trainer import resume, train
from maxl.experiments.studies.decisions import CONTROL_OF, screen
from maxl.experiments.studies.remaining import COST, Remaining
from maxl.experiments.studies.study import Study
from maxl.experiments.studies.variants import irrelevant_fields
from maxl.supervision import FixedLabels
from maxl.tasks import Classification

CPU = torch.device("cpu")
QUICK: dict[str, Any] = {
    "method": "prototypes",
    "cluster_features": "input",
    "held_out": 0.34,
    "meta_learning_rate": 0.01,
}


def config(**changes: Any) -> RunConfig:
    return tiny(**{**QUICK, **changes})


def table(data: DataSet | None = None, **changes: Any) -> Tensor:
    source = build(config(**changes), data or digits(), CPU).learner.source
    assert isinstance(source, FixedLabels)
    return source.table


@cache
def usual() -> Tensor:
    return table()


def points() -> Tensor:
    return digits().train.x.float().flatten(1)


# Where labels start.


def test_the_generator_starts_with_the_clusters_of_kmeans() -> None:
    chosen, data = config(prototype_softness=0.01), digits()
    hierarchy = choose_hierarchy(chosen, data)
    clusters = cluster_labels(points(), data.train.primary, hierarchy, chosen.seed)
    centres = cluster_centres(points(), data.train.primary, hierarchy, chosen.seed)
    for k in range(hierarchy.num_auxiliary):
        torch.testing.assert_close(centres[k], points()[clusters == k].mean(0), rtol=1e-4, atol=1e-3)
    generator, scaled = starting_generator(chosen, data, hierarchy, choose_task(chosen, data), points())
    torch.testing.assert_close(scaled.mean(), torch.tensor(0.0), rtol=0, atol=1e-5)
    torch.testing.assert_close(scaled.square().mean(), torch.tensor(1.0))
    labels = labels_of(generator, scaled, data.train.primary)
    assert torch.equal(labels.argmax(1), clusters)
    assert labels.amax(1).mean() > 0.95


@pytest.mark.parametrize("softness", [0.05, 0.5, 0.95])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_labels_start_with_the_share_of_entropy_that_was_asked_for(softness: float, scale: float) -> None:
    data, chosen = digits(), config(prototype_softness=softness)
    hierarchy = choose_hierarchy(chosen, data)
    generator, scaled = starting_generator(
        chosen, data, hierarchy, choose_task(chosen, data), scale * points()
    )
    labels = labels_of(generator, scaled, data.train.primary)
    entropy = torch.special.entr(labels).sum(1).mean()
    assert float(entropy) == pytest.approx(softness * math.log(3), rel=1e-3)


def test_a_temperature_exists_where_there_is_nothing_to_choose_or_to_tell() -> None:
    x, p = torch.randn(4, 3), torch.randn(2, 3)
    assert temperature_of(x, p, torch.eye(2, dtype=torch.bool)[torch.tensor([0, 1, 1, 0])], 0.5) == 1.0
    same = temperature_of(torch.ones(4, 3), torch.ones(2, 3), torch.ones(4, 2, dtype=torch.bool), 0.5)
    assert 0 < same < math.inf


# Who judges.


def test_no_network_trains_on_what_judges_it_and_every_sample_judges(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[int, tuple[set[int], set[int]]] = {}
    step = crossfit.taught_step
    images = digits().train.x.flatten(1)

    def watched(learner: Any, x: Any, y: Tensor, index: Tensor, outer: Any, limit: Any) -> Any:
        trained, judging = seen.setdefault(id(learner), (set(), set()))
        for given, into, targets in ((x, trained, y), (outer[0], judging, outer[1])):
            for features, target, inputs in zip(given["features"], targets, given["inputs"], strict=True):
                distance = (scaled - features).square().sum(1)
                at = int(distance.argmin())
                assert float(distance[at]) < 1e-8  # features of the very sample
                assert int(digits().train.primary[at]) == int(target)
                order = images[at].float()
                assert torch.corrcoef(torch.stack([inputs.flatten(), order]))[0, 1] > 0.999
                into.add(at)
        return step(learner, x, y, index, outer, limit)

    chosen = config(epochs=3)
    hierarchy = choose_hierarchy(chosen, digits())
    _, scaled = starting_generator(chosen, digits(), hierarchy, choose_task(chosen, digits()), points())
    monkeypatch.setattr(crossfit, "taught_step", watched)
    table(epochs=3)
    assert len(seen) == 3
    for trained, judging in seen.values():
        assert not trained & judging
        assert len(trained | judging) > 90  # all but what the last, smaller batches leave out
    assert set.union(*(judging for _, judging in seen.values())) == set(range(100))
    first, second, _ = (judging for _, judging in seen.values())
    assert not first & second


def test_networks_that_judge_start_from_no_run_that_may_know_the_labels(tmp_path: Path) -> None:
    train(tiny(method="single"), tmp_path / "run", data=digits())
    chosen = config(from_run=str(tmp_path / "run"), trunk_learning_rate=1e-5)
    start = load_start(chosen, digits(), choose_hierarchy(chosen, digits()))
    built = build(chosen, digits(), CPU, start)
    assert isinstance(built.learner.source, FixedLabels)
    assert torch.equal(built.learner.source.table, usual())
    weights = model(tmp_path / "run")
    found = built.network.state_dict()
    assert all(torch.equal(found[n], t) for n, t in weights.items() if n.startswith("trunk"))


def test_networks_take_turns() -> None:
    turns = [Turn(number, 3, every=2) for number in range(3)]
    due = [[turn.due(step) for turn in turns].index(True) for step in range(0, 12, 2)]
    assert due == [0, 1, 2, 0, 1, 2]
    assert not any(turn.due(step) for turn in turns for step in (1, 3, 5))


def test_the_labels_are_taught() -> None:
    start, taught = table(meta_learning_rate=1e-12), table(epochs=6, optimizer="adam")
    assert (start - taught).abs().max() > 0.01
    hierarchy = choose_hierarchy(config(), digits())
    for labels in (start, taught):
        torch.testing.assert_close(labels.sum(1), torch.ones(100))
        assert (labels[~hierarchy.rows(digits().train.primary)] == 0).all()


# A function of the seed.


def test_learning_labels_leaves_torchs_generator_as_it_was() -> None:
    state = torch.get_rng_state()
    build(config(), digits(), CPU)
    after = torch.get_rng_state()
    build(config(method="uniform"), digits(), CPU)
    assert torch.equal(after, state)
    assert torch.equal(torch.get_rng_state(), state)


def test_a_seed_fixes_the_labels_and_what_was_drawn_before_does_not() -> None:
    torch.rand(3)
    assert torch.equal(table(), usual())
    assert not torch.equal(table(seed=1), usual())


@pytest.mark.parametrize("method", ["prototypes", "prototypes-shuffled"])
def test_a_run_that_goes_on_has_the_bits_of_one_that_was_not_cut(method: str, tmp_path: Path) -> None:
    chosen = config(method=method, epochs=3, prototype_epochs=1, max_grad_norm=0.5)
    train(chosen, tmp_path / "whole", data=digits())
    with pytest.raises(Interrupted):
        train(chosen, tmp_path / "cut", data=digits(), report=interrupt_after(2))
    torch.rand(7)
    resume(tmp_path / "cut", data=digits())
    assert metrics(tmp_path / "cut") == metrics(tmp_path / "whole")
    expected, weights = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("whole", "cut"))
    assert weights == expected
    with pytest.raises(ValueError, match="its labels are learned for the training samples"):
        invent(tmp_path / "whole", tmp_path)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("meta_weight_decay", 0.9),
        ("evaluate", "held-out"),
        ("schedule", "epochs"),
        ("cache_labels", True),
        ("generator_trunk", "convnet4"),
        ("label_statistics", "batch"),
        ("weight_range", 3.0),
    ],
)
def test_settings_that_are_said_to_make_no_difference_make_none(name: str, value: Any) -> None:
    assert name in irrelevant_fields("prototypes")
    assert torch.equal(table(**{name: value}), usual())


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("held_out", 0.5), ("meta_every", 3), ("meta_learning_rate", 0.1), ("prototype_epochs", 4)),
        *(("prototype_softness", 0.3), ("lookahead", "virtual"), ("entropy_weight", 5.0)),
        ("cluster_features", "auto-encoder"),
    ],
)
def test_settings_that_matter_make_a_difference(name: str, value: Any) -> None:
    assert name not in irrelevant_fields("prototypes")
    assert not torch.equal(table(**{name: value}), usual())


@pytest.mark.parametrize("changes", [{"precision": "bf16"}, {"cluster_features": "trunk"}, {"psi": [1]}])
def test_labels_are_distributions_whatever_is_chosen(changes: dict[str, Any]) -> None:
    labels = table(**changes)
    assert labels.dtype == torch.float32
    torch.testing.assert_close(labels.sum(1), torch.ones(100))


def test_softness_and_epochs_matter_to_no_other_method() -> None:
    assert {"prototype_epochs", "prototype_softness"} <= set(irrelevant_fields("kmeans"))
    assert {"prototype_epochs", "prototype_softness"} <= set(irrelevant_fields("maxl"))


# The control.


def test_the_control_has_the_same_labels_with_other_members_of_their_class() -> None:
    labels, shuffled = usual(), table(method="prototypes-shuffled")
    assert not torch.equal(labels, shuffled)
    for c in range(10):
        members = digits().train.primary == c
        rows = [{tuple(row.tolist()) for row in of[members]} for of in (labels, shuffled)]
        assert rows[0] == rows[1]


def test_what_labels_cost_before_the_first_epoch_is_part_of_what_a_run_costs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = itertools.count(step=100.0)  # each look at it a hundred seconds later
    monkeypatch.setattr("maxl.experiments.runs.trainer.time.perf_counter", lambda: next(clock))
    of = {m: train(config(method=m), tmp_path / m, data=digits()) for m in ("prototypes", "uniform")}
    assert of["prototypes"]["seconds_total"] == of["uniform"]["seconds_total"] + 100.0
    assert of["prototypes"]["seconds_per_step"] == of["uniform"]["seconds_per_step"]


def test_how_long_a_study_takes_is_not_told_by_files_that_are_written_after_the_labels(
    tmp_path: Path,
) -> None:
    study = Study(config(epochs=1), ["prototypes", "single"], [0])
    planned = study.plan()
    for p in planned:
        train(p.config, tmp_path / p.path, data=digits())
        os.utime(tmp_path / p.path / "config.yaml", (1000.0, 1000.0))
        os.utime(tmp_path / p.path / "summary.json", (1010.0, 1010.0))
    more = Study(config(epochs=1), ["prototypes", "single"], [0, 1]).plan()
    assert Remaining(tmp_path, more, 1).expected() == pytest.approx(10.0 * (1 + COST["prototypes"]))


def test_studies_know_the_control_and_what_it_costs() -> None:
    assert CONTROL_OF["prototypes"] == "prototypes-shuffled"
    assert COST["prototypes"] == COST["prototypes-shuffled"] > COST["kmeans"]

    def values(gain: float) -> dict[int, float]:
        return {seed: 0.8 + gain + 0.001 * seed for seed in range(3)}

    found = screen({"single": values(0), "prototypes": values(0.01), "prototypes-shuffled": values(0.05)})
    assert found.candidate == "prototypes"


# Other data, and what is refused.


def regression() -> DataSet:
    data = digits()
    return dataclasses.replace(
        data,
        task="regression",
        primary_names=("ink",),
        **{
            part: dataclasses.replace(
                split := getattr(data, part), primary=split.x.float().flatten(1).mean(1, keepdim=True)
            )
            for part in ("train", "test")
        },
    )


def of_labels() -> DataSet:
    data = digits()

    def sets(split: Any) -> Any:
        y = split.primary
        return dataclasses.replace(split, primary=torch.stack([y % 2 == 0, y > 4, y % 3 == 0], 1).float())

    return dataclasses.replace(
        data,
        task="multi-label",
        train=sets(data.train),
        test=sets(data.test),
        primary_names=("even", "large", "threefold"),
    )


@pytest.mark.parametrize("shuffled", [False, True])
@pytest.mark.parametrize(("make", "blocks"), [(regression, 1), (of_labels, 3)])
def test_tasks_without_classes(make: Callable[[], DataSet], blocks: int, shuffled: bool) -> None:
    data = make()
    labels = table(data, method="prototypes-shuffled" if shuffled else "prototypes")
    assert labels.shape == (100, 3 * blocks)
    torch.testing.assert_close(labels.sum(1), torch.ones(100))
    chosen = config()
    hierarchy = choose_hierarchy(chosen, data)
    allowed = choose_task(chosen, data).rows(data.train.primary, hierarchy.mask)
    assert (labels[~allowed] == 0).all()


def test_networks_that_diverge_are_no_source_of_labels() -> None:
    with pytest.raises(
        FloatingPointError, match=r"--method prototypes needs networks that train .* not finite"
    ):
        table(optimizer="sgd", learning_rate=1e30)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prototype_softness": 0.0}, "--prototype-softness needs to be above 0 and below 1; got 0"),
        ({"prototype_softness": 1.0}, "--prototype-softness needs to be above 0 and below 1; got 1"),
        ({"prototype_epochs": 0}, "--prototype-epochs needs to be at least 1; got 0"),
        ({"prototype_epochs": 1, "warmup": 1.5}, "--warmup .* last of 1 epochs of --prototype-epochs"),
        ({"stream": True}, "--method prototypes clusters all training inputs at once"),
        ({"cluster_features": "trunk", "patience": 2, "validation_size": 0.2}, "without --patience"),
    ],
)
def test_combinations_that_make_no_sense_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        config(**changes)
    if "warmup" in changes:
        config(**{**changes, "method": "kmeans"})  # a study's other methods


def test_a_share_of_less_than_a_sample_judges_nothing(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"--held-out needs a share of at least one sample.*--method prototypes"
    ):
        train(config(held_out=0.001), tmp_path / "run", data=digits())
    assert not (tmp_path / "run").exists()


def test_masks_have_no_prototypes() -> None:
    data = dataclasses.replace(digits(), task="segmentation")
    chosen = config()
    given = chosen, data, choose_hierarchy(chosen, digits()), Classification(), CPU
    with pytest.raises(ValueError, match=r"--method prototypes learns a label for each image.*: use kmeans"):
        fixed_source(*given, partial(build, data=data, device=CPU))


def test_clusters_need_samples() -> None:
    with pytest.raises(ValueError, match="--method prototypes needs as many training samples of each class"):
        check(config(psi=[50]), digits())
    with pytest.raises(ValueError, match="k-means needs at least as many samples as clusters"):
        table(psi=[50])
