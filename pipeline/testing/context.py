"""What the process that runs the tests is told about the machine: one JSON file."""

from __future__ import annotations

import os
from pathlib import Path

from pydantic import Field

from pipeline import ssh
from pipeline.errors import UsageError
from pipeline.files import write_atomically
from pipeline.models.fields import Record
from pipeline.models.image import ImageDefinition
from pipeline.models.release import Release

VARIABLE = "RECAST_TEST_CONTEXT"
"""The environment variable that holds the file's path."""


class Context(Record):
    """A machine under test, and what it should be."""

    release: Release
    definition: ImageDefinition
    provider: str
    boot_seconds: float | None = Field(
        description="From power-on to healthy; none when it was not healthy in time."
    )
    host: str
    port: int
    user: str
    key: Path
    known_hosts: Path
    control: Path | None
    ssh_config: Path

    @property
    def target(self) -> ssh.SshTarget:
        """The way into the machine."""
        return ssh.SshTarget(
            self.host, self.port, self.user, self.key, self.known_hosts, self.control
        )


def prepare(
    folder: Path,
    release: Release,
    definition: ImageDefinition,
    provider: str,
    boot_seconds: float | None,
    target: ssh.SshTarget,
) -> Path:
    """Write the context and its ssh_config into *folder*; return the context's path.

    Raises:
        DiskFullError: no space is left.
    """
    config = folder / "ssh_config"
    write_atomically(config, target.config(), mode=0o600)
    # With all that it inherits it stands on the distribution itself; a file may not say both.
    whole = definition.model_copy(update={"from_": None}) if definition.release else definition
    context = Context(
        release=release,
        definition=whole,
        provider=provider,
        boot_seconds=boot_seconds,
        host=target.host,
        port=target.port,
        user=target.user,
        key=target.key,
        known_hosts=target.known_hosts,
        control=target.control,
        ssh_config=config,
    )
    path = folder / "context.json"
    write_atomically(path, context.model_dump_json(by_alias=True), mode=0o600)
    return path


def load() -> Context:
    """The context of this process.

    Raises:
        UsageError: there is none: these tests run in `recast test`.
    """
    path = os.environ.get(VARIABLE)
    if not path:
        raise UsageError(
            "there is no machine to test",
            hint="Run the tests of an image with `recast test IMAGE`, which boots one.",
        )
    return Context.model_validate_json(Path(path).read_text())
