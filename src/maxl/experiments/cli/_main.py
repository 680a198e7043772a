"""``maxl``: its commands, and what becomes of their errors, warnings and signals."""

from __future__ import annotations

import argparse
import logging
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from types import FrameType
from typing import Any, TextIO

from maxl.experiments.cli._advise import add_advise
from maxl.experiments.cli._arguments import (
    Parser,
    add_config_flags,
    add_help_all,
    add_preset_flag,
    add_talk_flags,
    add_trust_flag,
    parse_grid,
    read_config,
)
from maxl.experiments.cli._completion import add_completion
from maxl.experiments.cli._evaluate import add_evaluate
from maxl.experiments.cli._labels import add_labels
from maxl.experiments.cli._launch import add_launcher_flags, launch
from maxl.experiments.cli._predict import add_commands
from maxl.experiments.cli._train import add_train, once, out_folder
from maxl.experiments.cli._tune import add_tune
from maxl.experiments.cli.listen import listening, note
from maxl.experiments.cli.place import as_typed_here, command_line
from maxl.experiments.cli.terminal import close_quietly, prepare_streams, shown, visible
from maxl.experiments.runs.config import RunConfig
from maxl.experiments.runs.files import RunWarning
from maxl.experiments.runs.launch import Elsewhere, follows, launched
from maxl.experiments.runs.names import names_code

# What the demo trains: few labels, a small network, so that it takes two minutes on two cores. Whether a digit is
# below five is the task; which digit it is, is hidden from all methods but one, and looked for afterwards.
DEMO: dict[str, Any] = {
    "data": "digits",
    "primary": ["half"],
    "human": "label",
    "probe": "label",
    "train_size": 200,
    "trunk": "convnet4",
    "psi": [5],
    "epochs": 20,
    "batch_size": 50,
    "optimizer": "adam",
    "learning_rate": 1e-3,
    "decay": "cosine",
    "meta_optimizer": "adam",
    "meta_learning_rate": 1e-3,
    "tensorboard": False,
    "device": "cpu",
}
DEMO_METHODS = ("single", "uniform", "random", "kmeans", "human", "maxl")


