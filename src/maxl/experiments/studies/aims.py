"""What advice is asked to make better, and so which methods it tries and what each is held against."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from maxl.experiments.runs.config import RunConfig
from maxl.experiments.runs.measures import PROBE, Measure, main_measure
from maxl.experiments.runs.methods import CHEAP_METHODS
from maxl.experiments.studies.decisions import CONTROL_OF
from maxl.experiments.studies.intervals import PairedDifference
from maxl.presets import check_choice

AIMS = ("accuracy", "structure", "noise")
LEARNED_FOR_NOISE = ("corrected", "reweighted")


@dataclass(frozen=True)
class Aim:
    """An aim by its name.

    | aim | gets better | cheap methods | learned ones | held against |
    |---|---|---|---|---|
    | accuracy | the task's main measure | uniform, clusters, human classes | labels | uniform |
    | structure | the probe of ``--probe`` | the same | the same | the same |
    | noise | the main measure on trusted samples | other losses, training on trusted samples | weights, corrections | the best cheap one |
    """

    name: str

    @property
    def of_noise(self) -> bool:
        """Whether given labels are partly wrong, and finer ones no matter."""
        return self.name == "noise"

    @property
    def usually_helped(self) -> bool:
        """Whether some method usually shows an effect, so that generators are tried, too; on accuracy none does (docs/evidence.md)."""
        return self.name != "accuracy"

    @property
    def validation(self) -> float:
        """Part of the samples that can judge which is set aside for validation, where none is asked for."""
        return 0.5 if self.of_noise else 0.2

    def check(self, config: RunConfig) -> None:
        """ValueError if the aim is unknown, or lacks the column that it goes by."""
        check_choice("--aim", self.name, AIMS)
        if self.name == "structure" and config.probe is None:
            raise ValueError("--aim structure needs a column to look for: name it with --probe")
        if self.of_noise and config.trusted is None:
            raise ValueError(
                "--aim noise needs samples whose labels are right: name the column that says which, with --trusted"
            )
        if self.of_noise and config.evaluate != "same":
            raise ValueError(f"--aim noise lets trusted samples judge: drop --evaluate {config.evaluate}")

    def measure(self, task: str) -> Measure:
        """What is to get better."""
        return PROBE if self.name == "structure" else main_measure(task)

    def cheap(self, config: RunConfig) -> list[str]:
        """Methods without a generator, the cheapest first."""
        if self.of_noise:
            return list(CHEAP_METHODS)
        methods = ["uniform", "kmeans", "kmeans-shuffled"]
        return [*methods, "human", "human-shuffled"] if config.human is not None else methods

    def learned(self, labels: tuple[str, ...]) -> tuple[str, ...]:
        """Methods with a generator; ``labels`` are those that learn finer labels."""
        return LEARNED_FOR_NOISE if self.of_noise else labels

    def control(self, candidate: str, differences: Mapping[str, PairedDifference]) -> str | None:
        """What a candidate is held against beside single-task training.

        Args:
            candidate: A method.
            differences: Of all methods to single-task training, on validation data.
        """
        if not self.of_noise:
            return CONTROL_OF.get(candidate)
        cheap = [name for name in differences if name in CHEAP_METHODS]
        if candidate in CHEAP_METHODS or not cheap:
            return None
        return max(cheap, key=lambda name: differences[name].mean)

    def unproved(self, control: str) -> str:
        """That a gain is not shown to be the candidate's own."""
        why = (
            "which costs a fraction and has the same trusted samples"
            if self.of_noise
            else "so the gain is not shown to come from what its labels say"
        )
        return f"It is not shown to beat {control}, {why}."

    @property
    def no_effect(self) -> str:
        """That nothing cheap can help, without an end."""
        return "Methods for wrong labels" if self.of_noise else "Finer labels"

    @property
    def of_generators(self) -> str:
        """What generators give, in words."""
        return "Learned weights and corrections" if self.of_noise else "Learned labels"
