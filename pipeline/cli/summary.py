"""A run as Markdown, for a pull request's or a workflow's page."""

from __future__ import annotations

from pathlib import Path

from pipeline.cli.terminal import duration
from pipeline.clock import iso
from pipeline.engine.logs import tail_of
from pipeline.models.run import RunRecord, StageRecord

_MARKS = {
    "done": "✅",
    "cached": "✅ cached",
    "failed": "❌",
    "interrupted": "⚠️ interrupted",
    "skipped": "skipped",
    "running": "running",
    "waiting": "waiting",
}
_HEADS = {"passed": "✅ passed", "failed": "❌ failed", "interrupted": "⚠️ interrupted"}


def markdown(record: RunRecord, folder: Path) -> str:
    """Images by stages with their times, then each failure with the end of its log.

    Args:
        record: the run.
        folder: where its logs are.
    """
    stages = list(dict.fromkeys(s for image in record.images.values() for s in image.stages))
    head = ["image", "release", "root hash", *stages]
    lines = [
        f"## Recast run {record.id}: {_HEADS.get(record.outcome, record.outcome)}",
        "",
        f"Commit `{record.commit[:12]}`, started {iso(record.started)}, "
        f"{duration(record.seconds or 0.0)}.",
        "",
        _row(head),
        _row(["---"] * len(head)),
    ]
    for name, image in record.images.items():
        cells = [_cell(image.stages[stage]) if stage in image.stages else "" for stage in stages]
        lines.append(_row([f"**{name}**", _code(image.version), _code(image.root_hash), *cells]))
    for name, image in record.images.items():
        for stage, found in image.stages.items():
            if found.status == "failed":
                lines += _failure(f"{name} {stage}", found, folder)
    return "\n".join([*lines, "", ""])


def _failure(title: str, found: StageRecord, folder: Path) -> list[str]:
    tail = tail_of(folder / found.log) if found.log else ()
    lines = ["", f"### {title} failed", "", *_fenced(found.error.splitlines())]
    if found.hint:
        lines += ["", found.hint]
    if tail:
        lines += [
            "", "<details><summary>The end of its log</summary>", "",
            *_fenced(tail), "", "</details>",
        ]  # fmt: skip
    return lines


def _fenced(lines: tuple[str, ...] | list[str]) -> list[str]:
    """Lines as they are: the fence is longer than any row of backticks among them."""
    longest = max((len(run) for line in lines for run in _ticks(line)), default=0)
    fence = "`" * max(3, longest + 1)
    return [f"{fence}text", *lines, fence]


def _ticks(line: str) -> list[str]:
    return "".join(c if c == "`" else " " for c in line).split()


def _cell(found: StageRecord) -> str:
    text = _MARKS[found.status]
    if found.status in ("done", "failed", "interrupted") and found.seconds is not None:
        text += f" {duration(found.seconds)}"
    more = found.error if found.status == "skipped" else found.note
    return f"{text}: {more}" if more else text


def _code(text: str) -> str:
    return f"`{text}`" if text else ""


def _row(cells: list[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"
