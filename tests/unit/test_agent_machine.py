"""What the agent learns of its machine, and does to it, through systemd and the boot loader."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipeline.agent import machine as module
from pipeline.agent.base import Machine
from pipeline.agent.efi import EntryName, parse_entry_name, read_variable
from pipeline.agent.machine import RealMachine
from pipeline.errors import HostError
from tests.fakes.systemd import FakeSystemd

LOADER = "4a67b082-0a4c-41cf-b6c7-440b29bb8c4f"
HASH = "ab" * 32
RELEASE = "edge-web_20260102.030405.gabc1234_amd64"
INHIBITORS = "busctl --json=short call *ListInhibitors"


@pytest.fixture
def systemd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeSystemd:
    fake = FakeSystemd(tmp_path / "systemd")
    monkeypatch.setenv("PATH", f"{fake.bin}:/usr/bin:/bin")
    return fake


class Ground:
    """The files that a machine is known by."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "root"
        self.esp = folder / "esp"
        self.entries = self.esp / "loader/entries"
        self.entries.mkdir(parents=True)
        self.linux = self.esp / "EFI/Linux"
        self.linux.mkdir(parents=True)
        self.write("proc/cmdline", f"quiet roothash={HASH} recast.release={RELEASE} gpt\n")
        self.write("proc/uptime", "12.34 20.00\n")
        self.write("proc/sys/kernel/random/boot_id", "0b0e\n")

    def write(self, path: str, text: str, mode: int = 0o644) -> Path:
        target = self.root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)
        target.chmod(mode)
        return target

    def loader_says(self, name: str, text: str) -> None:
        target = self.root / f"sys/firmware/efi/efivars/{name}-{LOADER}"
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(b"\x06\0\0\0" + (text + "\0").encode("utf-16-le"))

    @property
    def machine(self) -> RealMachine:
        return RealMachine(self.esp, root=self.root)


@pytest.fixture
def ground(tmp_path: Path) -> Ground:
    return Ground(tmp_path)


def test_it_is_a_machine() -> None:
    machine: Machine = RealMachine()
    assert isinstance(machine, RealMachine)


def test_what_runs(ground: Ground, systemd: FakeSystemd) -> None:
    systemd.answer("systemctl is-active*boot-complete.target")
    running = ground.machine.running()
    assert running.image == "edge-web"
    assert running.version == "20260102.030405.gabc1234"
    assert running.arch == "amd64"
    assert running.root_hash == HASH
    assert running.boot_id == "0b0e"
    assert running.uptime == 12.34
    assert running.complete
    assert (running.entry, running.trial) == ("", False)


def test_a_boot_that_is_not_complete_says_so(ground: Ground, systemd: FakeSystemd) -> None:
    systemd.answer("systemctl is-active*", code=3)
    assert not ground.machine.running().complete


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("root=/dev/sda1 quiet", "recast.release="),
        (f"roothash={HASH} recast.release=edge", "recast.release="),
        (f"recast.release={RELEASE}", "roothash="),
        (f"roothash=12 recast.release={RELEASE}", "roothash="),
    ],
)
@pytest.mark.usefixtures("systemd")
def test_a_machine_of_another_make_is_refused(ground: Ground, line: str, why: str) -> None:
    ground.write("proc/cmdline", line)
    with pytest.raises(HostError, match=f"does not run a release of Recast.*{why}") as caught:
        ground.machine.running()
    assert "recast-agent install" in caught.value.hint


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("recast-7+2-1.conf", EntryName("recast-7.conf", 2)),
        ("recast-7+3.conf", EntryName("recast-7.conf", 3)),
        ("recast-7+0-3.conf", EntryName("recast-7.conf", 0)),
        ("recast-7.conf", EntryName("recast-7.conf")),
        ("edge_1.2_amd64+3.efi", EntryName("edge_1.2_amd64.efi", 3)),
        ("a+b.conf", EntryName("a+b.conf")),
        ("a+1+2-1.conf", EntryName("a+1.conf", 2)),
        ("", EntryName("")),
    ],
)
def test_an_entrys_name_is_read_as_the_boot_loader_reads_it(name: str, expected: EntryName) -> None:
    assert parse_entry_name(name) == expected


