"""Releases that a fake machine can boot, published with all that a site asks for."""

from __future__ import annotations

from pipeline import digest
from pipeline.models.pointer import Evidence, PublishedPart, PublishedRelease
from pipeline.models.release import Failure, Part
from pipeline.trust import attest
from pipeline.trust.attest import Build, Material, Subject
from tests.fakes.slots import Built
from tests.fakes.stored import make_release, make_verdict
from tests.fakes.world import World

IMAGE = "edge-web"


def put_built(world: World, built: Built, *, passed: bool = True, proven: bool = True) -> Built:
    """Publish what a fake machine can boot, with all that a site asks for."""
    files = {"root": built.root, "uki": built.uki}
    local = make_release(IMAGE, commit=built.release.commit, moment=built.release.created)
    assert local.version == built.release.version
    parts = {
        role: Part(file=f"{local.name}.{role}", digest=digest.of_bytes(data), size=len(data))
        for role, data in files.items()
    }
    local = local.model_copy(update={"parts": parts, "root_hash": built.release.root_hash})
    manifest = world._store(local.model_dump_json().encode())
    subject = Subject(local, manifest.digest)
    builder, tester = (
        world.keyring.signer(world.keyring.public(name)) for name in ("builder", "tester")
    )
    assert builder is not None
    assert tester is not None
    sources = Material("source", {"gitCommit": local.commit})
    failures = () if passed else (Failure(test="test_it.py::test_it", message="no"),)
    tested = attest.test_result(subject, make_verdict(local, "qemu", *failures), [tester])
    evidence = [Evidence(kind="test", provider="qemu", stored=world._store(tested))]
    if proven:
        made = attest.provenance(subject, Build(materials=(sources,)), [builder])
        evidence.append(Evidence(kind="provenance", stored=world._store(made)))
    release = PublishedRelease(
        image=local.image,
        version=local.version,
        commit=local.commit,
        created=local.created,
        build_key=local.build_key,
        root_hash=local.root_hash,
        boot_digest=local.boot_digest,
        manifest=manifest,
        parts={
            role: PublishedPart(**part.model_dump(), stored=world._store(files[role]))
            for role, part in parts.items()
        },
        evidence=tuple(evidence),
    )
    assert release.name == built.release.name
    return Built(release, built.root, built.tree, built.uki)
