"""If these fail, a private key leaks, is lost or overwritten, or a person cannot tell why not."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from securesystemslib.signer import CryptoSigner, Key, Signer, SSlibKey

from pipeline.errors import HostError, NetworkError, RecastError, TrustError, UsageError
from pipeline.trust.keys import Keyring
from pipeline.trust.layout import NAME_FIELD
from pipeline.trust.public_keys import read_public
from pipeline.trust.signers import PassphraseError

SECRET = "correct horse battery"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "keys"


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def answering(*answers: str) -> tuple[Callable[[str], str], list[str]]:
    """Somebody who types these one after another, and what was asked of them."""
    left, asked = list(answers), list[str]()

    def ask(what: str) -> str:
        asked.append(what)
        return left.pop(0)

    return ask, asked


def check_signs(signer: Signer | None, key: Key) -> None:
    assert signer is not None
    key.verify_signature(signer.sign(b"payload"), b"payload")


def write_pem(path: Path, signer: CryptoSigner) -> None:
    path.write_bytes(signer.private_bytes)
    path.chmod(0o600)


def public_pem(signer: CryptoSigner) -> bytes:
    return signer._private_key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )


@pytest.mark.parametrize("passphrase", [None, SECRET])
def test_a_new_key_signs_and_nobody_else_can_read_it(folder: Path, passphrase: str | None) -> None:
    before = os.umask(0)
    try:
        keyring = Keyring(folder)
        key = keyring.generate("stable-1", passphrase)
    finally:
        os.umask(before)
    assert key.keytype == "ed25519"
    assert key.unrecognized_fields == {NAME_FIELD: "stable-1"}
    assert (mode(folder), mode(folder / "stable-1.pem")) == (0o700, 0o600)
    assert keyring.names() == ["stable-1"]
    assert keyring.encrypted("stable-1") is bool(passphrase)
    check_signs(keyring.signer(key), key)
    ask, asked = answering(SECRET)
    check_signs(Keyring(folder, ask).signer(key), key)
    assert asked == (["passphrase of the key stable-1"] if passphrase else [])
    assert Keyring(folder).public("stable-1") == key


def test_a_public_key_is_told_without_a_passphrase(folder: Path) -> None:
    key = Keyring(folder).generate("online", SECRET)
    (folder / "online.pub").unlink()
    ask, asked = answering(SECRET)
    assert Keyring(folder, ask).public("online") == key  # asked for once, then written down
    assert Keyring(folder).public("online") == key
    assert len(asked) == 1


def test_one_passphrase_for_all_keys_is_typed_once(folder: Path) -> None:
    maker = Keyring(folder)
    keys = [maker.generate(name, SECRET) for name in ("a", "b")] + [maker.generate("c", "other")]
    ask, asked = answering(SECRET, "other")
    keyring = Keyring(folder, ask)
    for key in keys:
        check_signs(keyring.signer(key), key)
    assert asked == ["passphrase of the key a", "passphrase of the key c"]


def test_a_wrong_passphrase_is_refused_and_not_repeated(folder: Path) -> None:
    key = Keyring(folder).generate("online", SECRET)
    ask, _ = answering("wrong secret")
    signer = Keyring(folder, ask).signer(key)
    assert signer is not None
    with pytest.raises(PassphraseError, match="does not open") as caught:
        signer.sign(b"x")
    assert "wrong secret" not in caught.value.message + caught.value.hint
    silent = Keyring(folder).signer(key)
    assert silent is not None
    with pytest.raises(PassphraseError, match="nobody to ask"):
        silent.sign(b"x")


@pytest.mark.parametrize("bits", [0o640, 0o604, 0o644, 0o660])
def test_a_key_that_others_can_read_is_refused(folder: Path, bits: int) -> None:
    keyring = Keyring(folder)
    key = keyring.generate("online", None)
    (folder / "online.pem").chmod(bits)
    signer = keyring.signer(key)
    assert signer is not None
    with pytest.raises(HostError, match="open to others") as caught:
        signer.sign(b"x")
    assert f"chmod 600 {folder / 'online.pem'}" in caught.value.hint


def test_a_key_that_is_not_ours_has_no_signer(folder: Path, tmp_path: Path) -> None:
    keyring = Keyring(folder)
    keyring.generate("online", None)
    stranger = Keyring(tmp_path / "other")
    assert keyring.signer(stranger.generate("else", None)) is None
    assert keyring.signer(stranger.generate("online", None)) is None  # another key, called alike


def test_the_wrong_key_at_the_right_place_is_named(folder: Path, tmp_path: Path) -> None:
    keyring = Keyring(folder)
    key = keyring.generate("online", None)
    other = Keyring(tmp_path / "other")
    other.generate("online", None)
    (folder / "online.pem").write_bytes((tmp_path / "other" / "online.pem").read_bytes())
    signer = keyring.signer(key)
    assert signer is not None
    with pytest.raises(TrustError, match="not the key `online` of the signed metadata"):
        signer.sign(b"x")


def test_a_key_moved_away_says_so(folder: Path) -> None:
    keyring = Keyring(folder)
    key = keyring.generate("offline-1", None)
    (folder / "offline-1.pem").unlink()
    signer = keyring.signer(key)
    assert signer is not None
    with pytest.raises(HostError, match="is not there") as caught:
        signer.sign(b"x")
    assert "Mount the medium" in caught.value.hint
    assert keyring.encrypted("offline-1") is None


@pytest.mark.parametrize("content", [b"", b"nonsense", b"-----BEGIN PRIVATE KEY-----\nAAAA\n"])
def test_a_damaged_key_file_is_named(folder: Path, content: bytes) -> None:
    keyring = Keyring(folder)
    key = keyring.generate("online", None)
    (folder / "online.pem").write_bytes(content)
    signer = keyring.signer(key)
    assert signer is not None
    with pytest.raises(TrustError, match=str(folder / "online.pem")):
        signer.sign(b"x")


def test_a_key_is_never_overwritten(folder: Path) -> None:
    keyring = Keyring(folder)
    key = keyring.generate("online", None)
    before = (folder / "online.pem").read_bytes()
    with pytest.raises(UsageError, match="a key `online`"):
        keyring.generate("online", None)
    (folder / "keys.yaml").unlink()  # a run that was cut before it could list it
    assert Keyring(folder).generate("online", None) == key
    assert (folder / "online.pem").read_bytes() == before


def test_a_key_of_a_cut_run_needs_its_own_passphrase(folder: Path) -> None:
    Keyring(folder).generate("online", SECRET)
    (folder / "keys.yaml").unlink()
    with pytest.raises(PassphraseError):
        Keyring(folder).generate("online", "another")
    assert Keyring(folder).names() == []


@pytest.mark.parametrize("name", ["", "Online", "a b", "../x", "-a", "a.b", "é", "a\n"])
def test_names_follow_the_rule(folder: Path, name: str) -> None:
    with pytest.raises(UsageError, match="cannot be the name of a key"):
        Keyring(folder).generate(name, None)
    assert not (folder / "keys.yaml").exists()


@pytest.mark.parametrize("scheme", ["file", "file2"])
def test_an_existing_key_file_is_added(folder: Path, tmp_path: Path, scheme: str) -> None:
    made = CryptoSigner.generate_ecdsa()
    write_pem(tmp_path / "mine.pem", made)
    keyring = Keyring(folder)
    key = keyring.add("mine", f"{scheme}:{tmp_path / 'mine.pem'}")
    assert key.keyid == made.public_key.keyid
    check_signs(Keyring(folder).signer(key), key)


def test_a_path_is_relative_to_the_folder(folder: Path) -> None:
    keyring = Keyring(folder)
    keyring.generate("first", None)
    made = CryptoSigner.generate_ed25519()
    write_pem(folder / "a#b?c %.pem", made)
    key = keyring.add("odd", "file:a#b?c %.pem")
    assert "odd: " in (folder / "keys.yaml").read_text()
    moved = folder.with_name("moved")
    folder.rename(moved)
    check_signs(Keyring(moved).signer(key), key)
    assert Keyring(moved).file("odd") == moved / "a#b?c %.pem"


def test_a_given_public_key_must_be_that_of_the_private_one(folder: Path, tmp_path: Path) -> None:
    made, other = CryptoSigner.generate_ed25519(), CryptoSigner.generate_ed25519()
    write_pem(tmp_path / "mine.pem", made)
    uri = f"file:{tmp_path / 'mine.pem'}"
    with pytest.raises(TrustError, match="not the key"):
        Keyring(folder).add("mine", uri, public_pem(other))
    assert Keyring(folder).names() == []
    assert Keyring(folder).add("mine", uri, public_pem(made)).keyid == made.public_key.keyid


@pytest.mark.parametrize(
    ("uri", "error", "words"),
    [
        ("nonsense", UsageError, "no place for a key"),
        ("ftp:x", UsageError, "no place for a key"),
        ("file:gone.pem", HostError, "is not there"),
        ("gnupg:", UsageError, "--public FILE"),
        ("hv:name/1", HostError, "library that is not installed"),
        ("gcpkms:projects/p", HostError, "library that is not installed"),
        ("azurekms://v.vault.azure.net/keys/k", HostError, "library that is not installed"),
        ("azurekms://v.vault.azure.net/other", UsageError, "names no key of a vault"),
    ],
)
def test_what_cannot_be_added_says_why(
    folder: Path, uri: str, error: type[RecastError], words: str
) -> None:
    with pytest.raises(error) as caught:
        Keyring(folder).add("mine", uri)
    assert words in caught.value.message + caught.value.hint
    assert Keyring(folder).names() == []
    if "library" in words:
        assert "pip install 'securesystemslib[" in caught.value.hint


def test_a_cloud_that_refuses_is_an_error_of_the_network(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from securesystemslib.signer import AWSSigner

    class NoCredentialsError(Exception):
        pass

    def refuse(key: str) -> tuple[str, Key]:
        raise NoCredentialsError("Unable to locate credentials")

    monkeypatch.setattr(AWSSigner, "import_", refuse)
    with pytest.raises(NetworkError, match="Unable to locate credentials"):
        Keyring(folder).add("stable-1", "awskms:alias/stable")


def test_a_cloud_key_is_listed_as_its_library_names_it(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from securesystemslib.signer import VaultSigner

    public = CryptoSigner.generate_ed25519().public_key

    def give(name: str) -> tuple[str, SSlibKey]:
        return f"hv:{name}/3", public

    monkeypatch.setattr(VaultSigner, "import_", give)
    keyring = Keyring(folder)
    assert keyring.add("stable-1", "hv:release").keyid == public.keyid
    assert keyring.uri("stable-1") == "hv:release/3"


def test_a_key_taken_off_the_list_keeps_its_file_and_the_others(folder: Path) -> None:
    keyring = Keyring(folder)
    for name in ("a", "a-b", "b"):
        keyring.generate(name, None)
    path = folder / "keys.yaml"
    path.write_text("# mine\n" + path.read_text())
    keyring.remove("a")
    assert keyring.names() == ["a-b", "b"]
    assert path.read_text().startswith("# mine\n")
    assert (folder / "a.pem").exists()
    with pytest.raises(UsageError, match="no private key `a`"):
        keyring.remove("a")


@pytest.mark.parametrize(
    "text", ["[", "- a\n", "a: 1\n", "A: file:x\n", "a: file:x\na: file:y\n", "a: {b: c}\n"]
)
def test_a_list_that_is_not_valid_is_named(folder: Path, text: str) -> None:
    folder.mkdir()
    (folder / "keys.yaml").write_text(text)
    with pytest.raises(TrustError, match=r"keys\.yaml"):
        Keyring(folder).names()


def test_an_empty_list_is_no_keys(folder: Path) -> None:
    assert Keyring(folder).names() == []
    folder.mkdir()
    (folder / "keys.yaml").write_text("# nothing yet\n")
    keyring = Keyring(folder)
    assert keyring.names() == []
    keyring.generate("a", None)
    assert keyring.names() == ["a"]


def test_a_colleagues_public_key_is_read_from_both_kinds_of_file(folder: Path) -> None:
    made = CryptoSigner.generate_ecdsa()
    assert read_public(public_pem(made), "bob").keyid == made.public_key.keyid
    key = Keyring(folder).generate("mine", None)
    given = read_public((folder / "mine.pub").read_bytes(), "alice")
    assert given.keyid == key.keyid
    assert given.unrecognized_fields == {NAME_FIELD: "alice"}


def test_a_private_key_in_place_of_a_public_one_is_told_apart(folder: Path) -> None:
    Keyring(folder).generate("mine", None)
    with pytest.raises(UsageError, match="no public key") as caught:
        read_public((folder / "mine.pem").read_bytes(), "mine")
    assert "private one" in caught.value.hint
    for junk in (b"", b"{", b"{}", b"[1]", json.dumps({"keyid": 1}).encode()):
        with pytest.raises(UsageError, match="no public key"):
            read_public(junk, "mine")


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "keys").write_text("a file")
    with pytest.raises(HostError, match="cannot be written") as caught:
        Keyring(tmp_path / "keys").generate("a", None)
    assert "RECAST_KEYS" in caught.value.hint
