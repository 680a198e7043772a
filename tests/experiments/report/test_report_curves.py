"""Curves: axes where the curves are, names at their ends, and methods that a colour-blind reader tells apart."""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd
import pytest

from maxl.experiments.report.draw import over_epochs, settled, spread_out
from maxl.experiments.report.style import looks
from maxl.experiments.runs.methods import METHODS

# Deuteranopia, on linear RGB: Machado, Oliveira and Fernandes 2009, severity 1.
DEUTERANOPIA = np.array(
    [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
)


def curve(values: list[float], half: float = 0.5) -> pd.DataFrame:
    mean = np.asarray(values)
    return pd.DataFrame(
        {"mean": mean, "low": mean - half, "high": mean + half}, index=range(1, len(mean) + 1)
    )


def test_the_axis_is_where_the_curves_settle() -> None:
    rising = [10.0, 60.0, 80.0, 84.0, 85.0, 86.0, 86.5, 87.0, 87.0, 87.2]
    (low, high), beyond = settled({"a": curve(rising), "b": curve([v + 1 for v in rising])}, (0, 100))
    assert 60 < low < 80
    assert 88 < high < 92
    assert beyond


def test_what_fits_is_shown_whole() -> None:
    flat = [84.0, 85.0, 86.0, 87.0, 88.0]
    (low, high), beyond = settled({"a": curve(flat)}, (0, 100))
    assert low < 84
    assert high > 88
    assert not beyond


def test_of_few_epochs_none_is_left_out_and_ticks_are_whole() -> None:
    found = {"a": curve([10.0, 80.0, 82.0])}
    for few in (found["a"], curve([42.9, 28.6, 28.6, 21.4, 28.6])):  # the first epoch may be the best one
        (low, high), beyond = settled({"a": few}, (0, 100))
        assert low < few["mean"].min()
        assert high > few["mean"].max()
        assert not beyond
    assert over_epochs(found, looks(["a"]), title="y").layout.xaxis.dtick == 1
    long = {"a": curve([float(value) for value in range(100)])}
    assert over_epochs(long, looks(["a"]), title="y").layout.xaxis.dtick is None


@pytest.mark.parametrize("values", [[100.0] * 5, [0.0] * 5, [50.0]])
def test_an_axis_has_room_and_ends_at_the_measures_bounds(values: list[float]) -> None:
    (low, high), _ = settled({"a": curve(values, 0.0)}, (0, 100))
    assert 0 <= low < high < 105
    assert low <= values[-1] <= high


def test_bands_of_two_seeds_do_not_flatten_the_curves() -> None:
    (low, high), _ = settled({"a": curve([80.0, 82.0, 84.0, *[86.0] * 5], half=60.0)}, (0, 100))
    assert high - low < 30


def test_names_at_the_ends_keep_their_order_and_their_distance() -> None:
    wanted = {"a": 10.0, "b": 12.0, "c": 13.0, "d": 80.0}
    placed = spread_out(wanted, 17)
    assert list(placed) == ["a", "b", "c", "d"]
    assert all(after - before >= 17 - 1e-9 for before, after in itertools.pairwise(placed.values()))
    assert placed["d"] == 80.0


def test_every_line_has_its_name_at_its_end() -> None:
    found = {name: curve([80.0, 81.0, 82.0 + i]) for i, name in enumerate(METHODS)}
    plot = over_epochs(found, looks(list(METHODS)), title="Test accuracy (%)")
    notes = [note for note in plot.layout.annotations if note.text in METHODS]
    assert [note.text for note in notes] == list(METHODS)
    assert all(note.x == 3 for note in notes)
    assert [note.arrowcolor for note in notes] == [looks(list(METHODS))[name].colour for name in METHODS]
    assert plot.layout.showlegend is False


def seen(colour: str) -> np.ndarray:
    """CIELAB of a colour as a deuteranope sees it."""
    rgb = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    linear = (DEUTERANOPIA @ linear).clip(0, 1)
    xyz = (
        np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
        @ linear
        / np.array([0.9505, 1.0, 1.089])
    )
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def test_no_two_methods_look_alike_without_green() -> None:
    drawn = looks(list(METHODS))
    for one, other in itertools.combinations(METHODS, 2):
        apart = float(np.linalg.norm(seen(drawn[one].colour) - seen(drawn[other].colour)))
        assert apart > 15 or drawn[one].dash != drawn[other].dash, (one, other, apart)
    usual = ("single", "uniform", "random", "maxl")  # these by colour alone
    for one, other in itertools.combinations(usual, 2):
        apart = float(np.linalg.norm(seen(drawn[one].colour) - seen(drawn[other].colour)))
        assert apart > 15, (one, other, apart)
