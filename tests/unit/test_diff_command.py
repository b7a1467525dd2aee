"""If these fail, a person cannot tell which file of a release costs a night of download."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path

import click
import pytest

from pipeline.cli.context import Context
from pipeline.cli.main import main
from pipeline.disk.uki import make_uki
from pipeline.models.pointer import PublishedRelease
from tests.fakes.efi_stub import make_stub
from tests.fakes.small_erofs import Node, build, file
from tests.fakes.store import FaultyStore, MemoryStore
from tests.fakes.stored import store_release
from tests.fakes.world import World

CHANCE = random.Random(11)
BLOCK = 4096
BINARY = CHANCE.randbytes(40 * BLOCK)
OLD: dict[str, Node | bytes] = {"usr/bin/app": BINARY, "usr/lib/gone": CHANCE.randbytes(900)}
NEW: dict[str, Node | bytes] = {
    "usr/bin/app": BINARY[: 7 * BLOCK] + CHANCE.randbytes(3 * BLOCK) + BINARY[10 * BLOCK :],
    "usr/lib/brand-new": CHANCE.randbytes(2 * BLOCK),
}

Recast = Callable[..., str]


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path / "world")


@pytest.fixture
def project(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with a signed store; commands run in it."""
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "root.json").write_bytes(world.root)
    for name in ("RECAST_STORE", "RECAST_ARTIFACTS", "RECAST_KEYS", "RECAST_ROOT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("COLUMNS", "100")

    def find(_class: type[Context]) -> Context:
        context = Context(tmp_path, tmp_path / "artifacts")
        context.__dict__.update(store=world.store, published=world.desk.published)
        return context

    monkeypatch.setattr(Context, "find", classmethod(find))
    return tmp_path


@pytest.fixture
def recast(project: Path, capsys: pytest.CaptureFixture[str]) -> Recast:
    def call(*args: str, code: int = 0) -> str:
        found = main(args)
        captured = capsys.readouterr()
        assert found == code, captured.err
        return captured.out if code == 0 else captured.err

    return call


def boot_file(path: Path, release: str) -> Path:
    stub = path.with_name("stub")
    stub.write_bytes(make_stub())
    sections = {".osrel": release.encode(), ".linux": BINARY}
    path.write_bytes(make_uki(stub, sections))
    stub.unlink()
    return path


def keep(
    world: World, project: Path, release: PublishedRelease, files: dict[str, Node | bytes]
) -> Path:
    """Put a published release into the local store as well, with these files in its root."""
    manifest = world.desk.published.manifest(release)
    folder = store_release(project / "artifacts", manifest)
    build(folder / manifest.parts["root"].file, files)
    boot_file(folder / manifest.parts["uki"].file, release.version)
    return folder


@pytest.fixture
def pair(world: World, project: Path) -> tuple[PublishedRelease, PublishedRelease]:
    old = world.publish()
    new = world.publish(deltas=[old])
    keep(world, project, old, OLD)
    keep(world, project, new, NEW)
    return old, new


def test_what_differs_and_what_it_costs(
    recast: Recast, pair: tuple[PublishedRelease, PublishedRelease]
) -> None:
    old, new = pair
    text = recast("diff", f"edge-web@{old.version}", "edge-web")
    lines = [" ".join(line.split()) for line in text.splitlines()]
    assert lines[0] == f"edge-web {old.version} → edge-web {new.version}"
    assert "packages 1 upgraded" in lines
    assert "upgraded openssl 3.5.1-1 → 3.5.1-2" in lines
    assert "12.0 KiB 160 KiB 160 KiB /usr/bin/app changed 3 of 40 blocks" in lines
    assert "8.0 KiB – 8.0 KiB /usr/lib/brand-new new" in lines
    assert "– 900 B – /usr/lib/gone removed: costs nothing" in lines
    assert any(line.startswith("root ") and "of it inodes and folders" in line for line in lines)
    assert any(".osrel changed" in line for line in lines)
    whole = {role: new.parts[role].whole[0].size for role in ("root", "uki")}
    assert "what delta whole 256 kbit/s" in lines
    assert f"root 15 B {whole['root']} B under 1m" in lines
    assert f"boot file 15 B {whole['uki']} B under 1m" in lines
    assert f"together 30 B {sum(whole.values())} B under 1m" in lines


def test_everything_is_there_as_json(
    recast: Recast, pair: tuple[PublishedRelease, PublishedRelease]
) -> None:
    old, new = pair
    data = json.loads(recast("diff", f"edge-web@{old.version}", "edge-web", "--json"))
    assert (data["old"]["version"], data["new"]["version"]) == (old.version, new.version)
    assert (data["new"]["published"], data["new"]["root_hash"]) == (True, new.root_hash)
    assert data["changes"]["packages"]["changed"][0]["name"] == "openssl"
    first = data["files"]["root"]["files"][0]
    assert first == {
        "path": "/usr/bin/app",
        "old": 40 * BLOCK,
        "new": 40 * BLOCK,
        "cost": 3 * BLOCK,
        "why": "changed 3 of 40 blocks",
    }
    assert data["files"]["root"]["total"] == data["files"]["root"]["metadata"] + 5 * BLOCK
    assert data["downloads"]["cheapest"] == {"ways": ["delta"], "size": 30}
    assert data["downloads"]["bits_per_second"] == 256_000
    assert data["notes"] == []


def test_files_are_compared_without_any_project(
    recast: Recast, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Context, "find", lambda: pytest.fail("no project is needed"))
    old = build(tmp_path / "old.erofs", OLD)
    new = build(tmp_path / "new.erofs", NEW)
    text = recast("diff", str(old), str(new))
    assert "/usr/lib/brand-new" in text
    assert "machine downloads" not in text
    first, second = (boot_file(tmp_path / f"{n}.efi", n) for n in ("1", "2"))
    assert ".osrel" in recast("diff", str(first), str(second))
    assert "boot file   the same" in recast("diff", str(first), str(first))
    text = recast("diff", str(old), str(first), code=2)
    assert "nothing to compare: root here, boot file there" in text


def test_a_release_may_be_compared_with_a_file(
    recast: Recast,
    project: Path,
    pair: tuple[PublishedRelease, PublishedRelease],
) -> None:
    new = build(project / "new.erofs", NEW)
    text = recast("diff", f"edge-web@{pair[0].version}", str(new))
    assert "/usr/lib/brand-new" in text
    assert "boot file" not in text


def test_what_cannot_be_told_is_said(
    world: World, recast: Recast, project: Path, pair: tuple[PublishedRelease, PublishedRelease]
) -> None:
    _, new = pair
    remote = world.publish(deltas=[new])
    text = recast("diff", f"edge-web@{new.version}", f"edge-web@{remote.version}")
    assert f"The root of edge-web {remote.version} is not here" in text
    assert "together   30 B" in text
    world.store.delete(f"releases/edge-web/{new.version}.json")
    text = recast("diff", f"edge-web@{pair[0].version}", "edge-web")
    assert "is not published: what machines download is not known yet" in text
    text = recast("diff", "edge-web", f"edge-web@{remote.version}")
    assert f"{new.version} is not published: no machine can have it" in text
    assert "delta" not in text.split("what a machine downloads")[1].splitlines()[1]


def test_a_store_that_cannot_be_read_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    store = FaultyStore(MemoryStore())
    world = World(tmp_path / "world", store=store)
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "root.json").write_bytes(world.root)

    def find(_class: type[Context]) -> Context:
        context = Context(tmp_path, tmp_path / "artifacts")
        context.__dict__.update(store=world.store, published=world.desk.published)
        return context

    monkeypatch.setattr(Context, "find", classmethod(find))
    releases = [world.publish(), world.publish()]
    for release, files in zip(releases, (OLD, NEW), strict=True):
        keep(world, tmp_path, release, files)
    store.faults.add("unreadable")
    assert main(["diff", f"edge-web@{releases[0].version}", "edge-web"]) == 0
    captured = capsys.readouterr()
    assert "/usr/bin/app" in captured.out
    assert "Note: the store is left out" in captured.err


