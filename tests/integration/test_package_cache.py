"""If these fail, builds at the same time lose packages, or the cache grows or rots."""

from __future__ import annotations

import errno
import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NoReturn

import pytest

from pipeline.dib.package_cache import DAYS, given_back, lend, lent


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    return tmp_path / "shared"


@pytest.fixture
def kept(shared: Path) -> Path:
    folder = shared / "apt" / "debian"
    folder.mkdir(parents=True)
    return folder


def test_a_build_gets_what_is_there_as_links_and_gives_back_what_is_new(
    shared: Path, kept: Path, tmp_path: Path
) -> None:
    (kept / "a_1.deb").write_text("a")
    own = tmp_path / "own"
    with lend(shared, own, "debian"):
        mine = lent(own, "debian")
        assert names(mine) == ["a_1.deb"]
        assert (mine / "a_1.deb").samefile(kept / "a_1.deb")
        (mine / "b_1.deb").write_text("b")
        (mine / "partial").mkdir()
        (mine / "partial" / "c_1.deb").write_text("half")
        (mine / "lock").touch()
    assert names(kept) == ["a_1.deb", "b_1.deb"]
    assert not (shared / "apt" / "toy").exists()


def test_what_the_bootstrap_downloaded_is_kept_though_the_lent_folder_is_emptied(
    shared: Path, kept: Path, tmp_path: Path
) -> None:
    (kept / "a_1.deb").write_text("a")
    own = tmp_path / "own"
    with lend(shared, own, "debian"):
        (given_back(own) / "b_1.deb").write_text("b")
        (lent(own, "debian") / "a_1.deb").unlink()
    assert names(kept) == ["a_1.deb", "b_1.deb"]


def test_a_build_that_fails_gives_back_what_it_downloaded(
    shared: Path, kept: Path, tmp_path: Path
) -> None:
    def fail() -> NoReturn:
        with lend(shared, tmp_path / "own", "debian"):
            (lent(tmp_path / "own", "debian") / "b_1.deb").write_text("b")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert names(kept) == ["b_1.deb"]


def test_a_damaged_package_is_replaced_by_the_one_that_apt_downloaded_instead(
    shared: Path, kept: Path, tmp_path: Path
) -> None:
    (kept / "a_1.deb").write_text("cut o")
    with lend(shared, tmp_path / "own", "debian"):
        mine = lent(tmp_path / "own", "debian") / "a_1.deb"
        mine.unlink()  # as apt does with one of the wrong size
        mine.write_text("the whole of it")
    assert (kept / "a_1.deb").read_text() == "the whole of it"


def test_the_lent_folder_may_be_emptied_without_loss(
    shared: Path, kept: Path, tmp_path: Path
) -> None:
    (kept / "a_1.deb").write_text("a")
    with lend(shared, tmp_path / "own", "debian"):
        (lent(tmp_path / "own", "debian") / "a_1.deb").unlink()  # as `apt-get clean` does
    assert (kept / "a_1.deb").read_text() == "a"


def test_what_is_old_goes_but_not_what_is_new_here_and_old_in_the_archive(
    shared: Path, kept: Path, tmp_path: Path
) -> None:
    long_ago = time.time() - (DAYS + 1) * 86400
    for name in ("old_1.deb", ".half"):
        (kept / name).touch()
        os.utime(kept / name, (long_ago, long_ago))
    (kept / "new_1.deb").touch()
    with lend(shared, tmp_path / "own", "debian"):
        fresh = lent(tmp_path / "own", "debian") / "fresh_1.deb"
        fresh.touch()
        os.utime(fresh, (long_ago, long_ago))  # apt sets the archive's time
    assert names(kept) == ["fresh_1.deb", "new_1.deb"]


def test_a_cache_on_another_disk_is_copied(
    shared: Path, kept: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def other_disk(_source: object, _target: object) -> NoReturn:
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", other_disk)
    (kept / "a_1.deb").write_text("a")
    with lend(shared, tmp_path / "own", "debian"):
        mine = lent(tmp_path / "own", "debian")
        assert (mine / "a_1.deb").read_text() == "a"
        (mine / "b_1.deb").write_text("b")
    assert names(kept) == ["a_1.deb", "b_1.deb"]


@pytest.mark.soak
def test_builds_at_once_lose_nothing_of_each_other(
    shared: Path, kept: Path, tmp_path: Path
) -> None:
    def build(number: int) -> None:
        own = tmp_path / f"own-{number}"
        for round_ in range(10):
            with lend(shared, own / str(round_), "debian"):
                mine = lent(own / str(round_), "debian")
                for package in mine.glob("*.deb"):
                    assert package.read_text() == package.name, "half a package was lent"
                for name in (f"own-{number}-{round_}_1.deb", f"same-{round_}_1.deb"):
                    part = mine / f"{name}.part"
                    part.write_text(name)
                    part.rename(mine / name)

    with ThreadPoolExecutor(4) as pool:
        for done in [pool.submit(build, number) for number in range(4)]:
            done.result()
    expected = [f"own-{n}-{r}_1.deb" for n in range(4) for r in range(10)]
    expected += [f"same-{r}_1.deb" for r in range(10)]
    assert names(kept) == sorted(expected)
    assert all(path.read_text() == path.name for path in kept.iterdir())
