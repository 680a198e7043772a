"""Estimators for tables: ``MAXLClassifier`` and ``MAXLRegressor``.

They go where scikit-learn's own go: pipelines, searches, cross-validation.
"""

from __future__ import annotations

from typing import Any, Self

import numpy as np
import torch
from numpy.typing import ArrayLike
from sklearn.base import ClassifierMixin, RegressorMixin
from sklearn.utils.multiclass import check_classification_targets, type_of_target
from torch import Tensor

from maxl.hierarchy import Hierarchy
from maxl.integrations._estimator import Array, Tabular, moments
from maxl.integrations._tabular import Weighted
from maxl.tasks import Classification, MultiLabel, Regression


class MAXLClassifier(ClassifierMixin, Tabular):  # type: ignore[misc]
    """A network with residual blocks for classes or any number of labels, trained with an auxiliary task.

    With the default method the auxiliary labels are learned by meta auxiliary learning, exactly; "uniform" spreads them evenly
    over each class's block and costs a third of the time, "single" trains without a second task. The project's studies
    have not found learned labels to beat uniform ones: compare them on your data. Inputs are standardised inside.

    Args:
        method: "maxl", "uniform" or "single".
        psi: Auxiliary classes for each class, at least 1.
        auxiliary_weight: Factor on the auxiliary loss, at least 0.
        width: Of the layers, at least 1.
        depth: Number of residual blocks.
        dropout: Probability in [0, 1).
        learning_rate_init: Of AdamW; falls along half a cosine, to 0 after ``max_iter`` epochs.
        alpha: Weight decay of AdamW.
        batch_size: Samples in a step; "auto" takes a fiftieth of them, 32 to 200.
        max_iter: Epochs, at most.
        early_stopping: Hold samples out until their loss has not fallen for ``n_iter_no_change`` epochs, then train anew on
            all samples for the best number of epochs. "auto" does so from 40 samples on.
        validation_fraction: Share of samples held out, in (0, 1).
        n_iter_no_change: See ``early_stopping``.
        random_state: Seed, or generator, of weights, batches and the split. PyTorch's own is left as it is.
        verbose: Print a line an epoch.

    Attributes:
        classes_: The classes, or the positions of the labels.
        n_features_in_, feature_names_in_: As in scikit-learn.
        n_iter_: Epochs trained.
        loss_curve_: Mean primary training loss of each epoch.
        validation_losses_: Of the samples held out, after each epoch, with early stopping.
        weights_: The network's, arrays by name.
    """

    _classes = True

    def partial_fit(
        self,
        X: ArrayLike,
        y: ArrayLike,
        classes: ArrayLike | None = None,
        sample_weight: ArrayLike | None = None,
    ) -> Self:
        """One epoch on these samples, from where training stands; inputs are standardised as the first ones were.

        Of parameters that are set between calls ``method``, ``psi``, ``width``, ``depth`` and ``dropout`` stay those of the
        first call. A copy, or one from a file, has the weights of network and generator; its optimizers begin anew.

        Args:
            X, y: As for ``fit``.
            sample_weight: As for ``fit``, but not scaled to a mean of 1, since calls with different weights would then
                count alike.
            classes: All classes there will be; needed in the first call.

        Raises:
            ValueError: if the first call comes without classes, or a class is not among them.
        """
        first = not hasattr(self, "weights_")
        if first:
            if classes is None:
                raise ValueError("classes must be passed on the first call to partial_fit.")
            self._check_parameters()
            self._given_classes: Array | None = np.unique(np.asarray(classes))
        elif classes is not None and not np.array_equal(np.unique(np.asarray(classes)), self.classes_):
            raise ValueError(f"classes need to be those of the first call, {self.classes_}; got {classes}")
        try:
            return self._partial_fit(X, y, sample_weight, first)
        finally:
            self.__dict__.pop("_given_classes", None)

    def predict(self, X: ArrayLike) -> Array:
        """Classes, shape (n_samples,), or labels 0 and 1, shape (n_samples, n_labels)."""
        outputs = self._outputs(X)
        if self._multi_label:
            return (outputs > 0).astype(int)
        found: Array = self.classes_[outputs.argmax(1)]
        return found

    def predict_proba(self, X: ArrayLike) -> Array:
        """Probabilities of each class, rows summing to one; of each label by itself, where there are several."""
        logits = torch.from_numpy(self._outputs(X))
        probabilities: Array = (logits.sigmoid() if self._multi_label else logits.softmax(1)).numpy()
        return probabilities

    def predict_log_proba(self, X: ArrayLike) -> Array:
        """Their logarithms."""
        logits = torch.from_numpy(self._outputs(X))
        found = torch.nn.functional.logsigmoid(logits) if self._multi_label else logits.log_softmax(1)
        logarithms: Array = found.numpy()
        return logarithms

    @property
    def _multi_label(self) -> bool:
        return bool(self.multi_label_)

    def _learn_targets(self, y: Array) -> None:
        check_classification_targets(y)
        kind = type_of_target(y, input_name="y")
        if kind not in ("binary", "multiclass", "multilabel-indicator"):
            raise ValueError(f"y needs one class a sample, or columns of 0 and 1; got {kind} targets")
        self.multi_label_ = kind == "multilabel-indicator"
        given = self.__dict__.get("_given_classes")
        found = np.arange(y.shape[1]) if self.multi_label_ else np.unique(y)
        self.classes_ = found if given is None else given
        if len(self.classes_) < 2 and not self.multi_label_:
            raise ValueError(f"y needs at least two classes; got one class, {self.classes_[0]!r}")

    def _encoded(self, y: Array) -> Array:
        if self._multi_label:
            labels = np.asarray(y, dtype=np.float64)
            if (odd := ~np.isin(labels, (0.0, 1.0))).any():
                raise ValueError(f"y needs columns of 0 and 1; got {labels[odd][0]:g}")
            return labels
        if y.ndim != 1:
            raise ValueError(f"y needs one class a sample, as in the first call; got shape {y.shape}")
        positions = np.searchsorted(self.classes_, y).clip(0, len(self.classes_) - 1)
        if (unknown := self.classes_[positions] != y).any():
            raise ValueError(f"y needs classes among {self.classes_}; got {np.unique(y[unknown])}")
        return positions

    def _task(self, psi: int) -> tuple[Weighted, Hierarchy]:
        hierarchy = Hierarchy.uniform(len(self.classes_), psi)
        if self._multi_label:
            return Weighted(MultiLabel(len(self.classes_)), classes=False), hierarchy
        return Weighted(Classification(gamma=0.0), classes=True), hierarchy

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_label = True
        return tags


