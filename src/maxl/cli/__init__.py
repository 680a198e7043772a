"""The command line, and its parts for scripts that take the same flags (recipes)."""

from maxl.cli._arguments import Parser, add_config_flags, add_help_all, read_config
from maxl.cli._main import main
from maxl.cli._study import run_study

__all__ = ["Parser", "add_config_flags", "add_help_all", "main", "read_config", "run_study"]
