"""Which store a URL means."""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import unquote, urlsplit

from pydantic import ValidationError

from pipeline.errors import UsageError
from pipeline.models.settings import StoreSettings
from pipeline.store.base import Reader, Store

_DEFAULT = "artifacts/store"
_KINDS = "A store is a folder, s3://BUCKET[/PREFIX], or, to read only, http(s)://…."


def open_store(settings: StoreSettings, project: Path, artifacts: Path) -> Store:
    """The store that releases are published to.

    Args:
        settings: which one; ``RECAST_STORE`` overrides its URL.
        project: what a relative path is relative to.
        artifacts: where ``store`` is if nothing else is configured.

    Raises:
        UsageError: the URL means no store, or one that can only be read.
    """
    url = _url(settings)
    if url == _DEFAULT:
        return _local(artifacts / "store")
    scheme = _scheme(url)
    if scheme in ("http", "https"):
        raise UsageError(
            f"the store {url} can only be read",
            hint="Name in `store:` of images/settings.yaml, or in RECAST_STORE, where it is "
            "written: a folder, or s3://BUCKET/PREFIX.",
        )
    if scheme == "s3":
        return _s3(url, settings.endpoint, settings.region)
    return _local(_folder(url, project))


def open_configured(settings: StoreSettings, project: Path, artifacts: Path) -> Reader:
    """The same store as :func:`open_store`'s, or one that can only be read.

    Raises:
        UsageError: the URL means no store.
    """
    url = _url(settings)
    if _scheme(url) in ("http", "https"):
        return open_reader(url)
    return open_store(settings, project, artifacts)


def open_reader(url: str) -> Reader:
    """The store at *url*, to read; a relative path is relative to the current folder.

    Raises:
        UsageError: the URL means no store.
    """
    scheme = _scheme(url)
    if scheme in ("http", "https"):
        from pipeline.store.http import HttpStore

        return HttpStore(url)
    return _s3(url, None, None) if scheme == "s3" else _local(_folder(url, Path.cwd()))


def _url(settings: StoreSettings) -> str:
    given = os.environ.get("RECAST_STORE", "")
    if not given:
        return settings.url
    try:
        return StoreSettings.model_validate({"url": given}).url
    except ValidationError as error:
        raise UsageError(
            f"RECAST_STORE: {error.errors(include_url=False)[0]['msg']}", hint=_KINDS
        ) from error


def _scheme(url: str) -> str:
    """The scheme in *url*; empty for a path."""
    scheme, separator, _ = url.partition("://")
    if separator and scheme not in ("file", "s3", "http", "https"):
        raise UsageError(f"{url} is no store that is known here", hint=_KINDS)
    return scheme if separator else ""


def _folder(url: str, relative_to: Path) -> Path:
    if _scheme(url) != "file":
        return relative_to / url
    parts = urlsplit(url)
    if parts.netloc not in ("", "localhost") or not parts.path.strip("/"):
        raise UsageError(
            f"{url} names no folder of this machine",
            hint="Three slashes are needed: file:///srv/store.",
        )
    return Path(unquote(parts.path))


def _local(folder: Path) -> Store:
    from pipeline.store.local import LocalStore

    return LocalStore(folder)


def _s3(url: str, endpoint: str | None, region: str | None) -> Store:
    bucket, _, prefix = url.removeprefix("s3://").partition("/")
    if not bucket:
        raise UsageError(f"{url} names no bucket", hint="Write s3://BUCKET or s3://BUCKET/PREFIX.")
    from pipeline.store.s3 import S3Store

    return S3Store(bucket, prefix.strip("/"), endpoint=endpoint, region=region)
