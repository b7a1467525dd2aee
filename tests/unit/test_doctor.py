"""Each thing that a machine may lack is named, with the package that brings it."""

from __future__ import annotations

import dataclasses
import json
import os
import stat
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from pipeline import command, doctor
from pipeline.cli import main as cli
from pipeline.cli.doctor import install_command
from pipeline.doctor import Finding, Host, State
from pipeline.providers.qemu.arguments import find_firmware

COMPLETE = {
    "usr/share/OVMF/OVMF_CODE_4M.fd": "",
    "usr/share/keyrings/debian-archive-keyring.gpg": "",
    "proc/meminfo": "MemTotal:       16333852 kB\nMemFree:  1 kB\n",
    "dev/kvm": "",
}


def machine(tmp_path: Path, **changes: object) -> Host:
    """A host that has everything, but for *changes*."""
    root = tmp_path / "machine"
    for name, text in COMPLETE.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    host = Host(
        root=root,
        which=lambda program: f"/usr/bin/{program}",
        works=lambda argv: True,
        has_module=lambda name: True,
        uid=0,
        python=(3, 11),
    )
    return dataclasses.replace(host, **changes)  # type: ignore[arg-type]


def examine(host: Host, tmp_path: Path) -> dict[str, Finding]:
    found = doctor.examine(host, project=tmp_path, artifacts=tmp_path / "artifacts")
    names = [finding.check for finding in found]
    assert len(set(names)) == len(names)
    return {finding.check: finding for finding in found}


@pytest.fixture(autouse=True)
def _room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "free_space", lambda folder: 100 << 30)


def test_a_complete_machine_is_healthy_and_needs_no_package(tmp_path: Path) -> None:
    found = examine(machine(tmp_path), tmp_path)
    assert {finding.state for finding in found.values()} == {State.OK}
    assert doctor.healthy(list(found.values()))
    assert doctor.packages(list(found.values())) == []


@pytest.mark.parametrize("program", sorted(command.PACKAGES))
def test_each_missing_program_names_its_package(tmp_path: Path, program: str) -> None:
    host = machine(tmp_path, which=lambda name: None if name == program else "/x")
    found = examine(host, tmp_path)
    assert found[program].state is State.MISSING
    assert command.PACKAGES[program] in found[program].detail
    assert doctor.packages(list(found.values())) == [command.PACKAGES[program]]
    assert not doctor.healthy(list(found.values()))


def test_two_programs_of_one_package_ask_for_it_once(tmp_path: Path) -> None:
    found = examine(machine(tmp_path, which=lambda name: None), tmp_path)
    names = doctor.packages(list(found.values()))
    assert names == sorted(set(command.PACKAGES.values()))
    assert "programs" not in found, "none is there to be counted"


@pytest.mark.parametrize(
    ("path", "check", "package"),
    [
        ("usr/share/OVMF/OVMF_CODE_4M.fd", "UEFI firmware", "ovmf"),
        (
            "usr/share/keyrings/debian-archive-keyring.gpg",
            "archive keys",
            "debian-archive-keyring",
        ),
    ],
)
def test_each_missing_file_names_its_package(
    tmp_path: Path, path: str, check: str, package: str
) -> None:
    host = machine(tmp_path)
    (host.root / path).unlink()
    finding = examine(host, tmp_path)[check]
    assert finding.state is State.MISSING
    assert finding.package == package


def test_the_firmware_of_an_older_release_will_do(tmp_path: Path) -> None:
    host = machine(tmp_path)
    folder = host.root / "usr/share/OVMF"
    (folder / "OVMF_CODE_4M.fd").rename(folder / "OVMF_CODE.fd")
    assert examine(host, tmp_path)["UEFI firmware"].detail.endswith("OVMF_CODE.fd")


def fails(*starts: str) -> Callable[[Sequence[str]], bool]:
    return lambda argv: not " ".join(argv).startswith(starts)


@pytest.mark.parametrize(
    ("changes", "check", "state", "says"),
    [
        ({"uid": 1000}, "rights", State.OK, "run builds with sudo"),
        ({"uid": 1000, "works": fails("sudo -n true")}, "rights", State.MISSING, "root"),
        ({"works": fails("unshare")}, "namespaces", State.MISSING, "CAP_SYS_ADMIN"),
        (
            {"uid": 1000, "works": fails("sudo -n unshare")},
            "namespaces",
            State.MISSING,
            "CAP_SYS_ADMIN",
        ),
        ({"works": fails("git")}, "project", State.NOTE, "no git commit"),
        ({"python": (3, 10)}, "Python", State.MISSING, "3.10 is too old: 3.11"),
        (
            {"has_module": lambda name: name != "testinfra"},
            "Python packages",
            State.MISSING,
            "no testinfra: pip install 'recast[build]'",
        ),
    ],
)
def test_what_no_package_mends_says_what_to_do(
    tmp_path: Path, changes: dict[str, object], check: str, state: State, says: str
) -> None:
    finding = examine(machine(tmp_path, **changes), tmp_path)[check]
    assert finding.state is state
    assert says in finding.detail
    assert finding.package == ""


