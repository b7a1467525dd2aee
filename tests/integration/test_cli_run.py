"""If these fail, an interrupted, killed or doubled run loses work or leaves something behind."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pipeline.engine import monitor
from pipeline.engine.runs import Runs

HERE = Path(__file__).parent
GOLDEN = HERE.parent / "golden"
FAMILY = {"edge-base": None, "edge-web": "edge-base"}
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="mounts and loop devices need root")

UNSET = ("COLUMNS", "GITHUB_STEP_SUMMARY", "PYTHONUNBUFFERED")


class Driver:
    """Starts ``recast`` over fake stages, and looks at what is left of it."""

    def __init__(self, folder: Path) -> None:
        # As mounts name it. The blank is part of the test: /proc/mounts escapes it.
        self.artifacts = (folder / "art ifacts").resolve()
        self.number = f"9{os.getpid()}{time.monotonic_ns() % 10**9}"  # marks our programs
        self.started: list[subprocess.Popen[str]] = []

    def start(self, *args: str, **config: object) -> subprocess.Popen[str]:
        given = {"artifacts": str(self.artifacts), "images": FAMILY, **config}
        env = {k: v for k, v in os.environ.items() if k not in UNSET}
        env |= {"DRIVER": json.dumps(given), "RECAST_ARTIFACTS": str(self.artifacts)}
        env |= {"PYTHONPATH": str(HERE.parent.parent), "PYTHONUTF8": "1"}
        env |= {str(k): str(v) for k, v in dict(config.get("env") or {}).items()}  # type: ignore[call-overload]
        process = subprocess.Popen(
            [sys.executable, str(HERE / "run_driver.py"), *args],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=env,
            start_new_session=True,
        )
        self.started.append(process)
        return process

    def finish(self, process: subprocess.Popen[str]) -> tuple[int, str, str]:
        out, err = process.communicate(timeout=60)
        return process.returncode, out, err

    def run(self, *args: str, **config: object) -> tuple[int, str, str]:
        return self.finish(self.start(*args, **config))

    def sleeper(self) -> list[str]:
        """A program that starts another, and waits for it for ever."""
        return ["sh", "-c", f"sleep {self.number} & wait"]

    def programs(self) -> list[str]:
        """Our programs that still run."""
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    words = (entry / "cmdline").read_bytes().split(b"\0")
                    state = (entry / "stat").read_text().rpartition(")")[2].split()[0]
                except OSError:
                    continue
                if state != "Z" and any(self.number.encode() in word for word in words):
                    found.append(entry.name)
        return found

    def mounts(self) -> list[str]:
        text = Path("/proc/self/mounts").read_text()
        return [line for line in text.splitlines() if str(self.artifacts.parent) in line]

    def loops(self) -> list[str]:
        found = []
        for entry in Path("/sys/block").glob("loop*/loop/backing_file"):
            try:
                text = entry.read_text()
            except OSError:
                continue
            if str(self.artifacts) in text:
                found.append(text)
        return found

    def scratch(self) -> list[Path]:
        return [path for path in (self.artifacts / "work").glob("*") if path.is_dir()]

    def left(self) -> list[str]:
        """Everything of ours that outlived its run."""
        folders = [str(path) for path in self.scratch()]
        return self.programs() + self.mounts() + self.loops() + folders

    def calls(self) -> list[str]:
        return (self.artifacts / "calls").read_text().splitlines()


@pytest.fixture
def driver(tmp_path: Path) -> Iterator[Driver]:
    made = Driver(tmp_path)
    yield made
    for process in made.started:
        if process.poll() is None:
            process.kill()
        process.communicate()
    for pid in made.programs():
        os.kill(int(pid), signal.SIGKILL)
    for line in made.mounts():
        subprocess.run(["umount", line.split()[1].replace("\\040", " ")], check=False)


def wait_for(what: Callable[[], object], seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline, "it did not come"
        time.sleep(0.02)


def normalised(text: str) -> str:
    text = re.sub(r"\d{8}\.\d{6}-[0-9a-f]{4}", "RUN", text)
    return re.sub(r"\b\d+(\.\d+)?s\b", "TIME", text)


def test_plain_output_is_as_it_was(driver: Driver) -> None:
    code, out, err = driver.run("run", "--jobs", "1", faults={"edge-web": "fails"})
    assert code == 5
    whole = f"{normalised(out)}--- standard error\n{normalised(err)}"
    golden = GOLDEN / "run-plain.txt"
    if os.environ.get("RECAST_GOLDEN") == "write":
        golden.write_text(whole)
    assert whole == golden.read_text()


def test_every_line_of_the_event_stream_has_the_promised_fields(driver: Driver) -> None:
    code, out, err = driver.run("run", "--json", faults={"edge-web": "fails"})
    assert code == 5
    events = [json.loads(line) for line in out.splitlines()]
    promised = json.loads((GOLDEN / "run-events.json").read_text())
    assert set(promised) == set(monitor.NAMES.values())
    seen = set()
    for event in events:
        seen.add(event["event"])
        fields = promised[event["event"]]
        assert {name: type(event[name]).__name__ for name in fields} == fields
        assert set(event) == set(fields), "a new field belongs into the golden file too"
        assert event["run"] == events[0]["run"]
    assert seen >= {"run.started", "stage.started", "stage.finished", "run.finished"}
    assert events[-1]["outcome"] == "failed"
    failed = next(e for e in events if e.get("status") == "failed")
    assert (failed["image"], failed["stage"]) == ("edge-web", "build")
    error = json.loads(err)
    assert error["code"] == 5
    assert "edge-web failed at build" in error["error"]


def test_the_summary_goes_to_the_workflow_and_to_the_run(driver: Driver, tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("before\n")
    driver.run("run", faults={"edge-web": "fails"}, env={"GITHUB_STEP_SUMMARY": str(page)})
    text = page.read_text()
    run = Runs(driver.artifacts / "runs").find("last")
    assert text == "before\n" + (driver.artifacts / "runs" / run.id / "summary.md").read_text()
    assert "| **edge-base** | `20260301.120000.g1a2b3c4d5e6f` |" in text
    assert "### edge-web build failed" in text
    assert "E: no such package" in text


@pytest.mark.soak
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_all_programs_and_the_next_run_goes_on(
    driver: Driver, number: signal.Signals
) -> None:
    first = driver.start("run", program=driver.sleeper())
    wait_for(driver.programs)
    first.send_signal(number)
    code, out, err = driver.finish(first)
    assert code == 130
    assert "was stopped; nothing had ended yet" in err
    assert "`recast run` again continues" in err
    assert f"stopping on {number.name}: edge-base build" in out
    assert driver.left() == []
    assert Runs(driver.artifacts / "runs").find("last").outcome == "interrupted"
    code, _, _ = driver.run("run")
    assert code == 0


def test_what_had_ended_is_named_and_kept(driver: Driver) -> None:
    images = {"edge-base": None}
    first = driver.start("run", images={**images, "edge-web": "edge-base"}, seconds=1.0)
    wait_for(lambda: "edge-web build" in (driver.artifacts / "calls").read_text()
             if (driver.artifacts / "calls").exists() else False)  # fmt: skip
    first.send_signal(signal.SIGINT)
    code, _, err = driver.finish(first)
    assert code == 130
    assert "kept is what had ended: edge-base build" in err
    code, out, _ = driver.run("run")
    assert code == 0
    assert "edge-base build: cached" in out
    assert driver.calls().count("edge-base build") == 1


@pytest.mark.soak
@pytest.mark.parametrize("delay", [0.0, 0.15, 0.3, 0.45, 0.6, 0.9])
def test_a_signal_at_any_moment_leaves_nothing(driver: Driver, delay: float) -> None:
    first = driver.start("run", program=driver.sleeper())
    time.sleep(delay)
    first.send_signal(signal.SIGTERM)
    code, _, _ = driver.finish(first)
    assert code in (130, -signal.SIGTERM), "the latter only before Python has begun with ours"
    assert driver.left() == []
    code, _, _ = driver.run("run")
    assert code == 0


@pytest.mark.soak
def test_after_a_kill_the_record_is_readable_and_the_next_run_cleans_up(driver: Driver) -> None:
    first = driver.start("run", program=driver.sleeper())
    wait_for(driver.programs)
    first.kill()
    driver.finish(first)
    record = Runs(driver.artifacts / "runs").find("last")
    assert record.outcome == "interrupted"
    assert record.images["edge-base"].stages["build"].status == "interrupted"
    assert len(driver.scratch()) == 1
    code, out, _ = driver.run("run")
    assert code == 0
    assert f"removing what {record.id}." in out
    assert driver.left() == []


@needs_root
@pytest.mark.soak
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_mounts_and_loop_devices_go_with_the_scratch_folder(
    driver: Driver, number: signal.Signals
) -> None:
    first = driver.start("run", program=driver.sleeper(), devices=True)
    wait_for(driver.programs)
    assert len(driver.mounts()) == len(driver.loops()) == 1
    first.send_signal(number)
    driver.finish(first)
    if number == signal.SIGKILL:
        assert len(driver.mounts()) == len(driver.loops()) == 1
        code, _, _ = driver.run("run")
        assert code == 0
    assert driver.left() == []


@pytest.mark.soak
def test_two_runs_at_once_build_once(driver: Driver) -> None:
    both = [driver.start("run", seconds=0.5) for _ in range(2)]
    ends = [driver.finish(process) for process in both]
    assert [code for code, _, _ in ends] == [0, 0]
    assert sorted(driver.calls()) == sorted(
        f"{image} {stage}" for image in FAMILY for stage in ("build", "assemble", "scan", "test")
    )
    waits = [f": waiting: {image}: run " for image in FAMILY]
    assert any(wait in out for _, out, _ in ends for wait in waits)
    assert driver.scratch() == []


def test_a_second_run_does_not_take_the_first_ones_scratch_for_a_leftover(driver: Driver) -> None:
    first = driver.start("run", program=driver.sleeper())
    wait_for(driver.programs)
    code, out, _ = driver.run("run", images={"other": None})
    assert code == 0
    assert "removing" not in out
    assert driver.programs()
    assert len(driver.scratch()) == 1
    first.send_signal(signal.SIGINT)
    assert driver.finish(first)[0] == 130


def test_runs_and_log_tell_of_it(driver: Driver) -> None:
    driver.run("run", faults={"edge-web": "fails"})
    code, out, _ = driver.run("runs")
    assert code == 0
    assert "failed" in out
    assert "1a2b3c4d5e6f" in out
    code, out, _ = driver.run("runs", "--json")
    assert json.loads(out)[0]["images"]["edge-web"]["stages"]["build"]["status"] == "failed"
    code, out, _ = driver.run("log", "last", "edge-web", "build")
    assert code == 0
    assert "==> edge-web build: failed" in out
    assert "E: no such package" in out
    code, _, err = driver.run("log", "last", "edge-wob")
    assert code == 2
    assert "has no image `edge-wob`" in err


def test_log_follows_a_run_to_its_end(driver: Driver) -> None:
    first = driver.start("run", seconds=0.5)
    wait_for(lambda: Runs(driver.artifacts / "runs").ids())
    code, out, _ = driver.run("log", "last", "--follow")
    assert driver.finish(first)[0] == 0
    assert code == 0
    assert "==> edge-web test\ntest of edge-web\n" in out
    assert out.endswith(": passed\n")


def test_a_reader_that_goes_away_does_not_end_the_run(driver: Driver) -> None:
    first = driver.start("run", seconds=0.3)
    assert first.stdout is not None
    first.stdout.close()
    assert first.wait(30) == 0
    assert Runs(driver.artifacts / "runs").find("last").outcome == "passed"
