"""``maxl`` and ``python -m maxl``: the door to the command line, which also opens where only torch is installed."""

from __future__ import annotations

import sys
from importlib import metadata


def main() -> int:
    """Runs the command line. Returns its exit code: 2 also where the extra that it needs is not installed."""
    if sys.argv[1:] == ["--version"]:  # needs no extra
        print(f"maxl {metadata.version('maxl-torch')}")
        return 0
    try:
        import maxl.experiments  # noqa: F401
    except ImportError as error:
        print(f"maxl: error: {error}", file=sys.stderr)
        return 2
    from maxl.experiments import cli

    return cli.main()


if __name__ == "__main__":
    sys.exit(main())
