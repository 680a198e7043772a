"""What the two estimators for tables share."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator
from sklearn.exceptions import DataConversionWarning
from sklearn.utils import check_array, check_consistent_length, check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor, nn

from maxl.hierarchy import Hierarchy
from maxl.integrations._tabular import Training, Weighted, build_network, losses_until
from maxl.learning import MetaAuxiliaryLearner
from maxl.presets import check_choice

METHODS = ("maxl", "uniform", "single")
_ENOUGH = 40  # samples, of which a tenth says when to stop
Array = NDArray[Any]
# PyTorch has one generator of random numbers for all threads: who seeds it, and puts it back, has it alone.
_GENERATOR = threading.RLock()


@contextmanager
def _own_draws() -> Iterator[None]:
    """Within: random numbers of one's own, which leave PyTorch's as they were."""
    with _GENERATOR, torch.random.fork_rng(devices=[]):
        yield


class Tabular(BaseEstimator):  # type: ignore[misc]
    """Checks, standardisation, training and arrays; see ``MAXLClassifier`` for the parameters."""

    _classes: ClassVar[bool]  # whether targets are classes

    def __init__(
        self,
        method: str = "maxl",
        *,
        psi: int = 5,
        auxiliary_weight: float = 1.0,
        width: int = 128,
        depth: int = 2,
        dropout: float = 0.0,
        learning_rate_init: float = 1e-3,
        alpha: float = 1e-2,
        batch_size: int | str = "auto",
        max_iter: int = 100,
        early_stopping: bool | str = "auto",
        validation_fraction: float = 0.1,
        n_iter_no_change: int = 10,
        random_state: Any = None,
        verbose: bool = False,
    ) -> None:
        self.method = method
        self.psi = psi
        self.auxiliary_weight = auxiliary_weight
        self.width = width
        self.depth = depth
        self.dropout = dropout
        self.learning_rate_init = learning_rate_init
        self.alpha = alpha
        self.batch_size = batch_size
        self.max_iter = max_iter
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.n_iter_no_change = n_iter_no_change
        self.random_state = random_state
        self.verbose = verbose

    def fit(self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None = None) -> Self:
        """Trains from new weights.

        Args:
            X: Numbers, shape (n_samples, n_features).
            y: Targets, shape (n_samples,) or (n_samples, n_outputs).
            sample_weight: Weights of at least 0, shape (n_samples,); all 1 by default. A weight of 2 is a sample that
                is there twice, where a batch holds all samples.

        Raises:
            ValueError: if a parameter or the data are not what they need to be.
        """
        self._check_parameters()
        for name in ("_training", "validation_losses_"):  # of an earlier fit
            self.__dict__.pop(name, None)
        x, targets, weights = self._prepared(X, y, sample_weight, first=True)
        weights = weights / weights.mean()
        self._standardise(x, targets, weights)
        random = check_random_state(self.random_state)
        rows, wanted = self._rows(x, targets, weights)
        epochs = self.max_iter
        stops = len(x) >= _ENOUGH if self.early_stopping == "auto" else self.early_stopping
        with _own_draws(), torch.inference_mode(False), torch.enable_grad():
            if stops:
                torch.manual_seed(random.randint(2**31))
                kept = max(1, min(len(x) - 1, round(len(x) * (1 - self.validation_fraction))))
                some, others = torch.split(torch.randperm(len(x)), [kept, len(x) - kept])
                self.validation_losses_ = losses_until(
                    self._new(x),
                    (rows[some], wanted[some]),
                    (rows[others], wanted[others]),
                    most=self.max_iter,
                    patience=self.n_iter_no_change,
                    told=self._tell,
                )
                epochs = int(np.argmin(self.validation_losses_)) + 1
            torch.manual_seed(random.randint(2**31))
            training = self._new(x)
            for _ in training.epochs(rows, wanted, epochs, horizon=self.max_iter):
                self._tell(training)
        self._note(training)
        return self

    def _partial_fit(self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None, first: bool) -> Self:
        """One epoch from where training stands."""
        x, targets, weights = self._prepared(X, y, sample_weight, first=first)
        random = check_random_state(self.random_state)
        if not first and isinstance(self.random_state, int | np.integer):  # other draws in each call
            random = np.random.RandomState([int(self.random_state), self.n_iter_])
        with _own_draws(), torch.inference_mode(False), torch.enable_grad():
            torch.manual_seed(random.randint(2**31))
            if first:
                self._standardise(x, targets, weights)
            training = getattr(self, "_training", None)
            if training is None:
                training = self._new(x) if first else self._new(x, self._shape_)
                if not first:  # after a copy or a file: the optimizers begin anew
                    training.network.load_state_dict(_tensors(self.weights_))
                    if isinstance(training.learner, MetaAuxiliaryLearner):
                        training.learner.generator.load_state_dict(_tensors(self._generator_weights))
                    training.losses = list(self.loss_curve_)
            training.set(self.learning_rate_init, self.alpha, self.auxiliary_weight, self._rows_a_step(x))
            inputs, wanted = self._rows(x, targets, weights)
            for _ in training.epochs(inputs, wanted, 1):
                self._tell(training)
        self._training = training
        self._note(training)
        return self

    def __getstate__(self) -> dict[str, Any]:
        """Settings and arrays: optimizers stay behind."""
        return {name: value for name, value in super().__getstate__().items() if name != "_training"}

    # Data

    def _prepared(
        self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None, *, first: bool
    ) -> tuple[Array, Array, Array]:
        features, targets = self._checked(X, y, reset=first)
        if first:
            self._learn_targets(targets)
        return self._kept(features, targets, sample_weight)

    def _checked(self, X: ArrayLike, y: ArrayLike, *, reset: bool) -> tuple[Array, Array]:
        numeric = not self._classes
        x, targets = validate_data(self, X, y, multi_output=True, y_numeric=numeric, reset=reset)
        if targets.ndim == 2 and targets.shape[1] == 1:
            warnings.warn(
                "A column-vector y was passed when a 1d array was expected: pass y.ravel()",
                DataConversionWarning,
                stacklevel=4,
            )
            targets = targets.ravel()
        return x, targets

    def _kept(self, X: Array, y: Array, sample_weight: ArrayLike | None) -> tuple[Array, Array, Array]:
        """Features, encoded targets, and weights, without the samples whose weight is 0."""
        targets = self._encoded(y)
        if sample_weight is None:
            return X.astype(np.float64), targets, np.ones(len(X))
        weights = np.asarray(sample_weight)
        if weights.ndim == 0:
            weights = np.full(len(X), float(weights))
        weights = check_array(weights, ensure_2d=False, dtype=np.float64, input_name="sample_weight")
        if weights.ndim != 1:
            raise ValueError(f"Sample weights must be 1D array or scalar; got shape {weights.shape}")
        check_consistent_length(X, weights)
        if (weights < 0).any() or not (weights > 0).any():
            raise ValueError(
                "sample_weight needs numbers of at least 0 that are not all zero; got weights from "
                f"{weights.min():g} to {weights.max():g}"
            )
        kept = weights > 0
        return X[kept].astype(np.float64), targets[kept], weights[kept]

    def _standardise(self, x: Array, targets: Array, weights: Array) -> None:
        self.mean_, self.scale_ = moments(x, weights)

    def _rows(self, x: Array, targets: Array, weights: Array) -> tuple[Tensor, Tensor]:
        columns = targets.reshape(len(targets), -1).astype(np.float64)
        return self._inputs(x), torch.from_numpy(np.column_stack([columns, weights]))

    def _inputs(self, X: Array) -> Tensor:
        return torch.from_numpy((X.astype(np.float64) - self.mean_) / self.scale_)

    # The network

    def _new(self, x: Array, shape: dict[str, Any] | None = None) -> Training:
        if shape is None:
            shape, self._method_ = {"psi": self.psi, **self._shape()}, self.method
        shape = dict(shape)
        self._shape_ = dict(shape)  # whatever the parameters are set to later
        task, hierarchy = self._task(shape.pop("psi"))
        return Training.build(
            self.n_features_in_,
            task,
            hierarchy,
            method=self._method_,
            **shape,
            rate=self.learning_rate_init,
            alpha=self.alpha,
            auxiliary_weight=self.auxiliary_weight,
            batch_size=self._rows_a_step(x),
        )

    def _rows_a_step(self, x: Array) -> int:
        """The size of a batch, of these samples."""
        return min(200, max(32, len(x) // 50)) if self.batch_size == "auto" else int(self.batch_size)

    def _shape(self) -> dict[str, Any]:
        return {"width": self.width, "depth": self.depth, "dropout": self.dropout}

    def _note(self, training: Training) -> None:
        self.loss_curve_ = list(training.losses)
        self.n_iter_ = len(training.losses)
        self.weights_ = _arrays(training.network)
        if isinstance(training.learner, MetaAuxiliaryLearner):
            self._generator_weights = _arrays(training.learner.generator)

    @torch.no_grad()
    def _outputs(self, X: ArrayLike) -> Array:
        """The primary outputs, shape (n_samples, outputs)."""
        check_is_fitted(self)
        x: Array = validate_data(self, X, reset=False)
        shape = dict(self._shape_)
        with _own_draws():
            network = build_network(self.n_features_in_, *self._task(shape.pop("psi")), **shape)
        network.load_state_dict(_tensors(self.weights_))
        network.eval()
        outputs: Array = network.predict(self._inputs(x)).numpy()
        return outputs

    def _tell(self, training: Training) -> None:
        if self.verbose:
            print(f"epoch {len(training.losses)}, training loss {training.losses[-1]:.4f}")

    def _check_parameters(self) -> None:
        check_choice("method", self.method, METHODS)
        for name in ("psi", "width", "max_iter", "n_iter_no_change"):
            if not getattr(self, name) >= 1:
                raise ValueError(f"{name} needs to be at least 1; got {getattr(self, name)}")
        if self.depth < 0:
            raise ValueError(f"depth needs to be at least 0; got {self.depth}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout needs to be in [0, 1); got {self.dropout}")
        if not 0 < self.validation_fraction < 1:
            raise ValueError(f"validation_fraction needs to be in (0, 1); got {self.validation_fraction}")
        if self.early_stopping not in (True, False, "auto"):
            raise ValueError(f'early_stopping needs to be True, False or "auto"; got {self.early_stopping!r}')
        if not self.learning_rate_init > 0:
            raise ValueError(f"learning_rate_init needs to be above 0; got {self.learning_rate_init}")
        for name in ("alpha", "auxiliary_weight"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} needs to be at least 0; got {getattr(self, name)}")
        if self.batch_size != "auto" and not (
            isinstance(self.batch_size, (int, np.integer)) and self.batch_size >= 1
        ):
            raise ValueError(f'batch_size needs to be "auto" or at least 1; got {self.batch_size!r}')

    # What the two differ in

    def _learn_targets(self, y: Array) -> None:
        raise NotImplementedError

    def _encoded(self, y: Array) -> Array:
        raise NotImplementedError

    def _task(self, psi: int) -> tuple[Weighted, Hierarchy]:
        raise NotImplementedError


def _arrays(module: nn.Module) -> dict[str, Array]:
    return {name: t.detach().numpy().copy() for name, t in module.state_dict().items()}


def _tensors(arrays: dict[str, Array]) -> dict[str, Tensor]:
    return {name: torch.from_numpy(np.array(array)) for name, array in arrays.items()}


def moments(values: Array, weights: Array) -> tuple[Array, Array]:
    """Weighted mean and standard deviation of each column; 1 in place of a deviation of 0, up to rounding of the mean."""
    mean = np.average(values, axis=0, weights=weights)
    deviation = np.sqrt(np.average((values - mean) ** 2, axis=0, weights=weights))
    return mean, np.where(deviation > 1e-12 * np.abs(mean), deviation, 1.0)
