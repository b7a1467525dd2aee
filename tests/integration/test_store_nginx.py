"""If these fail, a site cannot read a store that an ordinary web server serves as plain files."""

from __future__ import annotations

import os
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pipeline import command
from pipeline.errors import HostError
from pipeline.store.base import Reader, Store
from pipeline.store.http import HttpStore
from pipeline.store.local import LocalStore
from tests.contract.store_suite import ReaderContract
from tests.fakes.bad_server import Wire

CONFIG = """
daemon off;
{user}
pid {work}/nginx.pid;
error_log {work}/error.log;
worker_processes 2;
events {{ worker_connections 128; }}
http {{
    access_log off;
    types {{ application/json json; }}
    default_type application/octet-stream;
    sendfile on;
    client_body_temp_path {work}/body;
    proxy_temp_path {work}/proxy;
    fastcgi_temp_path {work}/fastcgi;
    uwsgi_temp_path {work}/uwsgi;
    scgi_temp_path {work}/scgi;
    server {{
        listen 127.0.0.1:{port};
        root {folder};
        disable_symlinks on from=$document_root;
        location / {{ add_header Cache-Control "max-age=31536000, immutable"; }}
        location = /metadata/timestamp.json {{ add_header Cache-Control no-cache; }}
        location ~ /\\. {{ return 404; }}
    }}
}}
"""


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])


def answers(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True


def started(folder: Path, work: Path) -> tuple[subprocess.Popen[bytes], int] | None:
    """nginx on a free port; None if somebody else took that port meanwhile."""
    port = free_port()
    user = "user root;" if os.geteuid() == 0 else ""
    config = work / "nginx.conf"
    config.write_text(CONFIG.format(work=work, port=port, folder=folder, user=user))
    argv = ["nginx", "-e", str(work / "error.log"), "-p", str(work), "-c", str(config)]
    process = command.start(argv)
    try:
        deadline = time.monotonic() + 60
        while not answers(port):
            if process.poll() is not None:
                command.end(process)
                return None
            assert time.monotonic() < deadline, (work / "error.log").read_text()
            time.sleep(0.02)
    except BaseException:
        command.end(process)
        raise
    return process, port


@contextmanager
def nginx(folder: Path, work: Path) -> Iterator[str]:
    """Serve *folder*; yields the URL."""
    try:
        command.find("nginx")
    except HostError:
        pytest.skip("nginx is not installed")
    work.mkdir()
    found = next((some for _ in range(3) if (some := started(folder, work))), None)
    assert found is not None, (work / "error.log").read_text()
    try:
        yield f"http://127.0.0.1:{found[1]}"
    finally:
        command.end(found[0])


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str]]:
    """A folder in which each test has one of its own, and its URL."""
    folder = tmp_path_factory.mktemp("nginx")
    (folder / "stores").mkdir()
    with nginx(folder / "stores", folder / "work") as url:
        yield folder / "stores", url


class TestHttpStoreBehindNginx(ReaderContract):
    @pytest.fixture
    def store(self, served: tuple[Path, str], tmp_path: Path) -> Store:
        return LocalStore(served[0] / tmp_path.name)

    @pytest.fixture
    def reader(self, served: tuple[Path, str], tmp_path: Path) -> Iterator[Reader]:
        with HttpStore(f"{served[1]}/{tmp_path.name}") as reader:
            yield reader

    def test_an_idle_check_costs_less_than_one_kib(
        self, store: Store, served: tuple[Path, str], tmp_path: Path
    ) -> None:
        store.replace("metadata/timestamp.json", bytes(900), etag="")
        with Wire(served[1]) as wire, HttpStore(f"{wire.url}/{tmp_path.name}") as reader:
            first = reader.get_changed("metadata/timestamp.json", "", limit=5000)
            assert first is not None
            before = wire.total
            assert reader.get_changed("metadata/timestamp.json", first[1], limit=5000) is None
            assert 100 < wire.total - before < 1024

    def test_what_is_a_folders_own_is_not_served(
        self, store: Store, served: tuple[Path, str], tmp_path: Path
    ) -> None:
        import requests

        store.create("a", b"x")
        folder = served[0] / tmp_path.name
        (folder / ".tmp" / "secret").write_text("x")
        (folder / "link").symlink_to("/etc/passwd")
        url = f"{served[1]}/{tmp_path.name}"
        assert requests.get(f"{url}/a", timeout=60).status_code == 200
        assert requests.get(f"{url}/.tmp/secret", timeout=60).status_code == 404
        assert requests.get(f"{url}/link", timeout=60).status_code == 403
