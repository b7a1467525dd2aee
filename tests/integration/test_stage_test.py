"""The test stage from boot to verdict: real pytest and testinfra, machines that are fake."""

from __future__ import annotations

import io
import os
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from pipeline import digest
from pipeline.command import Stop
from pipeline.engine.stage import Outcome, Work
from pipeline.errors import BootError, BuildError, HostError, Interrupted, TestError, UsageError
from pipeline.models.image import ImageDefinition
from pipeline.models.release import Part, TestVerdict
from pipeline.providers.base import BootRequest
from pipeline.releases import read_verdict, verdict_path
from pipeline.testing import guest, runner
from stages.test import TestStage
from tests.fakes.provider import BIN, FakeBooter, Fault
from tests.fakes.stored import make_release, store_release

BASE = "name: base\ndistribution: debian\nrelease: trixie\ntests: {providers: [qemu]}\n"
WEB = "name: web\nfrom: base\npersist: [/var/lib/web]\ntests: {providers: [qemu]}\n"
GOOD = """
def test_it_runs_the_release(host, release):
    assert f"roothash={release.root_hash}" in host.check_output("cat /proc/cmdline")
"""
BAD = """
def test_the_answer(host):
    assert host.check_output("echo 41") == "42", "the answer is wrong"
"""
ORDER = """
def test_after(host, rebooted, machine, tmp_path_factory):
    assert machine.reboots == 1
    assert boots[0] != machine.boot_id()

def test_after_too(host, rebooted, machine):
    assert machine.reboots == 1, "the reboot is shared"

boots = []

def test_before(host, machine, definition):
    assert machine.reboots == 0, "what needs the reboot runs last"
    assert machine.boot_seconds < definition.tests.boot_deadline
    boots.append(machine.boot_id())
"""


class Bench:
    """A project with two images, and a release of one of them that can be tested."""

    def __init__(self, folder: Path) -> None:
        self.project = folder / "project"
        self.write("base", BASE, "def test_of_the_parent(host):\n    assert True\n")
        self.write("web", WEB, GOOD)
        release = make_release("web")
        self.folder = store_release(folder / "artifacts", release)
        content = b"a disk that boots" * 5000
        disk = release.parts["disk"].file
        (self.folder / disk).write_bytes(content)
        part = Part(file=disk, digest=digest.of_bytes(content), size=len(content))
        self.release = release.model_copy(update={"parts": {**release.parts, "disk": part}})
        self.scratch = folder / "scratch"
        self.scratch.mkdir()
        self.run = folder / "run"
        self.run.mkdir()
        self.stop = Stop()
        self.said: list[str] = []

    def write(self, image: str, definition: str, tests: str, name: str = "test_it.py") -> None:
        place = self.project / "images" / image
        (place / "tests").mkdir(parents=True, exist_ok=True)
        (place / "image.yaml").write_text(definition)
        (place / "tests" / name).write_text(tests)

    def test(
        self,
        fault: Fault | None = None,
        deadline: int = 5,
        *,
        force: bool = False,
        tests_digest: str = "0" * 64,
    ) -> TestVerdict:
        from pipeline.definitions import load_catalog

        definition = load_catalog(self.project / "images").resolved("web")
        tests = definition.tests.model_copy(update={"boot_deadline": deadline})
        self.booter = FakeBooter(self.release.root_hash, fault, name="qemu")
        with (self.run / "web.test.log").open("w") as log:
            whole = definition.model_copy(update={"tests": tests})
            self.outcome = self._stage(whole, log, force, tests_digest)
        return self.verdict()

    def _stage(
        self,
        definition: ImageDefinition,
        log: Any,
        force: bool = False,
        tests_digest: str = "0" * 64,
    ) -> Outcome:
        planned = SimpleNamespace(image="web", tests_digest=tests_digest)
        work = Work(
            project=self.project,
            artifacts=self.project / "artifacts",
            scratch=self.scratch,
            log=log,
            stop=self.stop,
            definition=definition,
            own=definition,
            planned=cast(Any, planned),
            source=cast(Any, None),
            settings=cast(Any, None),
            tree=self.project,
            release_dir=self.folder,
            release=self.release,
            report=self.said.append,
            force=force,
        )
        return TestStage({"qemu": self.booter}).run(work)

    @property
    def place(self) -> Path:
        return verdict_path(self.folder, self.release.name, "qemu")

    def verdict(self) -> TestVerdict:
        return read_verdict(self.place)

    def log(self) -> str:
        return (self.run / "web.test.log").read_text()


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    monkeypatch.setenv("PATH", f"{BIN}{os.pathsep}{os.environ['PATH']}")
    nothing = tmp_path / "no-checks"  # those of every image need a real one
    nothing.mkdir()
    monkeypatch.setattr(runner, "CHECKS", nothing)
    return Bench(tmp_path)


