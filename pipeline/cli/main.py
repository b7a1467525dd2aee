"""The command ``recast``: which commands there are, and what becomes of an error.

Nothing heavy is imported here. A command's module is imported when that command is called, so
that ``recast --help`` and ``recast plan`` answer at once.
"""

from __future__ import annotations

import contextlib
import difflib
import errno
import importlib
import json
import os
import signal
import sys
import tempfile
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType

import click

from pipeline import __version__
from pipeline.clock import compact, now
from pipeline.errors import HostError, Interrupted, RecastError

# Each is `pipeline.cli.<name>`, attribute `<name>`; the text is what `recast --help` shows, so
# that help needs no import.
COMMANDS: dict[str, str] = {
    "doctor": "Check this machine, and name what is missing.",
    "schema": "Print the JSON Schema of image definitions.",
    "plan": "Show what would be built, in which order, and why.",
    "run": "Build, test and publish what has changed.",
    "build": "Build and assemble images, without testing them.",
    "test": "Boot releases in virtual machines and test them.",
    "images": "List images and their newest releases.",
    "show": "Show everything about one release.",
    "diff": "Show what differs between two releases, and what it costs.",
    "runs": "List past and present runs.",
    "log": "Print the logs of a run, or the history of a channel.",
    "init": "Make the keys and the signed store of a new project.",
    "publish": "Upload tested releases to the store, and into the first channel.",
    "promote": "Move a release into the next channel.",
    "rollback": "Move a channel back to an earlier release.",
    "revoke": "Make every site refuse a version.",
    "freeze": "Stop everything in a channel.",
    "thaw": "Let a frozen channel move again.",
    "approve": "Add your signature to a proposed change.",
    "proposals": "List changes that wait for signatures.",
    "channels": "List the channels and what they hold.",
    "releases": "List the published releases of an image.",
    "roll": "Look at a rollout, and steer it.",
    "keys": "List, add, remove and rotate signing keys.",
    "refresh": "Sign again what expires soon.",
    "sites": "Show which machine runs what, who lags, and why.",
    "gc": "Remove from the store what nothing refers to.",
    "serve": "Serve a local store to sites over HTTP.",
}

_INTERRUPTED = 130
_BROKEN_PIPE = 141  # what a shell reports for a program that SIGPIPE ended


class _Commands(click.Group):
    """A group whose commands are imported when they are called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module = f"pipeline.cli.{cmd_name}"
        try:
            found = getattr(importlib.import_module(module), cmd_name)
        except ModuleNotFoundError as error:
            if error.name == module:
                raise RecastError(f"`recast {cmd_name}` is not part of this version") from error
            raise RecastError(
                f"`recast {cmd_name}` needs the Python package that brings `{error.name}`",
                hint="Install it with `pip install 'recast[build]'`.",
            ) from error
        assert isinstance(found, click.Command)
        return found

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        word = args[0] if args else ""
        if word and not word.startswith("-") and word not in COMMANDS:
            near = difflib.get_close_matches(word, COMMANDS, n=1)
            meant = f" Did you mean `recast {near[0]}`?" if near else ""
            raise click.UsageError(f"There is no command `{word}`.{meant}", ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="recast", message="%(prog)s %(version)s")
def cli() -> None:
    """Golden OS images: each change built, tested and versioned.

    The project is the nearest folder above that holds `images/` (RECAST_PROJECT overrides);
    results go to `artifacts/` there (RECAST_ARTIFACTS overrides).

    \b
    Example:
      recast doctor && recast plan && sudo recast run
    """


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line, and return its exit code; errors are printed, none is raised.

    Args:
        argv: the words after ``recast``; the process's own if not given.
    """
    args = list(sys.argv[1:] if argv is None else argv)
    as_json = "--json" in (args[: args.index("--")] if "--" in args else args)
    with _terminated_like_interrupted():
        try:
            code = cli.main(args=args, prog_name="recast", standalone_mode=False)
            sys.stdout.flush()
            return code if isinstance(code, int) else 0
        except click.exceptions.Exit as done:
            return done.exit_code
        except click.UsageError as error:
            return _usage(error, as_json)
        except click.ClickException as error:
            return _fail(error.format_message(), "", error.exit_code, as_json)
        except RecastError as error:
            return _fail(error.message, error.hint, error.exit_code, as_json)
        except (KeyboardInterrupt, click.Abort):
            return _fail("stopped on request", "", _INTERRUPTED, as_json)
        except (BrokenPipeError, SystemExit):  # the latter is how click tells of the former
            from pipeline.cli.terminal import forget_stdout

            forget_stdout()
            return _BROKEN_PIPE
        except OSError as error:
            return _refused(error, as_json)
        except Exception as error:  # the last resort: a defect, told without a wall of text
            return _crash(error, as_json)


def entry() -> None:
    """The console script."""
    sys.exit(main())


@contextlib.contextmanager
def _terminated_like_interrupted() -> Iterator[None]:
    """Let SIGTERM and SIGHUP unwind as Ctrl-C does, so that nothing is left behind."""

    def stop(number: int, _frame: FrameType | None) -> None:
        raise Interrupted(f"stopped by {signal.Signals(number).name}")

    before = {}
    with contextlib.suppress(ValueError):  # not the main thread: somebody else's signals
        for number in (signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) == signal.SIG_DFL:
                before[number] = signal.signal(number, stop)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _usage(error: click.UsageError, as_json: bool) -> int:
    if as_json:
        return _fail(error.format_message(), "", error.exit_code, as_json)
    error.show()
    return error.exit_code


def _fail(message: str, hint: str, code: int, as_json: bool) -> int:
    if as_json:
        click.echo(json.dumps({"error": message, "hint": hint, "code": code}), err=True)
        return code
    from pipeline.cli.terminal import colour

    click.echo(f"{colour('recast: error:', 'red', stream=sys.stderr)} {message}", err=True)
    if hint:
        click.echo(f"{colour('hint:', 'cyan', stream=sys.stderr)} {hint}", err=True)
    return code


def _refused(error: OSError, as_json: bool) -> int:
    """The system said no: a file that may not be read, a disk that is full."""
    if error.filename is None and error.errno not in (errno.ENOSPC, errno.EDQUOT):
        return _crash(error, as_json)
    hint = ""
    if isinstance(error, PermissionError):
        hint = "What was built with `sudo` belongs to root: use `sudo` here too, or change that."
    elif error.errno in (errno.ENOSPC, errno.EDQUOT):
        hint = "Free some space, then run it again: finished work is kept."
    where = f": {error.filename}" if error.filename is not None else ""
    return _fail(f"{error.strerror}{where}", hint, HostError.exit_code, as_json)


def _crash(error: Exception, as_json: bool) -> int:
    text = "".join(traceback.format_exception(error))
    where = _save_traceback(text)
    return _fail(
        f"something went wrong that should not have: {type(error).__name__}: {error}",
        f"The details are in {where}; please report them." if where else text,
        1,
        as_json,
    )


def _save_traceback(text: str) -> Path | None:
    """Keep *text* where the person's other logs are, else in the temporary folder."""
    name = f"crash-{compact(now())}-{os.getpid()}.txt"
    folders = [Path(tempfile.gettempdir())]
    with contextlib.suppress(Exception):
        from pipeline.cli.context import find_artifacts

        folders.insert(0, find_artifacts() / "runs")
    for folder in folders:
        with contextlib.suppress(OSError):
            folder.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(text)
            return folder / name
    return None


if __name__ == "__main__":
    entry()
