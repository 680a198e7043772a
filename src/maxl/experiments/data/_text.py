"""CLINC150: sentences in 150 intents of 10 domains, a human hierarchy for text."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

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
    sentences, domains = _read_json(folder / "data_full.json"), _read_json(folder / "domains.json")
    domain_of: dict[str, str] = {}
    for domain, intents in domains.items():
        if not isinstance(intents, list) or not all(isinstance(intent, str) for intent in intents):
            raise ValueError(f"'{folder / 'domains.json'}' needs a list of intents for '{domain}'")
        for intent in intents:
            if domain_of.setdefault(intent, domain) != domain:
                raise ValueError(
                    f"'{folder / 'domains.json'}' puts the intent '{intent}' into both '{domain_of[intent]}' "
                    f"and '{domain}'"
                )

    def part(key: str) -> Part:
        origin = f"'{folder / 'data_full.json'}', {key}"
        pairs = sentences.get(key)
        if not isinstance(pairs, list):
            raise ValueError(f"{origin}: needs a list of [text, intent]; got {type(pairs).__name__}")
        for row, pair in enumerate(pairs):
            if (
                not isinstance(pair, list)
                or len(pair) != 2
                or not all(isinstance(item, str) for item in pair)
            ):
                raise ValueError(f"{origin}, row {row}: needs [text, intent], two strings")
            if pair[1] not in domain_of:
                raise ValueError(
                    f"domains.json gives no domain for the intent '{pair[1]}' of {origin}, row {row}"
                )
        texts = [text for text, _ in pairs]
        columns = {
            "domain": Column(np.array([domain_of[intent] for _, intent in pairs], dtype=object)),
            "intent": Column(np.array([intent for _, intent in pairs], dtype=object)),
        }
        return Part(columns, lambda rows: [texts[row] for row in rows], origin)

    return Source(
        part("train"),
        part("test"),
        part("val"),
        primary="domain",
        human="intent",
        fit=fit_text,
        feature_names=("text",),
    )


def _read_json(file: Path) -> dict[str, Any]:
    """A JSON file that holds a dictionary."""
    try:
        content = json.loads(file.read_text("utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"'{file}' cannot be read as JSON: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"'{file}' needs to hold a dictionary; got {type(content).__name__}")
    return content
