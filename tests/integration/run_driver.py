"""``recast``, with stages that start real programs and make real mounts, but no image.

Everything else is the real thing: the command line, the engine, signals, records, clean-up.
``DRIVER`` holds a JSON object: ``artifacts``, ``images`` (name → parent), and for the build stage
``program`` (argv), ``devices`` (mount a tmpfs and attach a loop device in the scratch folder),
``faults`` (image → fault), ``seconds``.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from pipeline import command
from pipeline.cli import carry_out
from pipeline.cli.context import Context
from pipeline.cli.main import main
from pipeline.command import Stop
from pipeline.engine.plan import Plan, PlannedImage
from pipeline.engine.stage import Stage, Work
from pipeline.models.settings import Settings
from tests.fakes.stage import FakeStage, plan_of, work_factory

CONFIG = json.loads(os.environ.get("DRIVER", "{}"))
ARTIFACTS = Path(CONFIG["artifacts"])


class CountingStage(FakeStage):
    """Notes what it really does in a file, and makes things that need undoing."""

    def _do(self, work: Work) -> None:
        with (ARTIFACTS / "calls").open("a") as file:
            file.write(f"{work.image} {self.name}\n")
        if not (self.name == "build" and CONFIG.get("devices")):
            return super()._do(work)
        mount, image = work.scratch / "a mount", work.scratch / "disk.img"
        mount.mkdir()
        image.write_bytes(b"\0" * (1 << 20))
        command.run(["mount", "-t", "tmpfs", "recast-test", str(mount)])
        command.run(["losetup", "--find", str(image)])
        (ARTIFACTS / "ready").touch()
        # Nothing here undoes them: the run's scratch folder does, however the run ends.
        return super()._do(work)


class DriverContext(Context):
    """A project of fake stages."""

    settings = Settings()

    def plan(
        self, *, only: Sequence[str] = (), since: str | None = None, refresh: bool = False
    ) -> Plan:
        return plan_of(CONFIG["images"])

    def make_work(self, planned: PlannedImage, plan: Plan, scratch: Path, stop: Stop) -> Work:
        return work_factory(self.artifacts)(planned, plan, scratch, stop)

    def build_stages(self) -> tuple[Stage, ...]:
        return (
            CountingStage(
                "build",
                program=CONFIG.get("program", ()),
                faults=CONFIG.get("faults", {}),
                seconds=CONFIG.get("seconds", 0.0),
            ),
            CountingStage("assemble"),
            CountingStage("scan"),
        )

    def test_stage(self, providers: Sequence[str] = ()) -> Stage:
        return CountingStage("test")


if __name__ == "__main__":
    ARTIFACTS.mkdir(parents=True, exist_ok=True)
    Context.find = classmethod(  # type: ignore[assignment,method-assign]
        lambda cls: DriverContext(ARTIFACTS.parent, ARTIFACTS)
    )
    vars(carry_out)["require_host"] = lambda **_: None
    sys.exit(main())
