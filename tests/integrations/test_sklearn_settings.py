"""What an estimator obeys, keeps and shares: parameters between calls, copies, threads."""

from __future__ import annotations

import pickle
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("sklearn", reason="needs the extra experiments")

from maxl.integrations.sklearn import MAXLClassifier

X = np.random.default_rng(0).normal(size=(60, 4))
Y = (X[:, 0] > 0).astype(int)


def classifier(**options: Any) -> MAXLClassifier:
    return MAXLClassifier(**{"max_iter": 8, "width": 16, "depth": 1, "random_state": 0, **options})


def after(first: dict[str, Any], then: dict[str, Any], *, pickled: bool = False) -> MAXLClassifier:
    """A partial fit with parameters, and another with others."""
    fitted = classifier(**first).partial_fit(X, Y, classes=[0, 1]).set_params(**then)
    fitted = pickle.loads(pickle.dumps(fitted)) if pickled else fitted
    return fitted.partial_fit(X, Y)


@pytest.mark.parametrize("change", [{"alpha": 100.0}, {"auxiliary_weight": 0.0}, {"batch_size": 5}])
def test_parameters_that_are_set_between_calls_are_obeyed(change: dict[str, Any]) -> None:
    kept, changed = after({}, {}), after({}, change)
    assert any(not np.array_equal(w, changed.weights_[name]) for name, w in kept.weights_.items())


@pytest.mark.parametrize("pickled", [False, True])
def test_a_method_that_is_set_between_calls_is_that_of_the_first_call(pickled: bool) -> None:
    kept, changed = after({}, {}, pickled=pickled), after({}, {"method": "single"}, pickled=pickled)
    for name, w in kept.weights_.items():
        np.testing.assert_array_equal(w, changed.weights_[name])


def test_a_copy_has_the_generator_that_was_trained() -> None:
    """With a learning rate of almost nothing the next call leaves it where it was."""
    fitted = classifier().partial_fit(X, Y, classes=[0, 1])
    for _ in range(3):
        fitted.partial_fit(X, Y)
    copy = pickle.loads(pickle.dumps(fitted.set_params(learning_rate_init=1e-12)))
    taught = {name: w.clone() for name, w in fitted._training.learner.generator.state_dict().items()}
    for one in (fitted, copy):
        for name, w in one.partial_fit(X, Y)._training.learner.generator.state_dict().items():
            torch.testing.assert_close(w, taught[name], rtol=0, atol=1e-9)


@pytest.mark.parametrize("method", ["single", "maxl"])
def test_a_seed_holds_in_threads_and_the_callers_draws_are_their_own(method: str) -> None:
    def probabilities(_: int) -> Any:
        return classifier(method=method).fit(X, Y).predict_proba(X)

    alone = probabilities(0)
    torch.manual_seed(5)
    before = torch.get_rng_state()
    with ThreadPoolExecutor(4) as pool:
        for found in pool.map(probabilities, range(8)):
            np.testing.assert_array_equal(found, alone)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("method", ["single", "uniform", "maxl"])
def test_columns_are_no_classes_after_a_first_call_with_classes(method: str) -> None:
    fitted = classifier(method=method).partial_fit(X, Y, classes=[0, 1])
    with pytest.raises(
        ValueError, match=r"y needs one class a sample, as in the first call; got shape \(60, 2\)"
    ):
        fitted.partial_fit(X, np.ones((60, 2), dtype=int))
