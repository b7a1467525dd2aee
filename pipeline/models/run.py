"""The record of one run: what was asked, how far each image came, and why it ended there."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

StageStatus = Literal["waiting", "running", "done", "cached", "failed", "skipped", "interrupted"]
RunOutcome = Literal["running", "passed", "failed", "interrupted"]

FINISHED: frozenset[StageStatus] = frozenset({"done", "cached"})
"""States in which a stage's result is there."""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Process(_Frozen):
    """One process on one machine, never mistaken for a later one with the same number."""

    pid: int
    ticks: int = Field(description="its start, in clock ticks since the machine booted")
    boot: str = Field(description="the boot id of the machine's kernel")


class StageRecord(_Frozen):
    """How far one stage of one image came.

    ``skipped`` is a stage that something before it made pointless, or that was not asked for;
    *error* says which.
    """

    status: StageStatus = "waiting"
    started: datetime | None = None
    seconds: float | None = Field(default=None, description="from its start to its end")
    log: str = Field(default="", description="its log file's name in the run's folder")
    error: str = ""
    hint: str = ""
    note: str = Field(default="", description="what it came to, in a few words")


class ImageRun(_Frozen):
    """One image in one run."""

    action: Literal["build", "unchanged"]
    reasons: tuple[str, ...] = ()
    build_key: str = ""
    version: str = Field(default="", description="of its release, once there is one")
    root_hash: str = ""
    stages: dict[str, StageRecord] = {}

    @property
    def status(self) -> StageStatus:
        """The image's state in one word: its most telling stage."""
        found = [stage.status for stage in self.stages.values()]
        order: tuple[StageStatus, ...] = ("failed", "interrupted", "running", "waiting", "done")
        for status in order:
            if status in found:
                return status
        return "cached" if "cached" in found or not found else "skipped"


class RunRecord(_Frozen):
    """One run, kept in ``artifacts/runs/<id>/run.json`` and rewritten at each step."""

    format: Literal[1] = 1
    id: str
    started: datetime
    finished: datetime | None = None
    commit: str
    version: str = Field(description="the version that this run gives to what it builds")
    command: str = "run"
    process: Process
    images: dict[str, ImageRun] = {}
    outcome: RunOutcome = "running"
    exit_code: int | None = None

    @property
    def seconds(self) -> float | None:
        """Its length; None while it runs, and if it was killed."""
        return None if self.finished is None else (self.finished - self.started).total_seconds()

    def with_stage(self, image: str, stage: str, record: StageRecord) -> RunRecord:
        """The same record with one stage's part replaced."""
        old = self.images[image]
        new = old.model_copy(update={"stages": {**old.stages, stage: record}})
        return self.model_copy(update={"images": {**self.images, image: new}})

    def abandoned(self) -> RunRecord:
        """What the record of a killed process means: whatever had not ended was interrupted."""
        images = {name: _stopped(image) for name, image in self.images.items()}
        return self.model_copy(update={"images": images, "outcome": "interrupted"})


def _stopped(image: ImageRun) -> ImageRun:
    stages = {
        name: stage.model_copy(update={"status": "interrupted", "error": "the run was killed"})
        if stage.status in ("running", "waiting")
        else stage
        for name, stage in image.stages.items()
    }
    return image.model_copy(update={"stages": stages})
