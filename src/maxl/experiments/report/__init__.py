"""The report of a study: one self-contained HTML file, a Markdown table, and the main figures as images.

The parts that draw load plotly, pandas and scikit-learn, so they are imported when a report is asked for.
"""

from __future__ import annotations

from pathlib import Path

from maxl.experiments.runs.files import write_at_once


def write_report(folder: str | Path, out: str | Path | None = None) -> Path:
    """Writes the report of a study or of one run as a single HTML file that needs no network.

    Where a run's invented classes say something, a CSV file of them lies beside it, ``report-invented.csv`` for
    ``report.html``: a hierarchy that ``maxl train --human`` takes.

    Args:
        folder: A study (run folders at any depth), one run folder, or a finished advice.
        out: The file to write; ``report.html`` in ``folder`` by default.

    Returns:
        The file written.

    Raises:
        FileNotFoundError: if the folder does not exist.
        ValueError: if it holds no finished run, or a run folder is broken; the message names it.
    """
    from maxl.experiments.report.advice import is_advice, write_advice
    from maxl.experiments.report.browser import hierarchy_csv
    from maxl.experiments.report.page import page, sections
    from maxl.experiments.report.parts import Browser
    from maxl.experiments.report.runs import load_study

    if is_advice(Path(folder)):
        return write_advice(Path(folder), None if out is None else Path(out))
    study = load_study(Path(folder))
    path = Path(folder) / "report.html" if out is None else Path(out)
    found = sections(study, path)
    for browser in (part for section in found for part in section.parts if isinstance(part, Browser)):
        write_at_once(path.with_name(browser.file), hierarchy_csv(browser).encode())
    write_at_once(path, page(study, found).encode())
    return path


def write_markdown(folder: str | Path, out: str | Path | None = None) -> Path:
    """Writes the summary and the results tables as Markdown; ``report.md`` in ``folder`` by default.

    Raises:
        FileNotFoundError, ValueError: as ``write_report``.
    """
    from maxl.experiments.report.advice import no_advice
    from maxl.experiments.report.markdown import markdown
    from maxl.experiments.report.runs import load_study

    no_advice(Path(folder), "a Markdown report")
    study = load_study(Path(folder))
    path = Path(folder) / "report.md" if out is None else Path(out)
    write_at_once(path, markdown(study).encode())
    return path


def write_images(folder: str | Path, out: str | Path | None = None, *, suffix: str = "png") -> list[Path]:
    """Writes the main figures as image files, for a paper or slides.

    Args:
        folder: A study or one run folder.
        out: Folder for the images; ``figures`` in ``folder`` by default.
        suffix: "png", "svg" or "pdf".

    Returns:
        The files written, none for a figure whose data the runs lack.

    Raises:
        FileNotFoundError, ValueError: as ``write_report``; also if the suffix is another one.
        ImportError: if kaleido is not installed.
        RuntimeError: if kaleido finds no Chrome or Chromium.
    """
    from maxl.experiments.report.advice import no_advice
    from maxl.experiments.report.images import write
    from maxl.experiments.report.runs import load_study

    no_advice(Path(folder), "a report's images")
    return write(load_study(Path(folder)), Path(folder) / "figures" if out is None else Path(out), suffix)


__all__ = ["write_images", "write_markdown", "write_report"]
