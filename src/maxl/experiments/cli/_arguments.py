"""Flags from the fields of ``RunConfig``: one definition for command line, YAML and Python.

The standard library's argparse rather than a larger parser: errors have to be one line, lists are written
with spaces, and the short help has to fit a screen.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Collection, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from types import MappingProxyType
from typing import Any, NoReturn

from maxl.experiments.cli.listen import note
from maxl.experiments.cli.terminal import visible
from maxl.experiments.runs.config import RunConfig
from maxl.experiments.runs.methods import OWN
from maxl.experiments.runs.names import refuse_code
from maxl.experiments.runs.values import flag, nearest
from maxl.presets import PRESETS, check_choice

_TITLES = {
    "data": "data",
    "method": "method and networks",
    "fine-tuning": "fine-tuning",
    "training": "training",
    "meta": "label generator",
    "machine": "machine",
}
# What a preset says of a run, beside what it says of its meta steps.
_OF_PRESETS: dict[str, dict[str, Any]] = {"paper": {"generator_trunk": OWN}}
_MANY = 12  # choices, beyond which --help lists none
# What most people need; the rest is listed by --help-all.
MAIN_FLAGS = frozenset(
    (
        *("data", "data_dir", "primary", "task", "human", "train_size", "validation_size", "stream"),
        *("method", "psi", "trunk", "epochs", "batch_size", "optimizer", "learning_rate", "seed", "device"),
    )
)


class Parser(argparse.ArgumentParser):
    """argparse with one-line errors, nearest-name suggestions and a short help beside the full one."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs |= {"formatter_class": _Formatter, "allow_abbrev": False}
        super().__init__(*args, **kwargs)
        if " " in self.prog:  # a command: its flags are listed below, once is enough
            self.usage = f"{self.prog} [options]"

    def error(self, message: str) -> NoReturn:
        """One line on stderr, exit code 2."""
        if message.startswith("argument command: invalid choice"):
            name = message.split("'")[1]
            commands = next(a.choices for a in self._actions if isinstance(a, argparse._SubParsersAction))
            message = f"unknown command {name!r}{nearest(name, commands)}"
        self.exit(2, f"maxl: error: {visible(' '.join(message.split()))}\n")

    def parse_checked(self, arguments: Sequence[str]) -> argparse.Namespace:
        """Parses; an unknown flag is refused with the nearest known one."""
        namespace, unknown = self.parse_known_args(arguments)
        if unknown:
            known = list(self._command(namespace.command)._option_string_actions)
            name = unknown[0].split("=")[0]
            match = get_close_matches(name, known, n=1, cutoff=0.6)
            hint = f"; did you mean {match[0]}?" if match else "; see --help"
            self.error(f"unknown argument {name}{hint}")
        return namespace

    def _command(self, name: str) -> argparse.ArgumentParser:
        subparsers = next(a for a in self._actions if isinstance(a, argparse._SubParsersAction))
        command: argparse.ArgumentParser = subparsers.choices[name]
        return command


class _Formatter(argparse.RawDescriptionHelpFormatter):
    """Narrow option column, so that flag and explanation share a line."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=26)


class _HelpAll(argparse.Action):
    """Prints the help with every flag."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any, **__: Any) -> NoReturn:
        for action in parser._actions:
            action.help = getattr(action, "full_help", action.help)
        parser.print_help()
        parser.exit()


def add_help_all(parser: argparse.ArgumentParser) -> None:
    """--help-all, for commands with many flags."""
    parser.add_argument(
        "--help-all", action=_HelpAll, nargs=0, default=argparse.SUPPRESS, help="list every flag"
    )


def add_config_flags(
    parser: argparse.ArgumentParser,
    *,
    leave_out: Sequence[str] = (),
    main: Collection[str] = MAIN_FLAGS,
    defaults: Mapping[str, object] = MappingProxyType({}),
) -> None:
    """A flag for each field of ``RunConfig``; those that are not given stay out of the namespace.

    Args:
        parser: Of a command.
        leave_out: Fields without a flag.
        main: Fields whose flags --help lists; --help-all lists all.
        defaults: What the help says is taken for a field, where that is not the config's own default.
    """
    groups = {name: parser.add_argument_group(title) for name, title in _TITLES.items()}
    for f in dataclasses.fields(RunConfig):
        if f.name in leave_out:
            continue
        default = defaults.get(f.name, f.default)
        help = f.metadata["help"]
        if default is not None and f.type != "bool":
            shown = " ".join(map(str, default)) if isinstance(default, tuple) else default
            help += f" ({shown})"
        short, choices = help, f.metadata["choices"] or ()
        if choices:
            help += ": " + ", ".join(choices)
        options: dict[str, Any] = {"default": argparse.SUPPRESS, "help": help}
        kind = str(f.type)
        if kind == "bool":
            options["action"] = argparse.BooleanOptionalAction
        else:
            options["type"] = int if "int" in kind else float if kind.startswith("float") else str
            options["metavar"] = "N" if "int" in kind else "X" if kind.startswith("float") else "NAME"
            if "tuple" in kind:
                options["nargs"] = "+"
                options["metavar"] = options["metavar"][0]  # it is written twice
        action = groups[f.metadata["group"]].add_argument(flag(f.name), dest=f.name, **options)
        if f.name not in main:
            action.full_help = action.help  # type: ignore[attr-defined]
            action.help = argparse.SUPPRESS
        elif len(choices) > _MANY:
            action.full_help = action.help  # type: ignore[attr-defined]
            action.help = f"{short}; --help-all lists all"


