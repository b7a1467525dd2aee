"""The command ``recast-agent``: what it understands, and what becomes of an error.

Nothing heavy is imported before a command is known; ``status`` answers without the network.
"""

from __future__ import annotations

import argparse
import errno
import json
import os
import signal
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, NoReturn

from pipeline import __version__
from pipeline.errors import HostError, Interrupted, RecastError, UsageError

if TYPE_CHECKING:
    from pipeline.command import Stop

_BROKEN_PIPE = 141  # what a shell reports for a program that SIGPIPE ended

_EXAMPLES = """\
examples:
  recast-agent status                 what runs, what is wanted, and why it has or has not moved
  recast-agent check                  ask the store now, and say what would be done
  recast-agent update --download-only have the next release on the disk, and go on running this one
  recast-agent update --now           do not wait for the wave and the window
  recast-agent pin                    stay at what runs now
"""


class _Parser(argparse.ArgumentParser):
    """Raises what argparse would print and exit with."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(message, hint=f"`{self.prog} --help` shows what can be asked for.")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line, and return its exit code; errors are printed, none is raised.

    Args:
        argv: the words after ``recast-agent``; the process's own if not given.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    as_json = "--json" in words
    try:
        return _run(words)
    except RecastError as error:
        return _fail(error.message, error.hint, error.exit_code, as_json)
    except KeyboardInterrupt:
        return _fail("stopped on request", "", Interrupted.exit_code, as_json)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _BROKEN_PIPE
    except OSError as error:
        return _refused(error, as_json)
    except Exception as error:  # the last resort: a defect; the journal keeps where it was
        told = f"something went wrong that should not have: {type(error).__name__}: {error}"
        return _fail(told, "".join(traceback.format_exception(error)), 1, as_json)


def _run(words: Sequence[str]) -> int:
    args = parser().parse_args(words)
    if args.command == "network":  # starts early, and needs nothing of what follows
        from pipeline.agent import network

        return network.main()
    from pipeline.agent import commands
    from pipeline.agent.compose import Places
    from pipeline.command import Stop

    stop = Stop()
    _end_on_signals(stop)
    places = Places()
    if args.root is not None:
        places = Places(args.root / "data", args.root / "run/recast", mount=False)
    code = getattr(commands, args.function)(args, places, stop)
    sys.stdout.flush()
    assert isinstance(code, int)
    return code


def parser() -> argparse.ArgumentParser:
    """What ``recast-agent`` understands."""
    top = _Parser(
        prog="recast-agent",
        description="Keeps this machine on the release that its channel names, by reimaging.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--version", action="version", version=f"recast-agent {__version__}")
    top.add_argument("--root", type=Path, help=argparse.SUPPRESS)
    commands = top.add_subparsers(dest="command", metavar="COMMAND", required=True)

    each = _command(commands, "status", "say what runs, what is wanted, and why", "show_status")
    each.add_argument(
        "--drift",
        action=argparse.BooleanOptionalAction,
        help="look for what differs from the image (default: yes, where it may look)",
    )
    _command(commands, "check", "ask the store now, and say what would be done")
    each = _command(commands, "update", "do now what the timer would do later")
    each.add_argument(
        "--now",
        action="store_true",
        help="do not wait for the wave and the window; all else counts",
    )
    each.add_argument(
        "--download-only",
        action="store_true",
        help="have it on the disk and stop there; the timer's next turn goes on",
    )
    _command(commands, "confirm", "call good what is on trial, before its health checks do")
    each = _command(commands, "install", "put a release on a whole disk")
    _install_arguments(each)
    _command(commands, "run", "one turn, as the timer has it")
    each = _command(commands, "pin", "hold this machine at a version")
    each.add_argument("version", nargs="?", help="the version (default: what runs)")
    each = _command(commands, "unpin", "follow the channel again")
    each.add_argument("version", nargs="?", help="only if it is held at this one")
    each = _command(commands, "allow", "have a version tried again that failed here")
    each.add_argument("version", help="the version")
    each = _command(commands, "log", "show what has happened on this machine")
    each.add_argument(
        "-n", "--lines", type=_at_least_one, default=100, help="at most so many (default: 100)"
    )
    # For systemd's units.
    _command(commands, "judge", "", "judge")
    _command(commands, "network", "", "network")
    return top


def _command(
    commands: argparse._SubParsersAction[_Parser], name: str, text: str, function: str = ""
) -> _Parser:
    if text:
        made = commands.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.")
    else:
        made = commands.add_parser(name)
    made.add_argument("--json", action="store_true", help="print JSON, for programs")
    made.set_defaults(function=function or name)
    return made


def _install_arguments(each: _Parser) -> None:
    each.add_argument("device", metavar="DEVICE", help="a disk such as /dev/sda, or a file")
    each.add_argument("--store", metavar="URL", help="where releases come from")
    each.add_argument("--channel", metavar="NAME", help="the channel")
    each.add_argument("--image", metavar="NAME", help="the image")
    each.add_argument(
        "--root-of-trust", type=Path, metavar="FILE", help="the root.json that is trusted"
    )
    each.add_argument("--version", metavar="VERSION", help="a version that the channel holds")
    each.add_argument("--yes", action="store_true", help="overwrite what is on the disk")


def _at_least_one(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a number of at least 1, got {text!r}")
    return int(text)


def _end_on_signals(stop: Stop) -> None:
    """Have SIGTERM and SIGHUP unwind as Ctrl-C does: whoever comes next goes on."""

    def end(number: int, _frame: FrameType | None) -> None:
        stop.set()
        raise Interrupted(f"stopped by {signal.Signals(number).name}")

    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        try:
            signal.signal(number, end)
        except ValueError:  # not the main thread: somebody else's signals
            return


def _fail(message: str, hint: str, code: int, as_json: bool) -> int:
    if as_json:
        print(json.dumps({"error": message, "hint": hint, "code": code}), file=sys.stderr)
        return code
    print(f"recast-agent: error: {message}", file=sys.stderr)
    if hint:
        print(f"hint: {hint}", file=sys.stderr)
    return code


def _refused(error: OSError, as_json: bool) -> int:
    """The system said no: a file that may not be read, a disk that is full."""
    hint = ""
    if isinstance(error, PermissionError):
        hint = "Run it as root: `sudo recast-agent …`."
    elif error.errno in (errno.ENOSPC, errno.EDQUOT):
        hint = "Free some space on the data partition, then try again."
    where = f": {error.filename}" if error.filename is not None else ""
    return _fail(f"{error.strerror or error}{where}", hint, HostError.exit_code, as_json)


if __name__ == "__main__":
    sys.exit(main())