WRONG = {
    "no release": (("edge-web@1", "edge-web"), "edge-web has no release `1`", 2),
    "no image": (("edge-x", "edge-web"), "there is no image `edge-x`", 2),
    "no file": (("./nowhere.erofs", "edge-web"), "there is no file ./nowhere.erofs", 2),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_not_there_is_named(
    recast: Recast, pair: tuple[PublishedRelease, PublishedRelease], case: str
) -> None:
    words, message, code = WRONG[case]
    assert message in recast("diff", *words, code=code)


def test_a_damaged_root_ends_in_a_sentence(recast: Recast, tmp_path: Path) -> None:
    old = build(tmp_path / "old.erofs", OLD)
    (tmp_path / "new.erofs").write_bytes(build(tmp_path / "x", NEW).read_bytes()[:9000])
    assert "is damaged: it is cut off" in recast(
        "diff", str(old), str(tmp_path / "new.erofs"), code=5
    )
    (tmp_path / "text").write_text("hello")
    assert "neither a root image" in recast("diff", str(old), str(tmp_path / "text"), code=2)


def test_many_files_fit_a_narrow_terminal(
    recast: Recast, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = "usr/lib/x86_64-linux-gnu/a-library-with-a-very-long-name"
    many: dict[str, Node | bytes] = {
        f"{long}/{number:02d}\x1b[2J.so": file(CHANCE.randbytes(BLOCK)) for number in range(25)
    }
    old, new = build(tmp_path / "old", OLD), build(tmp_path / "new", {**OLD, **many})
    text = recast("diff", str(old), str(new))
    assert "… and 5 more, with 20.0 KiB in new blocks: `--all` lists them" in text
    assert f"/{long}/07?[2J.so" in text, "nothing in an image moves a cursor"
    assert "\x1b" not in text
    assert recast("diff", str(old), str(new), "--all").count(".so") == 25
    monkeypatch.setattr("pipeline.cli.terminal.is_terminal", lambda _stream: True)
    monkeypatch.setattr("pipeline.cli.diff.is_terminal", lambda _stream: True)
    monkeypatch.setenv("COLUMNS", "80")
    lines = click.unstyle(recast("diff", str(old), str(new))).splitlines()
    assert max(map(len, lines)) <= 80
    assert any("…" in line and "name/07?[2J.so" in line for line in lines)
