"""What ``images/channels.yaml`` says: the channels in order, their gates, and how they roll out."""

from __future__ import annotations

import difflib
import re
from itertools import pairwise
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, Field, ValidationInfo, WithJsonSchema

from pipeline.errors import UsageError
from pipeline.models.fields import (
    DeepProblems,
    Duration,
    ImageName,
    Label,
    Model,
    Size,
    WholeNumber,
    bare_number,
    distinct,
    format_duration,
    refuse,
    refuse_entries,
    repeated,
    shown,
)

RESERVED = ("root", "targets", "snapshot", "timestamp", "online", "builder", "tester")
"""Names of roles that no channel can have."""

_PERCENT = re.compile(r"(\d+(?:\.\d+)?)\s*%")
_HOUR = 3600.0
_DAY = 24 * _HOUR


def _share(value: object, info: ValidationInfo) -> float:
    if isinstance(value, int | float) and bare_number(value, info) and 0 < value <= 1:
        return float(value)
    match = _PERCENT.fullmatch(value.strip()) if isinstance(value, str) else None
    if match is None or not 0 < float(match[1]) <= 100:
        refuse(f"expected a share such as 1% or 100%, got {shown(value)}")
    return float(match[1]) / 100


Share = Annotated[
    float,
    BeforeValidator(_share),
    WithJsonSchema({"type": "string", "pattern": r"^\d+(\.\d+)?\s*%$", "examples": ["1%", "100%"]}),
]


class Wave(Model):
    """One step of a rollout."""

    share: Share = Field(description="Of all devices, those of the waves before included.")
    soak: Duration = Field(
        default=0.0,
        description="Time from its opening until the next wave opens by itself; needed in each "
        "wave but the last.",
        json_schema_extra={"default": "0s"},
    )


def check_waves(waves: tuple[Wave, ...]) -> tuple[Wave, ...]:
    """Check that shares grow, and end with all devices."""
    if not waves or waves[-1].share != 1.0:
        refuse("expected the last wave to have the share 100%: it is what brings it to all")
    for index, (before, after) in enumerate(pairwise(waves), start=1):
        if after.share <= before.share:
            text = "expected a larger share than that of the wave before it, which it includes"
            refuse_entries([((index, "share"), text)])
    return waves


Waves = Annotated[tuple[Wave, ...], AfterValidator(check_waves)]
ALL_AT_ONCE: tuple[Wave, ...] = (Wave(share=1.0),)


def check_steps(waves: tuple[Wave, ...]) -> tuple[Wave, ...]:
    """Check that each wave but the last is given a time of its own.

    What was signed before is not measured by it; it is for what a person writes.
    """
    problems: DeepProblems = []
    for index, wave in enumerate(waves[:-1]):
        if not wave.soak:
            text = "expected some time: without it the next wave opens in the same moment"
            problems.append(((index, "soak"), text))
    if waves[-1].soak:
        text = "no wave comes after the last one: a soak is the time until the next wave opens"
        problems.append(((len(waves) - 1, "soak"), text))
    refuse_entries(problems)
    return waves


def _free_name(name: str) -> str:
    if name in RESERVED:
        refuse(f"no channel can be called {shown(name)}: it is the name of a role")
    if name == "last" or name.isdigit():
        refuse(f"no channel can be called {shown(name)}: `recast log` takes it for a run")
    return name


def _at_least(shortest: float, why: str) -> AfterValidator:
    def check(seconds: float) -> float:
        if seconds < shortest:
            refuse(f"expected at least {format_duration(shortest)}: {why}")
        return seconds

    return AfterValidator(check)


_Lifetime = Annotated[Duration, _at_least(1.0, "it would have expired when it is signed")]


class Gates(Model):
    """What a release must fulfil to enter a channel.

    Not listed because nobody can switch them off: the release is not revoked, is not older than
    what the channel has (rollbacks aside), and is no dirty build unless the channel is the first.
    """

    tests: Annotated[tuple[Label, ...], AfterValidator(distinct)] = Field(
        default=("qemu",), description="Providers on which its tests must have passed."
    )
    soak: Duration = Field(
        default=0.0,
        description="Minimum time in the channel before.",
        json_schema_extra={"default": "0s"},
    )
    approvals: WholeNumber = Field(
        default=1, ge=1, le=16, description="Signatures of different keys that a change needs."
    )
    max_package_changes: WholeNumber | None = Field(
        default=None,
        ge=0,
        description="Packages added, removed or changed since what the channel has, at most.",
    )
    max_growth: Size | None = Field(
        default=None, description="Bytes that a machine stores more than of the release before."
    )
    wire_budget: Size | None = Field(
        default=None,
        description="Bytes that a machine which runs what the channel has downloads at most: "
        "root and boot file together, each in the cheapest way there is.",
    )


