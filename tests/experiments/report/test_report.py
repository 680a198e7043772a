"""The report: what it says, what it leaves out and why, and that it needs nothing from elsewhere."""

from __future__ import annotations

import base64
import io
import itertools
import json
import math
import os
import re
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from _report_helpers import PRIMARY_NAMES, write_run, write_study
from maxl.experiments.report import write_images, write_markdown, write_report
from maxl.experiments.report.draw import heat_maps
from maxl.experiments.report.final import accuracy_by_psi
from maxl.experiments.report.page import page, sections
from maxl.experiments.report.page import title as title_of
from maxl.experiments.report.parts import Figure, Gallery, Note, Points, Row, Table
from maxl.experiments.report.runs import load_study
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


def test_one_file_beside_the_runs(tmp_path, study_folder):
    assert write_report(study_folder) == study_folder / "report.html"
    out = write_report(str(study_folder), tmp_path / "elsewhere.html")
    assert out.read_text() == (study_folder / "report.html").read_text()  # t-SNE included: seeded
    (study_folder / "report.html").unlink()


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


def test_a_gain_that_a_control_also_shows_is_not_credited_to_the_labels(tmp_path):
    for seed in range(5):
        write_run(tmp_path / f"s{seed}", method="single", seed=seed, psi=None, final=0.7, bare=True)
        for method in ("frozen", "maxl"):
            write_run(tmp_path / f"{method}{seed}", method=method, seed=seed, final=0.75, bare=True)
    said = " ".join(found(load_study(tmp_path).settings[0]))
    assert "maxl: better than single by" in said
    assert "maxl is not shown to beat frozen, so its gain over single may come from" in said


def test_no_method_is_named_where_nothing_is_shown_to_differ(tmp_path):
    for method in ("single", "uniform", "maxl"):
        for seed in range(3):
            write_run(tmp_path / f"{method}{seed}", method=method, seed=seed, final=0.8, bare=True)
    said = found(load_study(tmp_path).settings[0])
    assert said[0].startswith("No method stands out: mean test accuracies lie between ")
    assert not any(method in said[0] for method in ("single", "uniform", "maxl"))


def test_the_highest_mean_comes_with_the_methods_that_it_is_not_shown_to_beat(tmp_path):
    for seed in range(4):
        for method, final in (("single", 0.5), ("uniform", 0.8), ("maxl", 0.801)):
            accuracy = final + 0.01 * seed + 0.002 * ((seed + len(method)) % 3)
            write_run(
                tmp_path / f"{method}{seed}", method=method, seed=seed, test_accuracy=accuracy, bare=True
            )
    said = found(load_study(tmp_path).settings[0])
    assert re.fullmatch(
        r"Highest mean test accuracy: maxl with 81\.\d %( \(.*\)); not shown to be better than uniform\.",
        said[0],
    )


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
        assert any(isinstance(part, Gallery) for part in parts)
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


def test_a_study_without_controls_says_so(tmp_path):
    study = load_study(write_study(tmp_path, methods=("single", "maxl"), bare=True))
    assert any("without a control (random, uniform, frozen)" in sentence for sentence in limits(study))


def test_one_seed_makes_no_claim(tmp_path):
    study = load_study(write_study(tmp_path, methods=("single", "maxl"), seeds=(0,), bare=True))
    said = " ".join(found(study.settings[0]))
    assert "maxl: one seed: no statement possible." in said
    assert "better" not in said


def test_label_verdicts_are_counted_without_their_figures(tmp_path):
    for seed, verdict in enumerate(
        ("collapsed (3 of 9 classes)", "collapsed (2 of 9 classes)", "informative")
    ):
        write_run(tmp_path / f"run{seed}", seed=seed, label_verdict=verdict, bare=True)
    said = found(load_study(tmp_path).settings[0])
    assert said[-2:] == [
        "Labels of maxl, 2 of 3 runs: collapsed.",
        "Labels of maxl, 1 of 3 runs: informative.",
    ]


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
    table = pd.DataFrame([[0.1, 0.2], [0.3, 0.4]], index=[name, name[:20]], columns=[1, 2])
    plot = heat_maps({"maxl": table}, colours="Cividis", low=0, high=1, title="Share")
    assert plot.layout.yaxis.ticktext == ("large man-made ou…", "large man-made ou…")
    assert plot.data[0].y[0] == name
    assert len(plot.data[0].z) == 2  # equal short names stay two rows


