"""The command line, and its parts for scripts that take the same flags (recipes)."""

from maxl.experiments.cli._arguments import Parser, add_config_flags, add_help_all, read_config
from maxl.experiments.cli._main import main, parser
from maxl.experiments.cli._study import run_study

__all__ = ["Parser", "add_config_flags", "add_help_all", "main", "parser", "read_config", "run_study"]
