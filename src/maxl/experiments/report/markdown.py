"""The summary and the results as Markdown, for a README or an issue."""

from __future__ import annotations

import pandas as pd

from maxl.experiments.report.page import decision, results, summary, title
from maxl.experiments.report.parts import Decision, Points, Section, Table
from maxl.experiments.report.runs import Results


def markdown(study: Results) -> str:
    """The whole text."""
    blocks = [f"# {_escape(title(study))}"]
    for section in (decision(study), summary(study), Section("Results", "", results(study))):
        blocks.append(f"## {section.title}")
        for part in section.parts:
            if isinstance(part, Points):
                blocks.append(f"### {_escape(part.title)}")
                blocks.append("\n".join(f"- {_escape(item)}" for item in part.items))
            elif isinstance(part, Decision):
                blocks += _decision(part)
            elif isinstance(part, Table):
                blocks.append(f"**{_escape(part.caption)}**")
                blocks.append(_table(part.frame))
    return "\n\n".join(blocks) + "\n"


def _decision(decision: Decision) -> list[str]:
    blocks = [f"### {_escape(decision.title)}"] if decision.title else []
    blocks.append(f"**{_escape(decision.headline)}**")
    if decision.facts:
        blocks.append("\n".join(f"- {_escape(q)}: {_escape(a)}" for q, a in decision.facts))
    if decision.advice:
        blocks.append(_escape(decision.advice if decision.command else f"{decision.advice.rstrip(':.')}."))
    if decision.command is not None:
        blocks.append(f"```\n{decision.command}\n```")
    return blocks + [block for each in decision.details for block in _decision(each)]


def _table(frame: pd.DataFrame) -> str:
    rows = [list(frame.columns), ["---"] * len(frame.columns), *frame.to_numpy().tolist()]
    return "\n".join(f"| {' | '.join(_escape(str(cell)) for cell in row)} |" for row in rows)


def _escape(text: str) -> str:
    for character in "\\|*_<`[]":
        text = text.replace(character, f"\\{character}")
    return text
