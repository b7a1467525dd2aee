"""moto's S3 server, over real HTTP on loopback: it knows conditional writes.

What it does not do, and AWS does: it checks no checksum and no signature; it takes two steps for
a conditional write and for the completion of an upload; and it fails for an upload that has ended.
All but the first is mended here, so that it stands for a server that keeps writers apart.
"""

from __future__ import annotations

import os
import threading
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from pipeline.store.s3 import make_client

SECRETS = {
    "AWS_ACCESS_KEY_ID": "AKIAEXAMPLE",
    "AWS_SECRET_ACCESS_KEY": "a-secret-of-the-test",
}
CREDENTIALS = SECRETS | {
    "AWS_EC2_METADATA_DISABLED": "true",
    "AWS_CONFIG_FILE": "/dev/null",
    "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
}


@pytest.fixture(scope="session")
def moto_url() -> Iterator[str]:
    """The URL of a server that runs until the tests end."""
    from moto.s3 import models, responses
    from moto.server import ThreadedMotoServer

    lock = threading.Lock()
    patches = pytest.MonkeyPatch()
    for name in ("put_object", "_key_response_post"):  # the latter completes uploads
        patches.setattr(
            responses.S3Response, name, _one_at_a_time(getattr(responses.S3Response, name), lock)
        )
    for name in ("upload_part", "complete_multipart_upload"):
        patches.setattr(models.S3Backend, name, _of_an_upload(getattr(models.S3Backend, name)))
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        yield f"http://{host}:{port}"
    finally:
        server.stop()
        patches.undo()


def _one_at_a_time(method: Callable[..., Any], lock: threading.Lock) -> Callable[..., Any]:
    def locked(*args: Any) -> Any:
        with lock:
            return method(*args)

    return locked


def _of_an_upload(method: Callable[..., Any]) -> Callable[..., Any]:
    from moto.s3.exceptions import NoSuchUpload

    def checked(backend: Any, bucket: str, upload: str, *args: Any, **named: Any) -> Any:
        if upload not in backend.get_bucket(bucket).multiparts:
            raise NoSuchUpload(upload)
        return method(backend, bucket, upload, *args, **named)

    return checked


@pytest.fixture
def aws(monkeypatch: pytest.MonkeyPatch) -> None:
    """Credentials that open nothing, and nothing of this machine's own configuration."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)


@pytest.fixture(scope="session")
def moto_client(moto_url: str) -> Iterator[Any]:
    """One client for all tests that do not look at clients: to make one takes a while."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        for name, value in CREDENTIALS.items():
            monkeypatch.setenv(name, value)
        client = make_client(moto_url)
    yield client
    client.close()


@pytest.fixture
def bucket(moto_client: Any) -> str:
    """The name of a new bucket."""
    return make_bucket(moto_client)


def make_bucket(client: Any) -> str:
    """A new bucket; its name."""
    name = f"recast-{uuid.uuid4().hex[:12]}"
    client.create_bucket(Bucket=name)
    return name
