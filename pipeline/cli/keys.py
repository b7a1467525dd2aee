"""``recast keys``: who may sign what, and the private keys that are here."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pipeline.cli.context import Context
from pipeline.cli.key_tables import as_data, as_tables, private_place, sentences, short_path
from pipeline.cli.passphrase import choose_passphrase
from pipeline.cli.terminal import printable
from pipeline.errors import RefusedError, UsageError

if TYPE_CHECKING:
    from securesystemslib.signer import Key

    from pipeline.trust.key_changes import KeyChanges
    from pipeline.trust.key_edits import KeyRole
    from pipeline.trust.views import Outcome

_Command = Callable[..., None]


@dataclass(frozen=True)
class _Desk:
    """A project's keys, as these commands see them."""

    context: Context

    @cached_property
    def changes(self) -> KeyChanges:
        from pipeline.trust.key_changes import KeyChanges

        return KeyChanges(self.context.repository)

    @property
    def taken(self) -> set[str]:
        """Names that a new key cannot have."""
        named = {name for role in self.changes.roles() for name in role.names}
        return named | set(self.context.keyring.names())


@dataclass(frozen=True)
class _Source:
    """Where a key comes from, as the options say it."""

    name: str | None
    uri: str | None
    public: tuple[Path, ...]
    generate: bool
    passphrase: bool | None


def _with_source(command: _Command) -> _Command:
    options = (
        click.option("--name", help="What the key is called; by default the next free number."),
        click.option("--uri", help="A private key that exists: file:…, hsm:…, awskms:…"),
        click.option(
            "--public",
            multiple=True,
            type=click.Path(path_type=Path, exists=True, dir_okay=False),
            help="A colleague's public key: the .pub file of their key folder, or PEM.",
        ),
        click.option("--generate", is_flag=True, help="Make a new key here (the default)."),
        click.option(
            "--passphrase/--no-passphrase", default=None, help="Encrypt a new key's file."
        ),
    )
    for option in reversed(options):
        command = option(command)
    return command


def _with_outcome(command: _Command) -> _Command:
    options = (
        click.option(
            "--propose",
            is_flag=True,
            help="Where your signatures are too few, leave the change in the store for others.",
        ),
        click.option("--json", "as_json", is_flag=True, help="Print what came of it as JSON."),
    )
    for option in reversed(options):
        command = option(command)
    return command


@click.group()
def keys() -> None:
    """List, add, remove and rotate signing keys.

    The roles: root and targets (offline), online (snapshot and timestamp), one for each channel,
    builder and tester. Machines follow every change by themselves.

    \b
    Example:
      recast keys list
      recast keys rotate online
    """


@keys.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print roles and keys as JSON.")
def list_(as_json: bool) -> None:
    """Show who may sign what, until when that is signed, and which private keys are here.

    \b
    Example:
      recast keys list
    """
    desk = _Desk(Context.find())
    state, ring = desk.context.repository.load(), desk.context.keyring
    roles = desk.changes.roles_in(state)
    if as_json:
        click.echo(json.dumps(as_data(roles, state, ring), indent=2))
    else:
        click.echo(printable(as_tables(roles, state, ring)))
        for notice in state.notices:
            click.echo(printable(f"note: {notice}", sys.stderr), err=True)


@keys.command()
@click.argument("role")
@_with_source
@_with_outcome
def add(
    role: str,
    name: str | None,
    uri: str | None,
    public: tuple[Path, ...],
    generate: bool,
    passphrase: bool | None,
    propose: bool,
    as_json: bool,
) -> None:
    """Let one more key sign ROLE.

    Without more it makes a new key here. A channel that is new in images/channels.yaml gets its
    role this way, with as many keys as it needs approvals.

    \b
    Example:
      recast keys add stable --public alice.pub
      recast keys add stable --uri 'hsm:2?label=alice' --name alice
    """
    desk = _Desk(Context.find())
    found = desk.changes.role(role)
    source = _Source(name, uri, public, generate, passphrase)
    with _new_keys(desk, source, _missing(desk, found)) as new:
        outcome = desk.changes.add(role, new, propose=propose)
    _report(desk, (outcome,), as_json, new=new)


@keys.command()
@click.argument("role")
@click.argument("name")
@_with_outcome
def remove(role: str, name: str, propose: bool, as_json: bool) -> None:
    """Let the key NAME sign ROLE no more.

    What it has signed of a channel is signed anew, if what is left of the signatures is not
    enough. A role always keeps as many keys as it needs signatures.

    \b
    Example:
      recast keys remove stable alice
    """
    desk = _Desk(Context.find())
    outcome = desk.changes.remove(role, name, propose=propose)
    _report(desk, (outcome,), as_json, gone=name)


