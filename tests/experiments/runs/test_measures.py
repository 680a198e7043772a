"""What models are judged by, against scikit-learn."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn import metrics

from _run_helpers import digits
from maxl.experiments.data import DataSet, Features
from maxl.experiments.runs.measures import (
    ACCURACY,
    MEASURES,
    Measure,
    log_odds,
    main_measure,
    plain,
    score,
    task_of,
)

N = 200


def data(task: str, std: tuple[float, ...] = ()) -> DataSet:
    names = tuple(f"t{i}" for i in range(len(std)))
    targets = Features(names, (5.0,) * len(std), std) if std else None
    return dataclasses.replace(digits(), task=task, targets=targets)


@pytest.mark.parametrize("task", MEASURES)
def test_every_measure_of_a_task_is_taken(task: str) -> None:
    outputs = torch.randn(N, 3)
    targets = {
        "classification": torch.randint(0, 3, (N,)),
        "multi-label": torch.randint(0, 2, (N, 3)),
        "regression": torch.randn(N, 3),
        "segmentation": torch.randint(0, 3, (N, 4)),
    }[task]
    if task == "segmentation":
        outputs = torch.randint(0, 3, (N, 4))  # the likeliest classes, as ``kept`` keeps them
    scores = score(data(task, (1.0, 2.0, 3.0)), outputs, targets)
    assert list(scores) == [measure.name for measure in MEASURES[task]]
    for measure in MEASURES[task]:
        assert measure.low <= scores[measure.name] <= measure.high


def test_classification() -> None:
    outputs, targets = torch.randn(N, 4), torch.randint(0, 4, (N,)) * torch.randint(0, 2, (N,))
    found = score(data("classification"), outputs, targets)
    guesses = outputs.argmax(1)
    assert found["accuracy"] == pytest.approx(metrics.accuracy_score(targets, guesses))
    assert found["balanced_accuracy"] == pytest.approx(metrics.balanced_accuracy_score(targets, guesses))
    assert found["nll"] == pytest.approx(metrics.log_loss(targets, outputs.double().softmax(1)), rel=1e-5)
    assert found["f1"] == pytest.approx(metrics.f1_score(targets, guesses, average="macro"))
    probabilities = outputs.double().softmax(1)
    assert found["auroc"] == pytest.approx(metrics.roc_auc_score(targets, probabilities, multi_class="ovr"))


def test_the_area_under_the_curve_counts_ties_half() -> None:
    levels = torch.randint(0, 3, (N,)).float()  # of three scores, so that most pairs are ties
    outputs, targets = torch.stack([-levels, levels], 1), torch.randint(0, 2, (N,))
    found = score(data("classification"), outputs, targets)["auroc"]
    assert found == pytest.approx(metrics.roc_auc_score(targets, levels))
    assert score(data("classification"), torch.zeros(N, 2), targets)["auroc"] == 0.5


def test_what_every_sample_is_has_no_area_under_the_curve() -> None:
    alone = score(data("classification"), torch.randn(4, 3), torch.ones(4, dtype=torch.int64))
    assert np.isnan(alone["auroc"])
    assert np.isfinite(alone["f1"])
    z, y = torch.randn(N, 3), torch.randint(0, 2, (N, 3))
    y[:, 1] = 1
    found = score(data("multi-label"), z, y)["auroc"]
    assert found == pytest.approx(metrics.roc_auc_score(y[:, [0, 2]], z[:, [0, 2]]))


def test_a_class_without_test_samples_is_left_out_of_the_balanced_accuracy() -> None:
    outputs = F.one_hot(torch.tensor([0, 0, 2, 1])).float()
    found = score(data("classification"), outputs, torch.tensor([0, 0, 1, 1]))
    assert found["balanced_accuracy"] == 0.75
    assert found["f1"] == pytest.approx((1 + 2 / 3) / 2)  # recall one half, precision one


def test_regression_is_told_in_units() -> None:
    std = torch.tensor([200.0, 0.01]).double()
    z, y = torch.randn(N, 2).double(), torch.randn(N, 2).double()
    found = score(data("regression", (200.0, 0.01)), z, y)
    a, b = (y * std).numpy(), (z * std).numpy()
    assert found["r2"] == pytest.approx(metrics.r2_score(a, b))
    assert found["rmse"] == pytest.approx(
        np.mean(metrics.root_mean_squared_error(a, b, multioutput="raw_values"))
    )
    assert found["mae"] == pytest.approx(metrics.mean_absolute_error(a, b))
    one = score(data("regression", (200.0,)), z[:, :1], y[:, :1])
    assert one["r2"] == pytest.approx(metrics.r2_score(a[:, 0], b[:, 0]))


def test_multi_label() -> None:
    z, y = torch.randn(N, 3), (torch.rand(N, 3) < torch.tensor([0.5, 0.1, 0.9])).long()
    found = score(data("multi-label"), z, y)
    assert found["map"] == pytest.approx(metrics.average_precision_score(y, z.sigmoid()), rel=1e-5)
    assert found["f1"] == pytest.approx(metrics.f1_score(y, z > 0, average="macro"))
    assert found["f1_micro"] == pytest.approx(metrics.f1_score(y, z > 0, average="micro"))
    assert found["auroc"] == pytest.approx(metrics.roc_auc_score(y, z))


def test_a_label_that_no_sample_has_is_left_out_of_the_means() -> None:
    z, y = torch.randn(N, 3), torch.randint(0, 2, (N, 3))
    y[:, 1] = 0
    found = score(data("multi-label"), z, y)
    kept = [0, 2]
    assert found["map"] == pytest.approx(metrics.average_precision_score(y[:, kept], z[:, kept]), rel=1e-5)
    assert found["f1"] == pytest.approx(metrics.f1_score(y[:, kept], z[:, kept] > 0, average="macro"))


@pytest.mark.parametrize("task", ["multi-label", "regression"])
def test_outputs_that_are_no_numbers_have_no_score(task: str) -> None:
    z = torch.full((4, 1), float("nan"))
    assert all(
        np.isnan(value) for value in score(data(task, (1.0,)), z, torch.tensor([[0], [1], [1], [0]])).values()
    )


def test_how_values_and_differences_are_told() -> None:
    rmse = MEASURES["regression"][1]
    assert (rmse.key, rmse.higher_is_better) == ("test_rmse", False)
    assert ACCURACY.text(0.8125) == "81.25 %"
    assert main_measure("regression").text(0.91237) == "0.9124"
    assert ACCURACY.difference_text(0.0123) == "1.2 points"
    assert main_measure("multi-label").difference_text(0.0123) == "0.0123 mAP"
    assert rmse.signed_text(-12.3) == "−12.3 RMSE"
    assert (rmse.text(0.5), rmse.text(29058.3388), rmse.text(math.nan)) == ("0.5000", "29058.3", "nan")
    of_r2 = main_measure("regression").signed_text
    assert [of_r2(d) for d in (0.0123, 8.42e-5, -6.2e-5, 1e-6, 0.0)] == [
        *("+0.0123 R²", "+0.0001 R²", "−0.0001 R²"),
        *("0 R²", "0 R²"),
    ]
    assert [plain(v) for v in (0.81254, 15823.4, -1582.4, 1.5e12, math.inf)] == [
        *("0.8125", "15823", "-1582"),
        *("1.5e+12", "inf"),
    ]
    assert [Measure("x", t).title_capitalised for t in ("accuracy", "mAP")] == ["Accuracy", "mAP"]
    assert [task_of({}), task_of({"task": float("nan")}), task_of({"task": "regression"})] == [
        *["classification"] * 2,
        "regression",
    ]


def test_one_label_alone_has_the_f1_of_that_label() -> None:
    logits = torch.tensor([[1.0], [-1.0], [-1.0], [-1.0]])
    targets = torch.tensor([[1], [1], [0], [0]])
    found = score(data("multi-label"), logits, targets)
    assert found["f1"] == found["f1_micro"] == pytest.approx(2 / 3)
    beside = score(data("multi-label"), torch.cat([logits, -torch.ones(4, 1)], 1), F.pad(targets, (0, 1)))
    assert beside["f1"] == pytest.approx(2 / 3)  # of the label that occurs
    assert score(data("multi-label"), -logits.abs(), targets)["f1"] == 0


@pytest.mark.parametrize("shift", [0.0, 30.0, 300.0])
def test_sure_outputs_are_ranked_as_others_are(shift: float) -> None:
    """Probabilities that round to 1 would be ties."""
    logits = torch.tensor([[3.0], [2.5], [2.0], [0.5], [0.4]]) + shift
    targets = torch.tensor([[1], [1], [1], [0], [0]])
    found = score(data("multi-label"), logits, targets)
    assert (found["map"], found["auroc"]) == (1.0, 1.0)
    classes = torch.cat([torch.zeros(5, 1), logits], 1)
    assert score(data("classification"), classes, targets[:, 0])["auroc"] == 1.0
    assert score(data("classification"), classes, 1 - targets[:, 0])["auroc"] == 0.0


def test_log_odds_are_those_of_the_probabilities() -> None:
    outputs = torch.randn(50, 7, generator=torch.Generator().manual_seed(0)).double()
    p = outputs.softmax(1)
    torch.testing.assert_close(log_odds(outputs), p.log() - (1 - p).log())
