"""The commands that move releases and show where they stand, over a signed store.

RECAST_GOLDEN=write renews the files with the shape of what is printed as JSON.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest

from pipeline.cli.context import Context
from pipeline.cli.main import main
from pipeline.models.channel import ChannelDefinition, Channels, Gates
from pipeline.models.checkin import checkin_key
from pipeline.store.base import object_key
from tests.fakes.machines import Reporter
from tests.fakes.store import Fault, FaultyStore, MemoryStore
from tests.fakes.stored import make_release, make_verdict, store_release
from tests.fakes.world import HOUR, World

GOLDEN = Path(__file__).parents[1] / "golden" / "json"
DAY = 24 * HOUR
EDGE_WEB = "name: edge-web\ndistribution: debian\nrelease: trixie\n"

Recast = Callable[..., str]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("edge-web", "edge-db"):
        tests = tmp_path / "images" / name / "tests"
        tests.mkdir(parents=True)
        (tests / "test_it.py").write_text("def test_it(): pass\n")
        (tests.parent / "image.yaml").write_text(EDGE_WEB.replace("edge-web", name))
    monkeypatch.setenv("RECAST_PROJECT", str(tmp_path))
    monkeypatch.delenv("RECAST_ARTIFACTS", raising=False)
    monkeypatch.setenv("COLUMNS", "100")
    return tmp_path


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path / "world")


def sit_down(world: World, project: Path, monkeypatch: pytest.MonkeyPatch, *keys: str) -> None:
    """Let commands work on *world*, with these keys; with all if none is given."""
    desk = world.engineer(*keys) if keys else world.desk
    root = project / "root.json"
    root.write_bytes(world.root)

    def find(_class: type[Context]) -> Context:
        context = Context(project, project / "artifacts")
        known = {
            "channels": world.channels,
            "store": world.store,
            "desk": desk,
            "trust": desk.client,
            "repository": desk.repository,
            "published": desk.published,
        }
        context.__dict__.update(known)
        return context

    monkeypatch.setattr(Context, "find", classmethod(find))
    monkeypatch.setenv("RECAST_ROOT", str(root))


@pytest.fixture
def recast(
    world: World,
    project: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Recast:
    sit_down(world, project, monkeypatch)
    return caller(capsys)


def caller(capsys: pytest.CaptureFixture[str]) -> Recast:
    """Runs a command; gives what it printed, to standard error if it was to fail."""

    def call(*args: str, code: int = 0) -> str:
        found = main(args)
        captured = capsys.readouterr()
        assert found == code, captured.err
        return captured.out if code == 0 else captured.err

    return call


def shape(value: Any) -> Any:
    """The keys and types of JSON data, in place of what differs each time."""
    if isinstance(value, dict):
        return {key: shape(each) for key, each in value.items()}
    if isinstance(value, list):
        return [shape(value[0])] if value else []
    if isinstance(value, str):
        return "time" if re.fullmatch(r"\d{4}-\d\d-\d\dT[\d:]+Z", value) else "text"
    return type(value).__name__


def check_shape(name: str, text: str) -> None:
    found = json.dumps(shape(json.loads(text)), indent=2) + "\n"
    if os.environ.get("RECAST_GOLDEN") == "write":
        (GOLDEN / name).write_text(found)
    assert found == (GOLDEN / name).read_text()


# --- promote and rollback


def test_every_gate_and_what_changes_for_sites_is_shown(world: World, recast: Recast) -> None:
    old = world.publish(sizes={"root": 430 << 20})
    new = world.publish(sizes={"root": 441 << 20})
    world.hold("candidate", old)
    world.hold("stable", old)
    world.hold("candidate", new)
    world.wait(DAY)
    text = recast("promote", "edge-web", "--to", "stable", "--reason", "it works")
    assert f"edge-web {new.version} into stable" in text
    assert "✓  tests on qemu    passed at" in text
    assert "✓  soak             in candidate for 24h00m, 1d asked for" in text
    assert f"from        {old.version} (root {old.root_hash[:12]})" in text
    assert "packages    1 upgraded" in text
    assert "upgraded   openssl 3.5.1-1 → 3.5.1-2" in text
    assert "root        441 MiB, 11.0 MiB more" in text
    assert "download    " in text
    assert "rollout     10% for 1h, 50% for 4h, 100%" in text
    assert f"stable holds edge-web {new.version} (version 3, signed by alice)" in text
    assert max(map(len, text.splitlines())) <= 100


def test_a_refusal_shows_the_gates_and_ends_with_its_own_code(
    world: World, recast: Recast, capsys: pytest.CaptureFixture[str]
) -> None:
    release = world.publish()
    world.hold("dev", release)
    assert main(["promote", "edge-web", "--to", "candidate"]) == 10
    captured = capsys.readouterr()
    assert "✗  soak" in captured.out
    assert "✓  tests on qemu" in captured.out
    assert "soak: in dev for 0.0s of 1h" in captured.err
    assert "Time alone opens it, at" in captured.err
    assert "in 1h00m. `--wait`" in captured.err
    assert world.desk.view("candidate").pointers == {}


def test_a_dry_run_says_that_nothing_has_changed(world: World, recast: Recast) -> None:
    world.publish()
    text = recast("promote", "edge-web", "--to", "dev", "--dry-run")
    assert "nothing has changed" in text
    assert world.desk.view("dev").pointers == {}
    recast("promote", "edge-web", "--to", "candidate", "--dry-run", code=2)


def test_what_is_there_already_is_no_error(world: World, recast: Recast) -> None:
    world.hold("dev", world.publish())
    assert "dev holds it already" in recast("promote", "edge-web", "--to", "dev")
    assert json.loads(recast("promote", "edge-web", "--to", "dev", "--json"))["already"]


def test_waves_of_its_own_or_none_at_all(world: World, recast: Recast) -> None:
    world.publish()
    assert "--now is one wave" in recast(
        "promote", "edge-web", "--to", "dev", "--now", "--waves", "100%", code=2
    )
    assert "no list of waves" in recast(
        "promote", "edge-web", "--to", "dev", "--waves", "5", code=2
    )
    text = recast("promote", "edge-web", "--to", "dev", "--waves", "5%:1h,100%")
    assert "rollout     5% for 1h, 100%" in text
    new = world.publish()
    assert "rollout     all at once" in recast("promote", "edge-web", "--to", "dev", "--now")
    assert new.version in recast("channels")


def test_promotion_as_json(
    world: World, recast: Recast, capsys: pytest.CaptureFixture[str]
) -> None:
    world.hold("dev", world.publish())
    world.publish()
    check_shape("promotion.json", recast("promote", "edge-web", "--to", "dev", "--json"))
    assert main(["promote", "edge-web", "--to", "candidate", "--json"]) == 10
    captured = capsys.readouterr()
    data = json.loads(captured.out)
    assert (data["allowed"], data["outcome"]) == (False, None)
    assert data["opens"] is not None
    assert [gate["name"] for gate in data["gates"] if not gate["passed"]] == ["soak"]
    assert json.loads(captured.err)["code"] == 10


def report(world: World, device: str, version: str, channel: str = "stable") -> None:
    sent = Reporter(device).report(version=version, channel=channel)
    world.store.create(checkin_key(device), sent)


def test_what_each_machine_downloads_is_told_by_what_it_runs(world: World, recast: Recast) -> None:
    lost, old = world.publish(), world.publish()
    new = world.publish(deltas=[old])
    world.hold("stable", old)
    world.hold("candidate", new)
    world.wait(DAY)
    for number in range(3):
        report(world, f"berlin-{number}", old.version)
    report(world, "rome-1", lost.version)
    report(world, "paris-1", "gone")
    report(world, "dev-1", lost.version, "dev")
    text = recast("promote", "edge-web", "--to", "stable", "--dry-run")
    lines = [" ".join(line.split()) for line in text.splitlines()]
    assert "what a machine downloads, at most" in lines
    assert "from machines delta whole 256 kbit/s" in lines
    whole = new.download_size
    assert f"{old.version} 3 30 B {whole} B under 1m" in lines
    assert f"{lost.version} 1 – {whole} B under 1m" in lines
    assert f"gone 1 – {whole} B under 1m" in lines
    assert f"✓ wire budget 30 B from {old.version}, by delta; no limit" in lines
    data = json.loads(recast("promote", "edge-web", "--to", "stable", "--dry-run", "--json"))
    found = data["downloads"]
    assert (found["bits_per_second"], found["problem"]) == (256_000, None)
    assert [(each["version"], each["kind"], each["machines"]) for each in found["from"]] == [
        (old.version, "held", 3),
        (lost.version, "reported", 1),
        ("gone", "reported", 1),
    ]
    assert found["from"][0]["ways"] == {"delta": 30, "whole": whole}
    assert found["from"][0]["cheapest"] == {"ways": ["delta"], "size": 30}
    assert found["from"][0]["parts"]["uki"]["delta"] == 15


def test_machines_that_nobody_can_ask_are_not_counted(
    project: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    store = FaultyStore(MemoryStore(), "unreadable", only={"list"}, keys="checkins/")
    world = World(tmp_path / "world", store=store)
    sit_down(world, project, monkeypatch)
    recast = caller(capsys)
    world.hold("dev", world.publish())
    world.publish()
    text = recast("promote", "edge-web", "--to", "dev", "--dry-run")
    assert "Machines are not counted: memory://fake cannot be read: Permission denied." in text
    assert "machines" not in text.split("what a machine downloads")[1].splitlines()[1]
    data = json.loads(recast("promote", "edge-web", "--to", "dev", "--json"))
    assert "cannot be read" in data["downloads"]["problem"]
    assert data["downloads"]["from"][0]["machines"] is None
    assert data["outcome"]["published"], "it keeps nobody from promoting"


def test_only_so_many_releases_of_machines_are_told_of(
    world: World, recast: Recast, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.channels.starts.VERSIONS", 1)
    monkeypatch.setattr("pipeline.channels.starts.REPORTS", 4)
    world.hold("dev", world.publish())
    world.publish()
    for number, version in enumerate(["a", "a", "b", "c", "d"]):
        report(world, f"m-{number}", version, "dev")
    text = recast("promote", "edge-web", "--to", "dev", "--dry-run")
    assert "Machines are counted in 4 of 5 reports." in text
    assert "2 machines run still other releases: see `recast sites`." in text


def test_going_back_may_cost_nothing(world: World, recast: Recast) -> None:
    old, new = world.publish(), world.publish()
    world.hold("stable", old, new)
    text = recast("rollback", "edge-web", "--channel", "stable", "--dry-run")
    assert "Nothing where a machine's other slot still holds it." in text
    assert "✓  wire budget      not asked of a rollback" in text


@pytest.fixture
def slept(world: World, monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Sleeping lets the time of the world pass; an hour at most is slept before it is too much."""
    naps: list[float] = []

    def sleep(seconds: float) -> None:
        naps.append(seconds)
        assert len(naps) < 100_000
        world.wait(HOUR / 3600 * max(seconds, 0.1))

    monkeypatch.setattr("pipeline.cli.promote.time.sleep", sleep)
    return naps


