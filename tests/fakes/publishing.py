"""What tests of publishing have in common: statements that say nothing, and looking closely."""

from __future__ import annotations

from pathlib import Path

from pipeline.channels.publish import Attestation
from pipeline.channels.published import PublishedReleases, read_description
from pipeline.models.pointer import PublishedRelease
from pipeline.releases import Stored
from pipeline.store.base import Store
from pipeline.transfer.fetch import save_part
from tests.fakes.store import FaultyStore

PROVENANCE = Attestation("provenance", b"how it was made")
ON_QEMU = Attestation("test", b"passed on qemu", "qemu")
ON_AWS = Attestation("test", b"passed on aws", "aws")


def described(store: Store, local: Stored) -> PublishedRelease | None:
    """What the store says of the release."""
    found = read_description(store, local.release.image, local.release.version)
    return found[0] if found else None


def writes(store: FaultyStore, operation: str = "put") -> list[str]:
    """The keys of the writes of one kind that were asked for."""
    return [key for name, key in store.operations if name == operation]


def require_whole(store: Store, local: Stored, folder: Path) -> PublishedRelease:
    """Check that the store gives back every byte of the release; returns its description."""
    release = described(store, local)
    assert release is not None
    assert PublishedReleases(store).manifest(release) == local.release
    assert set(release.parts) == {"root", "verity", "uki", "disk", "sbom"}
    for role, part in local.release.parts.items():
        target = folder / f"back.{role}"
        save_part(store, release, role, target)
        assert target.read_bytes() == (local.folder / part.file).read_bytes(), role
        target.unlink()
    return release
