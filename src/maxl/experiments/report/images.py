"""The main figures as image files, drawn by kaleido in a Chrome or Chromium of the machine."""

from __future__ import annotations

from pathlib import Path

import plotly.graph_objects as go

from maxl.experiments.report.final import accuracy_by_psi, cost
from maxl.experiments.report.labels import labels_over_epochs
from maxl.experiments.report.parts import Figure, Part
from maxl.experiments.report.runs import Results
from maxl.experiments.report.style import looks, templates
from maxl.experiments.report.training import accuracy_over_epochs, cosine_over_epochs

SUFFIXES = ("png", "svg", "pdf")


def write(study: Results, folder: Path, suffix: str) -> list[Path]:
    """Writes every figure that has a file name; see ``maxl.experiments.report.write_images``."""
    if suffix not in SUFFIXES:
        raise ValueError(f"images can be {', '.join(SUFFIXES)}; got {suffix!r}")
    try:
        import kaleido  # type: ignore[import-not-found,unused-ignore]
        from kaleido.errors import ChromeNotFoundError  # type: ignore[import-not-found,unused-ignore]
    except ImportError as error:
        raise ImportError(
            'images of the figures need kaleido: pip install "maxl-torch[images]" (the camera button of a '
            "figure in report.html saves a PNG without it)"
        ) from error
    figures = [part for part in main_figures(study) if isinstance(part, Figure) and part.name]
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{_file_name(figure.name)}.{suffix}" for figure in figures]
    jobs = [
        {
            "fig": _on_white(figure),
            "path": str(path),
            "opts": {"width": 900, "height": figure.height, "scale": 2},
        }
        for figure, path in zip(figures, paths, strict=True)
    ]
    try:
        kaleido.write_fig_from_object_sync(jobs)
    except ChromeNotFoundError as error:
        raise RuntimeError(
            "images of the figures need Chrome or Chromium; none found: install it or run kaleido_get_chrome"
        ) from error
    return paths


def main_figures(study: Results) -> list[Part]:
    """The figures of a paper: curves, cosine, labels, number of classes, cost."""
    look = looks(study.methods)
    parts: list[Part] = []
    for setting in study.settings:
        parts.append(accuracy_over_epochs(setting, look))
        parts += cosine_over_epochs(setting, look) + labels_over_epochs(setting, look) + cost(setting, look)
    return parts + accuracy_by_psi(study, look)


def _on_white(figure: Figure) -> go.Figure:
    plot = go.Figure(figure.plot)
    plot.update_layout(template=templates()["light"], paper_bgcolor="white")
    return plot


def _file_name(name: str) -> str:
    return "-".join("".join(c if c.isalnum() else " " for c in name.lower().replace("ψ", "psi")).split())