class TestTrial:
    """Is this boot counted? Decides between a second chance and the old release."""

    def see(self, ground: Ground) -> tuple[str, int | None]:
        running = ground.machine.running()
        return running.entry, running.tries_left

    def test_counted(self, ground: Ground, systemd: FakeSystemd) -> None:
        ground.loader_says("LoaderBootCountPath", "\\loader\\entries\\recast-7+2-1.conf")
        ground.loader_says("LoaderEntrySelected", "recast-7+3.conf")
        (ground.entries / "recast-7+2-1.conf").touch()
        (ground.entries / "recast-6.conf").touch()
        assert self.see(ground) == ("recast-7.conf", 2)

    def test_blessed_since(self, ground: Ground, systemd: FakeSystemd) -> None:
        ground.loader_says("LoaderBootCountPath", "\\loader\\entries\\recast-7+2-1.conf")
        (ground.entries / "recast-7.conf").touch()
        assert self.see(ground) == ("recast-7.conf", None)

    def test_given_up_since(self, ground: Ground, systemd: FakeSystemd) -> None:
        ground.loader_says("LoaderBootCountPath", "\\loader\\entries\\recast-7+2-1.conf")
        (ground.entries / "recast-7+0-1.conf").touch()
        assert self.see(ground) == ("recast-7.conf", 0)

    def test_blessed_before_this_boot(self, ground: Ground, systemd: FakeSystemd) -> None:
        ground.loader_says("LoaderEntrySelected", "recast-7.conf")
        (ground.entries / "recast-7.conf").touch()
        assert self.see(ground) == ("recast-7.conf", None)

    def test_the_factorys_and_its_capitals(self, ground: Ground, systemd: FakeSystemd) -> None:
        ground.loader_says("LoaderBootCountPath", "\\EFI\\Linux\\EDGE_1_AMD64+2-1.EFI")
        (ground.linux / "edge_1_amd64+2-1.efi").touch()
        assert self.see(ground) == ("edge_1_amd64.efi", 2)

    def test_without_an_esp_the_boot_loaders_word_holds(
        self, ground: Ground, systemd: FakeSystemd
    ) -> None:
        ground.loader_says("LoaderBootCountPath", "\\loader\\entries\\recast-7+2-1.conf")
        ground.entries.rmdir()
        assert self.see(ground) == ("recast-7.conf", 2)

    def test_variables_of_any_bytes(self, ground: Ground, systemd: FakeSystemd) -> None:
        ground.loader_says("LoaderEntrySelected", "")
        folder = ground.root / "sys/firmware/efi/efivars"
        (folder / f"LoaderBootCountPath-{LOADER}").write_bytes(b"\x06\0\0\0\xff\xdc\0")
        assert read_variable("LoaderBootCountPath", folder)
        self.see(ground)


class TestComplaints:
    def test_a_healthy_boot_has_none(self, ground: Ground, systemd: FakeSystemd) -> None:
        systemd.answer("systemctl list-units --failed*")
        assert ground.machine.complaints() == ()

    def test_a_failed_unit_is_told_with_its_last_words(
        self, ground: Ground, systemd: FakeSystemd
    ) -> None:
        systemd.answer(
            "systemctl list-units --failed*",
            "nginx.service loaded failed failed A web server\n"
            "cron.service loaded failed failed Cron\n",
        )
        systemd.answer("journalctl*_SYSTEMD_UNIT=nginx.service", "bind() \x1b[31mto :80 failed\n")
        assert ground.machine.complaints() == (
            "unit nginx.service failed: bind()  [31mto :80 failed",
            "unit cron.service failed",
        )

    def test_a_health_check_is_told_by_name(self, ground: Ground, systemd: FakeSystemd) -> None:
        systemd.answer(
            "systemctl list-units --failed*",
            "recast-health.service loaded failed failed Health checks\n"
            "nginx.service loaded failed failed A web server\n",
        )
        systemd.answer(
            "journalctl*_SYSTEMD_UNIT=recast-health.service",
            "curl: (7) no\nhealth check web failed\nhealth check disk failed\n"
            "unit nginx.service failed\nunit slow.service failed\n",
        )
        assert ground.machine.complaints() == (
            "health check web failed: curl: (7) no",
            "health check disk failed",
            "unit slow.service failed, and is up now",
            "unit nginx.service failed",
        )

    def test_a_judge_that_said_nothing_is_a_complaint_itself(
        self, ground: Ground, systemd: FakeSystemd
    ) -> None:
        systemd.answer("systemctl list-units*", "recast-health.service loaded failed failed H\n")
        assert ground.machine.complaints() == ("unit recast-health.service failed",)

    def test_a_damaged_data_partition_is_not_the_releases_fault(
        self, ground: Ground, systemd: FakeSystemd
    ) -> None:
        own = ["data.mount", "recast-persist.service", "recast-persist.target"]
        own.append("systemd-fsck@dev-disk-by\\x2dlabel-recast\\x2ddata.service")
        rows = "".join(f"{unit} loaded failed failed x\n" for unit in own)
        systemd.answer("systemctl list-units*", rows)
        assert ground.machine.complaints() == ()

    def test_very_many_are_counted(self, ground: Ground, systemd: FakeSystemd) -> None:
        rows = "".join(f"u{n}.service loaded failed failed x\n" for n in range(23))
        systemd.answer("systemctl list-units*", rows)
        found = ground.machine.complaints()
        assert len(found) == 21
        assert found[-1] == "3 more units failed"

    @pytest.mark.usefixtures("systemd")
    def test_a_systemd_that_does_not_answer_is_no_health(self, ground: Ground) -> None:
        (found,) = ground.machine.complaints()
        assert found.startswith("systemd does not answer: System has not been booted")


