"""``recast serve``: the local store over HTTP, for sites."""

from __future__ import annotations

import contextlib
import ipaddress
import json
import queue
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pipeline.cli.context import Context
from pipeline.cli.terminal import colour, printable
from pipeline.engine.signals import caught
from pipeline.errors import UsageError
from pipeline.serve import Log, Request, Server, Uploads

if TYPE_CHECKING:
    from pipeline.store.local import LocalStore


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="The address to listen on.")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=8080,
    show_default=True,
    help="The port to listen on; 0 for any that is free.",
)
@click.option(
    "--checkins",
    is_flag=True,
    help="Take machines' reports as well: whoever reaches the server may then write small signed "
    "files below `checkins/` of the store, and nothing else.",
)
@click.option("--quiet", "-q", is_flag=True, help="Print no line for each request.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, one object per line.")
def serve(host: str, port: int, checkins: bool, quiet: bool, as_json: bool) -> int:
    """Serve a local store to sites over HTTP.

    Only this machine can reach it unless --host says otherwise. Nothing is encrypted: sites
    check the signature of all that they get, but who listens can read it. For more than a few
    machines, let nginx or another web server serve the store's folder; it needs no program.

    With --checkins the first report of a machine brings its key, and no other key can speak for
    it from then on. `recast sites` shows what machines have said.

    \b
    Example:
      recast serve
      recast serve --host 0.0.0.0 --port 8080 --checkins
    """
    from pipeline.store.local import LocalStore

    context = Context.find()
    store = context.store
    if not isinstance(store, LocalStore):
        raise UsageError(
            f"the store {store.url} is not on this machine, and is served by S3 itself",
            hint="Sites read it there, or through a CDN in front of it.",
        )
    ends: queue.SimpleQueue[int] = queue.SimpleQueue()
    log = None if quiet else _log(as_json)
    uploads = _uploads(store) if checkins else None
    with caught(ends.put), Server(store, host, port, log=log, uploads=uploads) as server:
        _announce(server, context.find_root(), host, as_json, checkins)
        number = _first(ends)
    if not as_json:
        click.echo(f"Stopped by {signal.Signals(number).name}.", err=True)
    return 0  # this is how a server ends


def _uploads(store: LocalStore) -> Uploads:
    from pipeline.fleet.accept import Acceptor
    from pipeline.models.checkin import MAX_CHECKIN

    return Uploads("checkins/", MAX_CHECKIN, Acceptor(store))


def _first(ends: queue.SimpleQueue[int]) -> int:
    """Wait for a signal. Another thread may have got it: then only waking up lets it through."""
    while True:
        with contextlib.suppress(queue.Empty):
            return ends.get(timeout=0.5)


def _announce(server: Server, root: Path | None, host: str, as_json: bool, checkins: bool) -> None:
    folder = server.store.folder
    public = not _is_loopback(server.url)
    if as_json:
        words = {
            "url": server.url,
            "folder": str(folder),
            "loopback": not public,
            "checkins": checkins,
        }
        click.echo(json.dumps(words))
        sys.stdout.flush()
        return
    click.echo(f"Serving {folder} at {colour(server.url, 'cyan', bold=True)}")
    click.echo(
        "A site needs that URL as its store, and the root of trust: "
        + (f"{root}." if root else "`recast init` makes it.")
    )
    if not folder.is_dir():
        click.echo("There is nothing in the store yet; `recast publish` puts releases there.")
    if checkins:
        click.echo("Machines' reports are taken; `recast sites` shows them.")
    if public:
        mark = colour("warning:", "yellow", stream=sys.stderr)
        click.echo(
            f"{mark} everybody who reaches {host} can read the store, and nothing is encrypted; "
            "signatures protect what sites install.",
            err=True,
        )
    click.echo("Ctrl-C ends it.")
    sys.stdout.flush()


def _is_loopback(url: str) -> bool:
    host = url.removeprefix("http://").rpartition(":")[0].strip("[]")
    return ipaddress.ip_address(host.partition("%")[0]).is_loopback


def _log(as_json: bool) -> Log:
    def say(request: Request) -> None:
        if as_json:
            text = json.dumps(
                {
                    "client": request.client,
                    "request": request.line,
                    "status": request.status,
                    "size": request.size,
                }
            )
        else:
            words = f"{request.client} {request.line} {request.status} {request.size}"
            text = printable(words)
        with contextlib.suppress(OSError):  # who reads the log may go; sites are served on
            sys.stdout.write(text + "\n")  # in one piece, or the lines of two threads mix
            sys.stdout.flush()

    return say