@pytest.mark.parametrize(
    ("meminfo", "state", "says"),
    [
        ("MemTotal: 2014000 kB\n", State.MISSING, "1.9 GiB; 4 GiB are needed"),
        ("MemTotal: 3911200 kB\n", State.OK, "3.7 GiB"),  # what is sold as 4 GiB
        ("nonsense\n", State.NOTE, "does not tell"),
    ],
)
def test_memory(tmp_path: Path, meminfo: str, state: State, says: str) -> None:
    host = machine(tmp_path)
    (host.root / "proc/meminfo").write_text(meminfo)
    finding = doctor.check_memory(host)
    assert finding.state is state
    assert says in finding.detail


def test_a_small_disk_is_named_with_the_way_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "free_space", lambda folder: 3 << 30)
    finding = doctor.check_disk(tmp_path / "artifacts")
    assert finding.state is State.MISSING
    assert "3.0 GiB free" in finding.detail
    assert "RECAST_ARTIFACTS" in finding.detail


def test_without_kvm_machines_boot_slower_but_boot(tmp_path: Path) -> None:
    host = machine(tmp_path)
    (host.root / "dev/kvm").unlink()
    finding = doctor.check_kvm(host)
    assert finding.state is State.NOTE
    assert "TCG" in finding.detail


def test_a_kvm_that_may_not_be_opened_is_no_kvm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    finding = doctor.check_kvm(machine(tmp_path))
    assert finding.state is State.NOTE
    assert "may not be opened" in finding.detail


def test_outside_of_a_project_the_machine_is_still_examined(tmp_path: Path) -> None:
    found = doctor.examine(machine(tmp_path), project=None, artifacts=tmp_path)
    assert doctor.healthy(found)
    assert found[-1] == Finding(
        "project", State.NOTE, "no folder images/ here or above: nothing to build"
    )


def test_one_command_installs_all() -> None:
    assert install_command(["git", "ovmf"], root=True) == "apt-get install --yes git ovmf"
    assert install_command(["git"], root=False) == "sudo apt-get install --yes git"
    assert install_command([], root=True) == ""


@pytest.fixture
def bare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder without a project, and a PATH with nothing but two programs on it."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("git", "tar"):
        (programs / name).write_text("#!/bin/sh\nexit 1\n")
        (programs / name).chmod(stat.S_IRWXU)
    monkeypatch.setenv("PATH", str(programs))
    monkeypatch.setattr(command, "SYSTEM_PATH", "")
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.delenv("RECAST_PROJECT", raising=False)
    monkeypatch.setenv("RECAST_ARTIFACTS", str(tmp_path / "artifacts"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_command_on_a_bare_machine(bare: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["doctor"]) == 4
    out = capsys.readouterr().out
    assert "\x1b" not in out, "no colours into a pipe"
    *table, last = out.splitlines()
    assert all(len(line) <= 80 for line in table)
    assert any(line.split()[:2] == ["missing", "qemu-img"] for line in table)
    wanted = set(command.PACKAGES.values()) - {"git", "tar"}
    assert wanted <= set(last.split())
    assert "apt-get install" in last
    assert not {"git", "tar"} & set(last.split())


def test_the_command_as_json(bare: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["doctor", "--json"]) == 4
    data = json.loads(capsys.readouterr().out)
    assert data["healthy"] is False
    assert "qemu-utils" in data["install"]
    assert {"check": "qemu-img", "state": "missing", "package": "qemu-utils"}.items() <= next(
        finding for finding in data["findings"] if finding["check"] == "qemu-img"
    ).items()


def test_the_command_on_a_complete_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("pipeline.cli.doctor.Host", lambda: machine(tmp_path))
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RECAST_PROJECT", raising=False)
    assert cli.main(["doctor"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "This machine can build and test images."


@pytest.mark.parametrize("name", doctor.FIRMWARE)
def test_what_counts_as_firmware_is_what_a_machine_is_given(tmp_path: Path, name: str) -> None:
    for file in (name, name.replace("CODE", "VARS")):
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).touch()
    assert find_firmware((tmp_path / "usr/share/OVMF",)).code == tmp_path / name
