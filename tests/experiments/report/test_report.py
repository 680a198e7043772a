"""The report: what it says, what it leaves out and why, and that it needs nothing from elsewhere."""

from __future__ import annotations

import base64
import io
import itertools
import json
import re

import numpy as np
import pandas as pd
import pytest

from _report_helpers import PRIMARY_NAMES, write_run, write_study
from maxl.experiments.report import write_markdown, write_report
from maxl.experiments.report.draw import heat_maps
from maxl.experiments.report.html import Body
from maxl.experiments.report.page import page, sections
from maxl.experiments.report.page import title as title_of
from maxl.experiments.report.parts import Browser, Figure, Gallery, Note, Points, Row, Table
from maxl.experiments.report.runs import load_study
from maxl.experiments.report.samples import gallery
from maxl.experiments.report.series import curve
from maxl.experiments.report.style import CLASS_COLOURS, looks
from maxl.experiments.report.summary import compared, found, limits
from maxl.experiments.studies.intervals import mean_interval


@pytest.fixture(scope="module")
def study_folder(tmp_path_factory):
    folder = write_study(tmp_path_factory.mktemp("study"), methods=("single", "frozen", "maxl"))
    write_run(folder / "unfinished" / "run").joinpath("summary.json").unlink()
    return folder


@pytest.fixture(scope="module")
def study(study_folder):
    return load_study(study_folder)


@pytest.fixture(scope="module")
def text(study):
    return page(study)


@pytest.fixture(scope="module")
def parts(study):
    return {section.title: section.parts for section in sections(study)}


def _left_out(by_title):
    """The sentences that say what is not shown."""
    found = [part for part in by_title["Settings, versions and date"] if isinstance(part, Points)]
    return next((part.items for part in found if part.title.startswith("What is not shown")), [])


def _figures(parts):
    rows = [figure for part in parts if isinstance(part, Row) for figure in part.figures]
    return [part for part in parts if isinstance(part, Figure)] + rows


def test_one_file_beside_the_runs_and_one_of_the_invented_classes(tmp_path, study_folder):
    assert write_report(study_folder) == study_folder / "report.html"
    out = write_report(str(study_folder), tmp_path / "elsewhere.html")
    files = [study_folder / "report-invented.csv", tmp_path / "elsewhere-invented.csv"]
    named = [
        file.read_text().replace(str(csv), "FILE").replace(csv.name, "FILE")
        for file, csv in zip((study_folder / "report.html", out), files, strict=True)
    ]
    assert named[0] == named[1]  # t-SNE included: seeded
    assert files[0].read_text() == files[1].read_text()
    for file in (study_folder / "report.html", files[0]):
        file.unlink()


def test_nothing_is_loaded_from_elsewhere(text):
    assert text.count("* plotly.js v") == 1
    assert not re.search(r"<(script|img|iframe|source)\b[^>]*\bsrc=\"(?!data:)", text)
    assert set(re.findall(r"<link\b[^>]*href=\"([^\"]*)\"", text)) == {"data:,"}
    assert "default-src 'none'" in text
    own = text[: text.index("* plotly.js v")]
    assert not re.search(r"https?://|@import|url\(", own)