def test_a_good_release_passes_and_is_recorded(bench: Bench) -> None:
    verdict = bench.test()
    assert bench.outcome == "done"
    assert verdict.passed
    assert verdict.tests == 2, "the parent's test counts as well"
    assert verdict.root_hash == bench.release.root_hash
    assert verdict.tests_digest == "0" * 64
    log = bench.log()
    assert log.index("images/base/tests/test_it.py") < log.index("images/web/tests/test_it.py")
    assert (bench.run / "web.test.qemu.xml").is_file()
    assert "Linux version" in (bench.run / "web.test.qemu.console.log").read_text()
    assert "2 of 2 tests" in bench.said
    assert not any(bench.scratch.glob("*/machine")), "the machine left nothing"


def test_a_failure_names_test_assertion_and_console(bench: Bench) -> None:
    bench.write("web", WEB, BAD)
    with pytest.raises(TestError) as caught:
        bench.test()
    message = caught.value.message
    assert "failed 1 of 2 tests on qemu" in message
    assert "images/web/tests/test_it.py::test_the_answer: AssertionError: the answer" in message
    assert "assert '41' == '42'" in message
    assert "Reached target multi-user.target" in message
    assert "web.test.qemu.console.log" in caught.value.hint
    verdict = bench.verdict()
    assert not verdict.passed
    assert "multi-user" in verdict.failures[0].console


def test_tests_that_need_the_reboot_run_last_and_share_it(bench: Bench) -> None:
    bench.write("web", WEB, ORDER)
    assert bench.test(deadline=30).tests == 4


def test_a_run_of_no_tests_is_no_pass(bench: Bench) -> None:
    for image, definition in (("base", BASE), ("web", WEB)):
        bench.write(image, definition, "def not_a_test():\n    assert False\n")
    with pytest.raises(TestError, match="not one test ran"):
        bench.test()
    assert not bench.verdict().passed


def test_tests_that_are_all_skipped_are_no_pass(bench: Bench) -> None:
    skipped = "import pytest\n@pytest.mark.skip\ndef test_it():\n    pass\n"
    bench.write("base", BASE, skipped)
    bench.write("web", WEB, skipped)
    with pytest.raises(TestError, match="not one test ran"):
        bench.test()


def test_a_test_file_that_cannot_be_read_is_a_failure(bench: Bench) -> None:
    bench.write("web", WEB, "import nothing_of_that_name\n", "test_broken.py")
    with pytest.raises(TestError, match="No module named 'nothing_of_that_name'"):
        bench.test()


def test_the_settings_of_the_repositorys_own_tests_do_not_count(bench: Bench) -> None:
    bench.project.joinpath("pytest.ini").write_text("[pytest]\naddopts = --no-such-option\n")
    assert bench.test().passed


def test_another_root_than_the_releases_fails(bench: Bench) -> None:
    bench.write("web", WEB, "def test_nothing(host):\n    assert host\n")
    with pytest.raises(TestError, match=f"runs root {'f' * 64}, not {bench.release.root_hash}"):
        bench.test("wrong-root")
    assert bench.verdict().root_hash == "f" * 64


@pytest.mark.parametrize(
    ("fault", "message"),
    [("panics", "the kernel panicked"), ("never-answers", "not reachable by ssh within 2 s")],
)
def test_a_machine_that_never_comes_up(fault: Fault, message: str, bench: Bench) -> None:
    with pytest.raises(BootError, match=message) as caught:
        bench.test(fault, deadline=2)
    assert "Linux version" in caught.value.message
    verdict = bench.verdict()
    assert not verdict.passed
    assert verdict.failures[0].test == "boot"


def test_a_machine_that_dies_midway_ends_the_tests_at_once(bench: Bench) -> None:
    bench.write("web", WEB, "import time\ndef test_long():\n    time.sleep(300)\n")
    begin = time.monotonic()
    with pytest.raises(BootError, match="while it was tested: it switched itself off"):
        bench.test("dies-midway")
    assert time.monotonic() - begin < 30