def add_preset_flag(parser: argparse.ArgumentParser) -> None:
    """--preset, which sets several flags of the label generator, and --fast, which sets several of the machine."""
    parser.add_argument("--preset", metavar="NAME", help="meta steps by name: " + ", ".join(PRESETS))
    parser.add_argument(
        "--fast", action="store_true", help="use what is faster on this device and safe (GPUs)"
    )


def add_talk_flags(parser: argparse.ArgumentParser) -> None:
    """--quiet and --verbose: how much a command says beside its result."""
    talk = parser.add_mutually_exclusive_group()
    talk.add_argument("-q", "--quiet", action="store_true", help="the result, warnings and errors alone")
    talk.add_argument("-v", "--verbose", action="store_true", help="also log what the package is doing")


def add_trust_flag(parser: argparse.ArgumentParser) -> None:
    """--trust, which lets a file name code."""
    parser.add_argument(
        "--trust", action="store_true", help="call the function that a file names as its trunk"
    )


def read_config(namespace: argparse.Namespace, defaults: dict[str, Any] | None = None) -> RunConfig:
    """Defaults, then what the YAML file of --config names, then --preset, then --fast, then the other flags."""
    values: dict[str, Any] = dict(defaults or {})
    names = {f.name for f in dataclasses.fields(RunConfig)}
    typed = {name: value for name, value in vars(namespace).items() if name in names}
    if (path := getattr(namespace, "config", None)) is not None:
        from_file = RunConfig.read_named(Path(path))
        if not getattr(namespace, "trust", False):
            refuse_code({name: value for name, value in from_file.items() if name not in typed}, str(path))
        values |= from_file
    if (preset := getattr(namespace, "preset", None)) is not None:
        check_choice("--preset", preset, tuple(PRESETS))
        for name in {name for other in PRESETS.values() for name in other}:
            values.pop(name, None)  # a preset says by its defaults, too, how passes are shared
        values |= PRESETS[preset] | _OF_PRESETS.get(preset, {})
    values |= typed
    config = RunConfig.from_dict(values, "command line")
    config = _faster(config, typed) if getattr(namespace, "fast", False) else config
    if config.precision == "bf16":  # else PyTorch is not needed yet
        from maxl.experiments.runs.build import resolve_device
        from maxl.experiments.runs.fast import slower

        note(slower(config, resolve_device(config.device)))
    return config


def _faster(config: RunConfig, typed: Collection[str]) -> RunConfig:
    """With what --fast sets, but for what was typed; says what that is."""
    from maxl.experiments.runs.build import resolve_device
    from maxl.experiments.runs.fast import fast_settings, told

    device = resolve_device(config.device)
    settings = {name: v for name, v in fast_settings(config, device).items() if name not in typed}
    note(told(settings, device))
    return dataclasses.replace(config, **settings)


def parse_grid(items: Sequence[str]) -> dict[str, list[Any]]:
    """``name=v1,v2`` items as lists of YAML values."""
    from maxl.experiments.runs.files import parse_yaml

    grid: dict[str, list[Any]] = {}
    for item in items:
        name, equals, values = item.partition("=")
        if not equals or not values:
            raise ValueError(f"--grid needs NAME=VALUE,VALUE items; got {item!r}")
        try:
            grid[name.replace("-", "_")] = [parse_yaml(v, "--grid") for v in values.split(",")]
        except ValueError as error:
            raise ValueError(f"--grid needs plain values between commas; got {item!r}") from error
    return grid


def terminal_width() -> int:
    """Columns, for tables that would rather wrap than be cut where there is no terminal."""
    import shutil

    return shutil.get_terminal_size((120, 24)).columns if sys.stdout.isatty() else 120
