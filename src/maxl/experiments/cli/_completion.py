"""``maxl completion``."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from pathlib import Path
from typing import Any

from maxl.experiments.runs.config import RunConfig

_SHELLS = ("bash", "zsh", "fish")
_CHOICES = {f.name: f.metadata["choices"] for f in dataclasses.fields(RunConfig)}


def add_completion(commands: Any) -> None:
    """Adds the command to the subparsers of ``maxl``."""
    completion = commands.add_parser(
        "completion",
        help="lets bash, zsh or fish complete commands and flags",
        description="Prints a script that completes commands, flags, their choices and files when Tab is pressed.",
        epilog="example:\n"
        "  maxl completion bash > ~/.local/share/bash-completion/completions/maxl\n"
        "  maxl completion zsh > ~/.zfunc/_maxl          (a folder in $fpath)\n"
        "  maxl completion fish > ~/.config/fish/completions/maxl.fish",
    )
    completion.add_argument("shell", metavar="SHELL", help=", ".join(_SHELLS))
    completion.set_defaults(run=_completion)


def _completion(namespace: argparse.Namespace) -> None:
    import shtab

    from maxl.experiments.cli._main import parser
    from maxl.presets import check_choice

    check_choice("SHELL", namespace.shell, _SHELLS)
    top = parser()
    _complete(top)
    sys.stdout.write(shtab.complete(top, shell=namespace.shell) + "\n")


def _complete(parser: argparse.ArgumentParser) -> None:
    """Says of every argument, in all commands, what it may be: shtab looks at what argparse knows."""
    import shtab

    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                _complete(command)
        elif action.type is Path or action.dest == "data":
            action.complete = shtab.FILE  # type: ignore[attr-defined]
        elif _CHOICES.get(action.dest):
            action.choices = _CHOICES[action.dest]
        elif action.dest == "shell":
            action.choices = _SHELLS
        action.help = getattr(action, "full_help", action.help)  # flags of --help-all too
