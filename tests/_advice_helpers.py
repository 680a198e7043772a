"""Advice whose runs are pretended: results, and the time that they take, are functions of their settings."""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from _run_helpers import tiny
from maxl.experiments.runs.config import RunConfig
from maxl.experiments.runs.folder import RunFolder
from maxl.experiments.studies import advice as procedure
from maxl.experiments.studies.remaining import COST


class Runs:
    """In place of training: results that are a function of method, seed and learning rate."""

    def __init__(
        self,
        gains: dict[str, float],
        test_gains: dict[str, float] | None = None,
        noise: float = 0.003,
        seconds: float = 1.0,
        test_samples: int = 1000,
        validation_samples: int = 1000,
        inputs: float | None = None,
        collapsed: Mapping[str, Collection[int]] | None = None,
        diverged: Mapping[str, Collection[int]] | None = None,
        constant: float | None = None,
    ) -> None:
        self.diverged, self.constant = diverged or {}, constant
        self.stop_after: int | None = None  # so many runs comes an interruption
        self.collapsed = collapsed or {}
        self.validation_samples, self.inputs = validation_samples, inputs
        self.gains, self.test_gains = gains, gains if test_gains is None else test_gains
        self.noise, self.seconds, self.test_samples = noise, seconds, test_samples
        self.trained: list[RunConfig] = []
        self.now = 0.0

    def __call__(self, jobs: Any, *, tick: Any, **_: Any) -> list[Path]:
        for config, path, label in jobs:
            if len(self.trained) == self.stop_after:
                raise KeyboardInterrupt
            of_run = np.random.default_rng((config.seed, zlib.crc32(config.method.encode())))
            common = 0.7 + 0.02 * np.random.default_rng(config.seed).random()
            common -= 0.05 * abs(math.log10(config.learning_rate) + 2)
            measured = {
                f"{part}_accuracy": common
                + gains.get(config.method, 0.0)
                + self.noise * of_run.standard_normal()
                for part, gains in (("validation", self.gains), ("test", self.test_gains))
            }
            if config.seed in self.collapsed.get(config.method, ()):
                measured = dict.fromkeys(measured, 0.2)
            run = RunFolder(path)
            run.create(config)
            if config.seed in self.diverged.get(config.method, ()):
                run.write_divergence(0, "the loss is nan")
                self.trained.append(config)
                continue
            run.append_metrics({"epoch": 1})
            result = {"method": label, "seed": config.seed, "data": "table", "task": "classification"}
            cost = {"seconds_per_step": 1.0, "seconds_total": 4.0 if config.method == "maxl" else 1.0}
            if self.constant is not None:
                cost |= {"test_constant": self.constant}
            further = {"test_loss": 1.0, "train_size": 100, "psi": None, "trunk": "mlp"}
            if self.inputs is not None:
                probed = {name.replace("accuracy", "probe"): value for name, value in measured.items()}
                of_inputs = (
                    common + self.inputs + self.noise * np.random.default_rng(config.seed + 7).random()
                )
                further |= {**probed, "probe": "breed", "probe_shots": 5, "test_probe_inputs": of_inputs}
            run.write_summary({**result, **measured, **cost, **further})
            self.trained.append(config)
            self.now += self.seconds * COST.get(config.method, 1.0)
            tick(0)
        return []

    def monotonic(self) -> float:
        """In place of the clock's."""
        return self.now

    def seeds(self, method: str, start: int) -> list[int]:
        return sorted(c.seed for c in self.trained if c.method == method and start <= c.seed < start + 1000)


@pytest.fixture
def pretend(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Runs]:
    """Studies whose runs are pretended, and so is the time that they take."""

    def start(**given: Any) -> Runs:
        runs = Runs(**given)
        monkeypatch.setattr("maxl.experiments.studies.workers.run_jobs", runs)
        monkeypatch.setattr(procedure, "time_runs", lambda _: (runs.seconds, 0.0))
        monkeypatch.setattr(procedure, "time", runs)
        monkeypatch.setattr(
            procedure,
            "counted",  # of the data of ``folder``, of which 80 test
            lambda _, count: runs.test_samples if count in (27, 80) else runs.validation_samples,
        )
        return runs

    return start


def folder(path: Path, *, permuted: bool = False) -> Path:
    """A table in two parts; the test part's labels as they are or permuted."""
    random = np.random.default_rng(0)
    kind = np.arange(200) % 4
    x = np.stack([kind // 2, kind % 2], 1) + 0.5 * random.standard_normal((200, 2))
    label, breed = np.array(["x", "y"])[kind // 2], kind
    path.mkdir()
    for part, rows in (("train", np.arange(120)), ("test", np.arange(120, 200))):
        labels = np.random.default_rng(1).permutation(rows) if permuted and part == "test" else rows
        lines = [f"{label[i]},{breed[i]},{x[r, 0]},{x[r, 1]}" for r, i in zip(rows, labels, strict=True)]
        (path / f"{part}.csv").write_text("\n".join(["label,breed,a,b", *lines]) + "\n")
    return path


def config(path: Path, **changes: Any) -> Any:
    shared = {"data": str(path), "primary": "label", "train_size": None, "epochs": 1, "psi": [2]}
    return tiny(**{**shared, "cluster_features": "input", "look_every": 1, **changes})


SPREAD = (0.0, 0.002, -0.002, 0.001, -0.001)


def values(shift: float, sign: float = 1) -> dict[int, float]:
    """Results by seed, about 0.8 + ``shift``."""
    return {seed: 0.8 + shift + sign * noise for seed, noise in enumerate(SPREAD)}
