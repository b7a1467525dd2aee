"""What ``images/channels.yaml`` says: the channels in order, their gates, and how they roll out."""

from __future__ import annotations

import re
from itertools import pairwise
from typing import Annotated, Self

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    ValidationInfo,
    WithJsonSchema,
    model_validator,
)

from pipeline.models.fields import (
    Duration,
    ImageName,
    Label,
    Model,
    Size,
    WholeNumber,
    bare_number,
    distinct,
    refuse,
    shown,
)

RESERVED = ("root", "targets", "snapshot", "timestamp", "builder", "tester")
"""Names of roles that no channel can have."""

_PERCENT = re.compile(r"(\d+(?:\.\d+)?)\s*%")
_DAY = 86400.0


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
        default=0.0, description="Time from its opening until the next wave opens by itself."
    )


def check_waves(waves: tuple[Wave, ...]) -> tuple[Wave, ...]:
    """Check that shares grow, and end with all devices."""
    shares = [wave.share for wave in waves]
    if not shares or shares[-1] != 1.0:
        refuse("expected the last wave to have the share 100%")
    if any(after <= before for before, after in pairwise(shares)):
        refuse("expected each wave to have a larger share than the one before it")
    return waves


Waves = Annotated[tuple[Wave, ...], AfterValidator(check_waves)]
ALL_AT_ONCE: tuple[Wave, ...] = (Wave(share=1.0),)


class Gates(Model):
    """What a release must fulfil to enter a channel.

    Not listed because nobody can switch them off: the release is not revoked, is not older than
    what the channel has (rollbacks aside), and is no dirty build unless the channel is the first.
    """

    tests: Annotated[tuple[Label, ...], AfterValidator(distinct)] = Field(
        default=("qemu",), description="Providers on which its tests must have passed."
    )
    soak: Duration = Field(default=0.0, description="Minimum time in the channel before.")
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


class ChannelDefinition(Model):
    """A named pointer to releases, and what it takes to get into it."""

    name: Label
    description: str = Field(default="", max_length=200)
    gates: Gates = Gates()
    waves: Waves = Field(default=ALL_AT_ONCE, description="How a release spreads over devices.")


class Retention(Model):
    """What `recast gc` leaves in the store."""

    keep: WholeNumber = Field(
        default=5,
        ge=1,
        le=100,
        description="Earlier releases of each image that a channel can be rolled back to.",
    )
    grace: Duration = Field(
        default=7 * _DAY,
        description="Age from which on a release that no channel holds may go.",
        json_schema_extra={"default": "7d"},
    )


class Expiry(Model):
    """How long signed metadata is good for.

    A short time bounds how long somebody who holds back news can keep a site on old metadata; a
    long one is needed where people must come together to sign.
    """

    root: Duration = Field(
        default=365 * _DAY,
        description="Signed offline by several people: once a year they meet, and practise it.",
        json_schema_extra={"default": "365d"},
    )
    targets: Duration = Field(
        default=365 * _DAY,
        description="Names the channels' keys; as rare as the root.",
        json_schema_extra={"default": "365d"},
    )
    channel: Duration = Field(
        default=180 * _DAY,
        description="A quiet channel is confirmed twice a year by those who answer for it.",
        json_schema_extra={"default": "180d"},
    )
    snapshot: Duration = Field(
        default=14 * _DAY,
        description="Signed online by `recast refresh`; twice the timestamp's, so that one "
        "failing job never expires both at once.",
        json_schema_extra={"default": "14d"},
    )
    timestamp: Duration = Field(
        default=7 * _DAY,
        description="The longest that news can be held back from a site, and that the job which "
        "runs `recast refresh` may fail unnoticed.",
        json_schema_extra={"default": "7d"},
    )


def _default_channels() -> tuple[ChannelDefinition, ...]:
    return tuple(ChannelDefinition(name=name) for name in ("dev", "candidate", "stable"))


class Channels(Model):
    """The channels of a project, in the order in which a release goes through them."""

    channels: tuple[ChannelDefinition, ...] = Field(
        default_factory=_default_channels, min_length=1, max_length=16
    )
    retention: Retention = Retention()
    expiry: Expiry = Expiry()
    images: tuple[ImageName, ...] | None = Field(
        default=None, description="Images that are published; all when not given."
    )

    @model_validator(mode="after")
    def _names(self) -> Self:
        distinct(self.names)
        for name in self.names:
            if name in RESERVED:
                refuse(f"no channel can be called {name}: it is the name of a role")
        return self

    @property
    def names(self) -> tuple[str, ...]:
        """The channels' names, in order."""
        return tuple(channel.name for channel in self.channels)

    @property
    def first(self) -> ChannelDefinition:
        """The channel that `recast run` publishes into."""
        return self.channels[0]

    def __getitem__(self, name: str) -> ChannelDefinition:
        return next(channel for channel in self.channels if channel.name == name)

    def before(self, name: str) -> ChannelDefinition | None:
        """The channel from which releases come into *name*; None for the first."""
        place = self.names.index(name)
        return self.channels[place - 1] if place else None