class TestObstacles:
    def test_without_logind_and_hooks_there_are_none(
        self, ground: Ground, systemd: FakeSystemd
    ) -> None:
        assert ground.machine.obstacles() == ()

    def test_an_inhibitor_is_told_with_its_reason(
        self, ground: Ground, systemd: FakeSystemd
    ) -> None:
        rows = [
            ["sleep:shutdown", "press", "a part is in the mould", "block", 0, 7],
            ["shutdown", "backup", "it runs", "block-weak", 0, 8],
            ["shutdown", "Logger", "to sync", "delay", 0, 9],
            ["handle-power-key", "desk", "no key", "block", 0, 10],
        ]
        systemd.answer(INHIBITORS, json.dumps({"type": "a(ssssuu)", "data": [rows]}))
        assert ground.machine.obstacles() == (
            "press asks for no reboot: a part is in the mould",
            "backup asks for no reboot: it runs",
        )

    @pytest.mark.parametrize("answer", ["", "[]", '{"data": []}', '{"data": [[["x"]]]}', "<html>"])
    def test_an_answer_that_is_none_holds_nothing_up(
        self, ground: Ground, systemd: FakeSystemd, answer: str
    ) -> None:
        systemd.answer(INHIBITORS, answer)
        assert ground.machine.obstacles() == ()

    def test_hooks_refuse_in_their_own_words(self, ground: Ground, systemd: FakeSystemd) -> None:
        ground.write("etc/recast/pre-reboot.d/10-shift", "#!/bin/sh\nexit 0\n", 0o755)
        ground.write("usr/lib/recast/pre-reboot.d/10-shift", "#!/bin/sh\nexit 1\n", 0o755)
        text = "#!/bin/sh\necho looking\necho 'shift ends at 22:00' >&2\nexit 75\n"
        ground.write("usr/lib/recast/pre-reboot.d/20-press", text, 0o755)
        ground.write("usr/lib/recast/pre-reboot.d/30-mute", "#!/bin/sh\nexit 3\n", 0o755)
        ground.write("usr/lib/recast/pre-reboot.d/40-broken", "#!/nowhere\n", 0o755)
        ground.write("usr/lib/recast/pre-reboot.d/README", "no program\n")
        ground.write("usr/lib/recast/pre-reboot.d/.hidden", "#!/bin/sh\nexit 1\n", 0o755)
        press, mute, broken = ground.machine.obstacles()
        assert press == "20-press says not now: shift ends at 22:00"
        assert mute == "30-mute says not now: it ended with code 3"
        assert broken.startswith("40-broken")

    def test_a_hook_that_hangs_means_not_now(
        self, ground: Ground, systemd: FakeSystemd, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(module, "_HOOK_SECONDS", 0.3)
        ground.write("etc/recast/pre-reboot.d/10-slow", "#!/bin/sh\nexec sleep 600\n", 0o755)
        (found,) = ground.machine.obstacles()
        assert found.startswith("10-slow says not now: it did not end within")


class TestNextBoot:
    def test_a_reboot_is_begun_and_not_waited_for(
        self, ground: Ground, systemd: FakeSystemd
    ) -> None:
        systemd.answer("systemctl*reboot")
        ground.machine.reboot()
        (call,) = systemd.calls
        assert "--no-block" in call

    @pytest.mark.usefixtures("systemd")
    def test_a_reboot_that_is_refused_is_told(self, ground: Ground) -> None:
        with pytest.raises(HostError, match=r"cannot be rebooted: System has not been booted"):
            ground.machine.reboot()

    def test_a_later_look_replaces_an_earlier_one(
        self, ground: Ground, systemd: FakeSystemd
    ) -> None:
        systemd.answer("systemd-run*")
        ground.machine.wake(90.4)
        stop, timer = systemd.calls
        assert stop == "systemctl stop recast-agent-next.timer"
        assert "--unit=recast-agent-next" in timer
        assert "--on-active=90s" in timer
        assert timer.endswith("systemctl start --no-block recast-agent.service")

    @pytest.mark.parametrize(
        ("seconds", "said"), [(-5, "1s"), (0.2, "1s"), (1e12, "604800s"), (float("inf"), "604800s")]
    )
    def test_a_look_is_neither_in_the_past_nor_never(
        self, ground: Ground, systemd: FakeSystemd, seconds: float, said: str
    ) -> None:
        ground.machine.wake(seconds)
        assert f"--on-active={said}" in systemd.calls[-1]

    @pytest.mark.usefixtures("systemd")
    def test_a_timer_that_cannot_be_set_stops_nothing(self, ground: Ground) -> None:
        ground.machine.wake(60)
