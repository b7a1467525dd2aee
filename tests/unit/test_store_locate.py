"""If these fail, releases go to another store than the one that was configured."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.errors import UsageError
from pipeline.models.settings import StoreSettings
from pipeline.store.http import HttpStore
from pipeline.store.local import LocalStore
from pipeline.store.locate import open_configured, open_reader, open_store

PROJECT, ARTIFACTS = Path("/project"), Path("/elsewhere/artifacts")


@pytest.fixture(autouse=True)
def quiet_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RECAST_STORE", raising=False)


def opened(url: str | None = None, **more: str) -> object:
    settings = StoreSettings.model_validate({"url": url, **more} if url else more)
    return open_store(settings, PROJECT, ARTIFACTS)


@pytest.mark.parametrize(
    ("url", "folder"),
    [
        (None, ARTIFACTS / "store"),
        ("artifacts/store", ARTIFACTS / "store"),
        ("somewhere/else", PROJECT / "somewhere/else"),
        ("/srv/store", Path("/srv/store")),
        ("file:///srv/store", Path("/srv/store")),
        ("file://localhost/srv/store", Path("/srv/store")),
        ("file:///srv/two%20words", Path("/srv/two words")),
    ],
)
def test_a_folder(url: str | None, folder: Path) -> None:
    store = opened(url)
    assert isinstance(store, LocalStore)
    assert store.folder == folder


def test_the_environment_goes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RECAST_STORE", "/from/the/environment")
    store = opened("s3://bucket")
    assert isinstance(store, LocalStore)
    assert store.folder == Path("/from/the/environment")
    monkeypatch.setenv("RECAST_STORE", "")
    store = opened()
    assert isinstance(store, LocalStore)
    assert store.folder == ARTIFACTS / "store"


@pytest.mark.parametrize("url", ["ftp://host/x", "two words", "s3://key:secret@bucket/x", "s3://"])
def test_nonsense_in_the_environment_is_told(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setenv("RECAST_STORE", url)
    with pytest.raises(UsageError, match=r"RECAST_STORE") as caught:
        opened()
    assert "s3://BUCKET" in caught.value.hint
    assert "secret" not in caught.value.message


@pytest.mark.parametrize("url", ["http://store.example/x", "https://store.example"])
def test_nothing_is_written_over_http(url: str) -> None:
    with pytest.raises(UsageError, match="can only be read") as caught:
        opened(url)
    assert "settings.yaml" in caught.value.hint
    reader = open_reader(url)
    assert isinstance(reader, HttpStore)
    assert reader.url == url
    reader.close()


def test_s3(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[tuple[object, ...]] = []

    class S3Store:
        def __init__(
            self, bucket: str, prefix: str = "", *, endpoint: str | None, region: str | None
        ) -> None:
            made.append((bucket, prefix, endpoint, region))

    monkeypatch.setattr("pipeline.store.s3.S3Store", S3Store)
    opened("s3://bucket")
    opened("s3://bucket/a/b/", endpoint="https://s3.example", region="eu-1")
    open_reader("s3://bucket/a")
    assert made == [
        ("bucket", "", None, None),
        ("bucket", "a/b", "https://s3.example", "eu-1"),
        ("bucket", "a", None, None),
    ]


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("file://host/srv", "no folder of this machine"),
        ("file:///", "no folder of this machine"),
        ("s3:///prefix", "no bucket"),
    ],
)
def test_half_a_url_is_told(url: str, words: str) -> None:
    with pytest.raises(UsageError, match=words) as caught:
        opened(url)
    assert caught.value.hint


def test_a_reader_of_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    LocalStore(tmp_path / "store").create("a", b"x")
    assert open_reader(str(tmp_path / "store")).get("a", limit=1) == b"x"
    assert open_reader(f"file://{tmp_path}/store").get("a", limit=1) == b"x"
    monkeypatch.chdir(tmp_path)
    assert open_reader("store").get("a", limit=1) == b"x"
    with pytest.raises(UsageError, match="no store that is known"):
        open_reader("ftp://host/x")


@pytest.mark.parametrize(
    "url",
    [
        "http://user@host/",
        "https://user:word@host/",
        "https://host/?x=y",
        "https://host/#x",
        "https:///x",
        "http://",
    ],
)
def test_the_url_of_a_web_server_is_plain(url: str) -> None:
    with pytest.raises(UsageError) as caught:
        open_reader(url)
    assert "word" not in caught.value.message


def test_a_local_store_costs_no_library_for_others() -> None:
    code = (
        "import sys; from pathlib import Path; from pipeline.store.locate import open_store; "
        "from pipeline.models.settings import StoreSettings; "
        "open_store(StoreSettings(), Path('/p'), Path('/a')); "
        "sys.exit(str([m for m in ('boto3', 'requests', 'tuf') if m in sys.modules] or ''))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr.strip() == ""


def test_where_reading_is_enough_a_web_server_will_do(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = StoreSettings()
    assert isinstance(open_configured(settings, PROJECT, ARTIFACTS), LocalStore)
    monkeypatch.setenv("RECAST_STORE", "https://releases.example/recast")
    with pytest.raises(UsageError, match="can only be read"):
        open_store(settings, PROJECT, ARTIFACTS)
    store = open_configured(settings, PROJECT, ARTIFACTS)
    assert isinstance(store, HttpStore)
    assert store.url == "https://releases.example/recast"
