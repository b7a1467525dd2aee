"""Signed statements about a release, verified: how it was made, what its tests said, its SBOM.

Each is an in-toto Statement v1 in a DSSE envelope:
https://github.com/in-toto/attestation/tree/main/spec/v1. Its subjects are the manifest and every
part of the release, by SHA-256, and the root by its dm-verity root hash besides, so that what was
built, what was tested and what a machine installs are the same bytes.

A machine at a site reads this module: what makes statements is :mod:`pipeline.trust.attest`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from pydantic import BaseModel, ValidationError

from pipeline import digest
from pipeline.errors import DigestError, TrustError
from pipeline.models.fields import first_problem
from pipeline.store.base import object_key
from pipeline.trust import layout, statements
from pipeline.trust.statements import MAX_ENVELOPE, PAYLOAD_TYPE, ROOT_HASH, SHA256, Resource

if TYPE_CHECKING:
    from datetime import datetime

    from securesystemslib.signer import Key

    from pipeline.models.pointer import Evidence, PublishedRelease

_SHOWN = 12  # digits of a digest in a message
_Model = TypeVar("_Model", bound=BaseModel)


@dataclass(frozen=True)
class VerifiedProvenance:
    """How a release was made, as a builder's key says.

    Attributes:
        image, commit, dirty, definition_digest: what was asked for.
        materials: what it was made of: the commit, elements, packages, a parent.
        versions: of the tools that made it.
        run: the id of the run that built it; empty if nothing is known of it.
        started, finished: when; None if nothing is known of it.
        signers: names of the keys.
    """

    image: str
    commit: str
    dirty: bool
    definition_digest: str
    materials: tuple[Resource, ...]
    versions: Mapping[str, str]
    run: str
    started: datetime | None
    finished: datetime | None
    signers: tuple[str, ...]


@dataclass(frozen=True)
class VerifiedTest:
    """What the tests of a release said on one provider, as a tester's key says.

    Attributes:
        provider: where.
        passed: did they pass, on a machine that ran this very root?
        root_hash: the root hash that the machine reported.
        when: when they had ended.
        tests: how many ran.
        failed: the names of those that failed.
        tests_digest: which tests they were.
        seconds: from power-on to the end of the last test.
        boot_seconds: from power-on to healthy.
        signers: names of the keys.
    """

    provider: str
    passed: bool
    root_hash: str
    when: datetime
    tests: int
    failed: tuple[str, ...] = ()
    tests_digest: str = ""
    seconds: float = 0.0
    boot_seconds: float = 0.0
    signers: tuple[str, ...] = ()


@dataclass(frozen=True)
class VerifiedSbom:
    """Which SBOM belongs to a release, as a builder's key says.

    Attributes:
        digest: SHA-256 of the SBOM's own bytes.
        media_type: what it is written in.
        signers: names of the keys.
    """

    digest: str
    media_type: str
    signers: tuple[str, ...]


Verified = VerifiedProvenance | VerifiedTest | VerifiedSbom


def verify_evidence(
    release: PublishedRelease,
    evidence: Evidence,
    envelope: bytes,
    keys: Sequence[Key],
    threshold: int,
) -> Verified:
    """What *envelope* says of *release*, once it is sure that it may say so.

    Args:
        release: what it must be about.
        evidence: what *release* says of it.
        envelope: its bytes, as they are stored.
        keys: those that may sign this kind, see :data:`.statements.SIGNED_BY`.
        threshold: how many of them must have signed it.

    Raises:
        DigestError: it is not the envelope that *evidence* names.
        TrustError: it is too large, not signed by enough of *keys*, of another kind, about
            something else, or cannot be understood.
    """
    what = f"the {label(evidence)} of {release.name}"
    key = object_key(evidence.stored.digest)
    if len(envelope) > MAX_ENVELOPE:
        raise TrustError(f"{what} has {len(envelope)} bytes, more than any has: {key} is refused")
    if digest.of_bytes(envelope) != evidence.stored.digest:
        raise DigestError(
            f"{what} is damaged in the store: {key}",
            hint=f"Remove {key} from the store. {_PUBLISH_AGAIN}",
        )
    payload, signers = _open(envelope, what, evidence.kind, keys, threshold)
    body = _understood(statements.Statement, payload, what)
    wanted = statements.PREDICATES[evidence.kind]
    if body.predicate_type != wanted:
        raise TrustError(
            f"{what} is of the type {body.predicate_type[:80]}, and would have to be {wanted}",
            hint=_PUBLISH_AGAIN,
        )
    _check_subjects(release, body.subject, what)
    return _READERS[evidence.kind](_Said(release, evidence, body.predicate, signers, what))


def label(evidence: Evidence) -> str:
    """What a person calls it: ``test result from qemu``, ``provenance``, ``SBOM reference``."""
    if evidence.kind == "test":
        return f"test result from {evidence.provider}"
    return {"provenance": "provenance", "sbom": "SBOM reference"}[evidence.kind]


_PUBLISH_AGAIN = "Publish the release again from where it was built and tested: `recast publish`."


def _open(
    envelope: bytes, what: str, kind: str, keys: Sequence[Key], threshold: int
) -> tuple[bytes, tuple[str, ...]]:
    """The payload of an envelope that is signed as it must be, and the names of its keys."""
    from securesystemslib.dsse import Envelope
    from securesystemslib.exceptions import Error

    parsed = _understood(statements.Envelope, envelope, what)
    if parsed.payload_type != PAYLOAD_TYPE:
        raise TrustError(
            f"{what} holds `{parsed.payload_type[:80]}`, and would have to hold {PAYLOAD_TYPE}"
        )
    try:
        opened = Envelope.from_dict(parsed.model_dump(by_alias=True, mode="json"))
    except (Error, ValueError, KeyError, TypeError) as error:
        raise TrustError(f"{what} cannot be read: {error}", hint=_PUBLISH_AGAIN) from error
    if threshold < 1:
        raise TrustError(f"{what} cannot be verified: no number of signatures is asked for")
    try:
        accepted = opened.verify(list(keys), threshold)
    except (Error, ValueError) as error:
        raise _unsigned(
            what, kind, keys, threshold, [s.keyid for s in parsed.signatures]
        ) from error
    return opened.payload, tuple(layout.key_name(each) for each in accepted.values())


def _unsigned(
    what: str, kind: str, keys: Sequence[Key], threshold: int, found: Sequence[str]
) -> TrustError:
    role = statements.SIGNED_BY[kind]
    names = {key.keyid: layout.key_name(key) for key in keys}
    told = ", ".join(names.get(keyid, f"unknown key {keyid[:_SHOWN]}") for keyid in found)
    many = f"{threshold} {role}s' keys" if threshold > 1 else f"a {role}'s key"
    return TrustError(
        f"{what} is not signed by {many}, or was changed after it was signed; "
        + (f"signatures that it carries: {told}" if told else "it carries no signature"),
        hint=f"`recast keys list` shows who is {role}. {_PUBLISH_AGAIN}",
    )


def _check_subjects(release: PublishedRelease, subjects: Sequence[Resource], what: str) -> None:
    """Refuse a statement that is not about the manifest and every part of *release*."""
    found = {(alg, value) for each in subjects for alg, value in each.digest.items()}
    wanted = [("the manifest", SHA256, release.manifest.digest)]
    wanted += [(part.file, SHA256, part.digest) for part in release.parts.values()]
    wanted += [("the root", ROOT_HASH, release.root_hash)]
    for name, algorithm, value in wanted:
        if (algorithm, value) not in found:
            raise TrustError(
                f"{what} is about something else: it does not name {name} with {algorithm} "
                f"{value[:_SHOWN]}…",
                hint=_PUBLISH_AGAIN,
            )


@dataclass(frozen=True)
class _Said:
    """A statement about *release* that is signed as it must be; *what* it is for a person."""

    release: PublishedRelease
    evidence: Evidence
    predicate: Mapping[str, object]
    signers: tuple[str, ...]
    what: str

    def require(self, field: str, said: object, expected: object) -> None:
        """Refuse it if it says something else than the release's description."""
        if said != expected:
            raise TrustError(
                f"{self.what} says {field} {str(said)[:80]!r}, the release {expected!r}"
            )


