"""The nginx of this machine, serving a folder as plain files: a site's mirror of a store."""

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
        {more}
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


def started(folder: Path, work: Path, more: str = "") -> tuple[subprocess.Popen[bytes], int] | None:
    """nginx on a free port; None if somebody else took that port meanwhile."""
    port = free_port()
    user = "user root;" if os.geteuid() == 0 else ""
    config = work / "nginx.conf"
    config.write_text(CONFIG.format(work=work, port=port, folder=folder, user=user, more=more))
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
def nginx(folder: Path, work: Path, more: str = "") -> Iterator[str]:
    """Serve *folder*, with *more* in the server's configuration; yields the URL."""
    try:
        command.find("nginx")
    except HostError:
        pytest.skip("nginx is not installed")
    work.mkdir()
    found = next((some for _ in range(3) if (some := started(folder, work, more))), None)
    assert found is not None, (work / "error.log").read_text()
    try:
        yield f"http://127.0.0.1:{found[1]}"
    finally:
        command.end(found[0])