def test_every_figure_has_data_a_label_and_most_a_table(text, parts):
    figures = [figure for of_section in parts.values() for figure in _figures(of_section)]
    blocks = re.findall(r'<script type="application/json" id="figure-\d+-data">(.*?)</script>', text)
    assert len(blocks) == len(figures) >= 9
    for block in blocks:
        drawn = json.loads(block, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
        assert drawn["data"]
    assert text.count('role="img" aria-label="') == len(figures)
    assert text.count("<caption>") == text.count('<table role="table">')


def test_summary_says_what_was_found(study):
    said = found(study.settings[0])
    assert said[0].startswith("Highest mean test accuracy: maxl with 84.")
    assert any(sentence.startswith("maxl: better than single by ") for sentence in said)
    assert "Labels of maxl, all runs: labels are in use and informative." in said
    told = compared(study)
    assert told[0] == "9 runs of 3 methods (single, frozen, maxl), seeds 0, 1, 2."
    assert told[2] == "Left out, because they did not finish: unfinished/run."
    assert any("only 3 seeds" in sentence for sentence in limits(study))


@pytest.mark.parametrize(
    ("data", "name"), [("/home/a/pictures", "pictures"), ("hf:owner/name", "hf:owner/name")]
)
def test_a_title_asks_the_question_and_names_the_data_and_not_its_folder(tmp_path, data, name):
    study = load_study(write_study(tmp_path, methods=("single", "maxl"), data=data, bare=True))
    assert title_of(study) == f"Do maxl labels help on {name} (classification)?"
    assert study.settings[0].name == f"{name}, ψ = 3"
    assert any(f"Data: {data}" in sentence for sentence in compared(study))


def test_one_method_is_no_question(tmp_path):
    assert (
        title_of(load_study(write_study(tmp_path, methods=("maxl",), bare=True)))
        == "maxl on digits (classification)"
    )


@pytest.mark.parametrize("epochs", [1, 3, 12, 30])
def test_bands_have_no_points_on_their_edges(tmp_path, epochs):
    study = load_study(write_study(tmp_path, methods=("single", "maxl"), epochs=epochs))
    parts = [
        part for s in sections(study) for part in s.parts if s.title in ("Learning curves", "Diagnostics")
    ]
    bands = [t for f in _figures(parts) for t in f.plot.data if getattr(t, "fill", None) == "toself"]
    assert len(bands) >= 2
    assert {band.mode for band in bands} == {"lines"}


@pytest.mark.parametrize(("information", "shown"), [(0.001, False), (0.5, True)])
def test_labels_that_say_nothing_have_no_maps_and_no_gallery(tmp_path, information, shown):
    folder = write_study(tmp_path, methods=("single", "maxl"))
    for path in folder.rglob("metrics.jsonl"):
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        if "maxl" in str(path):
            path.write_text(
                "".join(json.dumps({**row, "label_information": information}) + "\n" for row in rows)
            )
    by_title = {section.title: section.parts for section in sections(load_study(folder))}
    assert ("Invented labels" in by_title) == shown  # no section that holds nothing
    if shown:
        parts = by_title["Invented labels"]
        assert len([f for f in _figures(parts) if "by primary class" in f.title]) == 2
        assert any(isinstance(part, Browser) for part in parts)
    told = " ".join(_left_out(by_title))
    assert (
        "Invented labels: digits, ψ = 3: no figures of invented labels, because they say nothing" in told
    ) != shown
    assert ("no gallery, because the labels of no run say anything" in told) != shown


def test_one_auxiliary_class_a_class_has_no_share_of_no_entropy(tmp_path):
    folder = write_study(tmp_path, methods=("single", "maxl"), psis=(1,))
    (figure,) = (
        f for s in sections(load_study(folder)) for f in _figures(s.parts) if f.title.startswith("Entropy")
    )
    assert figure.description.endswith("Maximum 0.00 nats.")


def test_intervals_of_shares_end_at_their_bounds(tmp_path):
    for seed, accuracy in enumerate((0.9, 0.99)):  # two seeds: the interval reaches far beyond 100 %
        write_run(tmp_path / f"run{seed}", seed=seed, final=accuracy, test_accuracy=accuracy)
    study = load_study(tmp_path)
    assert found(study.settings[0])[0] == "maxl: test accuracy 94.5 % (37.3 to 100.0)."
    for title, name in (("Learning curves", "Test accuracy"), ("Diagnostics", "Auxiliary classes in use:")):
        figures = _figures(next(section.parts for section in sections(study) if section.title == title))
        figure = next(figure for figure in figures if figure.title.startswith(name))
        drawn = np.concatenate([trace.y for trace in figure.plot.data])
        assert drawn.min() >= 0
        assert drawn.max() <= 100


def test_results_table_has_the_numbers_of_the_statistics(study, parts):
    accuracy, comparisons = (part for part in parts["Differences"] if isinstance(part, Table))
    values = [run.summary["test_accuracy"] for run in study.runs if run.label == "maxl"]
    interval = mean_interval([100 * value for value in values])
    row = accuracy.frame.set_index("Method").loc["maxl"]
    assert row["Mean (%)"] == f"{interval.mean:.2f}"
    assert row["95 % interval, uncorrected"] == f"± {interval.high - interval.mean:.2f}"
    assert len(comparisons.frame) == len(study.settings[0].comparisons) == 4
    against = comparisons.frame.set_index(["Compared with", "Method"]).loc[("single", "maxl")]
    assert against["Verdict"].startswith("better than single by")
    assert against["Won / lost / tied"] == "3 / 0 / 0"


def test_curves_are_mean_and_interval_over_seeds(study):
    runs = study.settings[0].methods["maxl"]
    drawn = curve(runs, "test_accuracy", 100).loc[5]
    expected = mean_interval([100 * run.series("test_accuracy").loc[5] for run in runs])
    assert drawn.to_dict() == pytest.approx(vars(expected))


def test_a_method_looks_the_same_in_every_figure(study, parts):
    expected = looks(study.methods)
    seen = set()
    for figure in _figures(parts["Learning curves"] + parts["Diagnostics"]):
        for trace in figure.plot.data:
            if trace.type == "scatter" and trace.name:
                assert (trace.line.color, trace.line.dash) == (
                    expected[trace.name].colour,
                    expected[trace.name].dash,
                )
                seen.add(trace.name)
    assert seen == {"single", "frozen", "maxl"}
    assert len({look.colour for look in expected.values()}) == 3


@pytest.mark.parametrize("background", ["#ffffff", "#14171a"])
def test_colours_stand_out_from_both_backgrounds(background):
    methods = ["single", "random", "uniform", "frozen", "kmeans", "prototypical", "human", "maxl", "a", "b"]
    colours = [*CLASS_COLOURS, *(look.colour for look in looks(methods).values())]
    ratios = [_contrast(colour, background) for colour in colours]
    assert min(ratios) >= 3  # WCAG 2.2, 1.4.11: graphical objects


def _contrast(first: str, second: str) -> float:
    def luminance(colour: str) -> float:
        shares = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
        linear = np.where(shares <= 0.04045, shares / 12.92, ((shares + 0.055) / 1.055) ** 2.4)
        return float(linear @ [0.2126, 0.7152, 0.0722])

    high, low = sorted((luminance(first), luminance(second)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_label_figures_name_the_primary_classes(parts):
    by_class = [
        part for part in parts["Invented labels"] if isinstance(part, Figure) and "by primary" in part.title
    ]
    assert len(by_class) == 2
    for figure in by_class:
        assert figure.table["Primary class"].tolist() == list(PRIMARY_NAMES)


def test_features_are_embedded_once_a_run(tmp_path):
    study = load_study(write_study(tmp_path, methods=("single", "maxl"), seeds=(0,), psis=(2, 3), epochs=2))
    first, second = next(section.parts for section in sections(study) if section.title == "Features")
    assert first.figures[0] is second.figures[0]  # single-task, which both ψ share
    assert first.figures[1] is not second.figures[1]
    assert first.figures[0].title == "t-SNE of test features: digits, single, seed 0"
    assert first.figures[1].title == "t-SNE of test features: digits, maxl, ψ = 2, seed 0"
    shown = {trace.name: len(trace.x) for trace in first.figures[0].plot.data}
    assert shown == dict.fromkeys(PRIMARY_NAMES, 15)


@pytest.mark.parametrize("value", [np.nan, 1.0])
def test_features_that_cannot_be_embedded_are_left_out(tmp_path, value):
    folder = write_run(tmp_path / "run")
    with np.load(folder / "snapshot.npz") as archive:
        arrays = dict(archive)
    np.savez(folder / "snapshot.npz", **{**arrays, "features": np.full((60, 8), value, np.float16)})
    by_title = {section.title: section.parts for section in sections(load_study(folder))}
    assert "Features" not in by_title
    assert any("no run left a snapshot with features" in words for words in _left_out(by_title))


def test_long_names_are_short_in_a_heat_map_and_whole_in_its_table():
    name = "large man-made outdoor things"
    rows = [name, "large natural outdoor things", "backbone.stages.10.conv"]
    table = pd.DataFrame([[0.1, 0.2], [0.3, 0.4], [0.5, 0.6]], index=rows, columns=[1, 2])
    plot = heat_maps({"maxl": table}, colours="Cividis", low=0, high=1, title="Share")
    assert plot.layout.yaxis.ticktext == ("large …door things", "large …door things", "backbo…ges.10.conv")
    assert plot.data[0].y[0] == name
    assert len(plot.data[0].z) == 3  # equal short names stay two rows


def test_gallery_holds_the_snapshots_images(study):
    from PIL import Image

    (found,) = gallery(study)
    assert isinstance(found, Gallery)
    snapshot = study.settings[0].methods["maxl"][0].snapshot
    assert len(found.pictures) == len(snapshot.gallery_auxiliary) == 6
    pixels = np.asarray(Image.open(io.BytesIO(found.pictures[1].png)))
    np.testing.assert_array_equal(pixels[:, 9:17, :3], snapshot.gallery_images[1, 1])
    assert found.pictures[5].alternative == (
        "6 training images of one that score highest in auxiliary class 5"
    )


def test_galleries_are_inlined_as_png(study):
    text = Body().part(gallery(study)[0])
    images = re.findall(r'<img src="data:image/png;base64,([^"]*)" alt="[^"]+"', text)
    assert len(images) == 6
    assert base64.b64decode(images[0]).startswith(b"\x89PNG")


def test_what_runs_did_not_record_is_left_out_with_a_reason(tmp_path):
    study = load_study(write_study(tmp_path, methods=("single", "maxl"), bare=True))
    by_title = {section.title: section.parts for section in sections(study)}
    told = " ".join(_left_out(by_title))
    for title, reason in (
        ("Diagnostics", "no run recorded it"),
        ("Invented labels", "no run recorded label entropy"),
        ("Number of auxiliary classes", "a single number"),
        ("Features", "no run left a snapshot with features"),
        ("Invented labels", "no run has a label generator and images"),
        ("Cost", "no run recorded seconds_per_step"),
    ):
        assert reason in told
        assert title == "Diagnostics" or title not in by_title
    assert len(_figures(by_title["Learning curves"])) == 1
    for parts in by_title.values():
        assert parts
        assert not any(isinstance(part, Note) for part in parts)


def test_validation_accuracy_stands_in_for_a_test_set_kept_for_the_end(tmp_path):
    folder = write_run(tmp_path / "run")
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    kept = [{"epoch": line["epoch"], "validation_accuracy": line["test_accuracy"]} for line in lines]
    (folder / "metrics.jsonl").write_text("\n".join(map(json.dumps, kept)))
    (figure,) = next(s.parts for s in sections(load_study(folder)) if s.title == "Learning curves")
    assert figure.title.startswith("Validation accuracy over epochs")


def test_one_run_folder_makes_a_report(tmp_path):
    folder = write_run(tmp_path / "run", seed=4)
    text = write_report(folder).read_text()
    assert "<h1>maxl on digits (classification), seed 4</h1>" in text


def test_markdown_has_the_same_verdicts(study_folder, study):
    path = write_markdown(study_folder)
    text = path.read_text()
    path.unlink()
    verdicts = study.settings[0].comparisons["verdict"]
    for verdict in verdicts:
        assert verdict.replace("<", "\\<") in text
    header = next(line for line in text.splitlines() if line.startswith("| Compared with"))
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    assert {line.count(" | ") for line in rows} == {header.count(" | "), 5}


def test_markdown_escapes_its_own_signs(tmp_path):
    write_run(tmp_path / "run", data="a|b*c*", bare=True)
    assert "a\\|b\\*c\\*" in write_markdown(tmp_path).read_text()


def test_tables_are_what_screen_readers_expect(text, parts):
    tables = [part for of_section in parts.values() for part in of_section if isinstance(part, Table)]
    assert len(tables) == 4
    assert text.count('scope="rowgroup"') == 2
    levels = [int(level) for level in re.findall(r"<h([1-6])\b", text[: text.index("</main>")])]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))


def test_the_report_says_what_moves_the_labels(parts):
    (figure,) = (f for f in _figures(parts["Diagnostics"]) if f.title.startswith("What moves"))
    for trace in figure.plot.data:
        if trace.name == "maxl" and trace.line.width:
            assert trace.y == pytest.approx([1.0] * len(trace.y))  # norms of 0.1 and 0.01
    assert "the quotient is: frozen 10; maxl 10." in figure.description