def test_an_unhealthy_machine_is_still_tested(bench: Bench) -> None:
    bench.write("web", WEB, "def test_health(machine):\n    assert machine.boot_seconds\n")
    with pytest.raises(TestError, match="test_health"):
        bench.test("unhealthy", deadline=30)
    assert "still not healthy" in bench.log()


def test_a_provider_without_capacity_says_so(bench: Bench) -> None:
    with pytest.raises(HostError, match="no machine left"):
        bench.test("no-capacity")
    assert not bench.place.exists(), "nothing was found out about the release"


def test_a_provider_that_is_not_here(bench: Bench) -> None:
    bench.write("web", WEB, GOOD)
    definition = SimpleNamespace(tests=SimpleNamespace(providers=("cloud",)))
    bench.booter = FakeBooter(name="qemu")
    with pytest.raises(UsageError, match="`cloud`"), (bench.run / "log").open("w") as log:
        bench._stage(cast(Any, definition), log)


def test_a_disk_that_is_not_the_one_that_was_built_is_not_booted(bench: Bench) -> None:
    disk = bench.folder / bench.release.parts["disk"].file
    disk.write_bytes(b"another disk")
    with pytest.raises(BuildError, match="is not the one that was built"):
        bench.test()
    assert bench.booter.machines == []


def test_a_disk_that_its_test_has_changed_is_no_pass(bench: Bench) -> None:
    disk = bench.folder / bench.release.parts["disk"].file
    bench.write("web", WEB, f"def test_bad():\n    open({str(disk)!r}, 'a').write('x')\n")
    with pytest.raises(BuildError, match="was changed by its test"):
        bench.test()
    assert not bench.place.exists()


def test_a_stop_ends_tests_and_machine(bench: Bench) -> None:
    bench.write("web", WEB, "import time\ndef test_long():\n    time.sleep(300)\n")
    timer = threading.Timer(4, bench.stop.set)
    timer.start()
    begin = time.monotonic()
    with pytest.raises(Interrupted):
        bench.test()
    timer.join()
    assert time.monotonic() - begin < 25
    assert bench.booter.machines[0].fault() == "it was closed"
    assert not bench.place.exists()


def test_an_old_pass_does_not_outlive_a_new_failure(bench: Bench) -> None:
    assert bench.test().passed
    bench.write("web", WEB, BAD)
    with pytest.raises(TestError):
        bench.test(tests_digest="1" * 64)
    assert not bench.verdict().passed


def test_what_has_passed_is_not_booted_again(bench: Bench) -> None:
    first = bench.test()
    assert bench.test() == first
    assert bench.outcome == "cached"
    assert bench.booter.machines == []


def test_changed_tests_and_a_person_who_asks_boot_again(bench: Bench) -> None:
    bench.test()
    assert bench.test(tests_digest="1" * 64).tests_digest == "1" * 64
    assert bench.outcome == "done"
    bench.test(force=True, tests_digest="1" * 64)
    assert bench.outcome == "done"
    assert len(bench.booter.machines) == 1


def test_a_failure_is_tried_again(bench: Bench) -> None:
    bench.write("web", WEB, BAD)
    with pytest.raises(TestError):
        bench.test()
    bench.write("web", WEB, GOOD)
    assert bench.test().passed


@pytest.mark.parametrize("damage", ["", "{}", '{"passed": true'])
def test_half_a_verdict_is_none(damage: str, bench: Bench) -> None:
    bench.place.write_text(damage)
    assert bench.test().passed
    assert bench.outcome == "done"


def test_a_pass_of_another_root_is_none(bench: Bench) -> None:
    passed = bench.test().model_copy(update={"root_hash": "1" * 64})
    bench.place.write_text(passed.model_dump_json())
    assert bench.test().root_hash == bench.release.root_hash
    assert bench.outcome == "done"


def test_a_login_into_a_system_that_goes_down_is_given_up_soon(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guest, "_FIRST_LOGIN_SECONDS", 0.5)
    disk = bench.folder / bench.release.parts["disk"].file
    request = BootRequest(
        disk=disk,
        name="mute",
        workdir=bench.scratch / "machine",
        console=bench.run / "console.log",
        log=io.StringIO(),
        stop=bench.stop,
    )
    machine = FakeBooter(fault="mute-at-reboot").boot(request)
    try:
        machine.wait_ready(5)
        before = guest.boot_id(machine.ssh_config())
        assert guest.reboot(machine.ssh_config(), 60) < 30
        assert guest.boot_id(machine.ssh_config()) != before
    finally:
        machine.close()
