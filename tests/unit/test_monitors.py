"""If these fail, a person watching a run sees garbage, or a program reads the wrong thing."""

from __future__ import annotations

import io
import json
import os
import re
from datetime import UTC, datetime
from pathlib import Path

import pytest

from pipeline.cli.monitors import JsonLines, Live, Plain, Summary, monitors
from pipeline.cli.summary import markdown
from pipeline.engine import monitor as say
from pipeline.models.run import ImageRun, Process, RunRecord, StageRecord

WHEN = datetime(2026, 3, 1, 12, tzinfo=UTC)
RECORD = RunRecord(
    id="20260301.120000-1f3a",
    started=WHEN,
    finished=WHEN,
    commit="1a2b3c4d5e6f" + "0" * 28,
    version="20260301.120000.g1a2b3c4d5e6f",
    process=Process(pid=1, ticks=1, boot="x"),
    images={
        "edge-base": ImageRun(
            action="build",
            reasons=("element x changed",),
            version="20260301.120000.g1a2b3c4d5e6f",
            root_hash="2" * 64,
            stages={
                "build": StageRecord(status="done", seconds=95.0),
                "test": StageRecord(
                    status="failed",
                    seconds=1.0,
                    error="2 tests failed:\n  a | b",
                    hint="Look.",
                    log="edge-base.test.log",
                ),
            },
        ),
        "edge-web": ImageRun(
            action="build",
            stages={
                "build": StageRecord(status="skipped", error="parent edge-base failed at test"),
                "test": StageRecord(status="cached"),
            },
        ),
    },
    outcome="failed",
    exit_code=6,
)


