"""A study from the command line."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from maxl.experiments.cli.listen import note
from maxl.experiments.cli.terminal import shown

if TYPE_CHECKING:
    from maxl.experiments.studies.launcher import Launcher
    from maxl.experiments.studies.study import Study

LINES_APART = 30.0  # seconds between lines of progress in a log, of studies, whose runs end one after another


def require_jobs(jobs: int | None) -> None:
    """ValueError unless so many runs can go on at a time."""
    if jobs is not None and jobs < 1:
        raise ValueError(f"--jobs needs to be at least 1; got {jobs}")


def run_study(study: Study, out: Path, jobs: int | None, launcher: Launcher | None = None) -> None:
    """Runs what is missing of a study with a progress bar, prints its tables and verdicts, writes its report.

    Args:
        study: What to run.
        out: The study's folder.
        jobs: Runs at a time; None for the study's own choice.
        launcher: Where runs are trained; by default here.

    Raises:
        ValueError, ChildProcessError: if ``jobs`` is below 1, or as ``Study.run``.
    """
    # Not above: they import torch, pandas and plotly, for which --help is not to wait.
    from maxl.experiments.cli.show import console, label_verdicts, progress_bar, study_tables
    from maxl.experiments.report import write_report
    from maxl.experiments.studies.tables import divergences

    require_jobs(jobs)
    total = sum(p.config.epochs for p in study.plan())
    with progress_bar("study", total, every=LINES_APART) as advance:
        results = study.run(
            out,
            jobs=jobs,
            progress=lambda done, _, said: advance(done, said),
            tell=note,
            estimate=note,
            launcher=launcher,
        )
        advance(total)  # runs that were there already, and those that ended early, are done too
    note("writing the report")
    report = write_report(out)  # before anything is printed: whoever reads may stop after the first line
    show = console()
    for table, lines in study_tables(results):
        show.print(table)
        show.print("\n".join(f"- {line}" for line in lines))
    for line in label_verdicts(results):
        show.print(f"- {line}")
    for path, reason in divergences(out).items():
        show.print(f"- left out: {shown(path)} {shown(reason)}")
    show.print(f"Runs, results.csv and comparisons.csv: {shown(out)}", soft_wrap=True)
    show.print(f"Report: {shown(report)}", soft_wrap=True)


def run_part(
    study: Study, out: Path, part: tuple[int, int], jobs: int | None, launcher: Launcher | None, whole: str
) -> None:
    """Runs what is missing of a part of a study, with a progress bar.

    Args:
        study, out, jobs, launcher: As for ``run_study``.
        part: Of the runs, as for ``Study.run_part``.
        whole: The command that writes the table in the end.

    Raises:
        ValueError, ChildProcessError: as ``Study.run_part``.
    """
    from maxl.experiments.cli.show import console, progress_bar
    from maxl.experiments.runs.folder import RunFolder

    number, count = part
    total = sum(p.config.epochs for p in study.plan()[max(0, number - 1) :: max(1, count)])
    with progress_bar("part", total, every=LINES_APART) as advance:
        runs = study.run_part(
            out,
            part,
            jobs=jobs,
            progress=lambda done, _, said: advance(done, said),
            tell=note,
            launcher=launcher,
        )
        advance(total)
    show = console()
    for folder in (RunFolder(out / run.path) for run in runs):
        if folder.diverged:
            show.print(f"- no result: {shown(folder.path)} {shown(folder.read_divergence())}")
    show.print(
        f"Part {number} of {count}, {len(runs)} run{'s' * (len(runs) != 1)}: {shown(out)}", soft_wrap=True
    )
    show.print(f"The table, when all parts have ended: {shown(whole)}", soft_wrap=True)
