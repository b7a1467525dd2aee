"""The benches' numbers are worth something only if the harness measures and tells truly."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import pytest

from tests.bench import harness
from tests.bench.harness import Record, compare, timed, within

SMALL = compare("build.small", 1.0, 4.0, unit="s", goal=0.25)
MISSED = compare("build.missed", 3.0, 4.0, unit="s", goal=0.7)


def test_a_ratio_at_its_goal_meets_it() -> None:
    assert SMALL.ratio == 0.25
    assert SMALL.met
    assert not MISSED.met
    assert within("build.idle", 1.99, 2, unit="s").met
    assert not within("build.idle", 2.01, 2, unit="s").met


def test_a_peer_that_was_not_measured_is_no_comparison() -> None:
    with pytest.raises(ValueError, match="nothing was measured"):
        compare("build.x", 1, 0, unit="s", goal=1)


def test_time_and_memory_are_those_of_the_command() -> None:
    hungry = "import time; x = bytearray(200 << 20); time.sleep(0.3)"
    large = timed([sys.executable, "-c", hungry])
    assert 0.3 <= large.seconds < 30
    assert (200 << 20) <= large.peak_rss < (400 << 20)
    small = timed([sys.executable, "-c", "pass"])
    assert small.peak_rss < (100 << 20), "an earlier, larger command must not hide this one"


def test_cpu_time_counts_grandchildren() -> None:
    burn = "import time\nend = time.process_time() + 0.3\nwhile time.process_time() < end: pass"
    nested = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {burn!r}])"
    assert timed([sys.executable, "-c", nested]).cpu_seconds >= 0.3


def test_a_command_that_fails_is_no_measurement(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("of an earlier one\n")
    with pytest.raises(RuntimeError, match=r"code 3\nthe reason\n$"):
        timed(["sh", "-c", "echo the reason; exit 3"], log=log)
    with pytest.raises(RuntimeError, match="code 4"):
        timed(["sh", "-c", "exit 4"])


def test_a_command_that_takes_too_long_is_ended_with_its_children(tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    with pytest.raises(RuntimeError, match="did not end within 1 s"):
        timed(["sh", "-c", f"sleep 300 & echo $! >{pid}; wait"], timeout=1)
    stat = Path(f"/proc/{pid.read_text().strip()}/stat")
    for _ in range(100):
        if not stat.exists() or stat.read_text().rpartition(")")[2].split()[0] == "Z":
            break
        time.sleep(0.05)
    else:
        pytest.fail("the command's child goes on")


def test_the_fastest_of_several_counts() -> None:
    timings = iter([harness.Timing(s, s, 1) for s in (3.0, 1.0, 2.0)])
    assert harness.fastest(3, lambda: next(timings)).seconds == 1.0


def test_benches_are_found_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "found"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "bench_b.py").write_text("def bench_last(): pass\n")
    (package / "bench_a.py").write_text(
        "from json import dumps as bench_imported\n"
        "bench_number = 1\n"
        "def bench_first(): pass\n"
        "def bench_first_too(): pass\n"
        "def helper(): pass\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    assert [name for name, _ in harness.find_benches(package, "found")] == [
        "bench_a.bench_first",
        "bench_a.bench_first_too",
        "bench_b.bench_last",
    ]


def test_a_bench_may_give_one_record_or_several_and_nothing_else() -> None:
    assert list(harness.records_of(SMALL)) == [SMALL]
    assert list(harness.records_of(r for r in (SMALL, MISSED))) == [SMALL, MISSED]
    with pytest.raises(TypeError):
        list(harness.records_of(None))
    with pytest.raises(TypeError):
        list(harness.records_of([{"bench": "x"}]))


def test_what_is_written_is_a_list_of_the_agreed_fields(tmp_path: Path) -> None:
    path = tmp_path / "bench" / "latest.json"
    harness.save([SMALL], path)
    data = json.loads(path.read_text())
    assert list(data[0]) == ["bench", "ours", "peer", "unit", "ratio", "goal", "met"]
    assert Record(**data[0]) == SMALL


def test_a_missed_goal_is_seen_at_once() -> None:
    table = harness.as_table([SMALL, MISSED])
    head, met, missed = table.splitlines()
    assert head.split() == ["bench", "ours", "peer", "unit", "ratio", "goal", "met"]
    assert met.endswith("yes")
    assert missed.endswith("NO")