def parser() -> Parser:
    """All commands and flags."""
    top = Parser(
        prog="maxl",
        description="Trains models with finer labels than yours, learned or given, and tells whether they help.",
        epilog="start with:\n  maxl demo                  six ways to train, compared on digits, in two minutes\n"
        "  maxl advise --data FILE    is it worth it on your data?\n  maxl COMMAND --help        what a command does, with an example",
    )
    top.add_argument("--version", action="version", version=f"maxl {metadata.version('maxl-torch')}")
    commands = top.add_subparsers(dest="command", metavar="command", required=True)

    demo = commands.add_parser(
        "demo",
        help="six ways to train, compared on digits, in two minutes",
        description="Trains small networks on 200 digits to tell those below five from the others: without finer labels, with\n"
        "uniform, random and clustered ones, with people's (the digits themselves) and with learned ones (MAXL). Compares how\n"
        "often they are right, and how well the ten digits can still be told apart by what they have learned.",
        epilog="example:\n  maxl demo --seeds 0 1 2 3 4 5 6 7",
    )
    demo.add_argument("--out", type=Path, default=Path("maxl-demo"), help="study folder (default: maxl-demo)")
    demo.add_argument(
        "--seeds",
        type=int,
        nargs="+",
        default=[0, 1, 2, 3],
        metavar="N",
        help="one run of each for every seed (0 1 2 3)",
    )
    demo.add_argument(
        "--jobs", type=int, help="runs at a time (default: one a GPU, or on the CPU one a core, at most 16)"
    )
    demo.set_defaults(run=_demo)

    add_train(commands)
    compare = commands.add_parser(
        "compare",
        help="several methods, several seeds each: which differences are real?",
        description="Trains every method with every seed and compares them, seed by seed. Calling it again\n"
        "continues where it stopped and adds what is new.",
        epilog="example:\n  maxl compare --data digits --train-size 200 --epochs 30 "
        "--methods single uniform maxl --seeds 0 1 2\n"
        "  maxl compare ... --grid psi=2,3,5 entropy_weight=0,0.2",
    )
    compare.add_argument("--out", type=Path, default=Path("study"), help="study folder (default: study)")
    compare.add_argument(
        "--methods",
        nargs="+",
        default=["single", "uniform", "maxl"],
        metavar="M",
        help="where finer labels come from (single uniform maxl)",
    )
    compare.add_argument(
        "--seeds",
        type=int,
        nargs="+",
        default=[0, 1, 2],
        metavar="N",
        help="each is a run of every method (0 1 2)",
    )
    compare.add_argument(
        "--grid", nargs="+", default=[], metavar="NAME=V,V", help="settings to vary, in all combinations"
    )
    compare.add_argument(
        "--jobs",
        type=int,
        metavar="N",
        help="runs at a time (one a GPU, or a core, at most 16)",
    )
    add_launcher_flags(compare)
    compare.add_argument("--config", type=Path, help="YAML file with settings; flags override it")
    add_trust_flag(compare)
    add_preset_flag(compare)
    add_help_all(compare)
    add_config_flags(compare, leave_out=("method", "seed"))
    compare.set_defaults(run=_compare)

    check = commands.add_parser(
        "check",
        help="can labels be learned on a network, exactly, and what does it cost?",
        description="Learned labels need a gradient through a gradient. This computes it in each way there is on a network\n"
        "(--hypergradient forward, reverse, finite-difference), compares and times them, and says which to use and what\n"
        "stands in the way.",
        epilog="example:\n  maxl check --trunk resnet18 --shape 3 32 32 --classes 10 --psi 5",
    )
    check.add_argument(
        "--trunk", default="convnet4", metavar="NAME", help="network, as for maxl train (convnet4)"
    )
    check.add_argument(
        "--shape", type=int, nargs="+", default=[3, 32, 32], metavar="N", help="of an input (3 32 32)"
    )
    check.add_argument("--classes", type=int, default=10, metavar="N", help="classes (10)")
    check.add_argument(
        "--psi", type=int, nargs="+", default=[5], metavar="N", help="finer classes of each (5)"
    )
    check.add_argument("--batch-size", type=int, default=16, metavar="N", help="samples in the batch (16)")
    check.add_argument("--device", default="auto", metavar="NAME", help="cpu, cuda, mps or auto (auto)")
    check.add_argument("--seed", type=int, default=0, metavar="N", help="of weights and inputs (0)")
    check.set_defaults(run=_check)

    report = commands.add_parser(
        "report",
        help="an HTML page from a study or a run",
        description="Writes report.html into the folder of a study, a run or an advice: one file, which opens without a network.",
        epilog="example:\n  maxl report study",
    )
    report.add_argument("folder", type=Path, help="folder of a study, a run or an advice")
    report.add_argument("--out", type=Path, help="file to write (default: FOLDER/report.html)")
    report.set_defaults(run=_report)
    add_evaluate(commands)
    add_commands(commands)
    add_labels(commands)
    add_advise(commands)
    add_tune(commands)
    add_completion(commands)
    for command in commands.choices.values():
        add_talk_flags(command)
    return top


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command.

    Returns:
        The exit code: 0; 2 for a mistake in what was asked; 130 if interrupted; 143 if terminated (SIGTERM); 1 if what
        reads the output closes it early, as ``head`` does: the work itself is done by then.
    """
    prepare_streams()
    try:
        try:
            return _run(sys.argv[1:] if arguments is None else list(arguments))
        finally:
            sys.stdout.flush()  # here, where a closed pipe can still be met
    except BrokenPipeError:
        close_quietly()
        return 1


def _run(given: Sequence[str]) -> int:
    namespace = parser().parse_checked(given)
    namespace.typed = list(given)
    talk = listening(quiet=namespace.quiet, verbose=namespace.verbose)
    with warnings.catch_warnings(), terminable() as signalled, talk:
        warnings.showwarning = _show_warning
        warnings.simplefilter("always", RunWarning)
        try:
            if launched() > 1 and namespace.command != "train":
                raise once(ValueError(f"maxl {namespace.command} is one process: call it without torchrun"))
            namespace.run(namespace)
        except BrokenPipeError:
            raise
        except Elsewhere:
            return 2
        except ConnectionResetError as error:  # of a process that trained along
            again = _unfinished(namespace, given)
            said = f"{error}{'; continue with: ' + again if again else ''}"
            print(f"maxl: error: {visible(' '.join(said.split()))}", file=sys.stderr)
            return 2
        except (ValueError, OSError, FloatingPointError) as error:
            said = as_typed_here(" ".join(str(error).split()))
            print(f"maxl: error: {visible(said)}", file=sys.stderr)
            return 2
        except (MemoryError, RuntimeError) as error:
            from maxl.experiments.runs.memory import OutOfMemory, is_out_of_memory, sentence

            if not is_out_of_memory(error):
                raise
            said = (
                str(error)
                if isinstance(error, OutOfMemory)
                else sentence(error, f"maxl {namespace.command}", "ask for less, or end other programs")
            )
            if again := _unfinished(namespace, given):
                said += f"; what is finished is kept: where more memory comes free, continue with: {again}"
            print(f"maxl: error: {visible(' '.join(said.split()))}", file=sys.stderr)
            return 2
        except KeyboardInterrupt:
            word, code = ("terminated", 143) if signalled() else ("interrupted", 130)
            if follows():
                return code
            again = continuation(namespace, given)
            print(
                f"maxl: {word}; what is finished is kept{'; continue with: ' + again if again else ''}",
                file=sys.stderr,
            )
            return code
    return 0


@contextmanager
def terminable() -> Iterator[Callable[[], bool]]:
    """Within, SIGTERM ends what runs as Ctrl-C does; yields whether it came.

    Signals that come while a command is already ending are left out, so that it ends in order.
    """
    came: list[int] = []

    def end(number: int, _: FrameType | None) -> None:
        if not came:
            came.append(number)
            raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():  # where Python handles no signals
        yield lambda: False
        return
    before = signal.signal(signal.SIGTERM, end)
    try:
        yield lambda: bool(came)
    finally:
        signal.signal(signal.SIGTERM, before)


def continuation(namespace: argparse.Namespace, given: Sequence[str]) -> str | None:
    """The command that goes on where an interrupted one stopped, or None where there is nothing to go on with."""
    if namespace.command not in ("train", "compare", "demo", "advise", "tune"):
        return None
    if namespace.command == "train":
        from maxl.experiments.runs.folder import RunFolder

        folder = RunFolder(namespace.resume or out_folder(namespace))
        if folder.started and not folder.finished:
            typed = names_code(vars(namespace))
            given = [
                "train",
                "--resume",
                str(folder.path),
                *(["--trust"] if typed or namespace.trust else []),
                *(["--quiet"] if namespace.quiet else []),
                *(["--verbose"] if namespace.verbose else []),
            ]
    return command_line(given)


def _unfinished(namespace: argparse.Namespace, given: Sequence[str]) -> str | None:
    """The command that continues what has been begun on the disk, or None where nothing has."""
    again = continuation(namespace, given)
    if namespace.command == "train":
        return again if again is not None and " --resume " in again else None
    if again is None or not any(
        (namespace.out / name).exists() for name in ("study.yaml", "plan.json", "search.json")
    ):
        return None
    return again if namespace.command == "tune" else f"{again} (with --jobs 1, one run at a time)"


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """Warnings of runs are for the user: one line without the place in the code."""
    if follows():
        return
    if issubclass(category, RunWarning):
        logging.getLogger(__name__).warning("%s", message)
    else:
        sys.stderr.write(warnings.formatwarning(message, category, filename, lineno, line))


def _compare(namespace: argparse.Namespace) -> None:
    from maxl.experiments.runs.own_inputs import settled
    from maxl.experiments.studies.study import Study

    base = settled(read_config(namespace), trust=namespace.trust)
    study = Study(base, namespace.methods, namespace.seeds, parse_grid(namespace.grid))
    launch(study, namespace)


def _demo(namespace: argparse.Namespace) -> None:
    from maxl.experiments.cli._study import run_study
    from maxl.experiments.studies.study import Study

    study = Study(RunConfig.from_dict(DEMO), DEMO_METHODS, namespace.seeds)
    run_study(study, namespace.out, namespace.jobs)


def _check(namespace: argparse.Namespace) -> None:
    from maxl.experiments.runs.build import resolve_device
    from maxl.experiments.runs.checking import Case, run_check, run_gain
    from maxl.experiments.runs.fast import fast_settings, told

    device = resolve_device(namespace.device)
    case = Case(
        namespace.trunk,
        tuple(namespace.shape),
        namespace.classes,
        namespace.psi[0] if len(namespace.psi) == 1 else namespace.psi,
        namespace.batch_size,
        device=str(device),
        seed=namespace.seed,
    )
    note(
        f"measuring one iteration of {case.trunk} on {device}, and its gradient against float64 and finite differences"
    )
    report = run_check(case)
    settings = fast_settings(RunConfig(), device)
    print(shown(report))
    print(shown(run_gain(case, settings) if settings else told(settings, device)))


def _report(namespace: argparse.Namespace) -> None:
    from maxl.experiments.report import write_report
    from maxl.experiments.runs.folder import require_no_run_file

    if namespace.out is not None:
        require_no_run_file(namespace.out)
    print(shown(write_report(namespace.folder, namespace.out)))
