"""What a finished model is judged by: the measures of each task, their names, directions and units."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from maxl.experiments.data import IGNORED, Features


@dataclass(frozen=True)
class Measure:
    """One number that tells how good a model is.

    Attributes:
        name: As in PART_NAME of metrics.jsonl and summary.json.
        title: In words.
        higher_is_better: Its direction.
        points: A share that is told in percent, and differences of it in points (hundredths).
        low, high: Its bounds.
        part: What it is measured on.
    """

    name: str
    title: str
    higher_is_better: bool = True
    points: bool = False
    low: float = -math.inf
    high: float = math.inf
    part: str = "test"

    @property
    def key(self) -> str:
        """Its name in summary.json and in a study's table."""
        return f"{self.part}_{self.name}"

    @property
    def scale(self) -> float:
        """What a value is multiplied by to be shown."""
        return 100.0 if self.points else 1.0

    @property
    def unit(self) -> str:
        """What follows a value that is shown."""
        return " %" if self.points else ""

    @property
    def heading(self) -> str:
        """The title, with the unit in brackets where there is one."""
        return f"{self.title} (%)" if self.points else self.title

    @property
    def title_capitalised(self) -> str:
        """The title where a line begins; names such as mAP stay as they are."""
        return self.title if self.title != self.title.lower() else self.title.capitalize()

    def difference_text(self, size: float) -> str:
        """The size of a difference, at least 0: "1.2 points", or "0.012 R²"."""
        if not self.points:
            return f"{size:.3g} {self.title}"
        points = round(100 * size, 1) if size >= 0.001 else round(100 * size, 2)
        return f"{points:g} point{'s' if points != 1 else ''}"

    def signed_text(self, difference: float, *, unit: bool = True) -> str:
        """A difference with its sign: "+1.2 points", or "−0.012 R²"."""
        if not self.points:
            few = self.high == 1 and abs(difference) < 0.001
            number = f"{difference:+.4f}" if few else f"{difference:+.3g}"
            number = number if float(number) else "0"
            return number.replace("-", "−") + (f" {self.title}" if unit else "")
        points = round(100 * difference, 1)
        number = f"{points:+.1f}" if points else "0.0"
        return number.replace("-", "−") + (" points" if unit else "")

    def text(self, value: float, digits: int = 2) -> str:
        """A value as it is read: "81.25 %", "0.8125", or "29058.3"."""
        if not self.points and 1000 <= abs(value) < math.inf:
            return f"{value:.1f}{self.unit}"
        return f"{self.scale * value:.{digits if self.points else digits + 2}f}{self.unit}"


def plain(value: float) -> str:
    """A number with four digits or more, and without an exponent up to a thousand million: "0.8125", "15823"."""
    return f"{value:.0f}" if 1000 <= abs(value) < 1e9 else f"{value:.4g}"


ACCURACY = Measure("accuracy", "accuracy", points=True, low=0, high=1)
_F1 = Measure("f1", "F1 (macro)", low=0, high=1)
_AUROC = Measure("auroc", "AUROC (macro)", low=0, high=1)
# The first of each task is what its methods are compared by.
MEASURES: Mapping[str, tuple[Measure, ...]] = {
    "classification": (
        ACCURACY,
        Measure("balanced_accuracy", "balanced accuracy", points=True, low=0, high=1),
        _F1,
        _AUROC,
        Measure("nll", "negative log-likelihood", higher_is_better=False, low=0),
    ),
    "multi-label": (
        Measure("map", "mAP", low=0, high=1),
        _F1,
        Measure("f1_micro", "F1 (micro)", low=0, high=1),
        _AUROC,
    ),
    "regression": (
        Measure("r2", "R²", high=1),
        Measure("rmse", "RMSE", higher_is_better=False, low=0),
        Measure("mae", "MAE", higher_is_better=False, low=0),
    ),
    "segmentation": (
        Measure("miou", "mIoU", points=True, low=0, high=1),
        Measure("pixel_accuracy", "pixel accuracy", points=True, low=0, high=1),
    ),
}


