"""OpenStack Swift with its S3 API, from Debian's packages, on loopback and in a temporary folder.

It stands for servers that users run themselves and that know no conditional writes. Five plain
processes: one ring with one device, no replication, no daemons. Nothing is left behind.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import socket
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest

from pipeline.store.s3 import make_client
from tests.integration.loopback import Servers, answers, bring_up, free_ports, require

PROGRAMS = (
    "memcached",
    "swift-account-server",
    "swift-container-server",
    "swift-object-server",
    "swift-proxy-server",
    "swift-ring-builder",
)
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
    require(PROGRAMS, "swift-proxy swift-account swift-container swift-object memcached")
    with contextlib.ExitStack() as stack:
        yield bring_up(tmp_path_factory.mktemp("swift"), _start, stack)


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


def _start(servers: Servers) -> str:
    kinds = ("account", "container", "object")
    ports = dict(zip((*kinds, "proxy", "cache"), free_ports(5), strict=True))
    deaf = servers.stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    deaf.bind(("127.0.0.1", 0))  # where the servers' syslog goes
    folder = servers.folder
    words = {
        "folder": folder,
        "user": pwd.getpwuid(os.geteuid()).pw_name,
        "deaf": deaf.getsockname()[1],
        "cache": ports["cache"],
    }
    (folder / "devices" / "d1").mkdir(parents=True)
    for kind in kinds:
        builder = folder / f"{kind}.builder"
        servers.run("swift-ring-builder", builder, "create", 4, 1, 0)  # 16 partitions, 1 replica
        servers.run("swift-ring-builder", builder, "add", f"r1z1-127.0.0.1:{ports[kind]}/d1", 1)
        servers.run("swift-ring-builder", builder, "rebalance")
        config = folder / f"{kind}.conf"
        config.write_text(_SERVER.format(kind=kind, port=ports[kind], **words))
        servers.start(f"swift-{kind}-server", config)
    config = folder / "proxy.conf"
    config.write_text(_PROXY.format(port=ports["proxy"], **words))
    cache = ("memcached", "-l", "127.0.0.1", "-p", ports["cache"], "-m", 16)
    servers.start(*cache, "-u", words["user"])
    servers.start("swift-proxy-server", config)
    for kind in (*kinds, "proxy"):
        health = f"http://127.0.0.1:{ports[kind]}/healthcheck"
        servers.wait(f"Swift's {kind} server", partial(answers, health))
    return f"http://127.0.0.1:{ports['proxy']}"
