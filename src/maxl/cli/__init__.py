"""The command line."""

from maxl.cli._main import main

__all__ = ["main"]
