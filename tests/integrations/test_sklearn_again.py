"""What a second call of an estimator sees: fits, partial fits and parameters in any order."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("sklearn", reason="needs the extra experiments")

from maxl.integrations.sklearn import MAXLClassifier, MAXLRegressor

X = np.random.default_rng(0).normal(size=(60, 4))
Y = (X[:, 0] > 0).astype(int)


def classifier(**options: Any) -> MAXLClassifier:
    return MAXLClassifier(**{"max_iter": 8, "width": 16, "depth": 1, "random_state": 0, **options})


def test_a_partial_fit_after_a_fit_goes_on_from_the_fit() -> None:
    before = classifier().partial_fit(X, Y, classes=[0, 1]).fit(X, Y)
    alone = classifier().fit(X, Y)
    np.testing.assert_array_equal(before.predict_proba(X), alone.predict_proba(X))
    assert before.partial_fit(X, Y).n_iter_ == alone.n_iter_ + 1
    assert before.score(X, Y) >= alone.score(X, Y) - 0.1
    more = np.where(X[:, 1] > 1, 2, Y)
    assert classifier().partial_fit(X, Y, classes=[0, 1]).fit(X, more).partial_fit(X, more).n_iter_ > 1


def test_the_losses_of_an_earlier_fit_are_gone() -> None:
    fitted = classifier(early_stopping=True).fit(X, Y)
    assert fitted.validation_losses_
    assert not hasattr(fitted.set_params(early_stopping=False).fit(X, Y), "validation_losses_")


def test_a_learning_rate_that_is_set_between_calls_is_obeyed() -> None:
    fitted = classifier().partial_fit(X, Y, classes=[0, 1])
    before = {name: w.copy() for name, w in fitted.weights_.items()}
    fitted.set_params(learning_rate_init=1e-12).partial_fit(X, Y)
    assert max(np.abs(w - before[name]).max() for name, w in fitted.weights_.items()) < 1e-9


def test_predictions_do_not_change_with_parameters_that_are_set_later() -> None:
    fitted = classifier().fit(X, Y)
    expected = fitted.predict_proba(X)
    fitted.set_params(width=8, psi=3, depth=2)
    np.testing.assert_array_equal(fitted.predict_proba(X), expected)
    kept = pickle.loads(pickle.dumps(fitted))
    np.testing.assert_array_equal(kept.predict_proba(X), expected)
    kept.partial_fit(X, Y)
    assert kept.weights_.keys() == fitted.weights_.keys()


def test_each_call_draws_another_order() -> None:
    """Of the same samples in batches of a few; and the same ones again from the same seed."""

    def losses() -> list[float]:
        fitted = classifier(method="single", batch_size=7, learning_rate_init=1e-9, dropout=0.5)
        for _ in range(3):
            fitted.partial_fit(X, Y, classes=[0, 1])
        return list(fitted.loss_curve_)

    found = losses()
    assert len({round(loss, 6) for loss in found}) == 3
    assert losses() == found


def test_weights_of_calls_count_beside_each_other() -> None:
    """One call of weight 100 and one of 0.01, against both alike."""
    left, right = np.full(60, 0), np.full(60, 1)

    def streamed(a: float, b: float) -> float:
        fitted = MAXLRegressor("single", max_iter=1, width=8, depth=0, random_state=0, alpha=0.0)
        fitted.partial_fit(X, X[:, 0])
        for group in fitted._training.learner.optimizer.param_groups:
            group["eps"] = 1e3  # so that the size of a gradient counts, as in plain gradient descent
        for _ in range(3):
            fitted.partial_fit(X, left, sample_weight=np.full(60, a))
            fitted.partial_fit(X, right, sample_weight=np.full(60, b))
        return float(fitted.loss_curve_[-1])

    assert streamed(100, 0.01) != streamed(1, 1)


@pytest.mark.parametrize("scale", [1e-13, 1e-30, 1e12])
def test_units_do_not_matter(scale: float) -> None:
    plain = MAXLRegressor(max_iter=20, width=16, random_state=0, early_stopping=False).fit(X, X[:, 0])
    units = MAXLRegressor(max_iter=20, width=16, random_state=0, early_stopping=False)
    units.fit(X * scale, X[:, 0] * scale)
    assert units.score(X * scale, X[:, 0] * scale) == pytest.approx(plain.score(X, X[:, 0]), abs=1e-6)


def test_a_constant_column_is_left_at_its_mean() -> None:
    table = np.column_stack([X, np.full(60, 0.1), np.zeros(60)])
    fitted = classifier().fit(table, Y)
    np.testing.assert_array_equal(fitted.scale_[-2:], 1.0)


@pytest.mark.parametrize("other", [(-1, 1), (0, 2), (1, 2), (0, -1)])
@pytest.mark.parametrize("method", ["single", "maxl"])
def test_labels_that_are_not_0_and_1_are_refused_in_each_call(method: str, other: tuple[int, int]) -> None:
    right = np.column_stack([Y, 1 - Y])
    wrong = np.where(right == 0, *other)
    with pytest.raises(ValueError, match="y needs columns of 0 and 1; got"):
        classifier(method=method).fit(X, wrong)
    fitted = classifier(method=method).partial_fit(X, right, classes=[0, 1])
    with pytest.raises(ValueError, match="y needs columns of 0 and 1; got"):
        fitted.partial_fit(X, wrong)


def test_a_fit_in_inference_mode_is_a_fit() -> None:
    with torch.inference_mode():
        fitted = classifier().fit(X, Y)
    np.testing.assert_array_equal(fitted.predict_proba(X), classifier().fit(X, Y).predict_proba(X))
