"""QEMU's command line, and when KVM is believed in."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest

from pipeline.errors import HostError, UsageError
from pipeline.providers.qemu import accel, arguments
from pipeline.providers.qemu.accel import Decision, Finding, Memory
from pipeline.providers.qemu.arguments import Firmware, Hardware

FIRMWARE = Firmware(Path("/fw/code.fd"), Path("/vm/vars.fd"))


def argv(**changes: object) -> list[str]:
    values: dict[str, object] = {
        "name": "web_1_amd64",
        "firmware": FIRMWARE,
        "accelerator": "tcg",
        "console": Path("/vm/console.log"),
        "disk": Path("/vm/disk.qcow2"),
        **changes,
    }
    return arguments.command_line(Hardware(**values))  # type: ignore[arg-type]


def after(words: list[str], option: str) -> list[str]:
    return [words[i + 1] for i, word in enumerate(words) if word == option]


def test_every_drive_names_its_format() -> None:
    drives = after(argv(), "-drive")
    assert len(drives) == 3
    assert all("format=" in drive for drive in drives)


def test_a_machine_can_reboot_and_its_watchdog_resets_it() -> None:
    words = argv()
    assert "-no-reboot" not in words
    assert "i6300esb" in after(words, "-device")
    assert after(words, "-action") == ["watchdog=reset"]


def test_ssh_is_reachable_from_this_host_alone_on_a_port_that_the_kernel_chooses() -> None:
    network = after(argv(), "-netdev")
    assert network == ["user,id=network,hostfwd=tcp:127.0.0.1:0-:22"]


def test_emulation_uses_the_default_processor_and_kvm_the_hosts() -> None:
    assert "-cpu" not in argv(accelerator="tcg")
    assert after(argv(accelerator="tcg"), "-accel") == ["tcg,tb-size=64"]


def test_an_emulated_machine_has_one_processor() -> None:
    """QEMU's emulation of several is not safe for a kernel that patches itself."""
    assert after(argv(accelerator="kvm", cores=2), "-smp") == ["2"]
    assert after(argv(accelerator="tcg", cores=2), "-smp") == ["1"]
    assert after(argv(accelerator="kvm"), "-cpu") == ["host"]


def test_a_comma_in_a_path_does_not_end_an_option() -> None:
    words = argv(disk=Path("/a,b/disk.qcow2"), credentials=(Path("/a,b/credential.0"),))
    assert any(drive.endswith("file=/a,,b/disk.qcow2") for drive in after(words, "-drive"))
    assert after(words, "-smbios") == ["type=11,path=/a,,b/credential.0"]


@pytest.mark.parametrize(
    ("bus", "device"),
    [("virtio-blk", "virtio-blk-pci"), ("virtio-scsi", "scsi-hd"), ("nvme", "nvme")],
)
def test_the_disk_is_booted_first_on_any_bus(bus: str, device: str) -> None:
    boots = [each for each in after(argv(bus=bus), "-device") if "bootindex=0" in each]
    assert len(boots) == 1
    assert boots[0].startswith(device)


def test_a_machine_without_a_disk_only_runs_its_firmware() -> None:
    assert len(after(argv(disk=None), "-drive")) == 2


def test_credentials_survive_any_character() -> None:
    text = 'a, b="c"\nd=é%\0'
    coded = arguments.credential("site.identity", text)
    name, _, value = coded.partition("=")
    assert name == "io.systemd.credential.binary:site.identity"
    assert base64.b64decode(value).decode() == text


@pytest.mark.parametrize("name", ["", "a/b", "a=b", ".hidden", "a" * 256, "a b"])
def test_a_credential_that_systemd_would_not_take_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match="credential"):
        arguments.credential(name, "value")


def test_credentials_that_are_too_large_are_refused() -> None:
    with pytest.raises(UsageError, match="60000 is the most"):
        arguments.credentials({"big": "x" * 60_000})


