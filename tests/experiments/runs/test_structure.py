"""Structure and calibration as outcomes: measured on what was not fitted on, and changing nothing."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import normalized_mutual_info_score
from torch import Tensor
from torch.nn import functional as F

from _run_helpers import metrics, model, tiny
from _run_helpers import one_thread as one_thread
from maxl.experiments.data import load
from maxl.experiments.runs.calibration import calibration, expected_calibration_error, fit_temperature
from maxl.experiments.runs.structure import few_shot_accuracy, label_agreement, worst_group
from maxl.experiments.runs.trainer import train


def blobs(n: int, noise: float, seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    y = torch.arange(n) % 3
    return F.one_hot(y, 3) + noise * torch.randn(n, 3, generator=generator), y


def test_a_probe_finds_what_is_there_and_no_more() -> None:
    x, y = blobs(300, 0.1, 0)
    test = blobs(90, 0.1, 1)
    shuffled = y[torch.randperm(300, generator=torch.Generator().manual_seed(2))]
    assert few_shot_accuracy(x, y, [test], shots=5, seed=0)[0] > 0.95
    assert few_shot_accuracy(x, shuffled, [test], shots=5, seed=0, draws=30)[0] == pytest.approx(
        1 / 3, abs=0.12
    )
    scaled = few_shot_accuracy(1000 * x + 7, y, [(1000 * test[0] + 7, test[1])], shots=5, seed=0)
    assert scaled == few_shot_accuracy(x, y, [test], shots=5, seed=0)  # standardised


def test_equal_seeds_draw_equal_samples_and_leave_other_generators_alone() -> None:
    x, y = blobs(60, 0.8, 0)
    test = blobs(60, 0.8, 1)
    np.random.seed(3)  # noqa: NPY002  # the generator that scikit-learn takes where it is given none
    expected = np.random.rand()  # noqa: NPY002
    np.random.seed(3)  # noqa: NPY002
    before = torch.get_rng_state()
    one, again, other = (few_shot_accuracy(x, y, [test], shots=2, seed=s) for s in (0, 0, 1))
    assert one == again != other
    assert torch.equal(torch.get_rng_state(), before)
    assert np.random.rand() == expected  # noqa: NPY002


def test_classes_without_a_training_sample_are_not_scored_and_rare_ones_give_what_they_have() -> None:
    x, y = blobs(30, 0.05, 0)
    keep = (y != 2) & ~((y == 1) & (torch.arange(30) > 1))  # class 1 has one sample, class 2 none
    test = blobs(30, 0.05, 1)
    assert few_shot_accuracy(x[keep], y[keep], [test], shots=5, seed=0) == [1.0]
    unknown = test[1] == 2
    (nothing,) = few_shot_accuracy(x[keep], y[keep], [(test[0][unknown], test[1][unknown])], shots=5, seed=0)
    assert math.isnan(nothing)
    with pytest.raises(ValueError, match="training samples of at least 2 classes; got 1"):
        few_shot_accuracy(x[y == 0], y[y == 0], [test], shots=5, seed=0)


@given(st.integers(0, 10_000), st.integers(2, 5))
def test_agreement_within_one_class_is_that_of_scikit_learn(seed: int, k: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    labels, column = (torch.randint(k, (40,), generator=generator) for _ in range(2))
    found = label_agreement(labels, torch.zeros(40, dtype=torch.int64), column)
    assert found is not None
    expected = normalized_mutual_info_score(column.numpy(), labels.numpy())
    assert found.nmi == pytest.approx(expected, abs=1e-9)
    common = sum(int(torch.bincount(column[labels == label]).max()) for label in labels.unique())
    assert found.purity == pytest.approx(common / 40)


def test_labels_get_no_credit_for_the_primary_classes_that_the_column_refines() -> None:
    primary = torch.arange(400) // 200
    column = 2 * primary + torch.arange(400) % 2
    spread = torch.zeros(400, 6)
    spread[primary == 0, :3], spread[primary == 1, 3:] = 1 / 3, 1 / 3
    by_a_hair = spread + 1e-7 * F.one_hot(3 * primary + torch.arange(400) % 2, 6)
    for labels in (primary, spread, by_a_hair):  # all of them have an NMI of 0.67 over both classes at once
        found = label_agreement(labels, primary, column)
        assert found is not None
        assert (found.nmi, found.purity) == (pytest.approx(0, abs=1e-6), pytest.approx(0.5, abs=1e-6))
    exact = label_agreement(column, primary, column)
    assert exact is not None
    assert (exact.nmi, exact.purity) == (pytest.approx(1), pytest.approx(1))
    assert label_agreement(column, primary, primary) is None  # nothing to tell within a class


def test_the_worst_group_is_the_one_with_the_most_mistakes_and_enough_samples() -> None:
    column = torch.tensor([0] * 20 + [1] * 20 + [2] * 9)
    primary = torch.zeros(49, dtype=torch.int64)
    predicted = primary.clone()
    predicted[[0, 20, 21, 22]] = 1
    predicted[40:] = 1  # all of the smallest group, which is too small to tell
    assert worst_group(predicted, primary, column) == (pytest.approx(17 / 20), 1)
    assert worst_group(predicted[40:], primary[40:], column[40:]) is None


@given(st.integers(0, 10_000), st.floats(0.3, 4))
def test_a_temperature_is_found_again(seed: int, temperature: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    z = 2 * torch.randn(4000, 5, generator=generator, dtype=torch.float64)
    y = torch.multinomial(z.softmax(1), 1, generator=generator).squeeze(1)
    assert fit_temperature(temperature * z, y) == pytest.approx(temperature, rel=0.12)
    fitted = calibration(temperature * z, y, temperature * z, y, trained_on=False)
    assert fitted.ece < 0.04
    assert fitted.nll <= float(F.cross_entropy(z, y)) + 1e-6


def test_samples_known_by_heart_do_not_ask_for_ever_more_confidence() -> None:
    z = 8 * F.one_hot(torch.arange(60) % 3, 3).double()
    known = torch.arange(60) % 3
    test = known.clone()
    test[:12] = (test[:12] + 1) % 3
    found = calibration(z, test, z, known, trained_on=True)
    assert found.temperature == pytest.approx(1)
    assert found.nll == pytest.approx(float(F.cross_entropy(z, test)))
    assert calibration(z, test, z, known, trained_on=False) == found


@given(st.integers(0, 10_000), st.floats(0.02, 50), st.integers(2, 6))
def test_no_sample_to_be_judged_pays_for_a_validation_part_that_is_all_right(
    seed: int, scale: float, classes: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    z = scale * torch.randn(40, classes, generator=generator, dtype=torch.float64)
    assert fit_temperature(z, z.argmax(1)) == 1.0
    # Nor does one for which no temperature that is looked at is low enough.
    y = torch.multinomial(torch.ones(40, classes), 1, generator=generator).squeeze(1)
    y[:30] = z[:30].argmax(1)
    assert fit_temperature(1e-6 * z / scale, y) in (1.0, pytest.approx(100, rel=1e-3))


def test_the_calibration_error_is_the_gap_between_confidence_and_accuracy() -> None:
    p = torch.tensor([[0.8, 0.2]] * 10 + [[0.35, 0.65]] * 10)
    y = torch.tensor([0] * 6 + [1] * 4 + [1] * 10)
    assert expected_calibration_error(p, y) == pytest.approx(0.5 * 0.2 + 0.5 * 0.35, abs=1e-6)
    sure = torch.tensor([[1.0, 0.0]] * 4)
    assert expected_calibration_error(sure, torch.zeros(4, dtype=torch.int64)) == 0


COLUMNS = ("label", "breed", "a", "b", "c")


def table(folder: Path, *, seed: int = 0) -> Path:
    """Two classes of two breeds each, told by three features."""
    random = np.random.default_rng(seed)
    breed = np.arange(240) % 4
    x = np.stack([breed // 2, breed % 2, breed % 2], 1) + 0.3 * random.standard_normal((240, 3))
    rows = [",".join(COLUMNS)]
    rows += [f"{'xy'[b // 2]},{b},{','.join(map(str, r))}" for b, r in zip(breed, x, strict=True)]
    file = folder / "dogs.csv"
    file.write_text("\n".join(rows) + "\n")
    return file


def config(file: Path, **changes: Any) -> Any:
    return tiny(**{"data": str(file), "primary": "label", "train_size": 120, "epochs": 3, **changes})


def test_a_column_of_the_probe_is_no_input(tmp_path: Path) -> None:
    file = str(table(tmp_path))
    without, with_it = load(file, primary="label"), load(file, primary="label", probe="breed")
    assert without.features is not None
    assert with_it.features is not None
    assert (without.features.names, with_it.features.names) == (("breed", "a", "b", "c"), ("a", "b", "c"))
    assert with_it.probe_names == ("0", "1", "2", "3")
    for part in (with_it.train, with_it.test):
        assert part.probe is not None
        assert torch.equal(part.probe // 2, part.primary)
    with pytest.raises(ValueError, match="no column 'bred'; did you mean 'breed'"):
        load(file, primary="label", probe="bred")
    with pytest.raises(ValueError, match="--probe measures networks that tell classes; this is regression"):
        load(file, primary="a", probe="label")


@pytest.mark.parametrize("method", ["single", "uniform", "kmeans", "maxl", "wamal"])
def test_measuring_structure_changes_no_bit_of_a_run(method: str, tmp_path: Path) -> None:
    data = load(str(table(tmp_path)), primary="label", probe="breed", train_size=120, validation_size=40)
    for name, probe in (("with", "breed"), ("without", None)):
        settings = config(tmp_path / "dogs.csv", method=method, probe=probe, validation_size=40)
        summary = train(settings, tmp_path / name, data=data)
        assert ("test_probe" in summary) == (probe is not None)
    assert metrics(tmp_path / "with") == metrics(tmp_path / "without")
    one, other = model(tmp_path / "with"), model(tmp_path / "without")
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_run_says_what_its_features_and_labels_know(tmp_path: Path) -> None:
    settings = config(table(tmp_path), method="kmeans", psi=[2], cluster_features="input", probe="breed")
    summary = train(settings, tmp_path / "run")
    assert summary["test_probe_inputs"] > 0.5
    assert 0.25 < summary["test_probe"] <= 1
    assert summary["label_nmi"] > 0.2  # clusters within a class find its breeds
    assert summary["label_purity"] > 0.6
    assert summary["test_worst_group"] <= summary["test_accuracy"]
    assert summary["worst_group"] in ("0", "1", "2", "3")
    assert summary["temperature_from"] == "training"
    single = train(config(tmp_path / "dogs.csv", method="single", probe="breed"), tmp_path / "single")
    assert (single["label_nmi"], single["label_purity"]) == (None, None)
    assert single["test_probe_inputs"] == summary["test_probe_inputs"]  # the same draws for every method


@pytest.mark.parametrize("evaluate", ["same", "held-out", "rotating"])
def test_the_probe_draws_the_same_samples_for_every_method_whatever_judges(
    evaluate: str, tmp_path: Path
) -> None:
    file = table(tmp_path)
    found = [
        train(
            config(file, method=method, probe="breed", evaluate=evaluate, held_out=0.3, epochs=1),
            tmp_path / method,
        )
        for method in ("single", "maxl")
    ]
    assert found[0]["test_probe_inputs"] == found[1]["test_probe_inputs"]


def test_test_labels_decide_nothing_but_the_figures_of_the_test_part(tmp_path: Path) -> None:
    """A permutation of the test part's labels moves neither weights, temperature nor anything of validation."""
    text = table(tmp_path).read_text().splitlines()
    parts = {"train": text[1:200], "test": text[200:]}
    permuted = dict(parts)
    labels = [row.split(",")[:2] for row in parts["test"]]
    moved = [labels[i] for i in np.random.default_rng(0).permutation(len(labels))]
    permuted["test"] = [
        ",".join([*new, *row.split(",")[2:]]) for new, row in zip(moved, parts["test"], strict=True)
    ]
    results = []
    for name, rows in (("as it is", parts), ("permuted", permuted)):
        folder = tmp_path / name
        folder.mkdir()
        for part, lines in rows.items():
            (folder / f"{part}.csv").write_text("\n".join([text[0], *lines]) + "\n")
        settings = config(folder, method="uniform", probe="breed", validation_size=40, train_size=None)
        results.append(train(settings, folder / "run"))
    first, second = results
    assert first["test_accuracy"] != second["test_accuracy"]
    for name in (
        "temperature",
        "temperature_from",
        "label_nmi",
        "validation_probe",
        "validation_worst_group",
    ):
        assert first[name] == second[name], name
