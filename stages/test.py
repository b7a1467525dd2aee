"""Boot a release's disk in a test machine, and see whether it is what it should be.

The disk is booted below a throw-away overlay, and its digest is taken before and after: the bytes
that were tested are the bytes of the release. The verdict of each provider is saved in the
release's folder as ``<name>.test-<provider>.json``. pytest's report and the console are kept in the
run's folder, beside the stage's log.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline import console, digest
from pipeline.clock import duration, now
from pipeline.errors import BootError, BuildError, TestError, UsageError
from pipeline.files import write_atomically
from pipeline.models.release import Failure, Release, TestVerdict
from pipeline.providers.base import Booter, BootRequest, Machine
from pipeline.releases import read_verdict, verdict_path
from pipeline.testing import CHECKS, context, guest, junit, runner

if TYPE_CHECKING:
    from pipeline.engine.stage import Outcome, Work

DISK_SIZE = 8 << 30
"""Bytes of a test machine's disk: the second slot and the data partition are made in it."""

_CONSOLE_LINES = 15
_SHOWN_FAILURES = 5


class TestStage:
    """The stage ``test``.

    Args:
        providers: what can boot a disk, by the names that definitions use.
    """

    __test__ = False  # not a test class, whatever pytest makes of the name
    name = "test"
    cores = 1
    memory = 2048  # MiB; what the machine has, and some for QEMU and pytest

    def __init__(self, providers: Mapping[str, Booter]) -> None:
        self._providers = providers

    def run(self, work: Work) -> Outcome:
        """Test the release on every provider that its definition names.

        Where the very same tests have passed on this very root before, they are not run again,
        unless ``work.force`` asks for it.

        Raises:
            TestError: a test failed, or none ran; the message names tests and assertions.
            BootError: the machine never came up, or stopped.
            BuildError: there is no release, or its disk is not the one that was built.
            UsageError: the definition names a provider that this command line does not have.
            HostError: this host cannot run the machine.
            Interrupted: ``work.stop`` was set.
        """
        release, folder = work.release, work.release_dir
        if release is None or folder is None:
            raise BuildError(f"{work.image} has no release to test", hint="Run `recast run` again.")
        chosen = [(name, self._provider(name)) for name in work.definition.tests.providers]
        if not work.force:
            passed = {name for name, _ in chosen if _has_passed(work, release, folder, name)}
            for name in sorted(passed):
                work.log.write(f"{release.name} has passed these tests on {name} before\n")
            chosen = [(name, provider) for name, provider in chosen if name not in passed]
            if not chosen:
                return "cached"
        folders = _folders(work)
        problems: list[TestError] = []
        for name, provider in chosen:
            trial = _Trial(work, release, folder, name, provider, folders)
            try:
                trial.run()
            except TestError as error:
                problems.append(error)
        for other in problems[1:]:
            work.log.write(f"\n{other}\n")
        if problems:
            raise problems[0]
        return "done"

    def _provider(self, name: str) -> Booter:
        try:
            return self._providers[name]
        except KeyError:
            known = ", ".join(sorted(self._providers)) or "none"
            raise UsageError(
                f"tests.providers names `{name}`, which cannot boot a disk here",
                hint=f"Providers here: {known}.",
            ) from None


def _has_passed(work: Work, release: Release, folder: Path, provider: str) -> bool:
    """Is there a verdict of a pass, by these tests, of this root?"""
    place = verdict_path(folder, release.name, provider)
    if not place.is_file():
        return False
    try:
        verdict = read_verdict(place)
    except BuildError:
        return False  # half a verdict is none; it is written anew
    wanted = (True, release.root_hash, work.planned.tests_digest)
    return (verdict.passed, verdict.root_hash, verdict.tests_digest) == wanted


def _folders(work: Work) -> list[Path]:
    """The folders with the tests of the image and its ancestors, the ancestors' first."""
    from pipeline.definitions import load_catalog

    catalog = load_catalog(work.project / "images")
    names = [*catalog.ancestors(work.image), work.image]
    found = [catalog.folders[name] / catalog[name].tests.path for name in names]
    return [folder for folder in found if folder.is_dir()]