def _provenance(said: _Said) -> VerifiedProvenance:
    found = _checked(statements.Provenance, said)
    asked = found.build_definition.external_parameters
    said.require("image", asked.image, said.release.image)
    said.require("commit", asked.commit, said.release.commit)
    said.require("dirty", asked.dirty, said.release.dirty)
    return VerifiedProvenance(
        image=asked.image,
        commit=asked.commit,
        dirty=asked.dirty,
        definition_digest=asked.definition_digest,
        materials=found.build_definition.resolved_dependencies,
        versions=found.run_details.builder.version,
        run=found.run_details.metadata.invocation_id,
        started=found.run_details.metadata.started_on,
        finished=found.run_details.metadata.finished_on,
        signers=said.signers,
    )


def _test(said: _Said) -> VerifiedTest:
    found = _checked(statements.ResultOfTests, said)
    said.require("provider", found.provider, said.evidence.provider)
    passed = found.result == "PASSED" and not found.failed_tests
    return VerifiedTest(
        provider=found.provider,
        passed=passed and found.root_hash == said.release.root_hash and found.tests > 0,
        root_hash=found.root_hash,
        when=found.finished,
        tests=found.tests,
        failed=found.failed_tests,
        tests_digest=found.configuration[0].digest.get(SHA256, ""),
        seconds=found.seconds,
        boot_seconds=found.boot_seconds,
        signers=said.signers,
    )


def _sbom(said: _Said) -> VerifiedSbom:
    found = _checked(statements.Reference, said).references[0]
    part = said.release.parts.get("sbom")
    named = found.digest.get(SHA256, "")
    said.require("digest", named, part.digest if part else "")
    return VerifiedSbom(digest=named, media_type=found.media_type, signers=said.signers)


_READERS: Mapping[str, Callable[[_Said], Verified]] = {
    "provenance": _provenance,
    "test": _test,
    "sbom": _sbom,
}


def _understood(model: type[_Model], data: bytes, what: str) -> _Model:
    try:
        return model.model_validate_json(data)
    except ValidationError as error:
        raise _unreadable(what, error) from error


def _checked(model: type[_Model], said: _Said) -> _Model:
    try:
        return model.model_validate(said.predicate)
    except ValidationError as error:
        raise _unreadable(said.what, error) from error


def _unreadable(what: str, error: ValidationError) -> TrustError:
    return TrustError(f"{what} cannot be understood: {first_problem(error)}", hint=_PUBLISH_AGAIN)