class MAXLRegressor(RegressorMixin, Tabular):  # type: ignore[misc]
    """A network with residual blocks for one number or several, trained with an auxiliary task.

    Inputs and targets are standardised inside; predictions are in the targets' units. There are no primary classes, so all
    ``psi`` auxiliary classes are open to every sample.

    Arguments and attributes are those of ``MAXLClassifier``, without ``classes_``.
    """

    _classes = False

    def partial_fit(self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None = None) -> Self:
        """One epoch on these samples, from where training stands; all is standardised as the first samples were.

        Parameters that are set between calls, and copies: as ``MAXLClassifier.partial_fit``.

        Args:
            X, y: As for ``fit``.
            sample_weight: As for ``fit``, but not scaled to a mean of 1, since calls with different weights would then
                count alike.
        """
        first = not hasattr(self, "weights_")
        if first:
            self._check_parameters()
        return self._partial_fit(X, y, sample_weight, first)

    def predict(self, X: ArrayLike) -> Array:
        """Numbers, shape (n_samples,) or (n_samples, n_outputs)."""
        found = self._outputs(X) * self.target_scale_ + self.target_mean_
        return found if self.several_ else found[:, 0]

    def _learn_targets(self, y: Array) -> None:
        self.several_ = y.ndim == 2
        self.n_outputs_ = y.shape[1] if self.several_ else 1

    def _encoded(self, y: Array) -> Array:
        if y.shape[1:] != ((self.n_outputs_,) if self.several_ else ()):
            raise ValueError(f"y needs {self.n_outputs_} columns, as in the first call; got shape {y.shape}")
        return y.astype(np.float64)

    def _standardise(self, x: Array, targets: Array, weights: Array) -> None:
        super()._standardise(x, targets, weights)
        self.target_mean_, self.target_scale_ = moments(targets.reshape(len(targets), -1), weights)

    def _rows(self, x: Array, targets: Array, weights: Array) -> tuple[Tensor, Tensor]:
        scaled = (targets.reshape(len(targets), -1) - self.target_mean_) / self.target_scale_
        return super()._rows(x, scaled, weights)

    def _task(self, psi: int) -> tuple[Weighted, Hierarchy]:
        return Weighted(Regression(self.n_outputs_), classes=False), Hierarchy.flat(psi)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags
