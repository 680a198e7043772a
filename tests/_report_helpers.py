"""Synthetic run folders as a trainer would leave them, for the tests of the report."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import yaml

PRIMARY_NAMES = ("nought", "one", "two", "three")
LAYERS = ("conv1", "conv2", "conv3")
FINAL = {"single": 0.80, "random": 0.80, "uniform": 0.80, "frozen": 0.805, "kmeans": 0.81, "human": 0.83}
FINAL |= {"maxl": 0.84}


def write_run(
    folder: Path,
    *,
    method: str = "maxl",
    seed: int = 0,
    epochs: int = 12,
    psi: int | None = 3,
    data: str = "digits",
    train_size: int | None = 400,
    entropy_weight: float = 0.2,
    final: float | None = None,
    bare: bool = False,
    snapshot: bool = True,
    **summary: Any,
) -> Path:
    """One run folder.

    Args:
        folder: Where; made if missing.
        final: Test accuracy of the last epoch before the seed's noise; the method's own by default.
        bare: Leave out all that a run may leave out: nested metrics, snapshot, cost.
        summary: Further entries of summary.json, replacing the made-up ones.
    """
    rng = np.random.default_rng([seed, *method.encode(), psi or 0, round(10 * entropy_weight)])
    learns = method in ("maxl", "frozen") and not bare
    auxiliary = method != "single" and not bare
    seed_effect = np.random.default_rng(seed).normal(0, 0.01)  # shared by the methods, as paired seeds do
    final = (FINAL.get(method, 0.8) if final is None else final) + seed_effect + rng.normal(0, 0.003)
    count = psi or 1
    lines = []
    for epoch in range(1, epochs + 1):
        done = 1 - np.exp(-4 * epoch / epochs)
        accuracy = float(np.clip(final - 0.6 * np.exp(-5 * epoch / epochs) + rng.normal(0, 0.004), 0, 1))
        spread = np.log(count) * (1 - 0.7 * done) if learns and method == "maxl" else np.log(count)
        by_class = spread * rng.uniform(0.8, 1, len(PRIMARY_NAMES))
        used = np.clip(1 - 0.2 * done * rng.uniform(0, 1, len(PRIMARY_NAMES)), 1 / count, 1)
        cosine = 0.3 * np.exp(-2 * epoch / epochs) + rng.normal(0, 0.02)
        lines.append(
            {
                "epoch": epoch,
                "seconds": 2.0,
                "learning_rate": 0.01,
                "train_loss": 2 * (1 - done) + 0.2,
                "train_primary_loss": 1 - done + 0.1,
                "train_auxiliary_loss": 1 - done + 0.1 if auxiliary else None,
                "train_accuracy": min(1.0, accuracy + 0.05),
                "validation_loss": None,
                "validation_accuracy": None,
                "test_loss": 1 - accuracy,
                "test_accuracy": accuracy,
                "gradient_cosine": cosine if auxiliary else None,
                "gradient_cosine_layers": (
                    {name: cosine - 0.1 * i for i, name in enumerate(LAYERS)} if auxiliary else None
                ),
                "label_entropy": float(by_class.mean()) if learns else None,
                "label_entropy_max": float(np.log(count)) if learns else None,
                "label_usage": float(used.mean()) if learns else None,
                "label_entropy_per_class": by_class.tolist() if learns else None,
                "label_usage_per_class": used.tolist() if learns else None,
                "outer_loss": 1 - done if learns else None,
                "hypergradient_norm": 0.1 if learns else None,
                "regulariser_norm": 0.01 if learns else None,
            }
        )
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    facts = {
        "method": method,
        "seed": seed,
        "data": data,
        "primary": "label",
        "train_size": train_size,
        "psi": None if psi is None or method == "single" else [psi] * len(PRIMARY_NAMES),
        "trunk": "convnet4",
        "epochs": epochs,
        "entropy_weight": entropy_weight,
        "test_accuracy": lines[-1]["test_accuracy"],
        "test_loss": lines[-1]["test_loss"],
        "validation_accuracy": None,
        "seconds_per_step": None if bare else 0.012 * (2.9 if learns else 1.3 if auxiliary else 1.0),
        "seconds_total": 24.0,
        "peak_memory_bytes": None if bare else int(4e8 * (1.6 if learns else 1.0)),
        "label_verdict": "labels are in use and informative" if learns and method == "maxl" else None,
        "versions": {"maxl": "0.1.0", "torch": "2.15.0"},
        "device": "cpu",
    }
    (folder / "summary.json").write_text(json.dumps(facts | summary))
    config = {name: facts[name] for name in ("method", "seed", "psi", "entropy_weight")}
    config |= {"out": str(folder), "optimizer": {"learning_rate": 0.01}}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    if snapshot and not bare:
        _write_snapshot(folder / "snapshot.npz", rng, count if learns else 0)
    return folder


def write_study(
    folder: Path,
    *,
    methods: Iterable[str] = ("single", "random", "frozen", "maxl"),
    seeds: Iterable[int] = (0, 1, 2),
    psis: Iterable[int] = (3,),
    **run: Any,
) -> Path:
    """Run folders of methods by seeds by ψ; single-task once for all ψ."""
    for psi in psis:
        for method in methods:
            for seed in seeds:
                own = None if method == "single" else psi
                write_run(folder / f"{method}-psi{own}-seed{seed}", method=method, seed=seed, psi=own, **run)
    return folder


def _write_snapshot(path: Path, rng: np.random.Generator, count: int) -> None:
    classes = len(PRIMARY_NAMES)
    primary = np.arange(60) % classes
    features = rng.normal(size=(classes, 8))[primary] * 2 + rng.normal(size=(60, 8))
    auxiliary = np.arange(2 * count)
    ramp = np.linspace(0, 255, 8 * 8 * 3).reshape(8, 8, 3)
    images = (ramp + rng.uniform(0, 60, (len(auxiliary), 6, 8, 8, 3))) % 256
    more = _invented(rng, count) if count else {}
    taken = np.where(rng.uniform(size=60) < 0.8, primary, (primary + 1) % classes)
    np.savez_compressed(
        path,
        **more,
        confusion=np.histogram2d(primary, taken, bins=classes)[0].astype(np.int64),
        features=features.astype(np.float16),
        feature_primary=primary,
        primary_names=np.asarray(PRIMARY_NAMES),
        gallery_images=images.astype(np.uint8),
        gallery_scores=np.sort(rng.uniform(size=(len(auxiliary), 6)))[:, ::-1].astype(np.float32),
        gallery_auxiliary=auxiliary,
        gallery_primary=auxiliary // max(count, 1),
    )


def _invented(rng: np.random.Generator, count: int) -> dict[str, np.ndarray]:
    """Labels of 48 training samples over ``count`` auxiliary classes a class, a third of the samples to look at."""
    classes = len(PRIMARY_NAMES)
    primary = np.arange(48) % classes
    within = np.arange(48) // classes % count
    shown = np.arange(0, 48, 3)
    probabilities = rng.dirichlet(np.ones(count), len(shown))
    probabilities.sort(axis=1)
    probabilities = np.stack(
        [np.roll(row, within[i] + 1) for row, i in zip(probabilities, shown, strict=True)]
    )  # the largest stands where the sample's class does
    return {
        "label_rows": np.arange(48) * 2,
        "label_primary": primary,
        "label_auxiliary": primary * count + within,
        "sample_positions": shown,
        "sample_probabilities": probabilities.astype(np.float32),
        "sample_images": rng.integers(0, 255, (len(shown), 8, 8, 3)).astype(np.uint8),
        "auxiliary_owner": np.repeat(np.arange(classes), count),
    }
