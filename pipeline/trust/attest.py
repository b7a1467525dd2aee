"""Make and sign statements about a release; :mod:`pipeline.trust.attestations` verifies them.

The payload is canonical JSON: the same facts give the same bytes. Whether an envelope's bytes are
the same each time besides depends on the kind of key.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from google.protobuf.json_format import MessageToDict
from in_toto_attestation.predicates.provenance.v1 import provenance_pb2
from in_toto_attestation.predicates.test_result.v0 import test_result_pb2
from in_toto_attestation.v1.resource_descriptor import ResourceDescriptor
from in_toto_attestation.v1.statement import Statement
from securesystemslib.dsse import Envelope

from pipeline import digest
from pipeline.clock import iso
from pipeline.errors import TrustError
from pipeline.store.base import release_key
from pipeline.trust.statements import (
    BUILD_TYPE,
    BUILDER_ID,
    MAX_ENVELOPE,
    PAYLOAD_TYPE,
    PROVENANCE,
    REFERENCE,
    ROOT_HASH,
    SBOM_TYPE,
    SHA256,
    TEST_RESULT,
)

if TYPE_CHECKING:
    from datetime import datetime

    from securesystemslib.signer import Signer

    from pipeline.models.release import Release, TestVerdict

_MAX_FAILURES = 100  # named; a machine that never came up fails every test there is


@dataclass(frozen=True)
class Subject:
    """What is spoken of: a release, by its manifest.

    Attributes:
        release: what the manifest says.
        manifest: the digest of its bytes.
    """

    release: Release
    manifest: str


@dataclass(frozen=True)
class Material:
    """Something that a release was made of.

    Attributes:
        name: what it is called: ``elements/nginx-site``.
        digest: by algorithm, as in-toto names them: ``sha256``, ``gitCommit``.
        uri: where it can be had, if there is a word for that.
        annotations: what else is known of it.
    """

    name: str
    digest: Mapping[str, str]
    uri: str = ""
    annotations: Mapping[str, str] | None = None


@dataclass(frozen=True)
class Build:
    """What is known of a build besides what the manifest says.

    Attributes:
        materials: all that it was made of.
        run: the id of the run.
        started, finished: when.
    """

    materials: Sequence[Material]
    run: str = ""
    started: datetime | None = None
    finished: datetime | None = None


def provenance(subject: Subject, build: Build, signers: Sequence[Signer]) -> bytes:
    """How a release was made, as SLSA provenance v1: https://slsa.dev/spec/v1.0/provenance.

    Raises:
        TrustError: it could not be signed.
    """
    release = subject.release
    said = provenance_pb2.Provenance()
    definition, details = said.build_definition, said.run_details
    definition.build_type = BUILD_TYPE
    definition.external_parameters.update(
        {
            "image": release.image,
            "commit": release.commit,
            "dirty": release.dirty,
            "definitionDigest": release.definition_digest,
        }
    )
    for material in build.materials:
        descriptor = ResourceDescriptor(
            name=material.name,
            uri=material.uri,
            digest=dict(material.digest),
            annotations=dict(material.annotations or {}),
        )
        definition.resolved_dependencies.append(descriptor.pb)
    details.builder.id = BUILDER_ID
    details.builder.version.update(dict(release.tools))
    details.metadata.invocation_id = build.run
    if build.started is not None:
        details.metadata.started_on.FromJsonString(iso(build.started))
    if build.finished is not None:
        details.metadata.finished_on.FromJsonString(iso(build.finished))
    return _signed(subject, PROVENANCE, MessageToDict(said), signers)


def test_result(subject: Subject, verdict: TestVerdict, signers: Sequence[Signer]) -> bytes:
    """What the tests of a release said on one provider.

    Raises:
        TrustError: it could not be signed.
    """
    said = test_result_pb2.TestResult()
    said.result = "PASSED" if verdict.passed else "FAILED"
    tests = ResourceDescriptor(name="tests", digest={SHA256: verdict.tests_digest})
    said.configuration.append(tests.pb)
    said.failed_tests.extend(f.test for f in verdict.failures[:_MAX_FAILURES])
    ours = {
        "recast_provider": verdict.provider,
        "recast_rootHash": verdict.root_hash,
        "recast_tests": verdict.tests,
        "recast_finishedOn": iso(verdict.when),
        "recast_seconds": verdict.seconds,
        "recast_bootSeconds": verdict.boot_seconds,
    }
    return _signed(subject, TEST_RESULT, {**MessageToDict(said), **ours}, signers)


def sbom_reference(subject: Subject, signers: Sequence[Signer]) -> bytes:
    """Which SBOM belongs to a release; it is one of the release's parts.

    Raises:
        KeyError: the release has no SBOM.
        TrustError: it could not be signed.
    """
    release = subject.release
    part = release.parts["sbom"]
    # Where to look it up, relative to the store: its own object is compressed.
    place = f"{release_key(release.image, release.version)}#/parts/sbom"
    sbom = ResourceDescriptor(
        name=part.file,
        digest={SHA256: part.digest},
        download_location=place,
        media_type=SBOM_TYPE,
    )
    said = {"attester": {"id": BUILDER_ID}, "references": [MessageToDict(sbom.pb)]}
    return _signed(subject, REFERENCE, said, signers)


def _signed(
    subject: Subject, kind: str, predicate: Mapping[str, object], signers: Sequence[Signer]
) -> bytes:
    statement = Statement(_subjects(subject), kind, dict(predicate))
    statement.validate()
    # protobuf turns every number of a predicate into a float: ours stay what they are.
    body = {**MessageToDict(statement.pb), "predicate": predicate}
    envelope = Envelope(digest.canonical(body), PAYLOAD_TYPE, {})
    for signer in signers:
        envelope.sign(signer)
    data = digest.canonical(envelope.to_dict())
    if len(data) > MAX_ENVELOPE:
        raise TrustError(
            f"the statement {kind} about {subject.release.name} has {len(data)} bytes, and at most "
            f"{MAX_ENVELOPE} are read"
        )
    return data


def _subjects(subject: Subject) -> list[object]:
    release = subject.release
    found = [
        ResourceDescriptor(name=f"{release.name}.manifest.json", digest={SHA256: subject.manifest})
    ]
    for role, part in release.parts.items():
        digests = {SHA256: part.digest}
        if role == "root":
            digests[ROOT_HASH] = release.root_hash
        found.append(ResourceDescriptor(name=part.file, digest=digests))
    return [each.pb for each in found]
