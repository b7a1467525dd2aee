"""``recast init``: the keys and the signed store of a new project."""

from __future__ import annotations

import json
import os
import textwrap
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pipeline.cli.context import Context
from pipeline.cli.key_tables import short_path
from pipeline.cli.passphrase import choose_passphrase
from pipeline.cli.terminal import printable, table, width
from pipeline.errors import UsageError
from pipeline.files import write_atomically

if TYPE_CHECKING:
    from securesystemslib.signer import Key

    from pipeline.models.channel import Channels

_WIDEST = 88  # columns; longer lines are hard to read
_SIGNS = {
    "root": "root",
    "targets": "targets",
    "online": "snapshot, timestamp",
    "builder": "provenance, SBOM",
    "tester": "test results",
}


@dataclass(frozen=True)
class _Made:
    """A key of the new project."""

    name: str
    roles: tuple[str, ...]
    place: str
    file: Path | None
    encrypted: bool | None
    keyid: str


@click.command()
@click.option(
    "--offline-keys",
    default=3,
    show_default=True,
    type=click.IntRange(1, 16),
    help="Keys for root and targets, to be kept offline.",
)
@click.option(
    "--threshold",
    default=2,
    show_default=True,
    type=click.IntRange(1, 16),
    help="How many of those must sign.",
)
@click.option(
    "--passphrase/--no-passphrase",
    default=None,
    help="Encrypt key files. By default with RECAST_PASSPHRASE, or what is typed when asked.",
)
@click.option("--json", "as_json", is_flag=True, help="Print what was made as JSON.")
def init(offline_keys: int, threshold: int, passphrase: bool | None, as_json: bool) -> None:
    """Make the keys and the signed store of a new project.

    One run makes everything: keys in RECAST_KEYS (by default artifacts/keys), the signed metadata
    in the store, and the root of trust that every machine starts from. It ends by saying which
    keys belong offline. Cut at any instant, it goes on when it is run again.

    A key that exists already, in a token or a cloud, takes part if keys.yaml in the key folder
    names it before: `stable: hsm:2?label=alice`.

    \b
    Example:
      recast init
      recast init --offline-keys 5 --threshold 3 --passphrase
    """
    if threshold > offline_keys:
        raise UsageError(
            f"{threshold} signatures cannot come from {offline_keys} offline keys",
            hint="Make more keys, or ask for fewer signatures.",
        )
    context = Context.find()
    with context.keyring.being_made():
        _require_new(context)
        plan = _plan(context.channels, offline_keys)
        made = _make_keys(context, plan, passphrase)
        target = _root_file(context)
        _make_store(context, plan, made, threshold, target)
    keys = [_told(context, name, plan) for name in plan]
    if as_json:
        click.echo(json.dumps(_as_data(context, keys, target), indent=2))
    else:
        click.echo(printable(_as_text(context, keys, target, threshold)))


def _plan(channels: Channels, offline_keys: int) -> dict[str, tuple[str, ...]]:
    """The roles of each key, by its name."""
    offline = [f"offline-{number}" for number in range(1, offline_keys + 1)]
    plan: dict[str, tuple[str, ...]] = dict.fromkeys(offline, ("root", "targets"))
    plan["online"] = ("online",)
    for channel in channels.channels:
        approvals = channel.gates.approvals
        names = [f"{channel.name}-{number}" for number in range(1, approvals + 1)]
        for name in names if approvals > 1 else [channel.name]:
            if name in plan:
                raise UsageError(
                    f"a key of the channel {channel.name} would be called `{name}`, as another is",
                    hint="Give the channel another name.",
                )
            plan[name] = (channel.name,)
    return plan | {"builder": ("builder",), "tester": ("tester",)}


def _require_new(context: Context) -> None:
    from pipeline.trust.layout import TIMESTAMP_KEY, metadata_key

    root = context.find_root()
    started = context.store.find(metadata_key("root", 1)) is not None
    if root is not None and root.is_file():
        if context.store.find(TIMESTAMP_KEY) is not None:
            raise UsageError(
                f"this project has its keys and its signed store already, in {context.store.url}",
                hint=f"`recast keys list` shows them; the root of trust is {root}.",
            )
        raise UsageError(
            f"this project has a root of trust, {root}, and {context.store.url} holds no signed "
            "metadata",
            hint="Name the right store (`store:` in images/settings.yaml, or RECAST_STORE). To "
            "begin anew, with machines that start anew as well, remove that file.",
        )
    if started and not context.keyring.names():
        raise UsageError(
            f"{context.store.url} is signed already, with keys that are not in "
            f"{context.keys_folder}",
            hint="Get its root.json from a colleague, and put it at images/root.json. Their "
            "`recast keys add` lets you sign as well.",
        )


