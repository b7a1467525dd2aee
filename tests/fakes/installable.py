"""Releases that a machine can be made of: whole, with a disk, and proof of what they are."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

from pipeline import digest
from pipeline.channels.publish import Attestation, manifest_of, publish
from pipeline.models.pointer import PublishedRelease
from pipeline.releases import Stored
from pipeline.trust.attest import Build, Material, Subject, provenance, test_result
from tests.fakes.stored import MOMENT, make_verdict, store_whole
from tests.fakes.world import Publisher


def publish_whole(
    world: Publisher,
    artifacts: Path,
    *,
    image: str = "edge-web",
    commit: str = "0123456789abcdef0123456789abcdef01234567",
    moment: datetime = MOMENT,
    size: int = 3 << 20,
    attested: bool = True,
    tested: bool = True,
) -> tuple[PublishedRelease, Path]:
    """Publish a release as ``recast publish`` does; return it, and the disk that was built.

    Args:
        world: has the store, and the keys of the builder and the tester.
        artifacts: where the release is built.
        image, commit, moment, size: see :func:`tests.fakes.stored.store_whole`.
        attested: does it come with a provenance?
        tested: does it come with a test that passed?
    """
    local = store_whole(artifacts, image, commit=commit, moment=moment, size=size)
    done = publish(
        world.store, local, _attestations(world, local, attested, tested), scratch=artifacts
    )
    return done.release, local.folder / local.release.parts["disk"].file


def _attestations(
    world: Publisher, local: Stored, attested: bool, tested: bool
) -> list[Attestation]:
    builder, tester = (
        world.keyring.signer(world.keyring.public(name)) for name in ("builder", "tester")
    )
    assert builder is not None
    assert tester is not None
    subject = Subject(local.release, digest.of_bytes(manifest_of(local)))
    found = []
    if attested:
        sources = Material("source", {"gitCommit": local.release.commit})
        made = provenance(subject, Build(materials=(sources,)), [builder])
        found.append(Attestation("provenance", made))
    if tested:
        passed = test_result(subject, make_verdict(local.release), [tester])
        found.append(Attestation("test", passed, "qemu"))
    return found
