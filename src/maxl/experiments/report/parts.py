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


@dataclass(frozen=True)
class Decision:
    """A box with an answer that is read before anything else.

    Attributes:
        answer: "yes", "no", "cannot tell" or another word, which sets the box's colour; it stands in the headline too.
        headline: The answer in a sentence.
        facts: Questions and their answers.
        advice: What to do next.
        command: To be typed for it, or None.
        details: Further decisions, of which this is the sum, folded away.
    """

    answer: str
    headline: str
    facts: list[tuple[str, str]] = field(default_factory=list)
    advice: str = ""
    command: str | None = None
    title: str = ""
    details: list[Decision] = field(default_factory=list)


@dataclass(frozen=True)
class Folded:
    """Parts behind a line that opens them."""

    title: str
    parts: list[Part]


@dataclass(frozen=True)
class Browser:
    """Invented classes to look through, to name and to take along as a hierarchy.

    Attributes:
        title: Heading.
        note: How to read it.
        primary_names: Of the C classes.
        owner: Class of each of the K invented classes.
        names: Of the K invented classes.
        rows: Of the training part, (N,).
        auxiliary: The likeliest invented class of each row, (N,).
        samples: Some of these rows to look at.
        file: Name for the hierarchy when it is saved.
        command: That trains on it.
        beside: Whether the file lies beside the page already.
    """

    title: str
    note: str
    primary_names: list[str]
    owner: list[int]
    names: list[str]
    rows: list[int]
    auxiliary: list[int]
    samples: list[Sample]
    file: str
    command: str
    beside: bool = False


@dataclass(frozen=True)
class Sample:
    """One sample of an invented class.

    Attributes:
        auxiliary: The invented class.
        name: Its row or file.
        probabilities: Of the invented classes of its class, in order.
        png: A picture, where there is one.
    """

    auxiliary: int
    name: str
    probabilities: list[float]
    png: bytes | None = None


Part = Figure | Row | Table | Gallery | Note | Points | Decision | Folded | Browser


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
