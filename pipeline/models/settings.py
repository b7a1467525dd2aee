"""What ``images/settings.yaml`` says: how builds and tests run here, not what they make."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from pipeline.models.fields import (
    Duration,
    Model,
    WholeNumber,
    refuse,
    shown,
)

_NAME = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
_URL = re.compile(r"(https?://[^/@\s]+(/\S*)?|(file|copy):(//)?/\S*)")
_STORE = re.compile(r"(file|s3|https?)://\S+|[^\s:]+")
_SECRET = re.compile(r"https?://[^/\s]*@")


def _name(name: str) -> str:
    if _NAME.fullmatch(name) is None:
        refuse("expected a name such as debian or debian-security")
    return name


def _url(url: str) -> str:
    if _SECRET.match(url):
        refuse("a URL here cannot hold a user or password: use apt's auth.conf")
    if _URL.fullmatch(url) is None:
        refuse(f"expected a URL with http, https, file or copy, got {shown(url)}")
    return url


_ArchiveName = Annotated[str, AfterValidator(_name)]
_Url = Annotated[str, AfterValidator(_url)]


def _store_url(url: str) -> str:
    if _STORE.fullmatch(url) is None:
        refuse(
            f"expected a folder, or a URL such as s3://bucket/prefix or https://…, got {shown(url)}"
        )
    if re.match(r"[a-z0-9]+://[^/\s]*@", url):
        refuse("a store's URL cannot hold a user or password: use the cloud's own configuration")
    return url


class StoreSettings(Model):
    """Where releases and signed metadata are published."""

    url: Annotated[str, AfterValidator(_store_url)] = Field(
        default="artifacts/store",
        description="A folder (relative to the project), s3://BUCKET[/PREFIX], or, to read only, "
        "http(s)://…. RECAST_STORE overrides it.",
    )
    endpoint: _Url | None = Field(default=None, description="URL of an S3 server that is not AWS.")
    region: str | None = Field(default=None, pattern=r"^[a-z0-9-]+$", description="S3 region.")
    single_writer: bool = Field(
        default=False,
        description="Nobody else ever writes to this store at the same time. Needed where a "
        "server cannot make a write depend on what is there.",
    )


class Settings(Model):
    """Settings of a project; every key has a default."""

    # Seconds, once read.
    archive_max_age: Duration = Field(
        default=86400.0,
        description="Age of the last look at the distribution's archive from which on a plan "
        "looks again.",
        json_schema_extra={"default": "24h"},
    )
    accel: Literal["auto", "kvm", "tcg"] = Field(
        default="auto",
        description="How test machines run: with KVM where it truly works, always, or never.",
    )
    jobs: WholeNumber | None = Field(
        default=None,
        ge=1,
        le=64,
        description="Images at work at once; by cores and memory when not given.",
    )
    mirror: Mapping[_ArchiveName, _Url] = Field(
        default_factory=dict,
        description="Package archives by distribution, security ones as `<name>-security`.",
        examples=[{"debian": "https://mirror.example/debian"}],
    )
    store: StoreSettings = Field(
        default=StoreSettings(), description="Where releases are published."
    )