class ChannelDefinition(Model):
    """A named pointer to releases, and what it takes to get into it."""

    name: Annotated[Label, AfterValidator(_free_name)] = Field(
        description="What commands and sites call it; devices follow a channel by its name."
    )
    description: str = Field(default="", max_length=200, description="For people.")
    gates: Gates = Field(
        default_factory=Gates, description="What a release must fulfil to enter it."
    )
    deltas: WholeNumber = Field(
        default=2,
        ge=0,
        le=16,
        description="Releases that it held before, besides what it holds and what its machines "
        "report: machines that run one of them are sent what is new alone.",
    )
    waves: Annotated[Waves, AfterValidator(check_steps)] = Field(
        default=ALL_AT_ONCE,
        description="How a release spreads over devices; to all at once when not given.",
        json_schema_extra={"default": [{"share": "100%"}]},
    )


class Retention(Model):
    """What `recast gc` leaves in the store."""

    keep: WholeNumber = Field(
        default=5,
        ge=1,
        le=100,
        description="Earlier releases of each image that a channel can be rolled back to.",
    )
    grace: Annotated[
        Duration, _at_least(_HOUR, "what is being published right now must not go")
    ] = Field(
        default=7 * _DAY,
        description="Age from which on a release that no channel holds may go.",
        json_schema_extra={"default": "7d"},
    )


class Expiry(Model):
    """How long signed metadata is good for.

    A short time bounds how long somebody who holds back news can keep a site on old metadata; a
    long one is needed where people must come together to sign.
    """

    root: _Lifetime = Field(
        default=365 * _DAY,
        description="Signed offline by several people: once a year they meet, and practise it.",
        json_schema_extra={"default": "365d"},
    )
    targets: _Lifetime = Field(
        default=365 * _DAY,
        description="Names the channels' keys; as rare as the root.",
        json_schema_extra={"default": "365d"},
    )
    channel: _Lifetime = Field(
        default=180 * _DAY,
        description="A quiet channel is confirmed twice a year by those who answer for it.",
        json_schema_extra={"default": "180d"},
    )
    snapshot: _Lifetime = Field(
        default=14 * _DAY,
        description="Signed online by `recast refresh`; twice the timestamp's, so that one "
        "failing job never expires both at once.",
        json_schema_extra={"default": "14d"},
    )
    timestamp: _Lifetime = Field(
        default=7 * _DAY,
        description="The longest that news can be held back from a site, and that the job which "
        "runs `recast refresh` may fail unnoticed.",
        json_schema_extra={"default": "7d"},
    )


def _default_channels() -> tuple[ChannelDefinition, ...]:
    return tuple(ChannelDefinition(name=name) for name in ("dev", "candidate", "stable"))


def _check_order(channels: tuple[ChannelDefinition, ...]) -> tuple[ChannelDefinition, ...]:
    names = [channel.name for channel in channels]
    problems: DeepProblems = [((place, "name"), text) for place, text in repeated(names)]
    if channels[0].gates.soak:
        text = f"{channels[0].name} is the first channel: there is none before it to wait in"
        problems.append(((0, "gates", "soak"), text))
    refuse_entries(problems)
    return channels


class Channels(Model):
    """The channels of a project, in the order in which a release goes through them."""

    channels: Annotated[tuple[ChannelDefinition, ...], AfterValidator(_check_order)] = Field(
        default_factory=_default_channels,
        min_length=1,
        max_length=16,
        description="In the order in which a release goes through them; `dev`, `candidate` and "
        "`stable` when not given.",
    )
    retention: Retention = Field(
        default_factory=Retention, description="What `recast gc` leaves, and how long."
    )
    expiry: Expiry = Field(
        default_factory=Expiry, description="How long signed metadata is good for."
    )
    images: Annotated[tuple[ImageName, ...], AfterValidator(distinct)] | None = Field(
        default=None, description="Images that are published; all when not given."
    )

    @property
    def names(self) -> tuple[str, ...]:
        """The channels' names, in order."""
        return tuple(channel.name for channel in self.channels)

    @property
    def first(self) -> ChannelDefinition:
        """The channel that `recast run` publishes into."""
        return self.channels[0]

    def __getitem__(self, name: str) -> ChannelDefinition:
        """One channel.

        Raises:
            UsageError: there is no such channel; the hint names near ones.
        """
        found = next((channel for channel in self.channels if channel.name == name), None)
        if found is None:
            near = difflib.get_close_matches(name, self.names, n=1)
            meant = f"Did you mean `{near[0]}`? " if near else ""
            raise UsageError(
                f"there is no channel `{name}`",
                hint=f"{meant}Channels here, in order: {', '.join(self.names)}.",
            )
        return found

    def __contains__(self, name: object) -> bool:
        return name in self.names

    def before(self, name: str) -> ChannelDefinition | None:
        """The channel from which releases come into *name*; None for the first.

        Raises:
            UsageError: there is no such channel.
        """
        place = self.channels.index(self[name])
        return self.channels[place - 1] if place else None

    def after(self, name: str) -> ChannelDefinition | None:
        """The channel into which releases go from *name*; None for the last.

        Raises:
            UsageError: there is no such channel.
        """
        place = self.channels.index(self[name]) + 1
        return self.channels[place] if place < len(self.channels) else None
