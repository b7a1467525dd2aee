"""If these fail, a key in a hardware token cannot be used, or its errors help nobody.

The token is SoftHSM's (Debian: softhsm2), reached through PKCS#11 as a YubiKey would be.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pipeline import clock
from pipeline.errors import HostError, TrustError
from pipeline.models.channel import ChannelDefinition, Channels, Gates
from pipeline.models.pointer import Event
from pipeline.trust.client import TrustClient
from pipeline.trust.keys import Keyring
from pipeline.trust.repository import Repository, RoleKeys
from pipeline.trust.signers import PassphraseError
from pipeline.trust.views import ChannelChange, ChannelView
from tests.fakes.pointers import make_pointer
from tests.fakes.store import MemoryStore

MODULE = "/usr/lib/softhsm/libsofthsm2.so"
PIN = "4321"
TOKEN = "alice"


@pytest.fixture(scope="module")
def token(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with a token; a process loads a PKCS#11 module, and finds its tokens, but once."""
    folder = tmp_path_factory.mktemp("hsm")
    (folder / "tokens").mkdir()
    config = folder / "softhsm2.conf"
    config.write_text(f"directories.tokendir = {folder / 'tokens'}\nlog.level = ERROR\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SOFTHSM2_CONF", str(config))
        run("softhsm2-util", "--init-token", "--free", "--label", TOKEN,
            "--so-pin", "87654321", "--pin", PIN)  # fmt: skip
        make_key("02", "EC:prime256v1")
        make_key("03", "EC:secp384r1")
        yield folder