PROBE = Measure("probe", "few-shot probe", points=True, low=0, high=1)
PROBE_OF_INPUTS = "test_probe_inputs"  # of a summary: the same of the raw inputs
# What a finished classifier is judged by beside its task's measures; see structure.py and calibration.py.
OUTCOMES: tuple[Measure, ...] = (
    PROBE,
    Measure("probe_inputs", "probe of the inputs", points=True, low=0, high=1),
    Measure("worst_group", "worst group", points=True, low=0, high=1),
    Measure("nmi", "NMI of labels", low=0, high=1, part="label"),
    Measure("purity", "purity of labels", low=0, high=1, part="label"),
    Measure("ece", "ECE (scaled)", higher_is_better=False, points=True, low=0, high=1),
    Measure("nll_scaled", "NLL (scaled)", higher_is_better=False, low=0),
)


def task_of(result: Mapping[Any, Any]) -> str:
    """The task of a summary or of a row of a study's table; older versions knew classification alone."""
    task = result.get("task")
    return task if isinstance(task, str) else "classification"


def main_measure(task: str) -> Measure:
    """What methods are compared by."""
    return MEASURES[task][0]


class Judged(Protocol):
    """What ``score`` needs to know of targets; a ``DataSet`` does."""

    @property
    def task(self) -> str:
        """One of ``MEASURES``."""

    @property
    def num_primary(self) -> int:
        """C, the number of classes, labels or targets."""

    @property
    def targets(self) -> Features | None:
        """How the numbers of a regression were standardised."""


def score(data: Judged, outputs: Tensor, targets: Tensor) -> dict[str, float]:
    """The measures of a data set's task, by name.

    Args:
        data: Says what targets are.
        outputs: Of the primary head, shape (N, C); of segmentation what ``kept`` keeps of them.
        targets: As in a split.

    Returns:
        Errors of a regression are in the units of its targets; of several targets, the mean over them. Means over
        classes or labels leave out those that do not occur among the targets; AUROC also those that no sample lacks,
        and is nan where that leaves none.
    """
    if data.task == "segmentation":
        return pixel_scores(pixel_counts(outputs, targets, data.num_primary))
    outputs, targets = outputs.cpu(), targets.cpu()  # not every device computes in float64
    if data.task == "classification":
        return _classification(outputs, targets)
    if not outputs.isfinite().all():  # the loss says so, and ends the run
        return {measure.name: math.nan for measure in MEASURES[data.task]}
    if data.task == "regression":
        assert data.targets is not None
        return _regression(outputs.double(), targets.double(), outputs.new_tensor(data.targets.std).double())
    return _multi_label(outputs.double(), targets)


def kept(task: str) -> Callable[[Tensor], Tensor] | None:
    """What an evaluation keeps of each batch's outputs: of segmentation the likeliest classes, else all."""
    return (lambda outputs: outputs.argmax(-1)) if task == "segmentation" else None


def accuracy(outputs: Tensor, targets: Tensor) -> float:
    """The share of samples whose class is the likeliest one."""
    return int((outputs.argmax(1) == targets).sum()) / len(targets)


def _classification(outputs: Tensor, targets: Tensor) -> dict[str, float]:
    # By counting: scikit-learn would take a class without test samples for one missed.
    classes = outputs.shape[1]
    there = torch.bincount(targets, minlength=classes)
    taken = outputs.argmax(1)
    hit = torch.bincount(targets[taken == targets], minlength=classes)
    f1 = 2 * hit / (there + torch.bincount(taken, minlength=classes))
    return {
        "accuracy": accuracy(outputs, targets),
        "balanced_accuracy": float((hit[there > 0] / there[there > 0]).mean()),
        "f1": float(f1[there > 0].mean()),
        "auroc": _auroc(log_odds(outputs), F.one_hot(targets, classes)),
        "nll": float(F.cross_entropy(outputs.float(), targets)),
    }


