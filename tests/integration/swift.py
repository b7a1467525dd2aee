"""OpenStack Swift with its S3 API, from Debian's packages, on loopback and in a temporary folder.

It stands for servers that users run themselves and that know no conditional writes. Five plain
processes: one ring with one device, no replication, no daemons. Nothing is left behind.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from pipeline import command
from pipeline.store.s3 import make_client

PROGRAMS = (
    "memcached",
    "swift-account-server",
    "swift-container-server",
    "swift-object-server",
    "swift-proxy-server",
    "swift-ring-builder",
)
_START_SECONDS = 60.0
_ATTEMPTS = 3  # somebody else may take a port that was free

_SERVER = """
[DEFAULT]
bind_ip = 127.0.0.1
bind_port = {port}
user = {user}
swift_dir = {folder}
devices = {folder}/devices
mount_check = false
workers = 0
log_udp_host = 127.0.0.1
log_udp_port = {deaf}

[pipeline:main]
pipeline = healthcheck {kind}-server

[app:{kind}-server]
use = egg:swift#{kind}

[filter:healthcheck]
use = egg:swift#healthcheck
"""

_PROXY = """
[DEFAULT]
bind_ip = 127.0.0.1
bind_port = {port}
user = {user}
swift_dir = {folder}
workers = 0
log_udp_host = 127.0.0.1
log_udp_port = {deaf}

[pipeline:main]
pipeline = catch_errors healthcheck cache listing_formats s3api tempauth copy slo dlo proxy-server

[app:proxy-server]
use = egg:swift#proxy
account_autocreate = true
allow_account_management = true

[filter:catch_errors]
use = egg:swift#catch_errors

[filter:healthcheck]
use = egg:swift#healthcheck

[filter:cache]
use = egg:swift#memcache
memcache_servers = 127.0.0.1:{cache}

[filter:listing_formats]
use = egg:swift#listing_formats

[filter:s3api]
use = egg:swift#s3api
location = us-east-1

[filter:tempauth]
use = egg:swift#tempauth
user_test_tester = testing .admin
user_test_reader = testing

[filter:copy]
use = egg:swift#copy

[filter:slo]
use = egg:swift#slo

[filter:dlo]
use = egg:swift#dlo
"""


@pytest.fixture(scope="session")
def swift_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a server that runs until the tests end."""
    missing = [
        p for p in PROGRAMS if not shutil.which(p, path=os.environ["PATH"] + command.SYSTEM_PATH)
    ]
    if missing:
        pytest.skip(f"{', '.join(missing)} are not installed (packages swift-*, memcached)")
    folder = tmp_path_factory.mktemp("swift")
    with contextlib.ExitStack() as stack:
        yield _start(folder, stack)


@contextlib.contextmanager
def client_of(url: str, user: str = "tester", password: str = "testing") -> Iterator[Any]:
    """A client of that user: ``tester`` may do anything, ``reader`` nothing at all."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        for name in [name for name in os.environ if name.startswith("AWS_")]:
            monkeypatch.delenv(name)
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", f"test:{user}")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", password)
        client = make_client(url, attempts=3)
    try:
        yield client
    finally:
        client.close()


@pytest.fixture(scope="session")
def swift_client(swift_url: str) -> Iterator[Any]:
    """One client for all tests that do not look at clients."""
    with client_of(swift_url) as client:
        yield client


def _start(folder: Path, stack: contextlib.ExitStack) -> str:
    for attempt in range(1, _ATTEMPTS + 1):
        here = folder / str(attempt)
        here.mkdir()
        with contextlib.ExitStack() as trial:
            try:
                url = _start_all(here, trial)
            except _Failed as error:
                if attempt == _ATTEMPTS:
                    pytest.fail(f"Swift does not start: {error}")
                continue
            stack.push(trial.pop_all())
            return url
    raise AssertionError


class _Failed(Exception):
    """It did not come up; the message holds what it said."""


def _start_all(folder: Path, stack: contextlib.ExitStack) -> str:
    kinds = ("account", "container", "object")
    ports = dict(zip((*kinds, "proxy", "cache"), _free_ports(5), strict=True))
    deaf = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    deaf.bind(("127.0.0.1", 0))  # where the servers' syslog goes
    words = {
        "folder": folder,
        "user": pwd.getpwuid(os.geteuid()).pw_name,
        "deaf": deaf.getsockname()[1],
        "cache": ports["cache"],
    }
    (folder / "devices" / "d1").mkdir(parents=True)
    for kind in kinds:
        builder = str(folder / f"{kind}.builder")
        device = f"r1z1-127.0.0.1:{ports[kind]}/d1"
        # 16 partitions, one replica.
        for step in (("create", "4", "1", "0"), ("add", device, "1"), ("rebalance",)):
            command.run(["swift-ring-builder", builder, *step], env=_environment(folder))
        config = folder / f"{kind}.conf"
        config.write_text(_SERVER.format(kind=kind, port=ports[kind], **words))
        _launch(folder, stack, [f"swift-{kind}-server", str(config)])
    config = folder / "proxy.conf"
    config.write_text(_PROXY.format(port=ports["proxy"], **words))
    cache = ["memcached", "-l", "127.0.0.1", "-p", str(ports["cache"]), "-m", "16"]
    _launch(folder, stack, [*cache, "-u", str(words["user"])])
    _launch(folder, stack, ["swift-proxy-server", str(config)])
    for kind in (*kinds, "proxy"):
        _await(f"http://127.0.0.1:{ports[kind]}/healthcheck", folder)
    return f"http://127.0.0.1:{ports['proxy']}"


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


def _environment(folder: Path) -> dict[str, str]:
    """Nothing of ours: these programs are Python too, and have libraries of their own."""
    path = os.environ.get("PATH", os.defpath) + command.SYSTEM_PATH
    return {"PATH": path, "HOME": str(folder), "LANG": "C.UTF-8"}


def _launch(folder: Path, stack: contextlib.ExitStack, argv: Sequence[str]) -> None:
    log = stack.enter_context((folder / f"{argv[0]}.log").open("wb"))
    process = command.start(
        argv, cwd=folder, env=_environment(folder), stdout=log, stderr=subprocess.STDOUT
    )
    stack.callback(command.end, process)


def _await(url: str, folder: Path) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while True:
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except OSError as error:
            if time.monotonic() > deadline:
                logs = "\n".join(path.read_text() for path in sorted(folder.glob("*.log")))
                raise _Failed(f"{url}: {error}\n{logs[-4000:]}") from None
        time.sleep(0.05)