@keys.command()
@click.argument("old", metavar="NAME")
@click.option(
    "--lost",
    is_flag=True,
    help="The old key is gone, and cannot sign beside the new one: machines refuse the store for "
    "a moment.",
)
@_with_source
@_with_outcome
def rotate(
    old: str,
    lost: bool,
    name: str | None,
    uri: str | None,
    public: tuple[Path, ...],
    generate: bool,
    passphrase: bool | None,
    propose: bool,
    as_json: bool,
) -> None:
    """Put a new key in the place of NAME, in every role that it has.

    Also what to do when a key was stolen or lost. A new online key makes machines forget the
    versions that the old one has signed, so whatever a thief has published is undone.

    \b
    Example:
      recast keys rotate online --uri awskms:alias/recast-online-2
      recast keys rotate offline-1
    """
    from pipeline.trust.key_edits import successor

    desk = _Desk(Context.find())
    desk.changes.require(old)
    source = _Source(name, uri, public, generate, passphrase)
    with _new_keys(desk, source, [successor(old, desk.taken)]) as new:
        if len(new) != 1:
            raise UsageError("one key takes the place of another", hint="Give --public once.")
        outcomes = desk.changes.rotate(old, new[0], propose=propose, lost=lost)
    _report(desk, outcomes, as_json, new=new, gone=old)


@keys.command()
@click.argument("role")
@click.argument("threshold", metavar="N", type=click.IntRange(1, 16))
@_with_outcome
def threshold(role: str, threshold: int, propose: bool, as_json: bool) -> None:
    """Let ROLE need N signatures.

    For a channel, first set its `approvals` in images/channels.yaml.

    \b
    Example:
      recast keys threshold root 3
    """
    desk = _Desk(Context.find())
    outcome = desk.changes.set_threshold(role, threshold, propose=propose)
    if outcome is None and not as_json:
        click.echo(f"{role} has that threshold already.")
        return
    _report(desk, (outcome,) if outcome else (), as_json)


def _missing(desk: _Desk, role: KeyRole) -> list[str]:
    """Names for the keys that *role* is to be given."""
    from pipeline.trust.key_edits import numbered

    stem = {"root": "offline", "targets": "offline"}.get(role.name, role.name)
    taken = desk.taken
    if role.threshold:
        plain = stem in taken
        return [numbered(stem, taken, start=2 if plain else 1)]
    approvals = desk.context.channels[role.name].gates.approvals
    if approvals == 1 and stem not in taken:
        return [stem]
    names: list[str] = []
    for _ in range(approvals):
        names.append(numbered(stem, {*taken, *names}))
    return names


@contextlib.contextmanager
def _new_keys(desk: _Desk, source: _Source, names: Sequence[str]) -> Iterator[list[Key]]:
    """The public keys that the options mean; a key that was made for nothing is unmade."""
    ring, made = desk.context.keyring, list[str]()
    given = source.name
    if source.generate and (source.uri or source.public):
        raise UsageError("--generate makes a new key: leave out --uri and --public")
    if given and len(source.public) > 1:
        raise UsageError("--name cannot name several keys", hint="Leave it out, or give one key.")
    try:
        if source.uri:
            if len(source.public) > 1:
                raise UsageError("--uri is the place of one key", hint="Give --public once.")
            pem = source.public[0].read_bytes() if source.public else None
            found = [ring.add(given or names[0], source.uri, pem)]
            made.append(given or names[0])
        elif source.public:
            found = [_public(path, given) for path in source.public]
        elif given and not source.generate and given in ring.names():
            found = [ring.public(given)]
        elif given and not source.generate and (known := desk.changes.find(given)):
            found = [known]
        else:
            secret = choose_passphrase(source.passphrase)
            found = []
            for name in [given] if given else names:
                found.append(ring.generate(name, secret))
                made.append(name)
        yield found
    except (UsageError, RefusedError):
        # Raised before anything is written to the store: nobody has heard of these keys.
        for name in made:
            ring.remove(name, destroy=source.uri is None)
        raise


def _public(path: Path, name: str | None) -> Key:
    from pipeline.trust.public_keys import read_public

    return read_public(path.read_bytes(), name or "")


def _report(
    desk: _Desk,
    outcomes: Sequence[Outcome],
    as_json: bool,
    *,
    new: Sequence[Key] = (),
    gone: str = "",
) -> None:
    from pipeline.trust.layout import key_name

    names = [key_name(key) for key in new]
    if as_json:
        data = {"outcomes": [asdict(outcome) for outcome in outcomes], "keys": names}
        click.echo(json.dumps(data, indent=2))
        return
    ring = desk.context.keyring
    lines = [f"{name}: {private_place(ring, name)}" for name in names if name in ring.names()]
    lines += [line for outcome in outcomes for line in sentences(outcome)]
    done = all(outcome.version is not None for outcome in outcomes)
    if gone and done and gone in ring.names():
        left = [role.name for role in desk.changes.roles() if gone in role.names]
        if not left:
            file = ring.file(gone)
            place = short_path(file) if file else ring.uri(gone)
            lines.append(
                f"{gone} is in no role any more: destroy {place} and its copies, and remove its "
                "line from keys.yaml."
            )
    click.echo(printable("\n".join(lines)))
