"""Whatever the flags, a command ends with exit code 0, or with 2 and one line on stderr."""

from __future__ import annotations

import io
import tempfile
import warnings
from contextlib import chdir, redirect_stderr, redirect_stdout
from pathlib import Path

from hypothesis import example, given, settings
from hypothesis import strategies as st

from _data_helpers import write_csv
from _run_helpers import one_thread as one_thread
from maxl.experiments.cli import main

BIG = "9" * 25  # beyond what 64 bits hold
TINY = "--data digits --train-size 30 --trunk mlp --psi 2 --epochs 1 --batch-size 15 --device cpu --no-tensorboard"

words = st.sampled_from(
    ["", ".", "-", "x", "0", "-1", "nan", "é\u202e", "\udcff", "{}%s%(prog)s", "a,b=c", BIG]
)
counts = st.sampled_from(["0", "-1", "1", "2", "7", "1.5", "1e3", "x", "", BIG, "-" + BIG])
numbers = st.sampled_from(
    ["0", "-1", "0.5", "1", "1e-320", "1e300", "-1e300", "1e999", "nan", "inf", "x", "", BIG]
)
sizes = st.sampled_from(["0", "-1", "0.5", "1e-9", "29", "30", "30.5", "1e300", "nan", "x", BIG])
paths = st.sampled_from(
    ["", ".", "none", "none/none", "a-file", "table.csv", "/dev/null", "\udcff", "x" * 300]
)
FLAGS: dict[str, st.SearchStrategy[str]] = {
    **dict.fromkeys(("--batch-size", "--meta-every", "--look-every", "--checkpoint-every"), counts),
    **dict.fromkeys(("--seed", "--image-size"), st.one_of(counts, st.just("4294967296"))),
    **dict.fromkeys(("--learning-rate", "--meta-learning-rate", "--max-grad-norm"), numbers),
    **dict.fromkeys(("--gamma", "--auxiliary-weight", "--entropy-weight", "--weight-decay"), numbers),
    **dict.fromkeys(("--momentum", "--meta-weight-decay", "--held-out"), numbers),
    **dict.fromkeys(("--train-size", "--validation-size"), sizes),
    **dict.fromkeys(("--primary", "--human", "--trunk", "--preset"), words),
    **dict.fromkeys(("--config", "--data-dir", "--out", "--resume"), paths),
    "--epochs": st.sampled_from(["0", "-1", "1", "1.5", "x", "", BIG]),
    "--threads": st.sampled_from(["0", "-1", "1", "x", "1000000", BIG]),
    "--psi": st.sampled_from(["0", "-1", "1", "3", "1.5", "x", "2 3", "1 2 1 2 1 2 1 2 1 2", BIG]),
    "--data": st.one_of(paths, st.sampled_from(["hf:", "hf:/", "hf:../..", "digitz", "clinc150", "cinic10"])),
    "--device": st.sampled_from(["", "cpu", "cpu:-1", "cuda:99", "meta", "mkldnn", "hpu", "gpu", "cpu:x"]),
    "--method": st.sampled_from(["single", "uniform", "kmeans", "maxl", "gated", "weighted", "human", "x"]),
    "--evaluate": st.sampled_from(["same", "next", "augmented", "held-out", "rotating", ""]),
    "--lookahead": st.sampled_from(["update", "virtual", "x"]),
    "--schedule": st.sampled_from(["iteration", "epochs"]),
    "--optimizer": st.sampled_from(["sgd", "adam", "adamw", ""]),
    "--hypergradient": st.sampled_from(["forward", "reverse", "finite-difference", "x"]),
    "--augment": st.sampled_from(["none", "crop", "crop-flip", "x"]),
    **dict.fromkeys(("--cache-labels", "--tensorbord", "--help-al", "--trust", "--"), st.none()),
}
flags = st.lists(
    st.sampled_from(sorted(FLAGS)).flatmap(lambda name: st.tuples(st.just(name), FLAGS[name])), max_size=4
)