def test_waiting_ends_when_time_has_opened_the_gate(
    world: World, recast: Recast, slept: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    release = world.publish()
    world.hold("dev", release)
    start = world.present
    assert main(["promote", "edge-web", "--to", "candidate", "--wait"]) == 0
    captured = capsys.readouterr()
    assert HOUR <= world.present - start < 1.01 * HOUR
    assert "waiting for soak: 1h00m left, until" in captured.err
    assert captured.err.count("\n") == 6  # a line each ten minutes where nobody watches
    assert "✓  soak" in captured.out
    assert world.desk.view("candidate").pointers["edge-web"].release == release


def test_what_time_does_not_open_is_not_waited_for(
    world: World, recast: Recast, slept: list[float]
) -> None:
    world.hold("dev", world.publish(tests={}))
    assert "tests on qemu" in recast("promote", "edge-web", "--to", "candidate", "--wait", code=10)
    assert slept == []


def test_a_release_that_is_revoked_meanwhile_is_refused_after_the_wait(
    world: World, recast: Recast, monkeypatch: pytest.MonkeyPatch
) -> None:
    release = world.publish()
    world.hold("dev", release)

    def sleep(_seconds: float) -> None:
        world.wait(2 * HOUR)
        assert main(["revoke", f"edge-web@{release.version}", "--reason", "bad"]) == 0

    monkeypatch.setattr("pipeline.cli.promote.time.sleep", sleep)
    text = recast("promote", "edge-web", "--to", "candidate", "--wait", code=10)
    assert "not revoked: revoked in " in text


def test_ctrl_c_ends_the_wait_cleanly(
    world: World, recast: Recast, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.hold("dev", world.publish())
    monkeypatch.setattr("pipeline.cli.promote.is_terminal", lambda _stream: True)

    def interrupted(_seconds: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("pipeline.cli.promote.time.sleep", interrupted)
    text = recast("promote", "edge-web", "--to", "candidate", "--wait", code=130)
    assert "waiting for soak: 1h00m left" in text
    assert text.endswith("\r\nrecast: error: stopped on request\n")
    assert world.desk.view("candidate").pointers == {}


def test_a_rollback_is_shown_as_a_promotion_is(world: World, recast: Recast) -> None:
    old, new = world.publish(), world.publish()
    world.hold("stable", old, new)
    text = recast("rollback", "edge-web", "--channel", "stable", "--dry-run")
    assert f"edge-web {old.version} back into stable" in text
    assert "✓  held before" in text
    assert world.desk.view("stable").pointers["edge-web"].release == new
    data = json.loads(recast("rollback", "edge-web", "--channel", "stable", "--json"))
    assert (data["action"], data["version"], data["before"]["version"]) == (
        "rollback",
        old.version,
        new.version,
    )
    assert data["outcome"]["published"]


# --- revoke, freeze, roll


def test_revoking_says_which_channels_hold_it_and_how_to_go_back(
    world: World, recast: Recast
) -> None:
    old, bad = world.publish(), world.publish()
    world.hold("stable", old, bad)
    text = recast("revoke", f"edge-web@{bad.version}", "--reason", "CVE-1")
    assert f"candidate refuses edge-web {bad.version}" in text
    assert "stable still holds it" in text
    assert f"recast rollback edge-web --channel stable   # to {old.version}" in text
    again = json.loads(recast("revoke", f"edge-web@{bad.version}", "--reason", "x", "--json"))
    assert set(again["channels"].values()) == {None}
    assert again["held_by"] == [{"channel": "stable", "back_to": old.version}]


def test_what_is_in_no_store_can_be_revoked_if_its_root_is_known(
    world: World, recast: Recast, project: Path
) -> None:
    held = world.publish()
    world.hold("dev", held)
    world.store.delete(f"releases/edge-web/{held.version}.json")
    recast("revoke", f"edge-web@{held.version}", "--reason", "bad")
    assert "revoked" in recast("channels", "dev")
    local = make_release("edge-db")
    store_release(project / "artifacts", local)
    text = recast("revoke", f"edge-db@{local.version}", "--reason", "bad")
    assert f"stable refuses edge-db {local.version}" in text
    assert "there is no image" in recast("revoke", "edge-x@1", "--reason", "bad", code=2)
    assert "Missing option '--reason'" in recast("revoke", "edge-web", code=2)


def test_a_missing_key_is_named_and_nothing_is_revoked(
    world: World,
    recast: Recast,
    project: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    release = world.publish()
    sit_down(world, project, monkeypatch, "online")
    text = recast("revoke", f"edge-web@{release.version}", "--reason", "bad", code=10)
    assert "dev needs the key alice" in text
    assert world.desk.view("dev").pointers == {}


def test_freezing_and_thawing(world: World, recast: Recast) -> None:
    world.hold("dev", world.publish())
    assert "dev is frozen: a holiday" in recast("freeze", "dev", "--reason", "a holiday")
    assert "frozen already" in recast("freeze", "dev", "--reason", "a holiday")
    assert "frozen" in recast("channels")
    world.publish()
    text = recast("promote", "edge-web", "--to", "dev", code=10)
    assert "dev is frozen: a holiday" in text
    assert "recast thaw dev" in text
    assert "dev is thawed" in recast("thaw", "dev")
    assert "dev is not frozen" in recast("thaw", "dev")
    assert json.loads(recast("freeze", "dev", "--json"))["frozen"]


def test_a_rollout_is_looked_at_and_steered(world: World, recast: Recast) -> None:
    world.hold("candidate", world.publish())
    world.wait(DAY)
    recast("promote", "edge-web", "--to", "stable")
    text = recast("roll", "status", "edge-web", "--channel", "stable")
    assert "10%, wave 1 of 3" in text
    assert re.search(r"^1 +10% +1h +open since ", text, re.MULTILINE)
    assert re.search(r"^2 +50% +4h +opens .*, in 1h00m$", text, re.MULTILINE)
    text = recast("roll", "advance", "edge-web", "--channel", "stable")
    assert "50%, wave 2 of 3" in text
    assert "signed by alice" in text
    text = recast("roll", "halt", "edge-web", "--channel", "stable", "--reason", "uplinks")
    assert "halted at 50%" in text
    assert "halted already" in recast("roll", "halt", "edge-web", "--channel", "stable", code=2)
    assert "halted at 50%" in recast("channels")
    check_shape(
        "rollout.json", recast("roll", "resume", "edge-web", "--channel", "stable", "--json")
    )
    assert "halt: uplinks" in recast("log", "stable")


# --- several signatures


def test_a_proposal_is_listed_approved_and_carried_out(
    tmp_path: Path,
    project: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    channels = Channels(channels=(ChannelDefinition(name="dev", gates=Gates(approvals=2)),))
    world = World(tmp_path / "world", channels=channels, holders={"dev": ("alice", "bob")})
    recast = caller(capsys)
    release = world.publish()
    sit_down(world, project, monkeypatch, "alice")
    assert "approvals: 1 of 2: alice" in recast("promote", "edge-web", "--to", "dev", code=10)
    text = recast("promote", "edge-web", "--to", "dev", "--propose", "--reason", "good")
    identity = re.search(r"recast approve (\w+)", text)
    assert identity is not None
    check_shape("proposals.json", recast("proposals", "--json"))
    sit_down(world, project, monkeypatch, "bob", "online")
    text = recast("proposals")
    assert f"dev: promote edge-web {release.version}" in text
    assert f"edge-web: nothing → {release.version}" in text
    assert "signed by   alice" in text
    assert "needs       1 more of bob" in text
    text = recast("approve", identity[1][:8])
    assert "dev is changed (version 2, signed by alice and bob)" in text
    assert "Nothing waits for signatures." in recast("proposals")
    assert release.version in recast("channels")
    assert "there is no proposal" in recast("approve", identity[1], code=2)


def test_a_proposal_can_be_withdrawn(
    tmp_path: Path,
    project: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    channels = Channels(channels=(ChannelDefinition(name="dev", gates=Gates(approvals=2)),))
    world = World(tmp_path / "world", channels=channels, holders={"dev": ("alice", "bob")})
    recast = caller(capsys)
    sit_down(world, project, monkeypatch, "alice")
    recast("freeze", "dev", "--reason", "a holiday", "--propose")
    (found,) = json.loads(recast("proposals", "--json"))
    assert "frozen: a holiday" in recast("proposals", found["id"])
    assert "withdrawn" in recast("proposals", found["id"], "--withdraw")
    assert json.loads(recast("proposals", "--json")) == []
    assert "needs the id" in recast("proposals", "--withdraw", code=2)


# --- what there is


def test_channels_and_what_they_hold(world: World, recast: Recast) -> None:
    release = world.publish()
    world.hold("dev", release)
    recast("freeze", "stable", "--reason", "a holiday")
    lines = recast("channels").splitlines()
    assert lines[0].split() == [
        "channel", "image", "version", "root", "hash", "since", "rollout", "marks"
    ]  # fmt: skip
    assert lines[1].split() == [
        "dev", "edge-web", release.version, release.root_hash[:12], "now", "everywhere"
    ]  # fmt: skip
    assert lines[2].split() == ["candidate", "nothing", "yet"]
    assert lines[3].split() == ["stable", "nothing", "yet", "frozen"]
    check_shape("channels.json", recast("channels", "--json"))


def test_a_narrow_terminal_keeps_versions_and_marks(
    world: World, recast: Recast, monkeypatch: pytest.MonkeyPatch
) -> None:
    release = world.publish()
    world.hold("candidate", release)
    recast("revoke", "edge-web", "--reason", "bad")
    monkeypatch.setattr("pipeline.cli.terminal.is_terminal", lambda _stream: True)
    monkeypatch.setenv("COLUMNS", "80")
    text = click.unstyle(recast("channels"))
    assert release.version in text
    assert "revoked" in text
    assert "root hash" not in text
    assert max(map(len, text.splitlines())) <= 80


def test_everything_about_one_channel(world: World, recast: Recast) -> None:
    old, new = world.publish(), world.publish()
    world.hold("stable", old, new)
    recast("revoke", f"edge-web@{old.version}", "--reason", "CVE-1")
    text = recast("channels", "stable")
    assert "signatures    1 of alice" in text
    assert "gates         tests on qemu, soak 1d" in text
    assert f"version       {new.version}" in text
    assert f"root hash     {new.root_hash}" in text
    assert re.search(rf"^  {old.version} .* revoked$", text, re.MULTILINE)
    assert f"refuses {old.version} since" in text
    check_shape("channel.json", recast("channels", "stable", "--json"))
    assert "Did you mean `stable`?" in recast("channels", "stabel", code=2)


def test_a_wire_budget_is_told_with_the_other_gates(
    tmp_path: Path,
    project: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    channels = Channels(
        channels=(ChannelDefinition(name="dev", gates=Gates(wire_budget=20 << 20)),)
    )
    sit_down(World(tmp_path / "world", channels=channels), project, monkeypatch)
    recast = caller(capsys)
    assert "gates         tests on qemu, at most 20.0 MiB to download" in recast("channels", "dev")
    assert json.loads(recast("channels", "dev", "--json"))["gates"]["wire_budget"] == 20 << 20


def test_releases_are_listed_with_where_they_stand(world: World, recast: Recast) -> None:
    old = world.publish(tests={"qemu": True, "aws": False})
    new = world.publish()
    world.hold("dev", old, new)
    world.hold("stable", old)
    recast("revoke", f"edge-web@{old.version}", "--reason", "bad")
    first, second = recast("releases", "edge-web").splitlines()[1:]
    assert first.split()[:5] == [new.version, new.root_hash[:12], "dev", "qemu", "✓"]
    assert second.startswith(f"{old.version}  {old.root_hash[:12]}  stable    qemu ✓ aws ✗")
    assert second.endswith("revoked")
    check_shape("releases.json", recast("releases", "edge-web", "--json"))


def test_a_result_of_tests_that_is_not_believed_is_marked(world: World, recast: Recast) -> None:
    release = world.publish()
    assert isinstance(world.store, MemoryStore)
    (test,) = (each for each in release.evidence if each.kind == "test")
    world.store.corrupt(object_key(test.stored.digest), b"x" * test.stored.size)
    assert "qemu ?" in recast("releases", "edge-web")
    assert "not believed" in recast("show", "edge-web")


def test_an_image_that_was_never_published_says_what_to_run(world: World, recast: Recast) -> None:
    text = recast("releases", "edge-db", code=2)
    assert "edge-db has no release in memory://fake yet" in text
    assert "recast run edge-db" in text
    assert "Did you mean edge-db or edge-web?" in recast("releases", "edge-bd", code=2)


# --- show and log


def test_show_tells_evidence_standing_and_story(world: World, recast: Recast) -> None:
    old, release = world.publish(), world.publish()
    world.hold("dev", old, release)
    recast("roll", "halt", "edge-web", "--channel", "dev", "--reason", "look")
    text = recast("show", "edge-web")
    assert text.startswith(release.name)
    assert "none: it is in the store alone" in text
    assert "provenance      ✓ signed by builder: built of 1 material" in text
    assert "tests on qemu   ✓ signed by tester: passed, 14 tests" in text
    assert re.search(r"^  dev +since .*, halted at 100%$", text, re.MULTILINE)
    story = text[text.index("story") :]
    assert story.index("halt: look") < story.index(f"promote edge-web {release.version}")
    assert f"(before: {old.version})" in story
    data = json.loads(recast("show", f"edge-web@{release.version}", "--json"))
    assert data["folder"] is None
    (dev,) = (data["published"]["channels"],)
    assert list(dev) == ["dev"]
    check_shape("show-published.json", json.dumps(data["published"]))


def test_show_adds_the_store_to_what_is_here(world: World, recast: Recast, project: Path) -> None:
    local = make_release(commit="c" * 40)
    store_release(project / "artifacts", local, make_verdict(local))
    data = json.loads(recast("show", "edge-web", "--json"))
    assert data["published"] is None
    world.hold("dev", world.put(local, tests={"qemu": True}))
    text = recast("show", "edge-web")
    assert "folder        artifacts/images/edge-web" in text
    assert "qemu  passed: 14 tests" in text
    assert "signed by builder" in text
    assert "story" in text


def test_show_goes_on_without_a_store_that_fails(
    tmp_path: Path,
    project: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    store = FaultyStore(MemoryStore())
    world = World(tmp_path / "world", store=store)
    sit_down(world, project, monkeypatch)
    local = make_release(commit="c" * 40)
    store_release(project / "artifacts", local)
    store.faults = {"5xx"}
    assert main(["show", "edge-web"]) == 0
    captured = capsys.readouterr()
    assert local.root_hash in captured.out
    assert "Note: the store is left out: " in captured.err
    assert main(["channels"]) == 7
    assert main(["show", "edge-db@2026"]) == 7


def test_show_of_something_unknown_names_what_is_near(world: World, recast: Recast) -> None:
    release = world.publish()
    assert "edge-web" in recast("show", "edge-wbe", code=2)
    assert release.version in recast("show", "edge-web@1999", code=2)
    assert "edge-db has no release yet" in recast("show", "edge-db")


def test_the_history_of_a_channel_tells_who_when_what_and_why(world: World, recast: Recast) -> None:
    web, db = world.publish("edge-web"), world.publish("edge-db")
    recast("promote", "edge-web", "--to", "dev", "--reason", "it works")
    recast("promote", "edge-db", "--to", "dev")
    text = recast("log", "dev")
    assert text.index(db.version) < text.index(web.version) < text.index("init")
    assert f"promote edge-web {web.version}, by alice" in text
    assert "\n    it works\n    stored: all its objects are in the store\n" in text
    assert "edge-db" not in recast("log", "dev", "edge-web")
    assert recast("log", "dev", "--last", "1").count("by alice") == 1
    check_shape("channel-log.json", recast("log", "dev", "edge-web", "--json"))
    assert "stable has never held edge-web" in recast("log", "stable", "edge-web")


def test_runs_and_channels_are_told_apart(world: World, recast: Recast) -> None:
    assert "there has been no run yet" in recast("log", "last", code=2)
    assert "Did you mean stable?" in recast("log", "stabel", code=2)
    assert "has neither stages" in recast("log", "dev", "edge-web", "test", code=2)
    assert "not for a run" in recast("log", "last", "--last", "1", code=2)


# --- stores in trouble


@pytest.mark.parametrize(
    ("fault", "code"), [("5xx", 7), ("read-only", 4), ("full disk", 4), ("wrong bytes", 9)]
)
def test_a_store_in_trouble_is_told_and_nothing_is_lost(
    fault: Fault,
    code: int,
    tmp_path: Path,
    project: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    store = FaultyStore(MemoryStore())
    world = World(tmp_path / "world", store=store)
    recast = caller(capsys)
    release = world.publish()
    sit_down(world, project, monkeypatch)
    store.faults = {fault}
    text = recast("promote", "edge-web", "--to", "dev", code=code)
    assert "Traceback" not in text
    store.faults = set()
    recast("promote", "edge-web", "--to", "dev")
    assert world.client().pointer("dev", "edge-web").release == release


def test_metadata_that_has_run_out_is_told_as_such(
    tmp_path: Path,
    project: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    world = World(tmp_path / "world", ago=8 * DAY)
    recast = caller(capsys)
    world.publish()
    sit_down(world, project, monkeypatch)
    text = recast("promote", "edge-web", "--to", "dev", code=9)
    assert "timestamp" in text
    assert "recast refresh" in text
    world.wait(8 * DAY)
    world.repository.refresh()
    recast("promote", "edge-web", "--to", "dev")


# --- all of them


@pytest.mark.parametrize(
    "words",
    [
        ("promote", "edge-web", "--to", "dev"),
        ("rollback", "edge-web", "--channel", "dev"),
        ("revoke", "edge-web", "--reason", "bad"),
        ("freeze", "dev"),
        ("thaw", "dev"),
        ("channels",),
        ("releases", "edge-web"),
        ("roll", "status", "edge-web", "--channel", "dev"),
        ("proposals",),
        ("approve", "x"),
        ("log", "dev"),
    ],
    ids=lambda words: words[0],
)
def test_without_a_signed_store_the_way_to_one_is_told(
    project: Path, words: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    text = caller(capsys)(*words, code=2)
    assert "no signed store yet" in text
    assert "`recast init`" in text


@pytest.mark.parametrize("how", ["status", "advance", "hold", "resume", "halt"])
def test_help_of_steering_has_an_example(how: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert f"recast roll {how} edge-web --channel stable" in caller(capsys)("roll", how, "--help")


def test_nothing_heavy_is_imported_for_help() -> None:
    code = (
        "import sys\n"
        "from pipeline.cli import promote, rollback, revoke, freeze, channels, roll, log, show\n"
        "heavy = {'tuf', 'securesystemslib', 'boto3', 'requests', 'cryptography'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
