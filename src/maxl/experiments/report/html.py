"""From parts to HTML: semantic elements, text alternatives, no request to anywhere."""

from __future__ import annotations

import base64
from html import escape
from importlib import resources

import pandas as pd

from maxl.experiments.report.parts import Figure, Gallery, Note, Part, Picture, Points, Row, Section, Table


def document(title: str, sections: list[Section], scripts: list[str]) -> str:
    """The whole page.

    Args:
        title: Of the page and its first heading.
        sections: In order; the first is the summary.
        scripts: JavaScript, run after the page is there.
    """
    body = Body()
    main = "\n".join(body.section(section) for section in sections)
    links = "".join(
        f'<li><a href="#{section.anchor}">{escape(section.title)}</a></li>' for section in sections
    )
    style = resources.files("maxl.experiments.report").joinpath("report.css").read_text(encoding="utf-8")
    data = "\n".join(body.data)
    code = "\n".join(f"<script>{script}</script>" for script in scripts)
    # The policy makes the browser itself refuse any request the page might make.
    policy = (
        "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:; "
        "base-uri 'none'; form-action 'none'"
    )
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{escape(title)}</title>
<link rel="icon" href="data:,">
<style>{style}</style>
</head>
<body>
<a class="skip" href="#main">Skip to the report</a>
<header><h1>{escape(title)}</h1>
<nav aria-label="Sections"><ul>{links}</ul></nav></header>
<main id="main">
{main}
</main>
<noscript><p>The figures need JavaScript; their data stand in the tables below them.</p></noscript>
{data}
{code}
</body>
</html>
"""


class Body:
    """Turns parts into HTML and collects the figures' data."""

    def __init__(self) -> None:
        self.data: list[str] = []

    def section(self, section: Section) -> str:
        """A section with its heading."""
        parts = "\n".join(self.part(part) for part in section.parts)
        intro = f'<p class="intro">{escape(section.intro)}</p>' if section.intro else ""
        name = f"{section.anchor}-title"
        return (
            f'<section id="{section.anchor}" aria-labelledby="{name}">'
            f'<h2 id="{name}">{escape(section.title)}</h2>{intro}\n{parts}</section>'
        )

    def part(self, part: Part) -> str:
        """One part."""
        match part:
            case Figure():
                return self._figure(part)
            case Table():
                return table(part.frame, part.caption, part.group)
            case Gallery():
                return _gallery(part)
            case Row():
                return f'<div class="side-by-side">{"".join(self._figure(one) for one in part.figures)}</div>'
            case Points():
                title = f"<h3>{escape(part.title)}</h3>" if part.title else ""
                return f"{title}<ul>{''.join(f'<li>{escape(item)}</li>' for item in part.items)}</ul>"
            case Note():
                return f'<p class="note">{escape(part.text)}</p>'

    def _figure(self, figure: Figure) -> str:
        number = len(self.data)
        # "</" would end the script element, "<!--" would change how it is read.
        json = figure.plot.to_json().replace("<", "\\u003c")
        self.data.append(f'<script type="application/json" id="figure-{number}-data">{json}</script>')
        details = ""
        if figure.table is not None:
            inner = table(figure.table, f"Data of the figure “{figure.title}”")
            details = f"<details><summary>Data as a table</summary>{inner}</details>"
        title, description = escape(figure.title), escape(figure.description)
        return (
            f'<figure aria-labelledby="figure-{number}-title" aria-describedby="figure-{number}-text">'
            f'<figcaption><h3 id="figure-{number}-title">{title}</h3>'
            f'<p id="figure-{number}-text">{description}</p></figcaption>'
            f'<div class="plot" role="img" aria-label="{title}. {description}" '
            f'data-figure="figure-{number}-data" style="height:{figure.height}px"></div>{details}</figure>'
        )


def table(frame: pd.DataFrame, caption: str, group: str | None = None) -> str:
    """A table in a region that scrolls sideways, also from the keyboard, where the page is narrow."""
    columns = [str(name) for name in frame.columns if name != group]
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in columns)
    blocks = [(None, frame)] if group is None else list(frame.groupby(group, sort=False))
    bodies = []
    for name, block in blocks:
        rows = []
        if name is not None:
            wide = (
                f'<th scope="rowgroup" colspan="{len(columns)}">{escape(str(group))} {escape(str(name))}</th>'
            )
            rows.append(f'<tr class="group">{wide}</tr>')
        for values in block[columns].itertuples(index=False):
            first, *rest = (str(value) for value in values)
            rows.append(f'<tr><th scope="row">{escape(first)}</th>{"".join(map(_cell, rest))}</tr>')
        bodies.append(f"<tbody>{''.join(rows)}</tbody>")
    label = escape(caption)
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{label}"><table>'
        f"<caption><span>{label}</span></caption><thead><tr>{head}</tr></thead>{''.join(bodies)}</table></div>"
    )


def _cell(text: str) -> str:
    start = '<td class="words">' if len(text) > 40 else "<td>"
    return f"{start}{escape(text)}</td>"


def _gallery(gallery: Gallery) -> str:
    strips = "".join(_picture(picture) for picture in gallery.pictures)
    title, note = escape(gallery.title), escape(gallery.note)
    return f'<h3>{title}</h3><p>{note}</p><div class="gallery">{strips}</div>'


def _picture(picture: Picture) -> str:
    source = f"data:image/png;base64,{base64.b64encode(picture.png).decode()}"
    return (
        f'<figure class="strip"><img src="{source}" alt="{escape(picture.alternative)}">'
        f"<figcaption>{escape(picture.caption)}</figcaption></figure>"
    )
