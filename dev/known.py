"""Is advice right where the answer is known, and in the time that it said?

    python dev/known.py [CASE ...] [--data-dir DIR] [--jobs N]

| case | data | known | to be recommended |
|---|---|---|---|
| structure | CLINC150 (``DIR``), domains as classes, intents looked for by a probe | clusters of the inputs keep intents, the inputs themselves no fewer (docs/evidence.md) | kmeans, shown to beat kmeans-shuffled; that the inputs be kept |
| nothing | 3,000 points whose class is the sign of a linear rule, one label in ten drawn anew | single-task training is as good as can be: no finer label can help | single |
| ruined | scikit-learn's digits; of half of them, in one part of the input space, the label is the next class; 150 are trusted | training on all of them is ruined, the trusted samples mend it | a method that they judge or that trains on them last |
| tiny | 40 points of the linear rule | nothing that small can show a gain or exclude it | single |

Each runs ``maxl advise`` as a user would, in a process of its own. A row a case in dev/evidence/advice.csv; rows of older
versions say nothing of what was recommended, of the control and of the inputs, and were right by less.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from sklearn.datasets import load_digits

TABLE = Path(__file__).parent / "evidence/advice.csv"
_SHARED = ("--trunk", "mlp", "--device", "cpu", "--no-tensorboard")


@dataclass(frozen=True)
class Known:
    """A data set with a known answer.

    Attributes:
        flags: Of ``maxl advise``, for a folder to write data to and one that holds published ones.
        verdict: The one that is right.
        recommended: Methods of which one has to be recommended.
        budget: Minutes.
        beaten: The control that it has to be shown to beat, if any.
        use_inputs: Whether the inputs have to be recommended besides.
    """

    flags: Callable[[Path, str | None], list[str]]
    verdict: str
    recommended: tuple[str, ...]
    budget: float
    beaten: str | None = None
    use_inputs: bool = False

    def right(self, advice: Mapping[str, Any]) -> bool:
        """Whether an advice says what is known, and not its verdict alone."""
        told = advice["verdict"] == self.verdict and advice["recommended"] in self.recommended
        told = told and advice["use_inputs"] == self.use_inputs
        control = advice["control"] or {"against": None, "interval": [None, None]}
        beats = control["against"] == self.beaten and (control["interval"][0] or 0.0) > 0
        return told and (self.beaten is None or beats)


def _structure(folder: Path, data_dir: str | None) -> list[str]:
    if data_dir is None:
        raise SystemExit("structure needs --data-dir, where clinc150 lies")
    more = ["--probe", "intent", "--cluster-features", "input", "--psi", "15", "--train-size", "3000"]
    return ["--data", "clinc150", "--data-dir", data_dir, "--aim", "structure", "--epochs", "10", *more]


def _rule(folder: Path, count: int, noise: float) -> str:
    drawn = np.random.default_rng(7)
    x = drawn.normal(size=(count, 8))
    y = x @ drawn.normal(size=8) > 0
    anew = drawn.random(count) < noise
    frame = pd.DataFrame(x, columns=[f"x{i}" for i in range(8)])
    frame["side"] = np.where(np.where(anew, drawn.random(count) < 0.5, y), "right", "left")
    frame.to_csv(folder / "rule.csv", index=False)
    return str(folder / "rule.csv")


def _nothing(folder: Path, data_dir: str | None) -> list[str]:
    return ["--data", _rule(folder, 3000, 0.1), "--primary", "side", "--psi", "3", "--epochs", "10"]


def _tiny(folder: Path, data_dir: str | None) -> list[str]:
    return [
        "--data",
        _rule(folder, 40, 0.1),
        "--primary",
        "side",
        "--psi",
        "2",
        "--epochs",
        "20",
        "--batch-size",
        "10",
    ]


def _ruined(folder: Path, data_dir: str | None) -> list[str]:
    x, y = load_digits(return_X_y=True)
    drawn = np.random.default_rng(3)
    projection = x @ np.random.default_rng(1).normal(size=x.shape[1])
    trusted = np.zeros(len(y), dtype=bool)
    trusted[drawn.permutation(len(y))[:450]] = (
        True  # a third of them judges, a third is set aside for validation
    )
    wrong = (projection > np.median(projection)) & ~trusted
    frame = pd.DataFrame(x, columns=[f"pixel{i}" for i in range(x.shape[1])])
    frame["digit"], frame["checked"] = np.where(wrong, (y + 1) % 10, y), np.where(trusted, "yes", "no")
    frame.to_csv(folder / "digits.csv", index=False)
    flags = [
        "--data",
        str(folder / "digits.csv"),
        "--primary",
        "digit",
        "--trusted",
        "checked",
        "--aim",
        "noise",
    ]
    return [*flags, "--task", "classification", "--epochs", "20"]


TRUSTING = ("trusted-only", "fine-tuned", "reweighted", "corrected")
CASES = {
    "structure": Known(_structure, "helps", ("kmeans",), 20, beaten="kmeans-shuffled", use_inputs=True),
    "nothing": Known(_nothing, "does not help", ("single",), 10),
    "ruined": Known(_ruined, "helps", TRUSTING, 15),
    "tiny": Known(_tiny, "cannot tell", ("single",), 5),
}


def run(name: str, data_dir: str | None, jobs: int) -> dict[str, object]:
    """The advice on one data set, as a row."""
    known = CASES[name]
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        flags = known.flags(folder, data_dir)
        out = folder / "advice"
        command = [sys.executable, "-m", "maxl", "advise", *flags, *_SHARED]
        command += ["--budget", str(known.budget), "--jobs", str(jobs), "--out", str(out)]
        subprocess.run(command, check=True)
        advice = json.loads((out / "advice.json").read_text())
    return row(name, advice)


def row(name: str, advice: Mapping[str, Any]) -> dict[str, object]:
    """What the table keeps of an advice."""
    known, control, inputs = CASES[name], advice["control"] or {}, advice["against_inputs"] or {}
    (low, high), ends = advice["interval"], control.get("interval", (None, None))
    beside = inputs.get("interval", (None, None))
    return {
        "case": name,
        "verdict": advice["verdict"],
        "right": known.right(advice),
        **{key: advice[key] for key in ("method", "against", "measure", "difference")},
        "low": low,
        "high": high,
        "seeds": advice["seeds"],
        "budget": known.budget,
        "predicted_minutes": round(advice["predicted_minutes"], 2),
        "minutes": round(advice["minutes"], 2),
        "recommended": advice["recommended"],
        "control": control.get("against"),
        "control_difference": control.get("difference"),
        "control_low": ends[0],
        "control_high": ends[1],
        "probe_inputs": advice["probe_inputs"],
        "use_inputs": advice["use_inputs"],
        "inputs_difference": inputs.get("difference"),
        "inputs_low": beside[0],
        "inputs_high": beside[1],
    }


def keep(table: Path, new: Mapping[str, object]) -> None:
    """Puts a case's row into a table, in place of its old one; other rows stay as they are, without columns that they lack."""
    old = (
        [] if not table.exists() else pd.read_csv(table, dtype=str, keep_default_na=False).to_dict("records")
    )
    rows = [r for r in old if r["case"] != new["case"]] + [dict(new)]
    pd.DataFrame(rows, columns=list(new)).to_csv(table, index=False)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("cases", nargs="*", choices=[*CASES, []])
    parser.add_argument("--data-dir", help="folder that holds clinc150")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time")
    options = parser.parse_args()
    for name in options.cases or CASES:
        found = run(name, options.data_dir, options.jobs)
        keep(TABLE, found)
        print(found, flush=True)


if __name__ == "__main__":
    main()
