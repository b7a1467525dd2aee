"""A run: which stages of which images ran, how each ended, and where its log is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from pydantic import Field

from pipeline.models.fields import Moment, Record

Status = Literal["waiting", "running", "done", "cached", "failed", "skipped", "interrupted"]
"""``cached``: an earlier result was used; ``skipped``: not run because something before failed."""

Outcome = Literal["running", "passed", "failed", "interrupted"]


class StageRecord(Record):
    """One stage of one image in a run."""

    status: Status = "waiting"
    seconds: float = Field(default=0.0, ge=0, description="How long it has run.")
    log: str = Field(default="", description="Its log's file name in the run's folder.")
    error: str = Field(default="", description="Why it failed, in a person's words.")


class RunRecord(Record):
    """What is kept of one run in ``artifacts/runs/<id>/run.json``."""

    id: str = Field(min_length=1)
    started: Moment
    finished: Moment | None = None
    commit: str
    version: str
    images: Mapping[str, Mapping[str, StageRecord]] = Field(
        default_factory=dict, description="By image, then by stage, in the order that they run."
    )
    outcome: Outcome = "running"

    def with_stage(self, image: str, stage: str, record: StageRecord) -> RunRecord:
        """This run with one stage's record put in or replaced."""
        images = {name: dict(stages) for name, stages in self.images.items()}
        images.setdefault(image, {})[stage] = record
        return self.model_copy(update={"images": images})
