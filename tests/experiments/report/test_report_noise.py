"""What a report says of studies on wrong labels: not that a second head may do the same."""

from __future__ import annotations

from pathlib import Path

import pytest

from _report_helpers import write_run
from maxl.experiments.report import write_report


def study(folder: Path, **accuracies: float) -> Path:
    """Runs of methods, whose names have - for _, with a mean accuracy each and three seeds."""
    for name, mean in accuracies.items():
        method = name.replace("_", "-")
        for seed in range(4):
            path = folder / "runs" / method / f"seed{seed}"
            write_run(path, method=method, seed=seed, final=mean, psi=None)
    return folder


@pytest.mark.parametrize(
    ("accuracies", "said", "unsaid"),
    [
        ({"single": 0.5, "fine_tuned": 0.9}, ["Yes: fine-tuned is better than single-task"], ["cheaper"]),
        (
            {"single": 0.5, "corrected": 0.9},
            [
                "Nothing cheaper was run with the same trusted samples",
                "--methods single fine-tuned corrected",
            ],
            [],
        ),
        (
            {"single": 0.5, "fine_tuned": 0.9, "corrected": 0.901},
            ["It is not shown to beat fine-tuned, which costs a fraction"],
            [],
        ),
        (
            {"single": 0.5, "fine_tuned": 0.9, "corrected": 0.95},
            ["Yes: corrected is better"],
            ["is not shown to beat"],
        ),
    ],
)
def test_the_verdict_of_wrong_labels(
    accuracies: dict[str, float], said: list[str], unsaid: list[str], tmp_path: Path
) -> None:
    page = write_report(study(tmp_path, **accuracies)).read_text()
    assert "Does anything help against wrong labels on" in page
    for words in said:
        assert words in page, words
    for words in [*unsaid, "second head", "labels that say nothing"]:
        assert words not in page, words