class Screen(io.StringIO):
    """A terminal: keeps what a person would see. Reflows when its width is changed."""

    def __init__(self, columns: int, lines: int = 50) -> None:
        super().__init__()
        self.size = os.terminal_size((columns, lines))
        self.logical: list[str] = [""]  # lines as they were written, whatever their width

    def isatty(self) -> bool:
        return True

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return "utf-8"

    def write(self, text: str) -> int:
        for token in re.findall(r"\x1b\[(\d*)([A-Za-z])|([^\x1b])", text):
            number, code, character = token
            if code == "A":
                self._up(int(number))
            elif code == "J":
                assert self.logical[-1] == "", "cleared from the middle of a line"
            elif code == "m" or character == "\r":
                pass
            elif character == "\n":
                self.logical.append("")
            else:
                self.logical[-1] += character
        return len(text)

    def _rows(self, line: str) -> int:
        return max(1, -(-len(line) // self.size.columns))

    def _up(self, rows: int) -> None:
        assert self.logical[-1] == ""
        while rows > 0:
            self.logical.pop()
            rows -= self._rows(self.logical[-1])
            self.logical[-1] = ""
        assert rows == 0, "went up into the middle of a line: something is half erased"


@pytest.fixture(autouse=True)
def _terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.delenv("NO_COLOR", raising=False)


def started(image: str = "edge-base", stage: str = "build") -> say.StageStarted:
    return say.StageStarted(WHEN, image, stage)


def finished(image: str = "edge-base", stage: str = "build", **more: object) -> say.StageFinished:
    given = {"status": "done", "seconds": 95.0, **more}
    return say.StageFinished(WHEN, image, stage, **given)  # type: ignore[arg-type]


def test_a_live_display_survives_narrow_and_resized_terminals() -> None:
    screen = Screen(60)
    now = [0.0]
    live = Live(screen, clock=lambda: now[0], size=lambda: screen.size)
    live.event(started())
    live.event(started("edge-web"))
    long = "installing " + "x" * 200 + "\x1b[2J\n\tmore"
    live.event(say.StageProgress(WHEN, "edge-base", "build", long))
    for columns in (60, 25, 3, 120, 10, 80):
        screen.size = os.terminal_size((columns, 50))
        now[0] += 7.0
        live.tick()
        assert len(screen.logical) == 3, "two running stages, and the cursor's line"
        assert all(len(line) < columns for line in screen.logical)
    assert "edge-base build 42s  installing xx" in screen.logical[0]
    live.event(finished())
    live.event(finished("edge-web", status="failed", error="no", tail=("last words",)))
    assert screen.logical == [
        "✓ edge-base build: done in 1m35s",
        "✗ edge-web build: FAILED in 1m35s: no",
        "    last words",
        "",
    ]


def test_a_live_display_is_never_taller_than_the_screen() -> None:
    screen = Screen(60, 6)
    live = Live(screen, size=lambda: screen.size)
    for number in range(9):
        live.event(started(f"i{number}"))
    assert len(screen.logical) == 5
    assert screen.logical[3] == "  and 6 more"


def test_a_terminal_without_utf8_gets_plain_signs() -> None:
    class Ascii(Screen):
        @property
        def encoding(self) -> str:  # type: ignore[override]
            return "ascii"

        def write(self, text: str) -> int:
            text.encode("ascii")
            return super().write(text)

    screen = Ascii(60)
    live = Live(screen, size=lambda: screen.size)
    live.event(started())
    live.event(say.StageProgress(WHEN, "edge-base", "build", "größer → besser"))
    live.event(finished())
    live.event(say.RunFinished(WHEN, RECORD))
    assert "failed at test" in "\n".join(screen.logical)


def test_plain_lines_stay_sparse() -> None:
    out, now = io.StringIO(), [0.0]
    plain = Plain(out, clock=lambda: now[0])
    plain.event(started())
    for second in range(1, 26):
        now[0] = float(second)
        plain.event(say.StageProgress(WHEN, "edge-base", "build", f"step {second}"))
        plain.tick()
    assert out.getvalue().splitlines() == [
        "edge-base build: started",
        "edge-base build: 10s: step 10",
        "edge-base build: 20s: step 20",
    ]


def test_an_image_that_is_skipped_takes_one_line_and_a_failed_one_no_more() -> None:
    out = io.StringIO()
    plain = Plain(out)
    plain.event(finished(status="failed", error="no"))
    plain.event(finished(stage="test", status="skipped", error="build failed"))
    for stage in ("build", "test"):
        why = "parent edge-base failed at build"
        plain.event(finished("edge-web", stage, status="skipped", error=why))
    assert out.getvalue().splitlines() == [
        "edge-base build: FAILED in 1m35s: no",
        "edge-web: skipped: parent edge-base failed at build",
    ]


def test_each_json_line_is_one_event() -> None:
    out = io.StringIO()
    lines = JsonLines(out)
    lines.event(say.RunStarted(WHEN, RECORD, ("build", "test")))
    lines.event(finished(error="a\nb", tail=("x",)))
    lines.event(say.RunFinished(WHEN, RECORD))
    first, second, last = [json.loads(line) for line in out.getvalue().splitlines()]
    assert first["event"] == "run.started"
    assert second["time"] == "2026-03-01T12:00:00Z"
    assert {e["run"] for e in (first, second, last)} == {RECORD.id}
    assert last["images"]["edge-base"]["status"] == "failed"


def test_the_summary_cannot_be_broken_by_what_it_quotes(tmp_path: Path) -> None:
    (tmp_path / "edge-base.test.log").write_text("one\n```\n</details> ````\n")
    text = markdown(RECORD, tmp_path)
    assert "| **edge-base** | `20260301.120000.g1a2b3c4d5e6f` |" in text
    assert "| skipped: parent edge-base failed at test | ✅ cached |" in text
    assert "`````text\none\n```\n</details> ````\n`````" in text
    assert "Look." in text


def test_the_summary_is_written_where_it_is_wanted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "page.md"))
    Summary(tmp_path / "runs").event(say.RunFinished(WHEN, RECORD))
    kept = (tmp_path / "runs" / RECORD.id / "summary.md").read_text()
    assert (tmp_path / "page.md").read_text() == kept
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "missing" / "page.md"))
    fan = monitors(io.StringIO(), tmp_path / "runs", as_json=False)
    fan.event(say.RunFinished(WHEN, RECORD))  # unwritable: not the run's problem


def test_a_pipe_gets_plain_lines_and_a_terminal_a_live_display(tmp_path: Path) -> None:
    screen, pipe = Screen(80), io.StringIO()
    for stream in (screen, pipe):
        monitors(stream, tmp_path, as_json=False).event(started())
    assert "started" in pipe.getvalue()
    assert screen.logical[0].endswith("edge-base build 0s")
