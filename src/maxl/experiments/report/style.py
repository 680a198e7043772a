"""Colours, dashes and the two looks of every figure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from maxl.experiments.studies.variants import base_method

# Distinct under the common colour-vision deficiencies and at least 3:1 against both page backgrounds. Each
# method has a dash of its own as well, so that no figure depends on colour alone.
_METHODS: dict[str, tuple[str, str]] = {
    "single": ("#2878B5", "solid"),
    "random": ("#808080", "dot"),
    "uniform": ("#783CFF", "dash"),
    "frozen": ("#1F9AA8", "dashdot"),
    "kmeans": ("#1B9E5A", "longdash"),
    "kmeans-shuffled": ("#5E8C6A", "6px,6px"),
    "contrastive": ("#B0562F", "1px,5px,8px,5px"),
    "prototypes-shuffled": ("#7D8A4E", "4px,4px,1px,4px"),
    "prototypes": ("#4F7A28", "14px,3px"),
    "human-shuffled": ("#9A7FB8", "2px,6px"),
    "prototypical": ("#C26BA0", "10px,3px,2px,3px"),
    "human": ("#A67C1A", "longdashdot"),
    "maxl": ("#D9541E", "solid"),
    "weighted": ("#C9425B", "8px,2px,2px,2px"),
    "wamal": ("#A1447A", "3px,3px,9px,3px"),
    "gated": ("#6573C3", "12px,4px"),
    "small-loss": ("#4C7F9E", "4px,2px,4px,6px"),
    "gce": ("#9C7A3C", "7px,5px"),
    "agreement": ("#5B7F4A", "11px,3px,3px,3px"),
    "trusted-only": ("#747F8C", "1px,4px"),
    "fine-tuned": ("#2F8F86", "9px,4px,1px,4px,1px,4px"),
    "reweighted": ("#B8558C", "16px,4px"),
    "corrected": ("#C2501A", "5px,3px,1px,3px"),
}
_SPARE = (
    ("#8A6D5B", "5px,2px"),
    ("#5F8A1D", "2px,4px"),
)
_SYMBOLS = ("circle", "square", "diamond", "triangle-up", "x", "star", "cross", "triangle-down")
_VARIANT_DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")

# Ten hues times shapes, for classes; ten hues alone cannot name twenty classes.
CLASS_COLOURS = (
    "#2878B5",
    "#D9541E",
    "#1B9E5A",
    "#8E5BC4",
    "#A67C1A",
    "#1F9AA8",
    "#C26BA0",
    "#808080",
    "#C9425B",
    "#5F8A1D",
)
CLASS_SYMBOLS = ("circle", "x", "square", "diamond-open", "triangle-up", "cross", "star", "circle-open")


@dataclass(frozen=True)
class Look:
    """How one method is drawn everywhere."""

    colour: str
    dash: str
    symbol: str = "circle"

    def band(self) -> str:
        """Its colour, see-through."""
        red, green, blue = (int(self.colour[i : i + 2], 16) for i in (1, 3, 5))
        return f"rgba({red},{green},{blue},0.18)"


def looks(labels: Sequence[str]) -> dict[str, Look]:
    """One look a method: the same in every figure of a study; variants share a colour and differ in dash."""
    found: dict[str, Look] = {}
    seen: dict[str, int] = {}
    spare: dict[str, tuple[str, str]] = {}
    for label in labels:
        method = base_method(label)
        if method not in _METHODS and method not in spare:
            spare[method] = _SPARE[len(spare) % len(_SPARE)]
        colour, dash = _METHODS.get(method) or spare[method]
        variant = seen.get(method, 0)
        seen[method] = variant + 1
        found[label] = Look(
            colour,
            dash if variant == 0 else _VARIANT_DASHES[variant % len(_VARIANT_DASHES)],
            _SYMBOLS[len(found) % len(_SYMBOLS)],
        )
    return found


def templates() -> dict[str, dict[str, Any]]:
    """Plotly templates for light and dark pages; the page picks one, figures set neither."""
    return {"light": _template("#1b1f24", "#d5d9de"), "dark": _template("#e6e8eb", "#3b424a")}


def _template(ink: str, grid: str) -> dict[str, Any]:
    axis = {"gridcolor": grid, "zerolinecolor": grid, "linecolor": grid, "automargin": True, "ticks": ""}
    return {
        "layout": {
            "font": {"color": ink, "family": "system-ui, sans-serif", "size": 13},
            "paper_bgcolor": "rgba(0,0,0,0)",
            "plot_bgcolor": "rgba(0,0,0,0)",
            "xaxis": axis,
            "yaxis": axis,
            "margin": {"l": 56, "r": 12, "t": 28, "b": 44},
            "legend": {"orientation": "h", "yref": "container", "y": 0, "yanchor": "bottom", "x": 0},
            "modebar": {"bgcolor": "rgba(0,0,0,0)", "color": grid, "activecolor": ink},
            "hoverlabel": {"font": {"family": "system-ui, sans-serif"}},
            "colorway": [colour for colour, _ in _METHODS.values()],
        }
    }


def as_text(name: str) -> str:
    """A name for a figure, whose texts are markup and know no entity of a quotation mark."""
    return escape(name, quote=False)


def both_ends(name: str, most: int) -> str:
    """A name in so many characters at most: layers, and variants of a method, differ at their ends, mostly the last one."""
    head = most // 3
    return name if len(name) <= most else f"{name[:head]}…{name[head + 1 - most :]}"
