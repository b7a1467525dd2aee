"""`recast-agent` as it is in an image, from its credentials to a blessed release.

What is faked: systemd's programs, the firmware's variables, and the reboot itself. The disk is a
file with a GPT, the ESP and the store are folders.
"""

from __future__ import annotations

import json
from datetime import timedelta
from functools import partial
from pathlib import Path

import pytest

from pipeline.agent import commands, compose, gpt
from pipeline.agent import site as site_module
from pipeline.agent.blocks import FileDisk
from pipeline.agent.esp import MountedEsp
from pipeline.agent.machine import RealMachine
from pipeline.agent.main import main
from pipeline.agent.slots import DiskSlots
from pipeline.models.channel import ChannelDefinition, Channels
from pipeline.models.device import Running
from pipeline.store.local import LocalStore
from tests.fakes.followed import put_built
from tests.fakes.slots import Built, build, make_table, write_table
from tests.fakes.systemd import FakeSystemd
from tests.fakes.world import World

CHANNELS = Channels(channels=(ChannelDefinition(name="stable"),))
LOADER = "4a67b082-0a4c-41cf-b6c7-440b29bb8c4f"
DISK = 400 * 1024


class Ground:
    """One machine: its files, its disk, and what its firmware does at a reboot."""

    def __init__(self, folder: Path, first: Built, world: World, store: Path) -> None:
        self.folder = folder
        self.root, self.esp, self.disk = (folder / name for name in ("root", "esp", "disk.raw"))
        self.credentials = folder / "credentials"
        self.credentials.mkdir(parents=True)
        for place in ("EFI/Linux", "EFI/recast", "loader/entries"):
            (self.esp / place).mkdir(parents=True)
        for name, text in {
            "device": "till-4",
            "store": store.as_uri(),
            "channel": "stable",
            "root": world.root.decode(),
        }.items():
            (self.credentials / f"recast.{name}").write_text(text)
        factory = f"{first.release.name}.efi"
        (self.esp / "EFI/Linux" / factory).write_bytes(first.uki)
        self._format(first)
        self.boots = 0
        self.boot(first, factory)

    def _format(self, first: Built) -> None:
        with self.disk.open("wb") as file:
            file.truncate(DISK)
        with FileDisk(self.disk) as disk:
            write_table(disk, make_table(DISK))
            parts = gpt.read(disk).partitions[1:3]
            names = gpt.partition_uuids(first.release.root_hash)
            gpt.rename(
                disk,
                {
                    part.number: gpt.named(
                        part, name, first.release.version, attributes=gpt.READ_ONLY
                    )
                    for part, name in zip(parts, names, strict=True)
                },
            )
            for part, data in zip(parts, (first.root, first.tree), strict=True):
                part.on(disk).write(0, data)

    def boot(self, built: Built, entry: str, counted: str = "") -> None:
        """It runs *built* from now on."""
        self.boots += 1
        release = built.release
        self._write(
            "proc/cmdline", f"roothash={release.root_hash} recast.release={release.name} gpt\n"
        )
        self._write("proc/uptime", "61.0 60.0\n")
        self._write("proc/sys/kernel/random/boot_id", f"boot-{self.boots}\n")
        self._variable("LoaderEntrySelected", entry)
        self._variable("LoaderBootCountPath", counted)

    def reboot(self, built: Built) -> None:
        """As systemd-boot does: the first entry that has tries left, counted down."""
        (entry,) = (self.esp / "loader/entries").glob("recast-*+3.conf")
        tried = entry.with_name(entry.name.replace("+3", "+2-1"))
        entry.rename(tried)
        text = tried.read_text()
        assert f"efi /EFI/recast/{built.release.name}.efi" in " ".join(text.split())
        uki = self.esp / f"EFI/recast/{built.release.name}.efi"
        assert uki.read_bytes() == built.uki
        self.boot(built, entry.name, f"\\loader\\entries\\{tried.name}")

    def _write(self, path: str, text: str) -> None:
        (self.root / path).parent.mkdir(parents=True, exist_ok=True)
        (self.root / path).write_text(text)

    def _variable(self, name: str, value: str) -> None:
        folder = self.root / "sys/firmware/efi/efivars"
        folder.mkdir(parents=True, exist_ok=True)
        raw = b"\x06\0\0\0" + f"{value}\0".encode("utf-16-le")
        (folder / f"{name}-{LOADER}").write_bytes(raw)

    def call(self, *words: str) -> int:
        return main(["--root", str(self.folder / "agent"), *words])