def test_gallery_holds_the_snapshots_images(study, parts):
    from PIL import Image

    (gallery,) = (part for part in parts["Invented labels"] if isinstance(part, Gallery))
    snapshot = study.settings[0].methods["maxl"][0].snapshot
    assert len(gallery.pictures) == len(snapshot.gallery_auxiliary) == 6
    pixels = np.asarray(Image.open(io.BytesIO(gallery.pictures[1].png)))
    np.testing.assert_array_equal(pixels[:, 9:17, :3], snapshot.gallery_images[1, 1])
    assert gallery.pictures[5].alternative == (
        "6 training images of one that score highest in auxiliary class 5"
    )


def test_gallery_is_inlined_as_png(text):
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


def test_several_psi_and_entropy_weights(tmp_path):
    write_study(tmp_path / "with", methods=("single", "maxl"), psis=(10, 2), bare=True)
    write_study(tmp_path / "without", methods=("maxl",), psis=(10, 2), bare=True, entropy_weight=0.0)
    study = load_study(tmp_path)
    assert study.methods == ["single", "maxl entropy_weight=0", "maxl entropy_weight=0.2"]
    assert [setting.name for setting in study.settings] == ["digits, ψ = 2", "digits, ψ = 10"]
    (figure,) = accuracy_by_psi(study, looks(study.methods))
    assert [trace.name for trace in figure.plot.data] == study.methods
    assert all(list(trace.x) == [2, 10] for trace in figure.plot.data)
    single = figure.plot.data[0]
    assert single.y[0] == single.y[1]


def test_variants_of_a_grid_are_drawn_alike_and_compared_at_the_same_setting(tmp_path):
    for seed in range(4):
        write_run(tmp_path / f"s{seed}", method="single", seed=seed, psi=None, final=0.70, bare=True)
        for weight, lift in ((0.3, 0.0), (5.0, 0.1)):
            for method, final in (("uniform", 0.72), ("maxl", 0.71)):
                name = method if weight == 0.3 else f"{method} auxiliary_weight=5"
                folder = write_run(
                    tmp_path / f"{name}{seed}", method=name, seed=seed, final=final + lift, bare=True
                )
                config = {"method": method, "seed": seed, "auxiliary_weight": weight}
                (folder / "config.yaml").write_text(json.dumps(config))
    study = load_study(tmp_path)
    assert study.methods == [
        *("single", "uniform", "uniform auxiliary_weight=5", "maxl", "maxl auxiliary_weight=5"),
    ]
    drawn = looks(study.methods)
    assert drawn["maxl"].colour == drawn["maxl auxiliary_weight=5"].colour != drawn["uniform"].colour
    said = found(study.settings[0])
    strong = [words for words in said if words.startswith("maxl auxiliary_weight=5: ")]
    assert [re.split(r" \(p| by|: within", words)[0].split(" ")[-2:] for words in strong] == [
        ["than", "single"],
        ["uniform", "auxiliary_weight=5"],
    ]
    assert any(
        words.startswith("maxl: worse than uniform auxiliary_weight=5 (the best control) by")
        for words in said
    )
    differences = next(section.parts for section in sections(study) if section.title == "Differences")
    table = [part for part in differences if isinstance(part, Table)][1]
    assert "uniform auxiliary_weight=5 (the best control)" in set(table.frame["Compared with"])


def test_variants_in_folders_of_their_own_name_what_matters_to_both(tmp_path):
    for weight in (0.3, 5.0):
        for method in ("single", "uniform", "maxl"):
            if (method, weight) != ("single", 5.0):
                folder = write_run(tmp_path / f"{method}{weight}", method=method, bare=True)
                (folder / "config.yaml").write_text(
                    json.dumps({"method": method, "auxiliary_weight": weight})
                )
    study = load_study(tmp_path)
    assert "uniform auxiliary_weight=5" in study.methods
    assert "single" in study.methods  # to which it does not matter
    compared_with = study.settings[0].comparisons
    pairs = set(zip(compared_with["method"], compared_with["reference"], strict=True))
    assert ("maxl auxiliary_weight=5", "uniform auxiliary_weight=5") in pairs
    assert ("maxl auxiliary_weight=5", "uniform auxiliary_weight=0.3") not in pairs