@dataclass
class _Trial:
    """One release on one provider."""

    work: Work
    release: Release
    folder: Path
    name: str
    provider: Booter
    folders: Sequence[Path]

    def run(self) -> None:
        """Boot, test, judge; save the verdict, and raise unless it passed."""
        place = verdict_path(self.folder, self.release.name, self.name)
        place.unlink(missing_ok=True)  # until this trial has ended, nothing is known
        disk = self._disk()
        self._check_disk(disk, "is not the one that was built")
        try:
            verdict = self._try(disk)
        except TestError as error:
            what = "boot" if isinstance(error, BootError) else "tests"
            failure = Failure(test=what, message=error.message)
            self._save(place, self._verdict(0.0, 0.0, (), (failure,), self.release.root_hash))
            raise
        self._check_disk(disk, "was changed by its test")
        self._save(place, verdict)
        if not verdict.passed:
            raise self._error(verdict)
        self.work.log.write(
            f"\n{self.release.name} passed {verdict.tests} tests on {self.name}, healthy "
            f"{duration(verdict.boot_seconds)} after power-on\n"
        )

    def _try(self, disk: Path) -> TestVerdict:
        work, tests = self.work, self.work.definition.tests
        scratch = work.scratch / f"test-{self.name}"
        scratch.mkdir(parents=True, exist_ok=True)
        work.progress(f"booting on {self.name}")
        begin = time.monotonic()
        request = BootRequest(
            disk=disk,
            name=self.release.name,
            workdir=scratch / "machine",
            console=self._beside_the_log("console.log"),
            log=work.log,
            stop=work.stop,
            memory=tests.memory,
            disk_size=DISK_SIZE,
        )
        machine = self.provider.boot(request)
        try:
            ready = machine.wait_ready(tests.boot_deadline)
            work.log.write(f"{self.name}: ssh answers after {duration(ready)}\n")
            power_on = time.monotonic() - ready
            work.progress("waiting until it is healthy")
            left = tests.boot_deadline - ready
            well = guest.wait_healthy(machine.ssh_config(), left, work.stop, machine.fault)
            boot_seconds = time.monotonic() - power_on
            work.log.write(
                f"{self.name}: {'healthy' if well else 'still not healthy'} after "
                f"{duration(boot_seconds)}\n"
            )
            running = guest.root_hash(machine.ssh_config())
            report, ended_well = self._pytest(machine, scratch, boot_seconds if well else None)
            failures = [*self._wrong_root(running), *report.failures, *self._too_few(report)]
            if not ended_well and not failures:
                failures.append(Failure(test="pytest", message="pytest ended with an error"))
            return self._verdict(
                time.monotonic() - begin,
                boot_seconds,
                report.ran,
                tuple(self._with_console(each, machine) for each in failures),
                running or self.release.root_hash,
            )
        finally:
            work.progress("switching off")
            machine.close()

    def _pytest(
        self, machine: Machine, scratch: Path, boot_seconds: float | None
    ) -> tuple[junit.Report, bool]:
        work = self.work
        told = context.prepare(
            scratch, self.release, work.definition, self.name, boot_seconds, machine.ssh_config()
        )
        draft = scratch / "report.xml"
        ended_well = runner.run(
            project=work.project,
            folders=self.folders,
            told=told,
            scratch=scratch,
            report=draft,
            log=work.log,
            stop=work.stop,
            fault=machine.fault,
            progress=work.progress,
        )
        report = junit.read(draft)
        write_atomically(self._beside_the_log("xml"), draft.read_bytes())
        return report, ended_well

    # --- the disk -------------------------------------------------------------------------------

    def _disk(self) -> Path:
        part = self.release.parts.get("disk")
        path = self.folder / part.file if part else None
        if path is None or not path.is_file():
            raise BuildError(
                f"{self.release.name} has no disk image in {self.folder}",
                hint=f"Make it with `recast build {self.release.image}`.",
            )
        return path

    def _check_disk(self, disk: Path, otherwise: str) -> None:
        self.work.progress("checking the disk's digest")
        part = self.release.parts["disk"]
        found = digest.of_file(disk)
        if found != part.digest:
            raise BuildError(
                f"{disk} {otherwise}: its digest is {found[:16]}…, its manifest says "
                f"{part.digest[:16]}…",
                hint=f"Remove {self.folder} and run `recast build {self.release.image}` again.",
            )

    # --- the verdict ----------------------------------------------------------------------------

    def _wrong_root(self, found: str) -> list[Failure]:
        if found == self.release.root_hash:
            return []
        text = f"the machine runs root {found or '(none)'}, not {self.release.root_hash}"
        return [Failure(test="root hash", message=text)]

    def _too_few(self, report: junit.Report) -> list[Failure]:
        """A run in which none of the image's own tests ran proves nothing about the image."""
        if any(not name.startswith(f"{CHECKS.name}/") for name in report.ran):
            return []
        places = ", ".join(str(folder) for folder in self.folders) or "images/…/tests"
        return [Failure(test="tests", message=f"not one test ran of those in {places}")]

    def _with_console(self, failure: Failure, machine: Machine) -> Failure:
        lines = console.tail(machine.console(), _CONSOLE_LINES)
        return failure.model_copy(update={"console": "\n".join(lines)})

    def _verdict(
        self,
        seconds: float,
        boot_seconds: float,
        ran: Sequence[str],
        failures: tuple[Failure, ...],
        root_hash: str,
    ) -> TestVerdict:
        return TestVerdict(
            provider=self.name,
            passed=not failures,
            root_hash=root_hash,
            tests=len(ran),
            failures=failures,
            seconds=round(seconds, 1),
            boot_seconds=round(boot_seconds, 1),
            tests_digest=self.work.planned.tests_digest,
            when=now(),
        )

    def _save(self, place: Path, verdict: TestVerdict) -> None:
        write_atomically(place, verdict.model_dump_json(indent=2) + "\n")

    def _error(self, verdict: TestVerdict) -> TestError:
        failures = verdict.failures
        count = f"{len(failures)} of {verdict.tests} tests" if verdict.tests else "its tests"
        lines = [f"{self.release.name} failed {count} on {self.name}:"]
        alike: dict[str, list[str]] = {}  # one broken reboot fails every test that needs it
        for failure in failures:
            alike.setdefault(failure.message, []).append(failure.test)
        for message, tests in list(alike.items())[:_SHOWN_FAILURES]:
            first, *more = message.splitlines() or [""]
            lines += [f"  {tests[0]}: {first}", *(f"      {line}" for line in more)]
            lines += [f"      and with it {test}" for test in tests[1:]]
        if len(alike) > _SHOWN_FAILURES:
            lines.append(f"  … and {len(alike) - _SHOWN_FAILURES} more")
        lines.append("The last of its console:")
        lines += [f"    {line}" for line in failures[0].console.splitlines()]
        return TestError(
            "\n".join(lines),
            hint=f"Its whole console is in {self._beside_the_log('console.log')}, the tests' "
            f"output in {self.work.log.name}.",
        )

    def _beside_the_log(self, ending: str) -> Path:
        log = Path(self.work.log.name)
        return log.with_name(f"{log.stem}.{self.name}.{ending}")
