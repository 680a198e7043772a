"""What a finished run shows of its predictions and of its invented classes: further arrays of a snapshot.

    confusion             int64 (C, C)          test samples, or pixels, of a class (row) that were taken for each (column)
    mask_images           uint8 (n, H, W, C)    test images of a segmentation
    mask_truths           int16 (n, H, W)       their classes, -1 where there is none
    mask_predicted        int16 (n, H, W)       the likeliest ones
    target_truths         float64 (n, D)        true numbers of test samples of a regression, in their units
    target_predicted      float64 (n, D)        those that are predicted
    label_counts          int64 (C, 3)          of each label of several: test samples that have it, are given it, and both
    label_rows            int64 (N,)            training samples with an auxiliary label, by row of the data's training part
    label_primary         int64 (N,)            their classes
    label_auxiliary       int64 (N,)            the likeliest auxiliary class of each
    sample_positions      int64 (M,)            some of them, by position in label_rows: the surest of each auxiliary class
    sample_probabilities  float32 (M, P)        over the auxiliary classes of their primary class, in order; 0 beyond these
    sample_images         uint8 (M, h, w, C)    thumbnails; where samples are images
    auxiliary_owner       int64 (K,)            the primary class of each auxiliary class
    feature_probe         int64 (M,)            of the test samples whose features are kept: their class in the column of --probe
    probe_names           str (P,)              the names of these classes

Arrays that a run has nothing for are left out, and older snapshots have none of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from maxl.experiments.data import IGNORED
from maxl.experiments.runs.evaluation import evaluating
from maxl.experiments.runs.methods import CLUSTER_METHODS
from maxl.experiments.runs.networks import GENERATOR_METHODS
from maxl.experiments.runs.thumbnails import are_images, thumbnails
from maxl.hierarchy import Hierarchy
from maxl.hypergradients import RandomState, as_tuple

if TYPE_CHECKING:
    from maxl.experiments.runs.trainer import Trainer

Arrays = dict[str, NDArray[Any]]

# Kind and number of dimensions.
LOOKS: Mapping[str, tuple[str, int]] = {
    "confusion": ("i", 2),
    **{"mask_images": ("u", 4), "mask_truths": ("i", 3), "mask_predicted": ("i", 3)},
    **{"target_truths": ("f", 2), "target_predicted": ("f", 2), "label_counts": ("i", 2)},
    **{"label_rows": ("i", 1), "label_primary": ("i", 1), "label_auxiliary": ("i", 1)},
    **{"sample_positions": ("i", 1), "sample_probabilities": ("f", 2), "sample_images": ("u", 4)},
    "auxiliary_owner": ("i", 1),
    **{"feature_probe": ("i", 1), "probe_names": ("U", 1)},
}
_INVENTING = (*GENERATOR_METHODS, "prototypical", *(m for m in CLUSTER_METHODS if "shuffled" not in m))
_MASKS, _MASK_SIDE = 6, 160  # pictures of a segmentation, and their longest side
_POINTS = 400  # test samples of a regression
_PICTURES, _PER_CLASS, _SIDE = 600, 24, 32  # samples in all, of an auxiliary class at most, longest side


def looks(trainer: Trainer) -> Arrays:
    """The arrays of a run that has ended; torch's random state and the networks' modes are left as they were."""
    setup, task = trainer.setup, trainer.data.task
    arrays: Arrays = {}
    with RandomState.capture(trainer.device).replay(), evaluating(setup.network, setup.generator):
        if task in ("classification", "segmentation"):
            arrays |= _predictions(trainer)
        if task in ("regression", "multi-label"):
            arrays |= _of_targets(trainer)
        if task == "classification" and trainer.config.method in _INVENTING:
            arrays |= _of_labels(trainer)
    return arrays


def _predictions(trainer: Trainer) -> Arrays:
    data = trainer.data
    taken = torch.cat(
        [trainer.setup.network.predict(b.x).argmax(-1).cpu() for b in trainer.in_order(data.test)]
    )
    truths, classes = data.test.primary.cpu(), data.num_primary
    counts = truths != IGNORED
    pairs = truths[counts] * classes + taken[counts]
    arrays = {"confusion": torch.bincount(pairs, minlength=classes**2).reshape(classes, classes).numpy()}
    if data.task == "segmentation" and are_images(data.test.x):
        some = torch.linspace(0, len(taken) - 1, min(_MASKS, len(taken))).round().long()
        arrays |= {
            "mask_images": thumbnails(data.test.x[some.to(data.test.x.device)], _MASK_SIDE),
            "mask_truths": _smaller(truths[some].where(counts[some], torch.tensor(-1))),
            "mask_predicted": _smaller(taken[some]),
        }
    return arrays


def _of_targets(trainer: Trainer) -> Arrays:
    """Predicted and true numbers of test samples spread over the test part, or the counts of each label."""
    data = trainer.data
    outputs = torch.cat(
        [trainer.setup.network.predict(b.x).double().cpu() for b in trainer.in_order(data.test)]
    )
    truths = data.test.primary.cpu()
    if data.task == "multi-label":
        has, given = truths == 1, outputs > 0
        return {"label_counts": torch.stack([has.sum(0), given.sum(0), (has & given).sum(0)], 1).numpy()}
    assert data.targets is not None
    mean, std = (torch.tensor(v, dtype=torch.float64) for v in (data.targets.mean, data.targets.std))
    some = torch.linspace(0, len(truths) - 1, min(_POINTS, len(truths))).round().long()
    predicted = outputs[some] * std + mean
    if not predicted.isfinite().all():  # the loss says so, and ends the run
        return {}
    return {
        "target_truths": (truths[some].double() * std + mean).numpy(),
        "target_predicted": predicted.numpy(),
    }


def _smaller(masks: Tensor) -> NDArray[Any]:
    """Every pixel as it is or, of large masks, the nearest one."""
    scale = min(1.0, _MASK_SIDE / max(masks.shape[-2:]))
    rows, columns = (
        ((torch.arange(max(1, round(side * scale))) + 0.5) / scale).long().clamp(max=side - 1)
        for side in masks.shape[-2:]
    )
    array: NDArray[Any] = masks[:, rows][:, :, columns].short().numpy()
    return array


def _of_labels(trainer: Trainer) -> Arrays:
    """The labels of the training samples, and the surest samples of each auxiliary class."""
    train, hierarchy = trainer.data.train, trainer.setup.hierarchy
    found = _likeliest(trainer, hierarchy)
    if train.rows is None or found is None:
        return {}
    primary, likeliest, surest, blocks = train.primary.cpu(), *found
    each = max(1, min(_PER_CLASS, _PICTURES // hierarchy.num_auxiliary))
    shown = []
    for k in range(hierarchy.num_auxiliary):
        members = (likeliest == k).nonzero().flatten()
        shown.append(members[surest[members].argsort(descending=True, stable=True)[:each]])
    some = torch.cat(shown)
    arrays = {
        "label_rows": train.rows.cpu().numpy(),
        "label_primary": primary.numpy(),
        "label_auxiliary": likeliest.numpy(),
        "sample_positions": some.numpy(),
        "sample_probabilities": blocks[some].numpy(),
        "auxiliary_owner": hierarchy.owner.cpu().numpy(),
    }
    if are_images(train.x):
        arrays["sample_images"] = thumbnails(train.x[some.to(train.x.device)], _SIDE)
    return arrays


def within_blocks(labels: Tensor, primary: Tensor, hierarchy: Hierarchy) -> Tensor:
    """The part of each label that its class may use: (M, K) to (M, P), 0 where a class has fewer than P."""
    sizes = torch.tensor(hierarchy.psi)
    order = torch.arange(int(sizes.max()))
    there = order < sizes.unsqueeze(1)
    places = (hierarchy.owner.cpu().argsort(stable=True)[_starts(sizes).unsqueeze(1) + order * there]) * there
    return labels.float().gather(1, places[primary]).where(there[primary], torch.tensor(0.0))


def _starts(sizes: Tensor) -> Tensor:
    return sizes.cumsum(0) - sizes


def _likeliest(trainer: Trainer, hierarchy: Hierarchy) -> tuple[Tensor, Tensor, Tensor] | None:
    """Of all training samples' labels the likeliest class, its probability, and what they give the classes of their block.

    On the CPU, of shapes (N,), (N,) and (N, P): labels themselves, (N, K), may be wider than the inputs. None if a label is
    not finite.
    """
    setup, found = trainer.setup, list[tuple[Tensor, Tensor, Tensor]]()
    for b in trainer.in_order(trainer.data.train):
        signals = (
            setup.learner.source.constant(b.x, b.primary, b.index)
            if setup.generator is None
            else as_tuple(setup.generator(b.x, b.primary))
        )
        labels = signals[0].cpu()
        if labels.dim() == 1:
            labels = torch.nn.functional.one_hot(labels, hierarchy.num_auxiliary)
        labels = labels.float()
        if not labels.isfinite().all():
            return None
        likeliest = labels.argmax(1)
        surest = labels.gather(1, likeliest.unsqueeze(1)).squeeze(1)
        found.append((likeliest, surest, within_blocks(labels, b.primary.cpu(), hierarchy)))
    likeliests, surests, blocks = (torch.cat(parts) for parts in zip(*found, strict=True))
    return likeliests, surests, blocks


def require_looks(found: Mapping[str, NDArray[Any] | None]) -> None:
    """ValueError unless arrays, by name, None where one is missing, are as listed above and go together."""
    arrays = {name: array for name, array in found.items() if array is not None}
    for name, array in arrays.items():
        kind, rank = LOOKS[name]
        if array.dtype.kind != kind or array.ndim != rank:
            raise ValueError(f"{name} is {array.dtype} of shape {array.shape}")
    for group in (
        ("mask_images", "mask_truths", "mask_predicted"),
        ("target_truths", "target_predicted"),
        ("label_rows", "label_primary", "label_auxiliary"),
        ("sample_positions", "sample_probabilities", "sample_images"),
    ):
        there = [arrays[name] for name in group if name in arrays]
        optional = 1 if "sample_images" in group else 0
        if there and (len(there) < len(group) - optional or len({len(array) for array in there}) > 1):
            raise ValueError(f"{', '.join(group)} do not go together")
    if "confusion" in arrays and (
        len({*arrays["confusion"].shape}) > 1 or (len(arrays["confusion"]) and arrays["confusion"].min() < 0)
    ):
        raise ValueError("confusion needs to be square, of counts")
    if "target_truths" in arrays:
        numbers, predicted = arrays["target_truths"], arrays["target_predicted"]
        if numbers.shape != predicted.shape or not (np.isfinite(numbers) & np.isfinite(predicted)).all():
            raise ValueError("target_truths and target_predicted need as many finite numbers")
        if not numbers.size:
            raise ValueError("target_truths holds no number")
    if "label_counts" in arrays:
        counts = arrays["label_counts"]
        if counts.shape[1] != 3 or (counts < 0).any() or (counts[:, 2:] > counts[:, :2]).any():
            raise ValueError("label_counts needs samples that have a label, are given it, and both")
    if ("feature_probe" in arrays) != ("probe_names" in arrays):
        raise ValueError("feature_probe and probe_names do not go together")
    probe = arrays.get("feature_probe", np.zeros(0, np.int64))
    if len(probe) and not 0 <= probe.min() <= probe.max() < len(arrays["probe_names"]):
        raise ValueError("feature_probe is out of range")
    if "mask_images" in arrays:
        images, truths, predicted = (arrays[n] for n in ("mask_images", "mask_truths", "mask_predicted"))
        if not images.shape[:3] == truths.shape == predicted.shape or images.shape[3] not in (1, 3):
            raise ValueError("mask_images and their masks differ in size")
    if "label_rows" in arrays:
        if "auxiliary_owner" not in arrays or "sample_positions" not in arrays:
            raise ValueError("labels need auxiliary_owner and sample_positions")
        owner, auxiliary = arrays["auxiliary_owner"], arrays["label_auxiliary"]
        bounded = ((auxiliary, len(owner)), (arrays["sample_positions"], len(auxiliary)))
        if any(len(array) and not 0 <= array.min() <= array.max() < limit for array, limit in bounded):
            raise ValueError("label_auxiliary or sample_positions are out of range")
        if not np.array_equal(owner[auxiliary], arrays["label_primary"]):
            raise ValueError("label_auxiliary holds auxiliary classes of other primary classes")
        if not np.isfinite(arrays["sample_probabilities"]).all():
            raise ValueError("sample_probabilities needs finite numbers")
        if (
            np.bincount(owner, minlength=1).max(initial=0) > arrays["sample_probabilities"].shape[1]
            or (len(owner) and owner.min() < 0)
            or (len(arrays["label_rows"]) and arrays["label_rows"].min() < 0)
        ):
            raise ValueError("auxiliary_owner or label_rows are out of range")
