"""An image definition: what ``images/<image>/image.yaml`` says, checked and immutable.

The models hold what a file says and the rules that one file can break; rules between files
(parents, folders) are checked where files are read, in :mod:`pipeline.definitions`.
:class:`Catalog` holds all images of a project: their order, and what each inherits.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, ConfigDict, Field, model_validator

from pipeline.errors import DefinitionError, UsageError
from pipeline.files import format_size
from pipeline.models import rules
from pipeline.models.fields import (
    AbsolutePath,
    DistributionName,
    ElementName,
    FileMode,
    ImageName,
    Label,
    Model,
    PackageName,
    RelativePath,
    ReleaseName,
    Size,
    WholeNumber,
    distinct,
    refuse,
    refuse_entries,
    repeated,
)

MIB = 1 << 20

ESP_SLACK = 16 * MIB
"""Bytes that the ESP needs beside two UKIs: the boot loader, its entries, FAT itself."""


def _command(argv: tuple[str, ...]) -> tuple[str, ...]:
    if not argv or not argv[0]:
        refuse("expected a program and its arguments")
    return argv


class FileEntry(Model):
    """A file that is put into the root."""

    path: AbsolutePath = Field(
        description="Where it stands in the root.", examples=["/etc/nginx/conf.d/site.conf"]
    )
    content: str | None = Field(
        default=None, description="Its text. Give this or `source`.", examples=["hello\n"]
    )
    source: RelativePath | None = Field(
        default=None,
        description="A file in the image's folder, relative to it. Give this or `content`.",
        examples=["files/site.conf"],
    )
    mode: FileMode = Field(default="0644", description="Octal permission bits, in quotes.")

    @model_validator(mode="after")
    def _one_origin(self) -> Self:
        if (self.content is None) == (self.source is None):
            what = "neither" if self.content is None else "both"
            refuse(f"expected either `content` or `source`, got {what}")
        return self

    @property
    def permissions(self) -> int:
        """The permission bits as a number."""
        return int(self.mode, 8)


class HealthCheck(Model):
    """A command that must succeed after a boot before the boot counts as good."""

    name: Label = Field(description="Names it in reports.", examples=["http-answers"])
    command: Annotated[tuple[str, ...], AfterValidator(_command)] = Field(
        description="The program and its arguments; no shell is involved.",
        examples=[["curl", "-fsS", "http://localhost/"]],
    )
    timeout: WholeNumber = Field(default=30, ge=1, le=3600, description="Seconds that it may take.")


class Tests(Model):
    """Which tests prove the image, and where they run."""

    __test__ = False  # not a test class, whatever pytest makes of the name

    path: RelativePath = Field(
        default="tests", description="Folder of testinfra tests, relative to the image's folder."
    )
    providers: Annotated[tuple[Label, ...], AfterValidator(distinct)] = Field(
        default=("qemu",),
        min_length=1,
        description="Where they run; each must pass.",
        examples=[["qemu"]],
    )
    boot_deadline: WholeNumber = Field(
        default=300, ge=1, le=7200, description="Seconds from power-on to healthy."
    )
    memory: WholeNumber = Field(
        default=1024, ge=256, le=1 << 20, description="Memory of the test machine in MiB."
    )


class Budget(Model):
    """The largest sizes that a build may reach; a larger result fails the build."""

    root: Size = Field(
        default=1536 * MIB,
        description="The root file system.",
        json_schema_extra={"default": "1536MiB"},
    )
    uki: Size = Field(
        default=128 * MIB,
        description="The UKI: kernel, initrd, command line.",
        json_schema_extra={"default": "128MiB"},
    )
    esp: Size = Field(
        default=512 * MIB,
        description="The ESP; it must hold two UKIs and 16 MiB besides, for an update in place.",
        json_schema_extra={"default": "512MiB"},
    )

    @model_validator(mode="after")
    def _two_ukis(self) -> Self:
        needed = 2 * self.uki + ESP_SLACK
        if self.esp < needed:
            text = (
                f"expected at least {format_size(needed)} (two UKIs of {format_size(self.uki)} "
                f"and {format_size(ESP_SLACK)} besides), got {format_size(self.esp)}"
            )
            refuse_entries([("esp", text)])
        return self


def _file_entries(entries: tuple[FileEntry, ...]) -> tuple[FileEntry, ...]:
    rules.file_paths([entry.path for entry in entries])
    return entries


def _distinct_names(checks: tuple[HealthCheck, ...]) -> tuple[HealthCheck, ...]:
    refuse_entries(repeated([check.name for check in checks]))
    return checks


_VariableName = Annotated[str, AfterValidator(rules.variable_name)]
_VariableValue = Annotated[str, AfterValidator(rules.variable_value)]
_Argument = Annotated[str, AfterValidator(rules.kernel_argument)]
_PersistPath = Annotated[AbsolutePath, AfterValidator(rules.persist_path)]
_Packages = Annotated[tuple[PackageName, ...], AfterValidator(distinct)]
_Elements = Annotated[tuple[ElementName, ...], AfterValidator(distinct)]


def _schema_forms(schema: dict[str, Any]) -> None:
    """Tell editors that an image has either a distribution and its release, or a parent."""
    base = {"required": ["distribution", "release"], "not": {"required": ["from"]}}
    child = {
        "required": ["from"],
        "not": {"anyOf": [{"required": ["distribution"]}, {"required": ["release"]}]},
    }
    schema["oneOf"] = [base, child]


class ImageDefinition(Model):
    """One image: what it is made of, what persists, how it is proven.

    An image stands on a distribution's release, or on another image (``from``). What it
    lists then comes on top of what its parent has.
    """

    model_config = ConfigDict(json_schema_extra=_schema_forms)

    name: ImageName = Field(
        description="The image's name; its folder has the same.", examples=["edge-web"]
    )
    description: str = Field(default="", description="One sentence for people.")
    arch: Literal["amd64"] = Field(default="amd64", description="The processor architecture.")
    distribution: DistributionName | None = Field(
        default=None,
        description="The distribution of a base image, in diskimage-builder's words.",
        examples=["debian", "ubuntu"],
    )
    release: ReleaseName | None = Field(
        default=None,
        description="The distribution's release.",
        examples=["trixie", "bookworm", "noble"],
    )
    from_: ImageName | None = Field(
        default=None,
        validation_alias="from",
        serialization_alias="from",
        description="The parent image, instead of distribution and release.",
        examples=["edge-base"],
    )
    elements: _Elements = Field(
        default=(),
        description="diskimage-builder elements: its own, or yours in images/elements.",
        examples=[["openssh-server"]],
    )
    packages: _Packages = Field(
        default=(),
        description="Packages to install, by the distribution's names.",
        examples=[["nginx-light", "curl"]],
    )
    environment: Mapping[_VariableName, _VariableValue] = Field(
        default_factory=dict,
        description="Variables for diskimage-builder and its elements; DIB_… only.",
        examples=[{"DIB_APT_MINIMAL_CREATE_INTERFACES": "0"}],
    )
    kernel_arguments: Annotated[tuple[_Argument, ...], AfterValidator(rules.kernel_arguments)] = (
        Field(
            default=(),
            description="Added to the kernel's command line.",
            examples=[["console=ttyS0", "quiet"]],
        )
    )
    files: Annotated[tuple[FileEntry, ...], AfterValidator(_file_entries)] = Field(
        default=(), description="Files that are put into the root."
    )
    persist: Annotated[tuple[_PersistPath, ...], AfterValidator(rules.persist_paths)] = Field(
        default=(),
        description="Folders that live on the data partition and survive reboots and updates.",
        examples=[["/var/lib/app"]],
    )
    health: Annotated[tuple[HealthCheck, ...], AfterValidator(_distinct_names)] = Field(
        default=(), description="What must succeed after a boot."
    )
    tests: Tests = Field(default_factory=Tests, description="Tests, and where they run.")
    budget: Budget = Field(default_factory=Budget, description="Size limits that a build enforces.")
    outputs: tuple[Literal["qcow2"], ...] = Field(
        default=(), description="Containers to make beside the raw disk.", examples=[["qcow2"]]
    )

    @model_validator(mode="after")
    def _one_foundation(self) -> Self:
        own = {"distribution": self.distribution, "release": self.release}
        given = [key for key, value in own.items() if value is not None]
        if self.from_ is not None:
            refuse_entries(
                [(key, "not together with `from`: the parent decides it") for key in given]
            )
        elif not given:
            refuse("expected `distribution` and `release`, or `from` with a parent image")
        elif len(given) == 1:
            missing = next(key for key in own if key not in given)
            refuse_entries([(missing, f"missing; `{given[0]}` needs it")])
        return self

    @property
    def is_base(self) -> bool:
        """Does it stand on a distribution, rather than on another image?"""
        return self.from_ is None


def _layered(below: ImageDefinition, own: ImageDefinition) -> ImageDefinition:
    """*own* with what it inherits from its resolved parent *below*."""
    replaced = {check.name: check for check in own.health}
    inherited_checks = {check.name for check in below.health}
    health: tuple[HealthCheck, ...] = (
        *(replaced.get(check.name, check) for check in below.health),
        *(check for check in own.health if check.name not in inherited_checks),
    )
    repeated_arguments = set(own.kernel_arguments)  # the last one counts on a command line
    return own.model_copy(
        update={
            "arch": below.arch,
            "distribution": below.distribution,
            "release": below.release,
            "elements": tuple(dict.fromkeys((*below.elements, *own.elements))),
            "packages": tuple(dict.fromkeys((*below.packages, *own.packages))),
            "environment": {**below.environment, **own.environment},
            "kernel_arguments": (
                *(each for each in below.kernel_arguments if each not in repeated_arguments),
                *own.kernel_arguments,
            ),
            "persist": tuple(dict.fromkeys((*below.persist, *own.persist))),
            "health": health,
        }
    )


@dataclass(frozen=True)
class Catalog:
    """All images of a project, parents before children.

    Attributes:
        images: the definitions by name, as their files say.
        folders: each image's folder.

    Raises:
        DefinitionError: a parent is not there, or images are each other's parents.
    """

    images: Mapping[str, ImageDefinition]
    folders: Mapping[str, Path]

    def __post_init__(self) -> None:
        parents = {name: image.from_ for name, image in self.images.items()}
        for name, parent in sorted(parents.items()):
            if parent is not None and parent not in parents:
                raise DefinitionError(f"image {name}: its parent `{parent}` does not exist")
        for cycle in rules.find_cycles(parents):
            raise DefinitionError(f"a cycle of parents: {' → '.join((*cycle, cycle[0]))}")
        ordered = sorted(parents, key=lambda name: (len(self.ancestors(name)), name))
        images = {name: self.images[name] for name in ordered}
        object.__setattr__(self, "images", MappingProxyType(images))
        object.__setattr__(self, "folders", MappingProxyType(dict(self.folders)))

    def __getitem__(self, name: str) -> ImageDefinition:
        """The definition of one image, as its file says.

        Raises:
            UsageError: there is no such image; the hint names near ones.
        """
        try:
            return self.images[name]
        except KeyError:
            near = difflib.get_close_matches(name, self.images, n=1)
            known = ", ".join(sorted(self.images)) or "none"
            hint = f"Did you mean `{near[0]}`? " if near else ""
            raise UsageError(
                f"there is no image `{name}`", hint=f"{hint}Images here: {known}."
            ) from None

    def __contains__(self, name: object) -> bool:
        return name in self.images

    def __iter__(self) -> Iterator[str]:
        return iter(self.images)

    def __len__(self) -> int:
        return len(self.images)

    def order(self) -> list[str]:
        """All names, parents before children; images of one depth in alphabetical order."""
        return list(self.images)

    def ancestors(self, name: str) -> list[str]:
        """The parents of *name*, the base image first, without *name* itself.

        Raises:
            UsageError: there is no such image.
        """
        found: list[str] = []
        parent = self[name].from_
        while parent is not None:
            found.append(parent)
            parent = self.images[parent].from_
        return found[::-1]

    def descendants(self, name: str) -> list[str]:
        """The images that stand on *name*, directly or not, parents first.

        Raises:
            UsageError: there is no such image.
        """
        found = {self[name].name}
        for other, image in self.images.items():
            if image.from_ in found:
                found.add(other)
        return [other for other in self.images if other in found and other != name]

    def resolved(self, name: str) -> ImageDefinition:
        """The definition with what it inherits.

        From its ancestors come distribution, release and architecture; elements, packages,
        environment, kernel arguments, persisting paths and health checks are theirs first, then
        its own. What is said twice counts once: a variable's or a health check's last word, a
        kernel argument's last place. Files, tests, budget and outputs stay the image's own:
        a parent's files are in its tree already. ``from_`` stays as well, so a resolved
        definition tells base from child, and has a distribution and a parent both.

        Raises:
            UsageError: there is no such image.
        """
        result: ImageDefinition | None = None
        for each in (*self.ancestors(name), name):
            own = self.images[each]
            result = own if result is None else _layered(result, own)
        assert result is not None
        return result
