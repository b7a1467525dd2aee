"""A release: one immutable, versioned result of a build, and what its tests said."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from pipeline.models.fields import (
    Commit,
    FileName,
    ImageName,
    Moment,
    Record,
    Sha256,
    Version,
    refuse,
)

FORMAT = 1
"""The format of manifests that this Recast writes, and the newest that it reads."""


def release_name(image: str, version: str, arch: str) -> str:
    """``<image>_<version>_<arch>``: the name of a release on files, in clouds, at boot."""
    return f"{image}_{version}_{arch}"


def _known_format(value: int) -> int:
    if not 1 <= value <= FORMAT:
        refuse(
            f"expected format {FORMAT} or older, got {value}: a newer Recast wrote this manifest"
        )
    return value


class Part(Record):
    """One file of a release."""

    file: FileName = Field(description="File name in the release's folder.")
    digest: Sha256 = Field(description="SHA-256 of the file's bytes, hexadecimal.")
    size: int = Field(ge=0, description="Bytes, holes of a sparse file counted.")


class Package(Record):
    """One package in the root."""

    name: str
    version: str
    architecture: str
    source: str = Field(
        default="",
        description="Source package, with its version in parentheses when that differs; empty "
        "when it has that name and version.",
    )


class Release(Record):
    """What the manifest of one release holds.

    The root hash is its identity: two releases with one root hash run the same bytes.
    """

    image: ImageName
    version: Version
    arch: Literal["amd64"] = "amd64"
    commit: Commit = Field(description="The git commit that it was built from.")
    dirty: bool = Field(default=False, description="Were there changes outside of that commit?")
    created: Moment = Field(description="The commit's time, never the build's.")
    build_key: str = Field(min_length=1)
    parent: str | None = Field(default=None, description="Name of the parent image's release.")
    root_hash: Sha256 = Field(description="dm-verity root hash, hexadecimal.")
    boot_digest: str = Field(
        min_length=1,
        description="Digest over kernel, initrd and command line without the release's name.",
    )
    definition_digest: str = Field(min_length=1)
    parts: Mapping[str, Part] = Field(
        description="By role: root, verity, uki, disk, sbom and, when asked for, qcow2."
    )
    packages: tuple[Package, ...] = ()
    tools: Mapping[str, str] = Field(
        default_factory=dict, description="Versions of what made it: recast, diskimage-builder, …"
    )
    kernel_arguments: tuple[str, ...] = ()
    format: Annotated[int, AfterValidator(_known_format)] = FORMAT

    @property
    def name(self) -> str:
        """``<image>_<version>_<arch>``."""
        return release_name(self.image, self.version, self.arch)


class Failure(Record):
    """One test that failed."""

    test: str = Field(description="The test's node id, as pytest prints it.")
    message: str = Field(description="What it asserted, and what it found.")
    console: str = Field(default="", description="The last lines of the machine's console.")


class TestVerdict(Record):
    """What the tests of one release said about it on one provider."""

    __test__ = False  # not a test class, whatever pytest makes of the name

    provider: str
    passed: bool
    root_hash: Sha256 = Field(description="The root hash that the machine itself reported.")
    tests: int = Field(ge=0, description="How many tests ran.")
    failures: tuple[Failure, ...] = ()
    seconds: float = Field(ge=0, description="From power-on to the end of the last test.")
    boot_seconds: float = Field(ge=0, description="From power-on to healthy.")
    tests_digest: str = Field(description="Digest of the tests that ran.")
    when: Moment
