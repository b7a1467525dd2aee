"""``recast-agent install``: put a channel's release on a whole disk, from a live or netboot system.

The same rules hold as for an update: nothing is written that was not signed for this channel, by
whom its root of trust names, with proof of how it was made and that its tests passed.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.agent.credentials import ROOT_LIMIT
from pipeline.errors import HostError, RefusedError, UsageError
from pipeline.files import format_size

if TYPE_CHECKING:
    from pipeline.agent.upstream import Stores
    from pipeline.command import Stop
    from pipeline.models.pointer import Pointer, PublishedRelease
    from pipeline.models.site import Site

_ROOM = 2  # images that fit on a disk whose machine can update itself


@dataclass(frozen=True)
class Installed:
    """What was put where.

    Attributes:
        device: the disk.
        release, version, root_hash: what it holds now.
        size, downloaded, written: bytes; what was right already was not written again.
        seconds: how long it took.
    """

    device: str
    release: str
    version: str
    root_hash: str
    size: int
    downloaded: int
    written: int
    seconds: float


def run(args: argparse.Namespace, *, stop: Stop | None = None) -> int:
    """Carry the command out.

    Args:
        args: ``device``, ``store``, ``channel``, ``image``, ``root_of_trust``, ``version``, each
            None where it was not given and this machine's credentials count; ``yes``, ``json``.
        stop: ends it when set.

    Raises:
        RecastError: it was refused, or failed; a second run goes on where this one ended.
    """
    from pipeline.agent.site import read_site

    site, problems = read_site()
    for problem in problems:
        print(f"recast-agent: {problem}", file=sys.stderr)
    site = _settled(args, site)
    done = install(
        Path(args.device),
        site,
        _root(args.root_of_trust),
        version=args.version,
        overwrite=args.yes,
        quiet=args.json,
        stop=stop,
    )
    if args.json:
        print(json.dumps(asdict(done), indent=2))
        return 0
    print(
        f"{done.release} is on {done.device}: {format_size(done.size)}, of which "
        f"{format_size(done.downloaded)} were downloaded and {format_size(done.written)} written, "
        f"in {done.seconds:.0f} s.\nIt was read back, and is what was signed. The machine makes "
        "its second slot and its data partition when it boots for the first time."
    )
    return 0


def install(
    device: Path,
    site: Site,
    root: bytes,
    *,
    version: str | None = None,
    overwrite: bool = False,
    quiet: bool = True,
    stop: Stop | None = None,
) -> Installed:
    """Put a release on a disk.

    Args:
        device: the disk.
        site: names stores, channel and image.
        root: the root of trust.
        version: one that the channel holds; else what it says.
        overwrite: may what is on the disk be lost?
        quiet: say nothing of how it goes.
        stop: ends it when set.

    Raises:
        RecastError: it was refused, or failed.
    """
    from pipeline.agent.compose import open_readers
    from pipeline.agent.progress import Progress
    from pipeline.agent.target import open_target
    from pipeline.agent.upstream import Stores
    from pipeline.agent.writing import require_disk, write_disk
    from pipeline.transfer.source import StoreSource

    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="recast-") as folder:
        stores = Stores(open_readers(site, stop), root, Path(folder), StoreSource)
        release = find_release(stores, site, version)
        part = require_disk(release)
        source = stores.source
        assert isinstance(source, StoreSource)
        progress = Progress()
        with open_target(device, part.size, overwrite=overwrite) as disk:
            if not quiet:
                _announce(release, device, disk.size, part.size)
            try:
                heard = None if quiet else progress.step
                filled = write_disk(release, disk, source, progress=heard, stop=stop)
            finally:
                progress.close()
    return Installed(
        device=str(device),
        release=release.name,
        version=release.version,
        root_hash=release.root_hash,
        size=part.size,
        downloaded=filled.downloaded,
        written=filled.written,
        seconds=round(time.monotonic() - started, 1),
    )


def find_release(stores: Stores, site: Site, version: str | None = None) -> PublishedRelease:
    """The release that a new machine gets, with all proofs that a machine asks for.

    Raises:
        RefusedError: what there is, is revoked, or was not proven.
        UsageError: there is no such channel, image or version.
        NetworkError, TrustError: no store answers, or none can be believed.
    """
    assert site.channel is not None
    assert site.image is not None
    stores.ask()
    release = choose(stores.pointer(site.channel, site.image), version)
    attested = stores.attested(release)
    if not attested.passed:
        raise RefusedError(
            f"{release.name} is not installed: {attested.reason}",
            hint="Publish it with its attestations, from where it was built and tested.",
        )
    return release


def choose(pointer: Pointer, version: str | None = None) -> PublishedRelease:
    """What a machine without a past gets of a channel.

    That is its release; while that is held, halted or revoked, what the channel held before.

    Args:
        pointer: what the channel says, verified.
        version: what a person asked for; must be one of the two.

    Raises:
        RefusedError: there is none, or it is revoked.
        UsageError: the channel does not hold that version.
    """
    held = [each for each in (pointer.release, pointer.previous) if each is not None]
    where = f"channel {pointer.channel}"
    if version is not None:
        asked = [each for each in held if each.version == version]
        if not asked:
            there = ", ".join(each.version for each in held) or "none"
            raise UsageError(
                f"{where} does not hold {pointer.image} {version} now",
                hint=f"It holds {there}.",
            )
        held = asked
    elif pointer.rollout is not None and pointer.rollout.state != "rolling":
        held = held[1:] or held
    if not held:
        raise RefusedError(
            f"{where} holds no release of {pointer.image} now",
            hint="`recast promote` brings one there.",
        )
    for each in held:
        if pointer.revocation(each.version, each.root_hash) is None:
            return each
    revoked = pointer.revocation(held[0].version, held[0].root_hash)
    assert revoked is not None
    raise RefusedError(
        f"{pointer.image} {held[0].version} is revoked: {revoked.reason}",
        hint=f"Promote another release to {where} first.",
    )


def _settled(args: argparse.Namespace, site: Site) -> Site:
    """The site's settings, with what was said on the command line."""
    from pydantic import ValidationError

    from pipeline.models.fields import first_problem
    from pipeline.models.site import Site

    said = {
        "store": (args.store,) if args.store else site.store,
        "channel": args.channel or site.channel,
        "image": args.image or site.image,
    }
    missing = [f"--{name} (or the credential recast.{name})" for name in said if not said[name]]
    if missing:
        raise UsageError(
            f"what to install is not known: {', '.join(missing)} is missing",
            hint="For example: recast-agent install /dev/sda --store https://… --channel stable "
            "--image edge-web --root-of-trust root.json",
        )
    try:
        return Site.model_validate({**site.model_dump(), **said})
    except ValidationError as error:
        raise UsageError(f"--{first_problem(error)}") from error


def _root(path: Path | None) -> bytes:
    from pipeline.agent.site import read_root

    if path is None:
        root = read_root()
        if root is None:
            raise UsageError(
                "no root of trust is known here: --root-of-trust (or the credential recast.root) "
                "is missing",
                hint="Bring the store's `metadata/1.root.json` from a place that you trust, never "
                "from the store itself.",
            )
        return root
    try:
        with path.open("rb") as file:
            raw = file.read(ROOT_LIMIT + 1)
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror or error}") from error
    if len(raw) > ROOT_LIMIT:
        raise HostError(f"{path} is larger than {format_size(ROOT_LIMIT)}: it is no root of trust")
    return raw


def _announce(release: PublishedRelease, device: Path, size: int, needed: int) -> None:
    print(f"{release.name} → {device} ({format_size(size)})", file=sys.stderr, flush=True)
    if size < _ROOM * needed:
        print(
            f"recast-agent: {device} has room for one release: its machine cannot update itself",
            file=sys.stderr,
        )
