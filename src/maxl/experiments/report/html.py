"""From parts to HTML: semantic elements, text alternatives, no request to anywhere."""

from __future__ import annotations

import base64
import json
from html import escape
from importlib import resources
from typing import Any

import pandas as pd

from maxl.experiments.report.parts import (
    Browser,
    Decision,
    Figure,
    Folded,
    Gallery,
    Note,
    Part,
    Picture,
    Points,
    Row,
    Section,
    Table,
)


def document(title: str, sections: list[Section], scripts: list[str], subtitle: str = "") -> str:
    """The whole page.

    Args:
        title: Of the page and its first heading.
        sections: In order; the first is read before the contents are.
        scripts: JavaScript, run after the page is there.
        subtitle: A line below the title.
    """
    body = Body()
    first, *rest = (body.section(section, way_back=i > 0) for i, section in enumerate(sections))
    links = "".join(
        f'<li><a href="#{section.anchor}">{escape(section.title)}</a></li>' for section in sections
    )
    style = resources.files("maxl.experiments.report").joinpath("report.css").read_text(encoding="utf-8")
    data = "\n".join(body.data)
    code = "\n".join(f"<script>{script}</script>" for script in scripts)
    below = f'<p class="intro">{escape(subtitle)}</p>' if subtitle else ""
    newline = "\n"
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
<header><h1>{escape(title)}</h1>{below}</header>
<main id="main" tabindex="-1">
{first}
<nav id="contents" aria-label="Contents" tabindex="-1"><h2>Contents</h2><ul>{links}</ul></nav>
{newline.join(rest)}
</main>
<noscript><p>The figures need JavaScript; their data stand in the tables below them.</p></noscript>
{data}
{code}
</body>
</html>
"""


_MATRIX = 14  # columns that a page has room for
_STACKED = 4  # columns from which a narrow page shows a row at a time


class Body:
    """Turns parts into HTML and collects the figures' data."""

    def __init__(self) -> None:
        self.data: list[str] = []

    def section(self, section: Section, *, way_back: bool = True) -> str:
        """A section with its heading and, as a rule, a link back to the contents."""
        first, *rest = [self.part(part) for part in section.parts] or [""]
        intro = f'<p class="intro">{escape(section.intro)}</p>' if section.intro else ""
        back = '<p class="back"><a href="#contents">Back to the contents</a></p>' if way_back else ""
        name, newline = f"{section.anchor}-title", "\n"
        # A heading stays with its figure where a page is printed.
        kept = bool(section.parts) and isinstance(section.parts[0], Figure)
        start, end = ('<div class="kept">', "</div>") if kept else ("", "")
        return (
            f'<section id="{section.anchor}" aria-labelledby="{name}">'
            f'{start}<h2 id="{name}">{escape(section.title)}</h2>{intro}\n{first}{end}\n'
            f"{newline.join(rest)}\n{back}</section>"
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
            case Decision():
                return self._decision(part)
            case Folded():
                inner = "".join(map(self.part, part.parts))
                return f"<details><summary>{escape(part.title)}</summary>{inner}</details>"
            case Browser():
                return self._browser(part)

    def _decision(self, decision: Decision) -> str:
        word = escape(decision.answer)
        facts = "".join(f"<dt>{escape(q)}</dt><dd>{escape(a)}</dd>" for q, a in decision.facts)
        title = f"<h3>{escape(decision.title)}</h3>" if decision.title else ""
        advice = ""
        if decision.advice:
            command = "" if decision.command is None else _typed(decision.command)
            text = decision.advice if command else decision.advice.rstrip(":.") + "."
            advice = f'<div class="next"><h3>What to do next</h3><p>{escape(text)}</p>{command}</div>'
        each = "".join(map(self._decision, decision.details))
        more = (
            f"<details><summary>Each setting, and what to do next</summary>{each}</details>" if each else ""
        )
        return (
            f'<div class="verdict" data-answer="{word}">{title}<p class="answer">{escape(decision.headline)}</p>'
            f"<dl>{facts}</dl>{advice}{more}</div>"
        )

    def _browser(self, browser: Browser) -> str:
        number = len(self.data)
        # As with figures, "<" would end the script element.
        content = json.dumps(_described(browser), ensure_ascii=False).replace("<", "\\u003c")
        self.data.append(f'<script type="application/json" id="browser-{number}-data">{content}</script>')
        title, note, file = escape(browser.title), escape(browser.note), escape(browser.file)
        where = (
            f"The same file, with the names as they are, lies beside this report: {file}. To train on it"
            if browser.beside
            else f"To train on the file, once it is saved as {file}"
        )
        return (
            f'<div class="browser" role="group" aria-labelledby="browser-{number}-title" '
            f'data-browser="browser-{number}-data"><h3 id="browser-{number}-title">{title}</h3><p>{note}</p>'
            f"<p>{where}:</p>"
            f"{_typed(browser.command)}"
            '<noscript><p class="note">To look at the samples needs JavaScript.</p></noscript></div>'
        )

    def _figure(self, figure: Figure) -> str:
        number = len(self.data)
        # "</" would end the script element, "<!--" would change how it is read.
        drawn = figure.plot.to_json().replace("<", "\\u003c")
        self.data.append(f'<script type="application/json" id="figure-{number}-data">{drawn}</script>')
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


def _described(browser: Browser) -> dict[str, Any]:
    """What the page's script reads."""
    samples = [
        {
            "k": s.auxiliary,
            "name": s.name,
            "p": s.probabilities,
            "png": None if s.png is None else base64.b64encode(s.png).decode(),
        }
        for s in browser.samples
    ]
    names = ("primary_names", "owner", "names", "rows", "auxiliary", "file")
    return {name: getattr(browser, name) for name in names} | {"samples": samples}


def table(frame: pd.DataFrame, caption: str, group: str | None = None) -> str:
    """A table that a narrow page shows a row at a time; one with very many columns scrolls, also from the keyboard.

    The roles say again what the elements are: to be laid out as blocks takes that from them.
    """
    columns = [str(name) for name in frame.columns if name != group]
    head = "".join(f'<th scope="col" role="columnheader">{escape(name)}</th>' for name in columns)
    blocks = [(None, frame)] if group is None else list(frame.groupby(group, sort=False))
    bodies = []
    for name, block in blocks:
        rows = []
        if name is not None:
            wide = (
                f'<th scope="rowgroup" role="rowheader" colspan="{len(columns)}">{escape(str(group))} '
                f"{escape(str(name))}</th>"
            )
            rows.append(f'<tr class="group" role="row">{wide}</tr>')
        for values in block[columns].itertuples(index=False):
            first, *rest = (str(value) for value in values)
            cells = "".join(map(_cell, rest, columns[1:]))
            rows.append(f'<tr role="row"><th scope="row" role="rowheader">{escape(first)}</th>{cells}</tr>')
        bodies.append(f'<tbody role="rowgroup">{"".join(rows)}</tbody>')
    label = escape(caption)
    matrix = len(columns) > _MATRIX
    kind = "matrix" if matrix else "plain" if len(columns) < _STACKED else "stacked"
    return (
        f'<div class="scroll {kind}" tabindex="0" role="region" aria-label="{label}"><table role="table">'
        f'<caption><span>{label}</span></caption><thead role="rowgroup"><tr role="row">{head}</tr></thead>'
        f"{''.join(bodies)}</table></div>"
    )


def _cell(text: str, column: str) -> str:
    start = '<td class="words"' if len(text) > 40 else "<td"
    return f'{start} role="cell" data-column="{escape(column)}">{escape(text)}</td>'


def _gallery(gallery: Gallery) -> str:
    strips = "".join(_picture(picture) for picture in gallery.pictures)
    title, note = escape(gallery.title), escape(gallery.note)
    return f'<h3>{title}</h3>{f"<p>{note}</p>" if note else ""}<div class="gallery">{strips}</div>'


def _picture(picture: Picture) -> str:
    source = f"data:image/png;base64,{base64.b64encode(picture.png).decode()}"
    return (
        f'<figure class="strip"><img src="{source}" alt="{escape(picture.alternative)}">'
        f"<figcaption>{escape(picture.caption)}</figcaption></figure>"
    )


def _typed(command: str) -> str:
    """A command, and how it is typed in a clone, where nothing is installed: a page may be read anywhere."""
    clone = "<p>In a clone of maxl: <code>uv run maxl</code> in place of <code>maxl</code>.</p>"
    return f"<pre><code>{escape(command)}</code></pre>{clone}"
