"""The ``recast-agent`` command.

This version answers ``--help`` and ``--version`` alone: it cannot update a machine, and says so.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from pipeline import __version__


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``recast-agent``; return its exit code."""
    parser = argparse.ArgumentParser(
        prog="recast-agent",
        description="Keeps a machine on the release that its channel names, by reimaging. "
        "Updating is not part of this version yet.",
    )
    parser.add_argument("--version", action="version", version=f"recast-agent {__version__}")
    parser.parse_args(argv)
    print(
        "recast-agent: updating is not part of this version yet; this machine stays as it is.",
        file=sys.stderr,
    )
    return 1


if __name__ == "__main__":
    sys.exit(main())
