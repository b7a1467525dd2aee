"""Which signed statements a release still lacks, and the making of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipeline import digest
from pipeline.channels.facts import look_at
from pipeline.channels.publish import Attestation, manifest_of
from pipeline.errors import TrustError
from pipeline.trust import layout

if TYPE_CHECKING:
    from securesystemslib.signer import Signer

    from pipeline.channels.desk import Desk
    from pipeline.models.release import TestVerdict
    from pipeline.releases import Stored
    from pipeline.trust.attest import Build
    from pipeline.trust.attestations import Verified
    from pipeline.trust.keys import Keyring

_HINT = "`recast keys list` shows whose key is where; `recast keys add` names another."


@dataclass(frozen=True)
class Attested:
    """What signed statements there are of a release.

    Attributes:
        new: those that were made now: the store lacks them.
        passed: the providers on which its tests have passed, by these or by older statements.
    """

    new: tuple[Attestation, ...]
    passed: frozenset[str]


def missing_keys(desk: Desk, keyring: Keyring, *, enter: bool = True) -> str:
    """What keeps the holder of *keyring* from publishing; empty if nothing does.

    Args:
        desk: where the store is, and who may sign.
        keyring: the keys at hand.
        enter: is the first channel to be moved as well?

    Raises:
        TrustError, NetworkError, HostError: the store cannot be believed or reached.
    """
    from pipeline.channels.desk import missing_keys as missing_for

    for role in layout.ATTESTERS:
        keys, threshold = desk.client.attesters(role)
        ours = [key for key in keys if keyring.signer(key) is not None]
        if len(ours) < threshold:
            names = " or ".join(layout.key_name(key) for key in keys if key not in ours)
            return f"the {role}'s key {names} is not here"
    return missing_for(desk.view(desk.channels.first.name), propose=True) if enter else ""


def open_keys(desk: Desk, keyring: Keyring, *, enter: bool = True) -> None:
    """Ask now for what opens the keys that publishing needs, not after a long build.

    Args:
        desk, keyring, enter: as for :func:`missing_keys`.

    Raises:
        TrustError: a passphrase or PIN is wrong.
        UsageError: it is needed, and there is nobody to ask.
    """
    keys = [key for role in layout.ATTESTERS for key in desk.client.attesters(role)[0]]
    names = {layout.key_name(key) for key in keys}
    if enter:
        names |= {*desk.view(desk.channels.first.name).ours, layout.ONLINE}
    for name in sorted(names & set(keyring.names())):
        locked = keyring.encrypted(name) or keyring.uri(name).startswith("hsm:")
        signer = keyring.signer(keyring.public(name)) if locked else None
        if signer is not None:
            signer.sign(b"")  # of nothing: whoever has this signature has nothing


def attest(desk: Desk, keyring: Keyring, stored: Stored, build: Callable[[], Build]) -> Attested:
    """Make the statements about *stored* that the store lacks, or has older ones of.

    What is there already and can be believed stays: a statement that is signed with a key that is
    no longer trusted is made anew.

    Args:
        desk: where the store is, and who may attest.
        keyring: what is signed with.
        stored: a release in the local store, with what its tests said.
        build: what is known of its build; asked for only if provenance is needed.

    Raises:
        BuildError: its manifest cannot be read.
        TrustError: our keys are not enough to sign, or cannot be opened.
        NetworkError, HostError: the store cannot be read.
    """
    from pipeline.trust import attest as make
    from pipeline.trust.attestations import VerifiedTest

    release = stored.release
    subject = make.Subject(release, digest.of_bytes(manifest_of(stored)))
    known = _known(desk, stored, subject.manifest)
    new: list[Attestation] = []
    if ("provenance", "") not in known:
        signers = _signers(desk, keyring, "builder")
        new.append(Attestation("provenance", make.provenance(subject, build(), signers)))
    if "sbom" in release.parts and ("sbom", "") not in known:
        signers = _signers(desk, keyring, "builder")
        new.append(Attestation("sbom", make.sbom_reference(subject, signers)))
    results = {p: v for (_, p), v in known.items() if isinstance(v, VerifiedTest)}
    passed = {provider for provider, result in results.items() if result.passed}
    for verdict in stored.verdicts:
        result = results.get(verdict.provider)
        if result is not None and result.when >= verdict.when:
            continue
        signers = _signers(desk, keyring, "tester")
        envelope = make.test_result(subject, verdict, signers)
        new.append(Attestation("test", envelope, verdict.provider))
        passed.discard(verdict.provider)
        if _has_passed(verdict, release.root_hash):
            passed.add(verdict.provider)
    return Attested(tuple(new), frozenset(passed))


def _known(desk: Desk, stored: Stored, manifest: str) -> dict[tuple[str, str], Verified]:
    """What is published of this very release and can be believed, by kind and provider."""
    found = desk.published.find(stored.release.image, stored.release.version)
    if found is None or found.manifest.digest != manifest:
        return {}  # that it is another one is told when it is published
    return {
        (each.evidence.kind, each.evidence.provider): each.verified
        for each in look_at(desk, found)
        if each.verified is not None
    }


def _signers(desk: Desk, keyring: Keyring, role: layout.Attester) -> list[Signer]:
    """As many of our keys as a statement needs.

    Raises:
        TrustError: we have not so many.
    """
    keys, threshold = desk.client.attesters(role)
    found = [signer for key in keys if (signer := keyring.signer(key)) is not None]
    if len(found) < threshold:
        names = ", ".join(layout.key_name(key) for key in keys)
        raise TrustError(
            f"{threshold} of the {role}'s keys must sign ({names}), and here "
            f"{'is' if len(found) == 1 else 'are'} {len(found) or 'none'} of them",
            hint=_HINT,
        )
    return found[:threshold]


def _has_passed(verdict: TestVerdict, root_hash: str) -> bool:
    return verdict.passed and verdict.root_hash == root_hash