def _make_keys(context: Context, plan: Iterable[str], passphrase: bool | None) -> Mapping[str, Key]:
    there = set(context.keyring.names())
    missing = [name for name in plan if name not in there]
    secret = choose_passphrase(passphrase) if missing else None
    for name in missing:
        context.keyring.generate(name, secret)
    return {name: context.keyring.public(name) for name in plan}


def _root_file(context: Context) -> Path:
    """Where the root of trust belongs: in the repository, if its store is shared."""
    from pipeline.models.settings import StoreSettings

    given = os.environ.get("RECAST_ROOT")
    if given:
        return Path(given).absolute()
    override = os.environ.get("RECAST_STORE", "")
    url = override or context.settings.store.url
    configured = not override and url != StoreSettings().url
    if configured or url.startswith("s3:"):
        return context.project / "images" / "root.json"
    return context.keys_folder / "root.json"


def _make_store(
    context: Context,
    plan: Mapping[str, tuple[str, ...]],
    keys: Mapping[str, Key],
    threshold: int,
    target: Path,
) -> None:
    from pipeline.trust.repository import Repository, RoleKeys

    holders: dict[str, list[Key]] = {}
    for name, signs in plan.items():
        for role in signs:
            holders.setdefault(role, []).append(keys[name])
    roles = {
        role: RoleKeys(tuple(found), threshold if role in ("root", "targets") else 1)
        for role, found in holders.items()
    }
    root = Repository.create(
        context.store,
        context.keyring,
        context.channels,
        roles,
        single_writer=context.settings.store.single_writer,
    )
    write_atomically(target, root)


def _told(context: Context, name: str, plan: Mapping[str, tuple[str, ...]]) -> _Made:
    ring = context.keyring
    file = ring.file(name)
    return _Made(
        name=name,
        roles=plan[name],
        place=short_path(file) if file else ring.uri(name),
        file=file,
        encrypted=ring.encrypted(name),
        keyid=ring.public(name).keyid,
    )


def _as_data(context: Context, keys: list[_Made], target: Path) -> dict[str, object]:
    return {
        "store": context.store.url,
        "root": str(target),
        "commit": [str(target)] if target.parent.name == "images" else [],
        "move_offline": [str(key.file) for key in keys if "root" in key.roles and key.file],
        "keys": [
            {
                "name": key.name,
                "roles": list(key.roles),
                "keyid": key.keyid,
                "file": str(key.file) if key.file else None,
                "uri": context.keyring.uri(key.name),
                "encrypted": key.encrypted,
            }
            for key in keys
        ],
    }


def _as_text(context: Context, keys: list[_Made], target: Path, threshold: int) -> str:
    rows = [
        (key.name, ", ".join(_SIGNS.get(r, f"channel {r}") for r in key.roles), _kept(key))
        for key in keys
    ]
    offline = [key for key in keys if "root" in key.roles and key.file]
    parts = [
        f"Made the signed store {context.store.url}, and its keys:",
        table(rows, ("key", "signs", "private key")),
    ]
    if offline:
        first, where = offline[0].name, short_path(context.keys_folder / "keys.yaml")
        parts += [
            "Move offline: " + ", ".join(key.place for key in offline),
            _paragraph(
                f"Whoever holds {threshold} of them can replace every other key, and so owns "
                "every machine. They are needed only to change keys, and once a year: keep each "
                "on a medium of its own, by different people, and a copy elsewhere. Where it is "
                f"then goes into {where}:"
            )
            + f"\n    {first}: file:/media/usb/{first}.pem",
        ]
    parts.append(_root_advice(context, target))
    if any(key.encrypted is False for key in keys):
        parts.append(
            _paragraph(
                "Key files that are not encrypted serve whoever reads this disk or a backup of "
                "it. `recast keys rotate` makes others, with RECAST_PASSPHRASE set or a "
                "passphrase typed."
            )
        )
    parts.append(
        _paragraph(
            "Next: `recast run` publishes what passes its tests. `recast refresh`, in a daily "
            "job, keeps the store from running out."
        )
    )
    return "\n\n".join(parts)


def _kept(key: _Made) -> str:
    if key.encrypted is None:
        return key.place
    return f"{key.place}, {'encrypted' if key.encrypted else 'not encrypted'}"


def _root_advice(context: Context, target: Path) -> str:
    where = short_path(target)
    if target.parent == context.project / "images":
        return _paragraph(
            f"Commit {where}: every engineer and every machine starts to trust from it. It holds "
            "public keys alone; private keys never belong into the repository."
        )
    return _paragraph(
        f"The root of trust is {where}: every machine starts to trust from it. Nothing is to be "
        "committed, as this store is yours alone; once others share it, put that file at "
        "images/root.json."
    )


def _paragraph(text: str) -> str:
    return textwrap.fill(
        text, min(width(), _WIDEST), break_long_words=False, break_on_hyphens=False
    )
