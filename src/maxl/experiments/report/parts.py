"""What a report is made of: sections of figures, tables, pictures and notes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go


@dataclass(frozen=True)
class Figure:
    """An interactive figure with its alternatives for those who cannot see it.

    Attributes:
        title: Caption.
        plot: The Plotly figure, without colours for page or text (the page's template sets these).
        description: What it shows and what can be seen, in a sentence or two.
        table: Its data, or the part that matters.
        height: In CSS pixels.
        name: File name (without suffix) when it is written as an image.
    """

    title: str
    plot: go.Figure
    description: str
    table: pd.DataFrame | None = None
    height: int = 420
    name: str = ""


@dataclass(frozen=True)
class Row:
    """Figures to compare, side by side where the page is wide enough."""

    figures: list[Figure]


@dataclass(frozen=True)
class Table:
    """A table; rows that start a new value of ``group`` get a heading row of their own."""

    caption: str
    frame: pd.DataFrame
    group: str | None = None


@dataclass(frozen=True)
class Picture:
    """A strip of images as one PNG."""

    png: bytes
    alternative: str
    caption: str


@dataclass(frozen=True)
class Gallery:
    """Strips of images under one caption."""

    title: str
    note: str
    pictures: list[Picture]


@dataclass(frozen=True)
class Note:
    """A sentence of its own, such as why a figure is left out."""

    text: str


@dataclass(frozen=True)
class Points:
    """A list of sentences, under a heading of its own where it has one."""

    items: list[str]
    title: str = ""


Part = Figure | Row | Table | Gallery | Note | Points


@dataclass(frozen=True)
class Section:
    """A heading, a sentence that says how to read what follows, and the parts."""

    title: str
    intro: str
    parts: list[Part] = field(default_factory=list)

    @property
    def anchor(self) -> str:
        """The identifier that links point to."""
        return "-".join("".join(c if c.isalnum() else " " for c in self.title.lower()).split())