@pytest.mark.parametrize("shown", [write_markdown, write_report])
def test_intervals_are_called_what_they_are(tmp_path, shown):
    text = shown(
        write_study(tmp_path, methods=("single", "uniform", "random", "maxl"), bare=True)
    ).read_text()
    assert "with 95 % simultaneous intervals over 3 comparisons" in text
    assert "95 % interval, uncorrected" in text
    assert "p (Bonferroni)" in text
    assert "Holm" not in text[: text.find("* plotly.js v")]


def test_training_sizes_are_settings(tmp_path):
    write_study(tmp_path / "few", methods=("single", "maxl"), train_size=1200, bare=True)
    write_study(tmp_path / "all", methods=("single", "maxl"), train_size=None, bare=True)
    names = {setting.name for setting in load_study(tmp_path).settings}
    assert names == {"digits, 1,200 training samples, ψ = 3", "digits, all training samples, ψ = 3"}


def test_names_from_outside_are_text(tmp_path):
    evil = '</script><script>alert("1")</script>'
    write_run(tmp_path / "run", data=evil, trunk=evil, label_verdict=evil)
    text = write_report(tmp_path).read_text()
    assert "<script>alert" not in text
    assert "&lt;script&gt;alert" in text
    data = re.findall(r'type="application/json"[^>]*>(.*?)</script>', text)
    assert data
    assert not any("<" in block for block in data)


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


def test_missing_and_empty_folders(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere is none"):
        write_report(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"holds none$"):
        write_report(tmp_path)
    write_run(tmp_path / "run").joinpath("summary.json").unlink()
    with pytest.raises(ValueError, match="holds none, only 1 unfinished"):
        write_report(tmp_path)


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("summary.json", "{", r"broken/summary.json needs to be JSON"),
        ("summary.json", "[]", r"broken/summary.json needs to hold JSON objects; got list"),
        ("summary.json", "{}", r"broken/summary.json needs 'method'"),
        ("metrics.jsonl", '{"epoch": 1}\n{', r"broken/metrics.jsonl, line 2, needs to be JSON"),
        ("metrics.jsonl", "", r"broken/metrics.jsonl needs one line an epoch"),
        ("metrics.jsonl", None, r"broken needs metrics.jsonl"),
        ("config.yaml", "a: [", r"broken/config.yaml is not valid YAML"),
        ("snapshot.npz", "no archive", r"broken/snapshot.npz needs to be a snapshot"),
    ],
)
def test_a_broken_run_is_named_in_one_line(tmp_path, file, content, message):
    write_run(tmp_path / "good", seed=1)
    path = write_run(tmp_path / "broken") / file
    path.unlink()
    if content is not None:
        path.write_text(content)
    with pytest.raises(ValueError, match=message) as caught:
        write_report(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("accuracy", [1.2, -0.1, math.nan, "high"])
def test_an_accuracy_is_a_share(tmp_path, accuracy):
    write_run(tmp_path / "run", test_accuracy=accuracy)
    with pytest.raises(ValueError, match=r"needs a test_accuracy in \[0, 1\]"):
        write_report(tmp_path)


def test_the_same_run_twice_is_refused(tmp_path):
    write_run(tmp_path / "a")
    write_run(tmp_path / "b")
    with pytest.raises(ValueError, match=r"a and .*b differ in nothing: remove one"):
        write_report(tmp_path)


def test_images_without_kaleido_say_what_to_install(monkeypatch, study_folder):
    monkeypatch.setitem(sys.modules, "kaleido", None)
    with pytest.raises(ImportError, match=r'pip install "maxl-torch\[images\]"'):
        write_images(study_folder)


def test_images_have_three_formats(study_folder):
    with pytest.raises(ValueError, match=r"images can be png, svg, pdf; got 'gif'"):
        write_images(study_folder, suffix="gif")


def test_tables_are_what_screen_readers_expect(text, parts):
    tables = [part for of_section in parts.values() for part in of_section if isinstance(part, Table)]
    assert len(tables) == 3
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


def test_runs_in_a_folder_that_cannot_be_read_are_not_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("open", "shut"):
        write_run(tmp_path / name, seed=len(name) + (name == "shut"))
    scandir = os.scandir

    def guarded(path: str) -> object:  # permissions do not bind root
        if os.path.basename(path) == "shut":
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", guarded)
    with pytest.raises(PermissionError, match="shut cannot be read"):
        write_report(tmp_path)
