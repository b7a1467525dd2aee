"""apt itself, asked about a signed archive: what is new, and what is not to be believed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline import digest
from pipeline.dib.archive import Archive, Candidate
from pipeline.dib.mirrors import Mirrors
from pipeline.engine.plan import ArchiveLook, Look, make_plan
from pipeline.errors import HostError, NetworkError
from tests.fakes.debian_archive import DebianArchive, Key, signing_key
from tests.fakes.looks import ARCHIVE, BASE, built, catalog, facts, look

HOUR = 3600.0
DEAD = "http://127.0.0.1:9"  # the discard port: nobody listens


@pytest.fixture(scope="module")
def key() -> Iterator[Key]:
    with signing_key() as made:
        yield made


@pytest.fixture
def offered(tmp_path: Path, key: Key) -> DebianArchive:
    archive = DebianArchive(tmp_path / "offered", key)
    archive.upload("trixie", openssl="3.5.1-1", libc6="2.41-12", nginx="1:1.26")
    return archive


def ask(offered: DebianArchive, key: Key, cache: Path, mirrors: Mirrors | None = None) -> Archive:
    return Archive(
        "debian", "trixie", "amd64", mirrors or offered.mirrors, cache, keyring=key.keyring
    )


@pytest.fixture
def archive(offered: DebianArchive, key: Key, tmp_path: Path) -> Archive:
    return ask(offered, key, tmp_path / "cache")


def test_before_the_first_look_nothing_is_known(archive: Archive) -> None:
    assert archive.looked_at is None
    assert archive.candidates(["openssl"]) == {}
    assert archive.index_digest() == ""


def test_candidates_name_their_suite(archive: Archive, offered: DebianArchive) -> None:
    offered.upload("trixie-security", openssl="3.5.1-2")
    offered.upload("trixie-updates", nginx="1:1.27")
    archive.refresh(False, HOUR)
    assert archive.looked_at is not None
    assert archive.candidates(["openssl", "nginx", "libc6", "missing", "libc6:i386"]) == {
        "libc6": Candidate("2.41-12", "trixie"),
        "nginx": Candidate("1:1.27", "trixie-updates"),
        "openssl": Candidate("3.5.1-2", "trixie-security"),
    }


def test_a_version_in_two_suites_is_said_to_be_the_security_fix(
    archive: Archive, offered: DebianArchive
) -> None:
    offered.upload("trixie", openssl="3.5.1-2")
    offered.upload("trixie-security", openssl="3.5.1-2")
    archive.refresh(False, HOUR)
    assert archive.candidates(["openssl"])["openssl"].suite == "trixie-security"


def test_news_are_seen_at_the_next_look_and_not_before(
    archive: Archive, offered: DebianArchive
) -> None:
    archive.refresh(False, HOUR)
    assert archive.candidates(["openssl"])["openssl"].version == "3.5.1-1"
    offered.upload("trixie-security", openssl="3.5.1-2")
    archive.refresh(False, HOUR)
    assert archive.candidates(["openssl"])["openssl"].version == "3.5.1-1", "fresh enough"
    archive.refresh(True, HOUR)
    assert archive.candidates(["openssl"])["openssl"].version == "3.5.1-2"


def test_an_old_look_is_renewed(archive: Archive, offered: DebianArchive) -> None:
    archive.refresh(False, HOUR)
    offered.upload("trixie", openssl="3.5.2-1")
    archive.refresh(False, 0.0)
    assert archive.candidates(["openssl"])["openssl"].version == "3.5.2-1"


def test_the_index_digest_changes_with_the_archive_alone(
    archive: Archive, offered: DebianArchive, key: Key, tmp_path: Path
) -> None:
    archive.refresh(False, HOUR)
    first = archive.index_digest()
    other = ask(offered, key, tmp_path / "other")
    other.refresh(False, HOUR)
    assert first
    assert other.index_digest() == first
    offered.upload("trixie", emacs="30.1")
    archive.refresh(True, HOUR)
    assert archive.index_digest() != first


def test_an_upload_becomes_the_reason_of_a_build(archive: Archive, offered: DebianArchive) -> None:
    archive.refresh(False, HOUR)
    first = look()
    installed = {"openssl": "3.5.1-1", "libc6": "2.41-12", "held-elsewhere": "1"}
    known = built(make_plan(catalog(BASE), first)["edge-base"], installed)

    def plan_now() -> tuple[str, ...]:
        seen = ArchiveLook(
            ARCHIVE, archive.looked_at, archive.index_digest(), archive.candidates(installed)
        )
        now: Look = replace(
            first,
            images={"edge-base": facts("edge-base", history=[known])},
            archives={ARCHIVE: seen},
        )
        return make_plan(catalog(BASE), now)["edge-base"].reasons

    assert plan_now() == ("unchanged",)
    offered.upload("trixie", nginx="1:1.28")
    archive.refresh(True, HOUR)
    assert plan_now() == ("unchanged",), "the image does not carry nginx"
    offered.upload("trixie-security", openssl="3.5.1-2")
    archive.refresh(True, HOUR)
    assert plan_now() == ("openssl 3.5.1-1 → 3.5.1-2 in trixie-security",)


def test_a_dead_mirror_is_named_with_what_to_do(
    offered: DebianArchive, key: Key, tmp_path: Path
) -> None:
    dead = Mirrors("debian", f"{DEAD}/debian", f"{DEAD}/security")
    archive = ask(offered, key, tmp_path / "cache", dead)
    with pytest.raises(NetworkError, match=f"{DEAD}/debian") as caught:
        archive.refresh(True, HOUR)
    assert "`mirror:` in images/settings.yaml" in caught.value.hint
    assert "DIB_DISTRIBUTION_MIRROR" in caught.value.hint
    assert archive.looked_at is None


def test_half_an_archive_is_not_taken_for_the_whole(
    offered: DebianArchive, key: Key, tmp_path: Path
) -> None:
    """apt-get update itself would end with 0 and go on with the old security index."""
    half = replace(offered.mirrors, security=f"{DEAD}/security")
    with pytest.raises(NetworkError, match="security"):
        ask(offered, key, tmp_path / "cache", half).refresh(True, HOUR)


def test_a_failure_keeps_the_last_look_and_is_not_repeated_at_once(
    archive: Archive, offered: DebianArchive, tmp_path: Path, key: Key
) -> None:
    archive.refresh(False, HOUR)
    looked_at = archive.looked_at
    (tmp_path / "offered").rename(tmp_path / "gone")
    with pytest.raises(NetworkError):
        archive.refresh(False, 0.0)
    assert archive.looked_at == looked_at
    assert archive.candidates(["openssl"])["openssl"].version == "3.5.1-1"
    archive.refresh(False, 0.0)  # left alone for a while
    with pytest.raises(NetworkError):
        archive.refresh(True, 0.0)


def test_what_a_stranger_signed_is_refused(
    archive: Archive, offered: DebianArchive, key: Key
) -> None:
    archive.refresh(False, HOUR)
    with signing_key() as stranger:
        offered.sign_with(stranger)
        offered.upload("trixie-security", openssl="9:6.6.6")
        with pytest.raises(NetworkError, match="not signed by a key that is trusted") as caught:
            archive.refresh(True, HOUR)
    assert "debian-archive-keyring" in caught.value.hint
    assert archive.candidates(["openssl"])["openssl"].version == "3.5.1-1"


def test_what_was_changed_after_signing_is_refused(
    archive: Archive, offered: DebianArchive
) -> None:
    offered.spoil("trixie")
    with pytest.raises(NetworkError):
        archive.refresh(True, HOUR)


def test_a_missing_keyring_names_its_package(
    offered: DebianArchive, key: Key, tmp_path: Path
) -> None:
    nowhere = replace(key, keyring=tmp_path / "nowhere.gpg")
    with pytest.raises(HostError, match=r"nowhere\.gpg") as caught:
        ask(offered, nowhere, tmp_path / "cache").refresh(True, HOUR)
    assert "apt-get install debian-archive-keyring" in caught.value.hint


def test_another_mirror_starts_afresh(
    archive: Archive, offered: DebianArchive, key: Key, tmp_path: Path
) -> None:
    archive.refresh(False, HOUR)
    other = DebianArchive(tmp_path / "second", key)
    other.upload("trixie", openssl="3.4.0-1")
    moved = ask(other, key, tmp_path / "cache")
    assert moved.looked_at is None
    moved.refresh(False, HOUR)
    assert moved.candidates(["openssl"])["openssl"].version == "3.4.0-1"


def test_two_at_once_do_not_disturb_each_other(
    offered: DebianArchive, key: Key, tmp_path: Path
) -> None:
    def one(number: int) -> dict[str, Candidate]:
        archive = ask(offered, key, tmp_path / "cache")
        archive.refresh(number % 2 == 0, HOUR)
        return archive.candidates(["openssl", "libc6"])

    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(one, range(6)))
    assert all(answer.keys() == {"openssl", "libc6"} for answer in answers)


def test_the_hosts_own_apt_is_left_alone(archive: Archive) -> None:
    def state() -> str:
        places = [Path("/var/lib/apt/lists"), Path("/var/cache/apt")]
        found = [p for place in places if place.is_dir() for p in sorted(place.rglob("*"))]
        return digest.of_data([[str(p), os.lstat(p).st_mtime_ns] for p in found])

    before = state()
    archive.refresh(True, HOUR)
    archive.candidates(["openssl"])
    assert state() == before


def test_a_damaged_memory_of_the_last_look_is_made_anew(archive: Archive, tmp_path: Path) -> None:
    archive.refresh(False, HOUR)
    (memory,) = (tmp_path / "cache").glob("*/look.json")
    memory.write_text("{")
    assert archive.looked_at is None
    archive.refresh(False, HOUR)
    assert archive.candidates(["openssl"])


def test_a_distribution_that_cannot_be_asked_has_nothing_to_say(tmp_path: Path) -> None:
    archive = Archive("fedora", "42", "amd64", Mirrors("fedora"), tmp_path)
    archive.refresh(True, HOUR)
    assert not archive.known
    assert archive.candidates(["openssl"]) == {}
