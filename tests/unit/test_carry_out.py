"""If these fail, the last line of a run tells a person the wrong thing to do."""

from __future__ import annotations

import os

import pytest

from pipeline import doctor
from pipeline.cli.carry_out import require_host, unfinished
from pipeline.errors import HostError
from pipeline.models.run import ImageRun, StageRecord
from tests.unit.test_monitors import RECORD


def test_a_failure_is_named_with_its_log_and_what_was_skipped_for_it() -> None:
    lost = ImageRun(action="build", stages={"build": StageRecord(status="skipped", error="x")})
    images = {"edge-base": RECORD.images["edge-base"], "edge-web": lost}
    error = unfinished(RECORD.model_copy(update={"images": images}))
    assert error.message == "edge-base failed at test; skipped for it: edge-web"
    assert f"`recast log {RECORD.id} edge-base test`" in error.hint
    assert "`recast run` again continues" in error.hint
    assert error.exit_code == 6


def test_a_stop_names_what_was_kept() -> None:
    stages = {"build": StageRecord(status="done"), "test": StageRecord(status="interrupted")}
    images = {"edge-base": ImageRun(action="build", stages=stages)}
    stopped = {"outcome": "interrupted", "exit_code": 130, "images": images}
    error = unfinished(RECORD.model_copy(update=stopped))
    assert "kept is what had ended: edge-base build" in error.message
    assert error.exit_code == 130


def test_a_build_without_root_is_refused_with_the_way_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(HostError, match="needs root") as caught:
        require_host(build=True, test=True)
    assert "sudo" in caught.value.hint
    require_host(build=False, test=False)


def test_missing_programs_are_named_before_anything_starts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    host = doctor.Host(which=lambda name: None if name in ("qemu-img", "sfdisk") else f"/{name}")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(doctor, "Host", lambda: host)
    monkeypatch.setattr(doctor, "check_namespaces", doctor.check_python)
    with pytest.raises(HostError, match="qemu-img") as caught:
        require_host(build=False, test=True)
    assert "sfdisk" not in caught.value.message, "a test needs no partitioning"
    with pytest.raises(HostError, match="sfdisk") as caught:
        require_host(build=True, test=False)
    assert "qemu-img" not in caught.value.message, "a build boots nothing"
    assert "apt-get install fdisk" in caught.value.hint
