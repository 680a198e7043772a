"""Figures against a quantity, as tables and as one picture."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Curve:
    """One row of a table, or one line of a panel.

    Attributes:
        quantity: What is varied.
        name: What was measured, or of what.
        values: Of the quantity.
        figures: One for each.
        drawn: Whether it is in the picture, too; what is of another size than its neighbours is not.
    """

    quantity: str
    name: str
    values: list[int]
    figures: list[float]
    drawn: bool = True


def show(found: Sequence[Curve], out: str | None, unit: str = "") -> None:
    """Prints the tables, and draws the picture where a file is named and matplotlib is installed.

    Args:
        found: Curves, those of a quantity with the same values.
        out: The picture's file, or None.
        unit: Of all figures.
    """
    print(render(found))
    if out and importlib.util.find_spec("matplotlib") is None:
        print(f"{out}: not drawn, matplotlib is missing; it is in the dependency group 'bench'")
    elif out:
        plot(found, out, unit)


def render(found: Sequence[Curve]) -> str:
    """One Markdown table for each quantity."""
    blocks = []
    for quantity in dict.fromkeys(curve.quantity for curve in found):
        lines = [c for c in found if c.quantity == quantity]
        rows = [[quantity, *map(str, lines[0].values)], ["---"] * (1 + len(lines[0].values))]
        rows += [[c.name, *(f"{figure:.2f}" for figure in c.figures)] for c in lines]
        blocks.append("\n".join("| " + " | ".join(row) + " |" for row in rows))
    return "\n\n".join(blocks)


def plot(found: Sequence[Curve], path: str, unit: str = "") -> None:
    """One panel for each quantity, three or four in a row."""
    from matplotlib.figure import Figure

    quantities = list(dict.fromkeys(curve.quantity for curve in found))
    rows = -(-len(quantities) // 4)
    columns = -(-len(quantities) // rows)
    figure = Figure(figsize=(4.6 * columns, 4 * rows), layout="constrained")
    axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axis, quantity in zip(axes, quantities, strict=False):
        lines = [c for c in found if c.quantity == quantity and c.drawn]
        for curve in lines:
            axis.plot(curve.values, curve.figures, marker="o", label=curve.name)
        axis.set(xlabel=quantity, ylabel=unit, xscale="log")
        axis.set_ylim(
            0, (1.1 + 0.15 * len(lines)) * max(max(c.figures) for c in lines)
        )  # the legend is above
        axis.set_xticks(lines[0].values, [str(v) for v in lines[0].values])
        axis.minorticks_off()
        axis.legend(fontsize="small", loc="upper center")
    for axis in axes[len(quantities) :]:
        axis.remove()
    figure.savefig(path)
