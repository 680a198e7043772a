"""CLINC150: sentences in 150 intents of 10 domains, a human hierarchy for text."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from maxl.experiments.data._features import fit_text
from maxl.experiments.data._source import Column, Part, Source


def clinc150(folder: Path) -> Source | None:
    """The published `data_full.json` and `domains.json`; None where they are missing.

    Primary labels are the domains, human ones the intents. The out-of-scope sentences are left out, since
    they belong to no domain.
    """
    if not (folder / "data_full.json").is_file():
        return None
    if not (folder / "domains.json").is_file():
        raise FileNotFoundError(
            f"'{folder}' has data_full.json but not domains.json, which groups the intents"
        )
    sentences: dict[str, list[tuple[str, str]]] = json.loads((folder / "data_full.json").read_text("utf-8"))
    domains: dict[str, list[str]] = json.loads((folder / "domains.json").read_text("utf-8"))
    domain_of = {intent: domain for domain, intents in domains.items() for intent in intents}

    def part(key: str) -> Part:
        texts = [text for text, _ in sentences[key]]
        intents = [intent for _, intent in sentences[key]]
        unknown = next((intent for intent in intents if intent not in domain_of), None)
        if unknown is not None:
            raise ValueError(f"domains.json gives no domain for the intent '{unknown}' of data_full.json")
        columns = {
            "domain": Column(np.array([domain_of[intent] for intent in intents])),
            "intent": Column(np.array(intents)),
        }
        return Part(columns, lambda rows: [texts[row] for row in rows])

    return Source(
        part("train"),
        part("test"),
        part("val"),
        primary="domain",
        human="intent",
        fit=fit_text,
        feature_names=("text",),
    )