def ends_well(*arguments: str) -> int:
    """The exit code of a command in a folder with a few files, after the checks that hold for all."""
    out, err = io.StringIO(), io.StringIO()
    with (
        tempfile.TemporaryDirectory() as folder,
        chdir(folder),
        warnings.catch_warnings(),
        redirect_stdout(out),
        redirect_stderr(err),
    ):
        warnings.simplefilter("default")  # as where no test runs: notes for the user are printed
        write_csv(Path("table.csv"))
        Path("a-file").write_text("")
        try:
            code = main(arguments)
        except SystemExit as end:
            code = int(end.code or 0)
    lines = err.getvalue().splitlines()
    assert code in (0, 2), (arguments, lines)
    if code == 2:
        (error,) = [line for line in lines if not line.startswith("maxl: note: ")]
        assert error.startswith("maxl: error: "), (arguments, lines)
        assert len(error) > 20, (arguments, lines)
    else:  # the progress bar alone
        assert not any("error" in line or "Traceback" in line for line in lines), (arguments, lines)
    return code


def spread(drawn: list[tuple[str, str | None]]) -> list[str]:
    """Flags as a shell would pass them; only ψ takes several values."""
    return [
        part
        for name, value in drawn
        for part in (name, *([] if value is None else value.split() if name == "--psi" else [value]))
    ]


@settings(max_examples=40)
@given(flags)
@example([("--threads", "1000000")])
@example([("--learning-rate", "1e300")])
@example([("--weight-decay", "1e300")])
@example([("--image-size", BIG)])
@example([("--psi", BIG)])
@example([("--data", "hf:")])
@example([("--data", "hf:../..")])
@example([("--device", "meta")])
@example([("--device", "mkldnn")])
@example([("--device", "hpu")])
@example([("--method", "maxl"), ("--evaluate", "held-out"), ("--held-out", "0.999999")])
def test_train_is_right_or_refuses_in_one_line(drawn: list[tuple[str, str | None]]) -> None:
    ends_well("train", *TINY.split(), *spread(drawn))


@given(
    flags,
    st.sampled_from(
        [
            *(
                "--seeds -1",
                "--seeds 4294967296",
                "--seeds x",
                "--seeds",
                "--methods x",
                "--methods",
                "--jobs 0",
            ),
            *("--grid x", "--grid =1", "--grid epochs=0", "--grid method=maxl", "--grid psi=&a[*a]"),
            *("--grid learning_rate=.nan", "--grid data={a:1}", "--grid trunk=os:getcwd"),
        ]
    ),
)
def test_compare_refuses_a_mistake_whatever_else_is_said(
    drawn: list[tuple[str, str | None]], mistake: str
) -> None:
    rest = [(name, value) for name, value in drawn if name not in ("--help-al", "--")]
    assert ends_well("compare", *TINY.split(), *spread(rest), *mistake.split()) == 2


@given(
    st.fixed_dictionaries(
        {},
        optional={
            "--classes": counts,
            "--batch-size": counts,
            "--seed": st.one_of(counts, st.just("4294967296")),
            "--psi": FLAGS["--psi"],
            "--device": FLAGS["--device"],
            "--trunk": st.one_of(words, st.sampled_from(["convnet4", "vgg16", "os:getcwd", "::", ".:"])),
            "--shape": st.sampled_from(
                ["0", "-1", "3", "3 8 8", "3 0 8", "1 2 3 4", "x", BIG, "1000000 " * 4]
            ),
        },
    )
)
@settings(max_examples=30)
@example({"--shape": "-1"})
@example({"--shape": "1000000 1000000 1000000 1000000"})
@example({"--batch-size": "-1"})
@example({"--seed": BIG})
@example({"--classes": BIG})
def test_check_is_right_or_refuses_in_one_line(drawn: dict[str, str]) -> None:
    several = ("--psi", "--shape")
    ends_well(
        *("check", "--trunk", "mlp", "--shape", "4", "--batch-size", "2", "--classes", "2", "--psi", "2"),
        *(
            part
            for name, value in drawn.items()
            for part in (name, *(value.split() if name in several else [value]))
        ),
    )


@given(
    st.sampled_from(["report", "evaluate", "predict", "labels", "export"]),
    st.lists(st.one_of(paths, words), max_size=3),
)
def test_commands_on_what_is_no_run_refuse_in_one_line(command: str, arguments: list[str]) -> None:
    assert ends_well(command, *arguments) == 2