def run(*words: str) -> None:
    done = subprocess.run(words, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def make_key(identity: str, kind: str) -> None:
    run("pkcs11-tool", "--module", MODULE, "--login", "--pin", PIN, "--token-label", TOKEN,
        "--keypairgen", "--key-type", kind, "--id", identity, "--label", identity)  # fmt: skip


@pytest.fixture
def module(token: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PYKCS11LIB", MODULE)
    return token


def typing(pin: str) -> tuple[Callable[[str], str], list[str]]:
    asked: list[str] = []

    def ask(what: str) -> str:
        asked.append(what)
        return pin

    return ask, asked


@pytest.mark.parametrize(
    ("uri", "full"),
    [
        (f"hsm:2?label={TOKEN}", f"hsm:2?label={TOKEN}"),
        ("hsm:", f"hsm:2?label={TOKEN}"),
        ("hsm:3", f"hsm:3?label={TOKEN}"),
    ],
)
def test_a_key_in_a_token_signs(module: Path, tmp_path: Path, uri: str, full: str) -> None:
    ask, asked = typing(PIN)
    key = Keyring(tmp_path, ask).add("stable-1", uri)
    assert asked == []  # public keys need no PIN
    keyring = Keyring(tmp_path, ask)
    assert keyring.uri("stable-1") == full
    assert keyring.file("stable-1") is None
    assert keyring.encrypted("stable-1") is None
    signer = keyring.signer(key)
    assert signer is not None
    for payload in (b"one", b"two"):
        key.verify_signature(signer.sign(payload), payload)
    assert asked == ["PIN of the token with the key stable-1"]


def test_a_wrong_pin_is_told_as_such(module: Path, tmp_path: Path) -> None:
    key = Keyring(tmp_path).add("stable-1", "hsm:2")
    ask, asked = typing("9999")
    signer = Keyring(tmp_path, ask).signer(key)
    assert signer is not None
    for _ in range(2):
        with pytest.raises(PassphraseError, match="PIN does not open the token") as caught:
            signer.sign(b"x")
        assert "9999" not in caught.value.message + caught.value.hint
    assert len(asked) == 2  # a wrong PIN is not used again: some tokens count


def test_a_token_that_is_not_there_is_named(module: Path, tmp_path: Path) -> None:
    with pytest.raises(HostError, match="is not there") as caught:
        Keyring(tmp_path).add("stable-1", "hsm:2?label=bob")
    assert "bob" in caught.value.message
    assert "Plug it in" in caught.value.hint


def test_a_key_that_the_token_lacks_is_named(module: Path, tmp_path: Path) -> None:
    ask, _ = typing(PIN)
    with pytest.raises(TrustError, match="could not find ECDSA key") as caught:
        Keyring(tmp_path, ask).add("stable-1", f"hsm:7?label={TOKEN}")
    assert "P-256" in caught.value.hint


@pytest.mark.parametrize("place", [None, "/nonexistent/module.so", __file__])
def test_a_module_that_cannot_be_loaded_is_told(
    token: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str | None
) -> None:
    if place is None:
        monkeypatch.delenv("PYKCS11LIB", raising=False)
    else:
        monkeypatch.setenv("PYKCS11LIB", place)
    with pytest.raises(HostError, match=r"PKCS#11 module .* cannot be loaded") as caught:
        Keyring(tmp_path).add("stable-1", "hsm:2")
    assert "Set PYKCS11LIB" in caught.value.hint
    assert Keyring(tmp_path).names() == []


def test_another_key_in_the_same_place_is_noticed(module: Path, tmp_path: Path) -> None:
    key = Keyring(tmp_path).add("stable-1", "hsm:2")
    path = tmp_path / "keys.yaml"
    make_key("05", "EC:prime256v1")
    path.write_text(path.read_text().replace("hsm:2", "hsm:5"))
    ask, _ = typing(PIN)
    signer = Keyring(tmp_path, ask).signer(key)
    assert signer is not None
    with pytest.raises(TrustError, match="not the key `stable-1`"):
        signer.sign(b"x")


def test_the_extra_is_named_where_the_library_is_missing(
    module: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "securesystemslib.signer._hsm_signer.PKCS11_IMPORT_ERROR", "'python-pkcs11' required"
    )
    with pytest.raises(HostError, match="library that is not installed") as caught:
        Keyring(tmp_path).add("stable-1", "hsm:2")
    assert "pip install 'recast[hsm]'" in caught.value.hint


def test_a_channel_is_promoted_with_a_token(module: Path, tmp_path: Path) -> None:
    """From the first signature in a token to a machine that follows it."""
    store = MemoryStore()
    ask, asked = typing(PIN)
    keyring = Keyring(tmp_path / "keys", ask)
    keys = {name: keyring.generate(name, None) for name in ("offline-1", "online", "tester")}
    keys["alice"] = keyring.add("alice", f"hsm:2?label={TOKEN}")
    keys["bob"] = keyring.add("bob", f"hsm:3?label={TOKEN}")
    channels = Channels(channels=(ChannelDefinition(name="stable", gates=Gates(approvals=2)),))
    holders = {
        "root": ("offline-1",), "targets": ("offline-1",), "online": ("online",),
        "stable": ("alice", "bob"), "builder": ("tester",), "tester": ("tester",),
    }  # fmt: skip
    roles = {role: RoleKeys(tuple(keys[name] for name in of)) for role, of in holders.items()}
    root = Repository.create(store, keyring, channels, roles)
    machine = TrustClient(store, tmp_path / "machine", root)
    repository = Repository(store, TrustClient(store, tmp_path / "memory", root), keyring, channels)
    pointer = make_pointer("stable", "edge-web", 7)

    def decide(view: ChannelView) -> ChannelChange:
        assert view.ours == ("alice", "bob")
        event = Event(action="promote", at=clock.now(), image="edge-web")
        return ChannelChange(event=event, pointers={"edge-web": pointer})

    outcome = repository.change_channel("stable", decide)
    assert outcome.published
    assert outcome.signed_by == ("alice", "bob")
    assert machine.pointer("stable", "edge-web") == pointer
    assert set(asked) == {f"PIN of the token with the key {name}" for name in ("alice", "bob")}
    assert len(asked) == 2  # each typed once, however often it signs

    wrong, _ = typing("9999")
    other = Repository(
        store, TrustClient(store, tmp_path / "other", root),
        Keyring(tmp_path / "keys", wrong), channels,
    )  # fmt: skip
    before = store.snapshot()
    with pytest.raises(PassphraseError, match="PIN does not open the token"):
        other.change_channel("stable", decide)
    assert store.snapshot() == before
