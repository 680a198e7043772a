"""The estimators are scikit-learn's in every way that its own checks know, and learn."""

from __future__ import annotations

import pickle
import warnings
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from maxl.integrations.sklearn import MAXLClassifier, MAXLRegressor

SMALL: dict[str, Any] = {"max_iter": 12, "width": 16, "depth": 1, "psi": 2, "learning_rate_init": 1e-2}


# The checks are of names, shapes and state, which are those of every method: the dearest one's are made by --slow.
@parametrize_with_checks([MAXLClassifier("uniform", **SMALL), MAXLRegressor("uniform", **SMALL)])
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.DataConversionWarning")
def test_scikit_learn_knows_them_as_its_own(estimator: Any, check: Any) -> None:
    check(estimator)


@pytest.mark.slow
@parametrize_with_checks([MAXLClassifier(**SMALL), MAXLRegressor(**SMALL)])
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.DataConversionWarning")
def test_scikit_learn_knows_them_as_its_own_where_labels_are_learned(estimator: Any, check: Any) -> None:
    check(estimator)


def table(count: int = 60, columns: int = 5) -> tuple[Any, Any]:
    random = np.random.default_rng(0)
    x = random.normal(size=(count, columns)) * [1, 10, 0.1, 1, 1] + 3
    return x, (x[:, 0] + 0.1 * x[:, 1] > 3.3).astype(int)


METHODS = ("maxl", "uniform", "single")


@pytest.mark.parametrize("method", METHODS)
def test_classes_are_learned_by_every_method(method: str) -> None:
    x, y = table(200)
    names = np.array(["no", "yes"])[y]
    model = MAXLClassifier(method, random_state=0, **SMALL).fit(x[:150], names[:150])
    assert model.score(x[150:], names[150:]) > 0.85
    assert np.array_equal(model.predict(x), model.classes_[model.predict_proba(x).argmax(1)])
    assert len(model.loss_curve_) == model.n_iter_ <= SMALL["max_iter"]
    assert model.loss_curve_[-1] < model.loss_curve_[0]


@pytest.mark.parametrize(
    ("outputs", "method"),
    [(0, "uniform"), (1, "single"), (3, "uniform"), *((n, "maxl") for n in (0, 3))],
)
def test_numbers_are_learned_in_the_users_units(outputs: int, method: str) -> None:
    x, _ = table(200)
    y = 1e6 + 1e4 * np.column_stack([x[:, 0], x[:, 1] / 10, x[:, 2] * 10])
    y = y[:, 0] if outputs == 0 else y[:, :outputs]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a column that could be flat is said to be one
        model = MAXLRegressor(method, random_state=0, **{**SMALL, "max_iter": 60}).fit(x[:150], y[:150])
    assert model.score(x[150:], y[150:]) > 0.8
    assert model.predict(x).shape == (y.shape if outputs != 1 else (200,))


def test_several_labels_are_learned_each_by_itself() -> None:
    x, first = table(200)
    y = np.column_stack([first, x[:, 3] > 3, np.zeros(200)]).astype(int)
    model = MAXLClassifier(random_state=0, **SMALL).fit(x[:150], y[:150])
    assert model.predict(x).shape == model.predict_proba(x).shape == (200, 3)
    assert (model.predict(x[150:])[:, :2] == y[150:, :2]).mean() > 0.85


def test_weights_stand_for_copies() -> None:
    x, y = table(30)
    weights = np.arange(30) % 3
    options = {**SMALL, "batch_size": 1000, "random_state": 0, "early_stopping": False}
    weighted = MAXLClassifier(**options).fit(x, y, sample_weight=weights)
    copied = MAXLClassifier(**options).fit(np.repeat(x, weights, 0), np.repeat(y, weights))
    np.testing.assert_allclose(weighted.predict_proba(x), copied.predict_proba(x), rtol=1e-6)


def test_the_same_seed_gives_the_same_model_and_pytorchs_own_state_stays() -> None:
    x, y = table()
    torch.manual_seed(5)
    before = torch.get_rng_state()
    models = [MAXLClassifier(random_state=seed, **SMALL).fit(x, y) for seed in (0, 0, 1)]
    probabilities = [model.predict_proba(x) for model in models]
    assert torch.equal(before, torch.get_rng_state())
    assert np.array_equal(probabilities[0], probabilities[1])
    assert not np.array_equal(probabilities[0], probabilities[2])


