"""If these fail, a project cannot be begun, or nobody is told what to do with its keys."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.cli.main import main
from pipeline.trust.keys import Keyring

SECRET = "correct horse battery"
NAMES = ("offline-1", "offline-2", "offline-3", "online", "dev", "candidate", "stable",
         "builder", "tester")  # fmt: skip

CHANNELS = """\
channels:
  - name: dev
  - name: stable
    gates: {approvals: 2}
"""

Recast = Callable[..., str]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "project"
    (folder / "images").mkdir(parents=True)
    for name in ("ARTIFACTS", "KEYS", "ROOT", "STORE", "PASSPHRASE"):
        monkeypatch.delenv(f"RECAST_{name}", raising=False)
    monkeypatch.setenv("RECAST_PROJECT", str(folder))
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def recast(project: Path, capsys: pytest.CaptureFixture[str]) -> Recast:
    def call(*args: str, code: int = 0) -> str:
        capsys.readouterr()
        assert main(args) == code
        captured = capsys.readouterr()
        return captured.out if code == 0 else captured.err

    return call


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in (".lock", ".init", "lock")
    }


def listed(recast: Recast) -> dict[str, Any]:
    data = json.loads(recast("keys", "list", "--json"))
    return {role["name"]: role for role in data["roles"]}


# --- recast init ----------------------------------------------------------------------------


def test_one_command_makes_everything(project: Path, recast: Recast) -> None:
    text = recast("init")
    keys = project / "artifacts" / "keys"
    assert Keyring(keys).names() == list(NAMES)
    for name in NAMES:
        assert f"artifacts/keys/{name}.pem, not encrypted" in text
    words = " ".join(text.split())
    assert (
        "Move offline: artifacts/keys/offline-1.pem, artifacts/keys/offline-2.pem, "
        "artifacts/keys/offline-3.pem" in words
    )
    assert "Whoever holds 2 of them can replace every other key" in words
    assert "root of trust is artifacts/keys/root.json" in words
    assert (keys / "root.json").is_file()
    assert not (project / "images" / "root.json").exists()
    assert (project / "artifacts" / "store" / "metadata" / "timestamp.json").is_file()
    roles = listed(recast)
    assert (roles["root"]["threshold"], len(roles["root"]["keys"])) == (2, 3)
    assert roles["targets"]["keys"] == roles["root"]["keys"]
    assert roles["stable"]["keys"] == ["stable"]
    assert [part["name"] for part in roles["online"]["metadata"]] == ["snapshot", "timestamp"]


def test_private_keys_are_for_one_person_alone(project: Path, recast: Recast) -> None:
    before = os.umask(0)
    try:
        recast("init")
    finally:
        os.umask(before)
    keys = project / "artifacts" / "keys"
    assert stat.S_IMODE(keys.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in keys.glob("*.pem")} == {0o600}


def test_a_passphrase_encrypts_every_key(
    project: Path, recast: Recast, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RECAST_PASSPHRASE", SECRET)
    text = recast("init")
    assert "not encrypted" not in text
    assert text.count(", encrypted") == len(NAMES)
    for path in (project / "artifacts" / "keys").glob("*.pem"):
        assert b"ENCRYPTED PRIVATE KEY" in path.read_bytes()
    monkeypatch.setenv("RECAST_PASSPHRASE", "another")
    assert "passphrase does not open" in recast("keys", "threshold", "root", "1", code=9)
    monkeypatch.delenv("RECAST_PASSPHRASE")
    assert "Set RECAST_PASSPHRASE" in recast("keys", "threshold", "root", "1", code=2)


def test_a_passphrase_that_is_wanted_and_not_given_stops_it(project: Path, recast: Recast) -> None:
    assert "Set RECAST_PASSPHRASE" in recast("init", "--passphrase", code=2)
    assert not list((project / "artifacts").rglob("*.pem"))


@pytest.mark.parametrize(
    ("words", "typed", "encrypted"),
    [((), "", False), ((), SECRET, True), (("--passphrase",), SECRET, True)],
)
def test_a_passphrase_is_typed_twice(
    project: Path,
    recast: Recast,
    monkeypatch: pytest.MonkeyPatch,
    words: tuple[str, ...],
    typed: str,
    encrypted: bool,
) -> None:
    asked: list[str] = []

    def hear(text: str) -> str:
        asked.append(text)
        return typed

    monkeypatch.setattr("pipeline.cli.passphrase.is_terminal", lambda _stream: True)
    monkeypatch.setattr("click.termui.hidden_prompt_func", hear)
    recast("init", *words)
    assert len(asked) == 2
    assert ("empty" in asked[0]) is not bool(words)
    keyring = Keyring(project / "artifacts" / "keys")
    assert [keyring.encrypted(name) for name in NAMES] == [encrypted] * len(NAMES)


def test_without_a_passphrase_nobody_is_asked(
    project: Path, recast: Recast, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RECAST_PASSPHRASE", SECRET)
    monkeypatch.setattr("pipeline.cli.passphrase.is_terminal", lambda _stream: True)
    recast("init", "--no-passphrase")
    assert Keyring(project / "artifacts" / "keys").encrypted("online") is False


def test_two_at_once_do_not_mix(project: Path, recast: Recast) -> None:
    with Keyring(project / "artifacts" / "keys").being_made():
        assert "at work on it" in recast("init", code=8)
    recast("init")


def test_as_json(project: Path, recast: Recast) -> None:
    data = json.loads(recast("init", "--json", "--offline-keys", "1", "--threshold", "1"))
    assert data["root"] == str(project / "artifacts" / "keys" / "root.json")
    assert data["commit"] == []
    assert data["move_offline"] == [str(project / "artifacts" / "keys" / "offline-1.pem")]
    online = next(key for key in data["keys"] if key["name"] == "online")
    assert online["roles"] == ["online"]
    assert online["encrypted"] is False


def test_a_shared_store_has_its_root_of_trust_in_the_repository(
    project: Path, recast: Recast
) -> None:
    (project / "images" / "settings.yaml").write_text("store: {url: shared}\n")
    text = recast("init")
    assert (project / "images" / "root.json").is_file()
    assert "Commit images/root.json" in text
    assert listed(recast)["dev"]["threshold"] == 1


def test_a_channel_has_as_many_keys_as_it_needs_approvals(project: Path, recast: Recast) -> None:
    (project / "images" / "channels.yaml").write_text(CHANNELS)
    recast("init")
    roles = listed(recast)
    assert roles["dev"]["keys"] == ["dev"]
    assert roles["stable"]["keys"] == ["stable-1", "stable-2"]
    assert roles["stable"]["threshold"] == 2


def test_a_second_run_touches_nothing(project: Path, recast: Recast) -> None:
    recast("init")
    before = contents(project)
    text = recast("init", code=2)
    assert "already" in text
    assert "recast keys list" in text
    assert contents(project) == before


def test_a_lost_root_of_trust_is_made_again_from_the_same_keys(
    project: Path, recast: Recast
) -> None:
    recast("init")
    before = contents(project)
    (project / "artifacts" / "keys" / "root.json").unlink()  # as if cut before its last step
    recast("init")
    assert contents(project) == before


def test_a_signed_store_without_its_keys_is_not_taken_over(
    project: Path, recast: Recast, monkeypatch: pytest.MonkeyPatch
) -> None:
    recast("init")
    before = contents(project)
    monkeypatch.setenv("RECAST_KEYS", str(project.parent / "elsewhere"))
    text = recast("init", code=2)
    assert "signed already" in text
    assert "from a colleague" in text
    assert contents(project) == before
    assert not list((project.parent / "elsewhere").glob("*.pem"))


def test_a_root_of_trust_of_another_store_is_noticed(
    project: Path, recast: Recast, monkeypatch: pytest.MonkeyPatch
) -> None:
    recast("init")
    monkeypatch.setenv("RECAST_STORE", str(project.parent / "empty"))
    assert "holds no signed metadata" in recast("init", code=2)
    assert not (project.parent / "empty" / "metadata").exists()


@pytest.mark.parametrize("cut", range(1, 36, 3))
def test_it_goes_on_where_it_was_killed(
    project: Path, recast: Recast, monkeypatch: pytest.MonkeyPatch, cut: int
) -> None:
    left = cut

    def killing(name: str, real: Callable[..., Any]) -> None:
        def replaced(*args: Any, **words: Any) -> Any:
            nonlocal left
            left -= 1
            if left == 0:
                raise KeyboardInterrupt
            return real(*args, **words)

        monkeypatch.setattr(name, replaced)

    from pipeline.files import write_atomically
    from pipeline.store.local import LocalStore

    killing("pipeline.trust.keys.write_atomically", write_atomically)
    killing("pipeline.store.local.LocalStore.create", LocalStore.create)
    killing("pipeline.store.local.LocalStore.replace", LocalStore.replace)
    recast("init", code=130)
    monkeypatch.undo()
    monkeypatch.setenv("RECAST_PROJECT", str(project))
    monkeypatch.chdir(project)
    made = {path.name: path.read_bytes() for path in project.rglob("*.pem")}
    recast("init")
    after = {path.name: path.read_bytes() for path in project.rglob("*.pem")}
    assert made.items() <= after.items()
    assert len(after) == len(NAMES)
    assert listed(recast)["stable"]["keys"] == ["stable"]


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (("--threshold", "4"), "4 signatures cannot come from 3 offline keys"),
        (("--offline-keys", "0"), "0 is not in the range"),
    ],
)
def test_what_cannot_be_is_refused(
    project: Path, recast: Recast, words: tuple[str, ...], text: str
) -> None:
    assert text in recast("init", *words, code=2)
    assert not (project / "artifacts").exists()


# --- recast keys ----------------------------------------------------------------------------


def test_roles_and_keys_are_listed(project: Path, recast: Recast) -> None:
    recast("init")
    text = recast("keys", "list")
    assert "2 of 3" in text
    assert "artifacts/keys/online.pem, not encrypted" in text
    (project / "artifacts" / "keys" / "offline-1.pem").unlink()
    assert "offline-1.pem, not within reach" in recast("keys", "list")


def test_a_colleague_is_let_in_and_out(project: Path, recast: Recast, tmp_path: Path) -> None:
    recast("init")
    colleague = Keyring(tmp_path / "colleague")
    colleague.generate("alice", None)
    public = str(tmp_path / "colleague" / "alice.pub")
    assert "signed by" in recast("keys", "add", "stable", "--public", public)
    assert listed(recast)["stable"]["keys"] == ["stable", "alice"]
    assert "not here" in recast("keys", "list")
    assert "may sign stable already" in recast("keys", "add", "stable", "--public", public, code=2)
    private = str(tmp_path / "colleague" / "alice.pem")
    assert "holds no public key" in recast("keys", "add", "stable", "--public", private, code=2)
    data = json.loads(recast("keys", "remove", "stable", "alice", "--json"))
    assert data["outcomes"][0]["published"] is True
    assert listed(recast)["stable"]["keys"] == ["stable"]


def test_a_key_is_made_and_named_by_the_next_number(project: Path, recast: Recast) -> None:
    recast("init")
    text = recast("keys", "add", "stable")
    assert "stable-2: " in text
    assert (project / "artifacts" / "keys" / "stable-2.pem").is_file()
    recast("keys", "add", "root", "--name", "vault")
    roles = listed(recast)
    assert roles["stable"]["keys"] == ["stable", "stable-2"]
    assert roles["root"]["keys"][-1] == "vault"
    assert roles["targets"]["keys"] == ["offline-1", "offline-2", "offline-3"]
    recast("keys", "add", "targets", "--name", "vault")  # the same key, in one more role
    assert listed(recast)["targets"]["keys"][-1] == "vault"


def test_a_rotation_says_what_becomes_of_the_old_key(project: Path, recast: Recast) -> None:
    recast("init")
    text = recast("keys", "rotate", "online")
    assert "online-2: " in text
    old = project / "artifacts" / "keys" / "online.pem"
    assert "online is in no role any more: destroy artifacts/keys/online.pem" in " ".join(
        text.split()
    )
    assert listed(recast)["online"]["keys"] == ["online-2"]
    assert "no role has a key `online`" in recast("keys", "rotate", "online", code=2)
    old.unlink()
    recast("refresh")


def test_a_change_beyond_our_keys_is_refused_or_proposed(project: Path, recast: Recast) -> None:
    recast("init")
    keys = project / "artifacts" / "keys"
    for name in ("offline-2", "offline-3"):
        Keyring(keys).remove(name)
    assert "--propose" in recast("keys", "rotate", "offline-1", code=10)
    assert not (keys / "offline-4.pem").exists()  # made for nothing
    text = recast("keys", "rotate", "offline-1", "--propose")
    assert "proposed as" in text
    assert "1 more signature is needed" in text
    assert (keys / "offline-4.pem").exists()
    assert listed(recast)["root"]["keys"] == ["offline-1", "offline-2", "offline-3"]


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (("add", "beta"), "there is no role `beta`"),
        (("add", "stable", "--uri", "nonsense"), "no place for a key"),
        (("add", "stable", "--generate", "--uri", "hsm:2"), "leave out --uri"),
        (("add", "stable", "--name", "Alice"), "cannot be the name"),
        (("remove", "stable", "stable"), "nobody could sign it"),
        (("remove", "stable", "online"), "stable has no key `online`"),
        (("rotate", "zed"), "no role has a key `zed`"),
        (("threshold", "root", "4"), "its threshold cannot be 4"),
        (("threshold", "stable", "2"), "approvals: 2"),
    ],
)
def test_what_is_refused_changes_nothing(
    project: Path, recast: Recast, words: tuple[str, ...], text: str
) -> None:
    recast("init")
    before = contents(project / "artifacts" / "store") | contents(project / "artifacts" / "keys")
    assert text in recast("keys", *words, code=2)
    after = contents(project / "artifacts" / "store") | contents(project / "artifacts" / "keys")
    assert after == before


@pytest.mark.parametrize(
    "words",
    [
        ("keys", "list"),
        ("keys", "add", "stable"),
        ("keys", "rotate", "online"),
        ("refresh",),
    ],
)
def test_before_init_it_is_named(recast: Recast, words: tuple[str, ...]) -> None:
    assert "recast init" in recast(*words, code=2)


@pytest.mark.parametrize("name", ["list", "add", "remove", "rotate", "threshold"])
def test_each_command_has_an_example(recast: Recast, name: str) -> None:
    assert f"Example:\n    recast keys {name}" in recast("keys", name, "--help")


def test_a_threshold_is_set(project: Path, recast: Recast) -> None:
    recast("init")
    recast("keys", "threshold", "targets", "1")
    assert listed(recast)["targets"]["threshold"] == 1
    assert "has that threshold already" in recast("keys", "threshold", "targets", "1")


# --- recast refresh -------------------------------------------------------------------------


def test_nothing_is_due_after_init(project: Path, recast: Recast) -> None:
    recast("init")
    before = contents(project / "artifacts" / "store")
    assert recast("refresh").startswith("Nothing is due")
    data = json.loads(recast("refresh", "--json"))
    assert (len(data["done"]), data["behind"]) == (1, [])
    assert contents(project / "artifacts" / "store") == before


def test_what_expires_soon_is_signed_again(project: Path, recast: Recast) -> None:
    recast("init")
    before = listed(recast)["online"]["metadata"]
    text = recast("refresh", "--within", "10d")
    assert "timestamp" in text
    after = listed(recast)["online"]["metadata"]
    assert after[1]["version"] > before[1]["version"]


def test_without_the_online_key_it_fails_only_when_it_is_needed(
    project: Path, recast: Recast, monkeypatch: pytest.MonkeyPatch
) -> None:
    (project / "images" / "channels.yaml").write_text(
        "channels: [{name: dev}]\nexpiry: {timestamp: 10m, snapshot: 20m}\n"
    )
    recast("init")
    Keyring(project / "artifacts" / "keys").remove("online")
    assert recast("refresh").startswith("Nothing is due")
    from pipeline.clock import now

    later = now().replace(microsecond=0)
    from datetime import timedelta

    monkeypatch.setattr("pipeline.cli.refresh.now", lambda: later + timedelta(minutes=7))
    text = recast("refresh", code=9)
    assert "timestamp runs out at" in text
    assert "where the keys are" in text


def test_a_time_that_is_none_is_refused(project: Path, recast: Recast) -> None:
    recast("init")
    assert "--within" in recast("refresh", "--within", "soon", code=2)
