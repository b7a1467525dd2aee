"""A project whose store is an S3 server: from its keys to its third channel, by its commands."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Any

import pytest

from pipeline import command
from pipeline.cli.main import main
from pipeline.store.s3 import S3Store
from pipeline.trust.client import TrustClient
from tests.fakes.stored import store_whole
from tests.integration.moto_s3 import aws, bucket, moto_client, moto_url
from tests.integration.swift import swift_client, swift_url

__all__ = ["aws", "bucket", "moto_client", "moto_url", "swift_client", "swift_url"]

DEFINITION = "name: edge-web\ndistribution: debian\nrelease: trixie\n"


@pytest.fixture
def project(tmp_path: Path, aws: None, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with one image, and a tested release of it in its artifacts."""
    folder = tmp_path / "project"
    (folder / "images" / "edge-web" / "tests").mkdir(parents=True)
    (folder / "images" / "edge-web" / "tests" / "test_it.py").write_text("def test_it(): pass\n")
    (folder / "images" / "edge-web" / "image.yaml").write_text(DEFINITION)
    (folder / ".gitignore").write_text("artifacts/\n")
    git = ["git", "-C", str(folder), "-c", "user.name=ci", "-c", "user.email=ci@localhost"]
    for words in (["init", "--quiet"], ["add", "."], ["commit", "--quiet", "--message", "images"]):
        command.run([*git, *words])
    for name in ("RECAST_STORE", "RECAST_KEYS", "RECAST_ROOT", "RECAST_ARTIFACTS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("RECAST_PROJECT", str(folder))
    return folder


def configure(project: Path, bucket: str, endpoint: str, *more: str) -> None:
    lines = [f"url: s3://{bucket}/releases", f"endpoint: {endpoint}", "region: us-east-1", *more]
    text = "store:\n" + "".join(f"  {line}\n" for line in lines)
    (project / "images" / "settings.yaml").write_text(text)


def go_through_the_channels(
    project: Path, store: S3Store, capsys: pytest.CaptureFixture[str]
) -> None:
    """Make keys, publish, promote twice, and look as a site does."""
    assert main(["init", "--no-passphrase"]) == 0, capsys.readouterr().err
    assert "images/root.json" in capsys.readouterr().out, "others share this store"
    local = store_whole(project / "artifacts")
    assert main(["publish"]) == 0, capsys.readouterr().err
    site = TrustClient(
        store, project.parent / "site", (project / "images" / "root.json").read_bytes()
    )
    for channel in ("candidate", "stable"):
        assert main(["promote", "edge-web", "--to", channel]) == 0, capsys.readouterr().err
        assert site.check()
        release = site.pointer(channel, "edge-web").release
        assert release is not None
        assert release.root_hash == local.release.root_hash
    assert not site.check()
    assert main(["refresh"]) == 0
    assert main(["gc", "--dry-run"]) == 0
    capsys.readouterr()
    assert main(["log", "stable"]) == 0
    assert f"promote edge-web {local.release.version}, by stable" in capsys.readouterr().out


def test_on_a_server_that_keeps_writers_apart(
    project: Path,
    moto_client: Any,
    moto_url: str,
    bucket: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    configure(project, bucket, moto_url)
    go_through_the_channels(project, S3Store(bucket, "releases", client=moto_client), capsys)


def test_on_a_server_that_does_not_only_if_nobody_else_writes(
    project: Path,
    swift_client: Any,
    swift_url: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test:tester")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
    name = f"recast-{uuid.uuid4().hex[:12]}"
    swift_client.create_bucket(Bucket=name)
    store = S3Store(name, "releases", client=swift_client)
    configure(project, name, swift_url)
    assert main(["init", "--no-passphrase"]) == 4
    refused = capsys.readouterr().err
    assert "single_writer: true" in refused
    assert list(store.list()) == [], "nothing was written, and no probe is left"

    configure(project, name, swift_url, "single_writer: true")
    go_through_the_channels(project, store, capsys)