@pytest.fixture
def world(tmp_path: Path) -> World:
    store = LocalStore(tmp_path / "store")
    return World(tmp_path / "world", channels=CHANNELS, store=store, ago=timedelta(minutes=1))


@pytest.fixture
def systemd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeSystemd:
    fake = FakeSystemd(tmp_path / "systemd")
    monkeypatch.setenv("PATH", f"{fake.bin}:/usr/bin:/bin")
    for pattern in ("systemctl is-active*", "systemctl list-units*", "systemctl*reboot*"):
        fake.answer(pattern)
    fake.answer("systemd-run*")
    fake.answer("busctl*", '{"data": [[]]}')
    return fake


@pytest.fixture
def built(world: World) -> tuple[Built, ...]:
    return tuple(put_built(world, build(number)) for number in (1, 2))


@pytest.fixture
def ground(
    tmp_path: Path, world: World, built: tuple[Built, ...], monkeypatch: pytest.MonkeyPatch
) -> Ground:
    made = Ground(tmp_path / "machine", built[0], world, tmp_path / "store")
    read = partial(site_module.read_site, made.credentials, machine_id=tmp_path / "none")
    root = partial(site_module.read_root, made.credentials)
    monkeypatch.setattr(site_module, "read_site", read)
    monkeypatch.setattr(site_module, "read_root", root)

    def slots(running: Running) -> DiskSlots:
        return DiskSlots(FileDisk(made.disk), MountedEsp(made.esp), running, machine="x86_64")

    monkeypatch.setattr(compose, "_open_slots", slots)
    for module in (compose, commands):
        monkeypatch.setattr(module, "open_machine", lambda: RealMachine(made.esp, root=made.root))
    return made


def status(ground: Ground, capsys: pytest.CaptureFixture[str]) -> dict[str, object]:
    capsys.readouterr()
    assert ground.call("status", "--json") == 0
    found: dict[str, object] = json.loads(capsys.readouterr().out)
    return found


def test_a_machine_goes_from_one_release_to_the_next(
    ground: Ground,
    world: World,
    systemd: FakeSystemd,
    built: tuple[Built, ...],
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    first, second = built
    world.hold("stable", first.release)
    assert ground.call("run") == 0
    assert capsys.readouterr().err == ""
    assert status(ground, capsys)["settled"] is True

    world.hold("stable", second.release)
    assert ground.call("check") == 0
    assert second.release.version in capsys.readouterr().out
    assert not [call for call in systemd.calls if "reboot" in call]

    assert ground.call("update") == 0
    assert [call for call in systemd.calls if "reboot" in call]
    ground.reboot(second)

    before = status(ground, capsys)
    assert before["confirmed"] is False
    assert ground.call("run") == 0
    assert (ground.esp / "loader/entries/recast-1.conf").exists()
    after = status(ground, capsys)
    assert after["confirmed"] is True
    assert after["wanted"] == second.release.version
    (report,) = (tmp_path / "store/checkins").glob("till-4.json")
    assert report.stat().st_size
    assert ground.call("log") == 0
    assert "confirmed: " in capsys.readouterr().out


def test_a_release_whose_health_check_fails_is_given_up(
    ground: Ground,
    world: World,
    systemd: FakeSystemd,
    built: tuple[Built, ...],
    capsys: pytest.CaptureFixture[str],
) -> None:
    first, second = built
    world.hold("stable", first.release, second.release)
    assert ground.call("run") == 0
    ground.reboot(second)
    systemd.answer("systemctl is-active*", code=3)
    systemd.answer("systemctl list-units*", "web.service loaded failed failed Web\n")
    assert ground.call("judge") == 0
    assert (ground.esp / "loader/entries/recast-1+0-1.conf").exists()
    assert len([call for call in systemd.calls if "reboot" in call]) == 2

    ground.boot(first, f"{first.release.name}.efi")
    systemd.answer("systemctl is-active*")
    systemd.answer("systemctl list-units*")
    assert ground.call("run") == 0
    found = status(ground, capsys)
    attempt = found["attempt"]
    assert isinstance(attempt, dict)
    assert attempt["step"] == "failed"
    assert "web.service" in attempt["reason"]
    waiting = found["waiting"]
    assert isinstance(waiting, list)
    assert waiting[0]["gate"] == "not failed here"
    assert len([call for call in systemd.calls if "reboot" in call]) == 2