def test_firmware_is_found_by_the_names_of_debian_and_ubuntu(tmp_path: Path) -> None:
    with pytest.raises(HostError, match="no UEFI firmware") as caught:
        arguments.find_firmware((tmp_path,))
    assert "apt-get install ovmf" in caught.value.hint
    for name in ("OVMF_CODE.fd", "OVMF_VARS.fd", "OVMF_CODE_4M.fd"):
        (tmp_path / name).touch()
    assert arguments.find_firmware((tmp_path,)).code.name == "OVMF_CODE.fd", "a pair, or none"
    (tmp_path / "OVMF_VARS_4M.fd").touch()
    assert arguments.find_firmware((tmp_path,)).code.name == "OVMF_CODE_4M.fd"


class Probe:
    """A trial of KVM that is counted."""

    def __init__(self, works: bool) -> None:
        self.finding = Finding(works, "tried")
        self.calls = 0

    def __call__(self) -> Finding:
        self.calls += 1
        return self.finding


def decide(
    setting: accel.Setting, memory: Memory, probe: Probe, blocked: str | None = None
) -> Decision:
    return accel.decide(setting, memory=memory, obstacle=lambda: blocked, probe=probe)


@pytest.fixture
def memory(tmp_path: Path) -> Memory:
    return Memory(tmp_path / "cache" / "accel.json", "boot 1, QEMU 7")


@pytest.mark.parametrize(("works", "chosen"), [(True, "kvm"), (False, "tcg")])
def test_auto_does_what_the_trial_says_and_tries_once(
    works: bool, chosen: str, memory: Memory, tmp_path: Path
) -> None:
    probe = Probe(works)
    assert decide("auto", memory, probe).accelerator == chosen
    again = Memory(tmp_path / "cache" / "accel.json", "boot 1, QEMU 7")
    assert decide("auto", again, probe).accelerator == chosen
    assert probe.calls == 1


def test_another_boot_or_another_qemu_is_tried_anew(memory: Memory, tmp_path: Path) -> None:
    decide("auto", memory, Probe(False))
    fresh = Memory(tmp_path / "cache" / "accel.json", "boot 2, QEMU 7")
    assert decide("auto", fresh, Probe(True)).accelerator == "kvm"


def test_a_kvm_that_was_only_believed_in_may_be_given_up(memory: Memory) -> None:
    assert not decide("auto", memory, Probe(True)).final
    assert decide("auto", memory, Probe(True), blocked="no device").final
    assert decide("kvm", memory, Probe(True)).final


def test_force_needs_no_trial(memory: Memory) -> None:
    probe = Probe(False)
    assert decide("kvm", memory, probe).accelerator == "kvm"
    assert decide("tcg", memory, probe).accelerator == "tcg"
    assert probe.calls == 0


def test_kvm_by_force_where_it_cannot_be_opened_is_an_error(memory: Memory) -> None:
    with pytest.raises(HostError, match="/dev/kvm does not exist") as caught:
        decide("kvm", memory, Probe(True), blocked="/dev/kvm does not exist")
    assert "accel: auto" in caught.value.hint


def test_auto_without_a_device_needs_no_trial(memory: Memory) -> None:
    probe = Probe(True)
    decision = decide("auto", memory, probe, blocked="/dev/kvm does not exist")
    assert decision == Decision("tcg", "/dev/kvm does not exist", final=True)
    assert probe.calls == 0


@pytest.mark.parametrize("text", ["", "not json", "[]", '{"key": 1}', "null"])
def test_a_broken_memory_is_none(text: str, tmp_path: Path) -> None:
    path = tmp_path / "accel.json"
    path.write_text(text)
    assert decide("auto", Memory(path, "key"), Probe(True)).accelerator == "kvm"


def test_a_memory_that_cannot_be_written_is_none(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    memory = Memory(tmp_path / "file" / "accel.json", "key")
    assert decide("auto", memory, Probe(False)).accelerator == "tcg"


def test_an_obstacle_names_the_device(tmp_path: Path) -> None:
    missing = tmp_path / "kvm"
    assert accel.obstacle(missing) == f"{missing} does not exist"
    missing.mkdir()
    assert accel.obstacle(missing) == f"{missing} cannot be opened (Is a directory)"