def log_odds(outputs: Tensor) -> Tensor:
    """log p_c / (1 − p_c) of each class, float64 of shape (N, C): it ranks what probabilities near 1 round to one number."""
    outputs = outputs.double()
    top = outputs.argmax(1, keepdim=True)
    log_p = outputs.log_softmax(1)
    others = outputs.scatter(1, top, -torch.inf).logsumexp(1, keepdim=True)
    rest = torch.log1p(-log_p.exp().clamp(max=0.5))  # exact but for the likeliest, which is put in
    return (log_p - rest).scatter(1, top, outputs.gather(1, top) - others)


def _auroc(scores: Tensor, targets: Tensor) -> float:
    """Mean over columns of the area under the ROC curve: how often one that has the label is given more than one that has not.

    From ranks, ties counted half (Mann and Whitney's U); columns with all samples or none are left out.

    Args:
        scores: Shape (N, C).
        targets: 0 or 1, shape (N, C).
    """
    if not scores.isfinite().all():
        return math.nan
    areas = []
    for given, wanted in zip(scores.double().T.contiguous(), targets.T == 1, strict=True):
        positives = int(wanted.sum())
        negatives = len(wanted) - positives
        if positives and negatives:
            others = given[~wanted].sort().values
            below = torch.searchsorted(others, given[wanted]) + torch.searchsorted(
                others, given[wanted], right=True
            )
            areas.append(int(below.sum()) / (2 * positives * negatives))
    return sum(areas) / len(areas) if areas else math.nan


def pixel_scores(counts: Tensor) -> dict[str, float]:
    """The measures of segmentation, from ``pixel_counts``; classes that do not occur have no part in the mean."""
    hit, there = counts.diag(), counts.sum(1)
    iou = intersections_over_unions(counts)
    return {"miou": float(iou[there > 0].mean()), "pixel_accuracy": float(hit.sum() / counts.sum())}


def pixel_counts(predicted: Tensor, targets: Tensor, classes: int) -> Tensor:
    """How many pixels of each class are taken for which: float64 of shape (C, C), truth by row; those to ignore are none.

    Counted on the device of both, where as many pixels as an image has would take long on their way.
    """
    counts = targets != IGNORED
    pairs = targets[counts] * classes + predicted[counts]
    return torch.bincount(pairs, minlength=classes * classes).view(classes, classes).cpu().double()


def intersections_over_unions(counts: Tensor) -> Tensor:
    """Of each class, shape (C,); nan for one that neither occurs nor is predicted."""
    hit = counts.diag()
    return hit / (counts.sum(0) + counts.sum(1) - hit)


def _regression(outputs: Tensor, targets: Tensor, std: Tensor) -> dict[str, float]:
    from sklearn.metrics import mean_absolute_error, r2_score, root_mean_squared_error

    truth, numbers = (targets * std).numpy(), (outputs * std).numpy()
    return {
        "r2": float(r2_score(targets.numpy(), outputs.numpy())),
        "rmse": float(root_mean_squared_error(truth, numbers)),
        "mae": float(mean_absolute_error(truth, numbers)),
    }


def _multi_label(logits: Tensor, targets: Tensor) -> dict[str, float]:
    from sklearn.metrics import average_precision_score

    # Ranked by logits: probabilities near 1 round to one number. F1 by counting: scikit-learn takes one label for two classes.
    occurring = targets.any(0)
    wanted, taken = targets == 1, logits > 0
    hit, every = (wanted & taken).sum(0), wanted.sum(0) + taken.sum(0)
    f1 = 2 * hit / every.clamp(min=1)
    return {
        "map": float(
            average_precision_score(
                targets[:, occurring].numpy(), logits[:, occurring].numpy(), average="macro"
            )
        ),
        "f1": float(f1[occurring].mean()),
        "f1_micro": float(2 * hit.sum() / every.sum().clamp(min=1)),
        "auroc": _auroc(logits, targets),
    }
