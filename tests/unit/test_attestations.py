"""Signed statements about a release: what is believed, and every way in which it is not."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any

import pytest
from securesystemslib.signer import CryptoSigner, Key

from pipeline import digest
from pipeline.errors import DigestError, TrustError
from pipeline.models.pointer import Evidence, PublishedPart, PublishedRelease, StoredObject
from pipeline.models.release import Failure, Part
from pipeline.store.base import object_key
from pipeline.trust import attest, statements
from pipeline.trust.attestations import (
    Verified,
    VerifiedProvenance,
    VerifiedSbom,
    VerifiedTest,
    verify_evidence,
)
from pipeline.trust.layout import NAME_FIELD
from tests.fakes.stored import MOMENT, make_release, make_verdict

SBOM = Part(file="edge-web.cdx.json", digest=digest.of_bytes(b"sbom"), size=4)
PLAIN = make_release()
RELEASE = PLAIN.model_copy(update={"parts": {**PLAIN.parts, "sbom": SBOM}})
MANIFEST = RELEASE.model_dump_json().encode()
SUBJECT = attest.Subject(RELEASE, digest.of_bytes(MANIFEST))
BUILD = attest.Build(
    (
        attest.Material("source", {"gitCommit": RELEASE.commit}),
        attest.Material("elements/nginx-site", {"sha256": "e" * 64}, annotations={"why": "web"}),
    ),
    run="20260301.120000-1a2b",
    started=MOMENT,
    finished=MOMENT + timedelta(minutes=2),
)


def signer(name: str) -> CryptoSigner:
    made = CryptoSigner.generate_ed25519()
    made.public_key.unrecognized_fields[NAME_FIELD] = name
    return made


BUILDER, TESTER, STRANGER = signer("builder"), signer("tester"), signer("stranger")
PROVENANCE = attest.provenance(SUBJECT, BUILD, [BUILDER])
TESTED = attest.test_result(SUBJECT, make_verdict(RELEASE), [TESTER])
REFERENCE = attest.sbom_reference(SUBJECT, [BUILDER])


def published(**changes: Any) -> PublishedRelease:
    stored = StoredObject(digest="0" * 64, size=1)
    whole = PublishedRelease(
        **RELEASE.model_dump(
            include={"image", "version", "commit", "created", "build_key", "root_hash"}
        ),
        boot_digest=RELEASE.boot_digest,
        manifest=StoredObject(digest=digest.of_bytes(MANIFEST), size=len(MANIFEST)),
        parts={
            role: PublishedPart(**part.model_dump(), stored=stored)
            for role, part in RELEASE.parts.items()
        },
    )
    return whole.model_copy(update=changes)


def evidence(envelope: bytes, kind: str = "provenance", provider: str = "") -> Evidence:
    return Evidence.model_validate(
        {
            "kind": kind,
            "provider": provider,
            "stored": {"digest": digest.of_bytes(envelope), "size": len(envelope)},
        }
    )


def verify(
    envelope: bytes,
    kind: str = "provenance",
    *,
    provider: str = "",
    keys: Sequence[Key] = (BUILDER.public_key,),
    threshold: int = 1,
    release: PublishedRelease | None = None,
) -> Verified:
    about = evidence(envelope, kind, provider)
    return verify_evidence(release or published(), about, envelope, keys, threshold)


def opened(envelope: bytes) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(base64.b64decode(json.loads(envelope)["payload"]))
    return found


def resealed(envelope: bytes, change: Callable[[dict[str, Any]], object]) -> bytes:
    """The envelope with another payload, and the signatures that it had."""
    outer = json.loads(envelope)
    payload = opened(envelope)
    change(payload)
    outer["payload"] = base64.b64encode(json.dumps(payload).encode()).decode()
    return json.dumps(outer).encode()


def signed(payload: dict[str, Any], by: CryptoSigner = BUILDER, kind: str = "") -> bytes:
    from securesystemslib.dsse import Envelope

    envelope = Envelope(json.dumps(payload).encode(), kind or statements.PAYLOAD_TYPE, {})
    envelope.sign(by)
    return json.dumps(envelope.to_dict()).encode()


def refused(envelope: bytes, words: str, kind: str = "provenance", **options: Any) -> TrustError:
    with pytest.raises(TrustError) as caught:
        verify(envelope, kind, **options)
    assert words in caught.value.message
    assert RELEASE.name in caught.value.message, "it must say what was refused"
    return caught.value


# --- what is believed -------------------------------------------------------------------------


def test_provenance_says_what_was_asked_for_and_what_it_was_made_of() -> None:
    found = verify(PROVENANCE)
    assert isinstance(found, VerifiedProvenance)
    assert (found.image, found.commit, found.dirty) == ("edge-web", RELEASE.commit, False)
    assert found.definition_digest == RELEASE.definition_digest
    assert {m.name: dict(m.digest) for m in found.materials} == {
        "source": {"gitCommit": RELEASE.commit},
        "elements/nginx-site": {"sha256": "e" * 64},
    }
    assert found.versions == dict(RELEASE.tools)
    assert (found.run, found.started, found.finished) == (BUILD.run, BUILD.started, BUILD.finished)
    assert found.signers == ("builder",)


def test_a_test_result_says_where_when_and_what_the_machine_reported() -> None:
    found = verify(TESTED, "test", provider="qemu", keys=[TESTER.public_key])
    assert isinstance(found, VerifiedTest)
    verdict = make_verdict(RELEASE)
    assert found == VerifiedTest(
        provider="qemu",
        passed=True,
        root_hash=RELEASE.root_hash,
        when=verdict.when,
        tests=14,
        tests_digest=verdict.tests_digest,
        seconds=95.0,
        boot_seconds=41.0,
        signers=("tester",),
    )


def test_a_failure_is_told_with_the_names_of_its_tests() -> None:
    verdict = make_verdict(RELEASE, "qemu", Failure(test="test_nginx", message="it was down"))
    envelope = attest.test_result(SUBJECT, verdict, [TESTER])
    found = verify(envelope, "test", provider="qemu", keys=[TESTER.public_key])
    assert isinstance(found, VerifiedTest)
    assert (found.passed, found.failed) == (False, ("test_nginx",))


@pytest.mark.parametrize(
    "change", [{"root_hash": "d" * 64}, {"tests": 0}], ids=["another root", "no test ran"]
)
def test_a_pass_counts_only_if_tests_ran_on_this_very_root(change: dict[str, Any]) -> None:
    verdict = make_verdict(RELEASE).model_copy(update=change)
    envelope = attest.test_result(SUBJECT, verdict, [TESTER])
    found = verify(envelope, "test", provider="qemu", keys=[TESTER.public_key])
    assert isinstance(found, VerifiedTest)
    assert not found.passed


def test_an_sbom_reference_names_its_digest_and_type() -> None:
    found = verify(REFERENCE, "sbom")
    assert found == VerifiedSbom(SBOM.digest, "application/vnd.cyclonedx+json", ("builder",))


def test_the_statements_are_what_other_tools_read() -> None:
    """Fields and types as in-toto's and SLSA's pages give them."""
    payload = opened(PROVENANCE)
    assert payload["_type"] == "https://in-toto.io/Statement/v1"
    assert payload["predicateType"] == "https://slsa.dev/provenance/v1"
    assert {"manifest.json", "root.erofs", "efi"} <= {
        each["name"].split("amd64.", 1)[1]
        for each in payload["subject"]
        if "amd64." in each["name"]
    }
    predicate = payload["predicate"]
    assert predicate["buildDefinition"]["externalParameters"]["image"] == "edge-web"
    assert predicate["runDetails"]["metadata"]["startedOn"] == "2026-03-01T12:00:00Z"
    tested = opened(TESTED)["predicate"]
    assert tested["result"] == "PASSED"
    assert tested["configuration"][0]["digest"]["sha256"] == make_verdict(RELEASE).tests_digest
    assert (tested["recast_tests"], type(tested["recast_tests"])) == (14, int)
    reference = opened(REFERENCE)["predicate"]["references"][0]
    assert reference["digest"] == {"sha256": SBOM.digest}
    assert {"downloadLocation", "mediaType"} <= set(reference)


def test_the_same_facts_give_the_same_bytes() -> None:
    assert attest.provenance(SUBJECT, BUILD, [BUILDER]) == PROVENANCE


def test_a_threshold_of_two_needs_two_different_keys() -> None:
    other = signer("builder-2")
    keys = [BUILDER.public_key, other.public_key]
    both = attest.provenance(SUBJECT, BUILD, [BUILDER, other])
    found = verify(both, keys=keys, threshold=2)
    assert isinstance(found, VerifiedProvenance)
    assert set(found.signers) == {"builder", "builder-2"}
    refused(PROVENANCE, "not signed by 2 builders' keys", keys=keys, threshold=2)


# --- what is not ------------------------------------------------------------------------------


def test_a_changed_payload_is_refused() -> None:
    def change(payload: dict[str, Any]) -> None:
        payload["predicate"]["buildDefinition"]["externalParameters"]["commit"] = "f" * 40

    error = refused(resealed(PROVENANCE, change), "was changed after it was signed")
    assert "recast publish" in error.hint


def test_a_testers_key_cannot_sign_provenance() -> None:
    envelope = attest.provenance(SUBJECT, BUILD, [TESTER])
    error = refused(envelope, "not signed by a builder's key")
    assert f"unknown key {TESTER.public_key.keyid[:12]}" in error.message


def test_an_unknown_key_under_a_known_id_is_refused() -> None:
    outer = json.loads(attest.provenance(SUBJECT, BUILD, [STRANGER]))
    outer["signatures"][0]["keyid"] = BUILDER.public_key.keyid
    refused(json.dumps(outer).encode(), "not signed by a builder's key")


def test_two_signatures_of_one_key_are_not_two() -> None:
    outer = json.loads(PROVENANCE)
    outer["signatures"] *= 2
    keys = [BUILDER.public_key, STRANGER.public_key]
    refused(json.dumps(outer).encode(), "cannot be read", keys=keys, threshold=2)


def test_an_unsigned_statement_is_refused() -> None:
    outer = json.loads(PROVENANCE)
    outer["signatures"] = []
    refused(json.dumps(outer).encode(), "it carries no signature")


@pytest.mark.parametrize("threshold", [0, -1])
def test_no_threshold_at_all_lets_nothing_through(threshold: int) -> None:
    refused(PROVENANCE, "no number of signatures is asked for", threshold=threshold)


def test_no_keys_at_all_let_nothing_through() -> None:
    refused(PROVENANCE, "not signed by a builder's key", keys=[])


@pytest.mark.parametrize(
    "change",
    [
        {"root_hash": "d" * 64},
        {"manifest": StoredObject(digest="d" * 64, size=1)},
        {
            "parts": {
                **published().parts,
                "uki": published().parts["uki"].model_copy(update={"digest": "d" * 64}),
            }
        },
    ],
    ids=["root hash", "manifest", "uki"],
)
def test_what_speaks_of_another_release_is_refused(change: dict[str, Any]) -> None:
    refused(PROVENANCE, "is about something else", release=published(**change))


@pytest.mark.parametrize(
    "change", [{"image": "edge-db"}, {"commit": "f" * 40}, {"dirty": True}], ids=lambda c: str(c)
)
def test_provenance_of_another_image_or_commit_is_refused(change: dict[str, Any]) -> None:
    """The subjects are the same: equal bytes can come of another commit."""
    release = published(**change)
    with pytest.raises(TrustError, match=f"says {next(iter(change))}"):
        verify(PROVENANCE, release=release)


def test_a_result_from_another_provider_is_refused() -> None:
    refused(TESTED, "says provider 'qemu'", "test", provider="aws", keys=[TESTER.public_key])


def test_the_reference_of_another_sbom_is_refused() -> None:
    other = SBOM.model_copy(update={"digest": "d" * 64})
    release = RELEASE.model_copy(update={"parts": {**PLAIN.parts, "sbom": other}})
    both = RELEASE.model_copy(update={"parts": {**release.parts, "old": SBOM}})
    envelope = attest.sbom_reference(attest.Subject(both, SUBJECT.manifest), [BUILDER])
    refused(envelope, "says digest", "sbom")


@pytest.mark.parametrize(
    ("envelope", "kind"), [(REFERENCE, "provenance"), (PROVENANCE, "sbom")], ids=["sbom", "slsa"]
)
def test_a_statement_of_another_kind_is_refused(envelope: bytes, kind: str) -> None:
    refused(envelope, "is of the type https://", kind)


def test_another_type_of_payload_is_refused_though_it_is_signed() -> None:
    refused(signed(opened(PROVENANCE), kind="text/plain"), "holds `text/plain`")


def test_another_type_of_statement_is_refused_though_it_is_signed() -> None:
    payload = {**opened(PROVENANCE), "_type": "https://in-toto.io/Statement/v0.1"}
    refused(signed(payload), "cannot be understood: _type")


def test_a_signed_predicate_that_lacks_something_is_refused() -> None:
    payload = opened(PROVENANCE)
    del payload["predicate"]["buildDefinition"]["externalParameters"]
    refused(signed(payload), "cannot be understood: build")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"[]",
        b'"text"',
        b'{"payload": 3, "payloadType": "x", "signatures": []}',
        b'{"payload": "!!", "payloadType": "application/vnd.in-toto+json", "signatures": ['
        b'{"keyid": "a", "sig": "%%%"}]}',
        b'{"a":' * 10_000,
        b"\xff\xfe",
    ],
    ids=range(8),
)
def test_what_is_no_envelope_is_refused_without_a_traceback(data: bytes) -> None:
    with pytest.raises(TrustError):
        verify(data)


def test_a_huge_envelope_is_not_even_hashed() -> None:
    data = PROVENANCE + b" " * statements.MAX_ENVELOPE
    refused(data, f"has {len(data)} bytes, more than any has")


def test_an_envelope_with_very_many_signatures_is_refused() -> None:
    outer = json.loads(PROVENANCE)
    outer["signatures"] = [{"keyid": f"{n:064}", "sig": "AAAA"} for n in range(17)]
    refused(json.dumps(outer).encode(), "cannot be understood: signatures")


def test_a_damaged_envelope_is_named_by_its_key() -> None:
    about = evidence(PROVENANCE)
    with pytest.raises(DigestError) as caught:
        verify_evidence(published(), about, PROVENANCE[:-1], [BUILDER.public_key], 1)
    assert object_key(about.stored.digest) in caught.value.message


def test_a_statement_that_is_too_large_is_never_made() -> None:
    many = [attest.Material(f"elements/{n}", {"sha256": "e" * 64}) for n in range(3000)]
    with pytest.raises(TrustError, match="at most"):
        attest.provenance(SUBJECT, attest.Build(many), [BUILDER])


def test_verifying_needs_none_of_the_libraries_that_make_statements() -> None:
    """A machine at a site installs the core package alone."""
    program = (
        "import sys, pipeline.trust.attestations as a, securesystemslib.dsse;"
        "bad = [m for m in sys.modules"
        " if m.startswith(('in_toto', 'google.protobuf', 'click', 'yaml'))];"
        "sys.exit(f'{bad}' if bad else 0)"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