def test_pipelines_searches_and_cross_validation_hold_them() -> None:
    x, y = table()
    frame = pd.DataFrame(x, columns=list("abcde"))
    pipeline = make_pipeline(StandardScaler().set_output(transform="pandas"), MAXLClassifier(**SMALL))
    search = GridSearchCV(
        pipeline, {"maxlclassifier__psi": [1, 3], "maxlclassifier__random_state": [0]}, cv=2
    )
    search.fit(frame, y)
    assert list(search.best_estimator_[-1].feature_names_in_) == list("abcde")
    assert len(cross_val_score(MAXLRegressor(**SMALL), x, x[:, 0], cv=3)) == 3


def test_early_stopping_trains_on_all_samples_for_the_best_number_of_epochs() -> None:
    x, y = table(200)
    y = np.random.default_rng(1).permutation(y)  # nothing to learn: the loss of held-out samples rises soon
    model = MAXLClassifier(
        early_stopping=True, n_iter_no_change=3, random_state=0, **{**SMALL, "max_iter": 99}
    )
    model.fit(x, y)
    assert model.n_iter_ == int(np.argmin(model.validation_losses_)) + 1 == len(model.validation_losses_) - 3
    assert model.n_iter_ < 50


def test_early_stopping_is_for_tables_with_samples_to_spare() -> None:
    for count, stops in ((39, False), (40, True)):
        model = MAXLRegressor(random_state=0, **SMALL).fit(table(count)[0], table(count)[0][:, 0])
        assert hasattr(model, "validation_losses_") == stops


def test_part_by_part_is_epoch_by_epoch() -> None:
    x, y = table()
    model = MAXLClassifier(random_state=0, **SMALL)
    with pytest.raises(ValueError, match="first call to partial_fit"):
        model.partial_fit(x, y)
    for _ in range(30):
        model.partial_fit(x, y, classes=[0, 1, 2])
    assert model.predict_proba(x).shape == (60, 3)
    assert model.score(x, y) > 0.85
    with pytest.raises(ValueError, match="classes need to be those of the first call"):
        model.partial_fit(x, y, classes=[0, 1])
    with pytest.raises(ValueError, match=r"classes among \[0 1 2\]; got \[3\]"):
        model.partial_fit(x, y + 2)


@pytest.mark.parametrize("kind", [MAXLClassifier, MAXLRegressor])
def test_copies_and_files_predict_the_same_and_train_on(kind: Any) -> None:
    x, y = table()
    model = kind(random_state=0, **SMALL).fit(x, y)
    other = pickle.loads(pickle.dumps(model))
    assert np.array_equal(model.predict(x), other.predict(x))
    assert not hasattr(clone(model), "weights_")
    assert other.partial_fit(x, y).n_iter_ == model.n_iter_ + 1


def test_skops_files_hold_no_code() -> None:
    skops = pytest.importorskip("skops.io", reason="needs skops")
    x, y = table()
    model = MAXLClassifier(random_state=0, **SMALL).fit(x, y)
    written = skops.dumps(model)
    kinds = skops.get_untrusted_types(data=written)
    assert kinds == ["maxl.integrations.sklearn.MAXLClassifier"]
    assert np.array_equal(skops.loads(written, trusted=kinds).predict(x), model.predict(x))


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "method": ({"method": "maxxl"}, "method needs to be one of maxl, uniform, single; got 'maxxl'"),
    "psi": ({"psi": 0}, "psi needs to be at least 1; got 0"),
    "dropout": ({"dropout": 1.0}, r"dropout needs to be in \[0, 1\); got 1.0"),
    "rate": ({"learning_rate_init": 0.0}, "learning_rate_init needs to be above 0"),
    "batch": ({"batch_size": "some"}, "batch_size needs to be \"auto\" or at least 1; got 'some'"),
    "decay": ({"alpha": -1.0}, "alpha needs to be at least 0"),
    "stopping": ({"early_stopping": "late"}, "early_stopping needs to be True, False or"),
    "held out": ({"validation_fraction": 1.0}, r"validation_fraction needs to be in \(0, 1\)"),
    "depth": ({"depth": -1}, "depth needs to be at least 0"),
}


@pytest.mark.parametrize(("options", "message"), WRONG.values(), ids=WRONG)
def test_a_wrong_parameter_is_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MAXLClassifier(**options).fit(*table())
