"""Ceph's radosgw from Debian's packages, on loopback: a server that users run, with conditions.

One monitor, one OSD that keeps its objects in memory, and the gateway, as plain processes in a
temporary folder; no manager, no keys within the cluster. It takes about 15 seconds and 45 packages,
so that ``test_store_ceph.py`` asks for it only where RECAST_TEST_CEPH=1 is set.
"""

from __future__ import annotations

import contextlib
import os
import uuid
from collections.abc import Iterator
from typing import Any

import pytest

from pipeline.store.s3 import make_client
from tests.integration.loopback import Servers, answers, bring_up, free_ports, require

PROGRAMS = ("ceph", "ceph-authtool", "ceph-mon", "ceph-osd", "monmaptool", "radosgw")

_CONFIG = """
[global]
fsid = {fsid}
mon host = [v2:127.0.0.1:{mon}]
mon initial members = a
public addr = 127.0.0.1
cluster addr = 127.0.0.1
auth cluster required = none
auth service required = none
auth client required = none
# Without keys there is nothing to encrypt with, which a gateway would insist on.
ms mon client mode = crc
ms mon cluster mode = crc
ms mon service mode = crc
ms client mode = crc
keyring = {folder}/keyring
run dir = {folder}
admin socket =
pid file =
crash dir = {folder}
log file = {folder}/$name.out
mon data = {folder}/mon
osd data = {folder}/osd
osd objectstore = memstore
memstore device bytes = 1073741824
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 1
osd pool default pgp num = 1
osd pool default pg autoscale mode = off
osd crush chooseleaf type = 0
mon allow pool size one = true
mon data avail crit = 1
[client.rgw]
rgw frontends = beast endpoint=127.0.0.1:{gateway}
rgw data = {folder}
"""


@pytest.fixture(scope="session")
def ceph_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a gateway that runs until the tests end."""
    require(PROGRAMS, "radosgw ceph-mon ceph-osd")
    with contextlib.ExitStack() as stack:
        yield bring_up(tmp_path_factory.mktemp("ceph"), _start, stack)


@pytest.fixture(scope="session")
def ceph_client(ceph_url: str) -> Iterator[Any]:
    """One client for all tests."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        for name in [name for name in os.environ if name.startswith("AWS_")]:
            monkeypatch.delenv(name)
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
        client = make_client(ceph_url)
    yield client
    client.close()


def _start(servers: Servers) -> str:
    mon, gateway = free_ports(2)
    folder, fsid, osd = servers.folder, uuid.uuid4(), uuid.uuid4()
    config = folder / "ceph.conf"
    config.write_text(_CONFIG.format(folder=folder, fsid=fsid, mon=mon, gateway=gateway))
    (folder / "mon").mkdir()
    (folder / "osd").mkdir()
    servers.run("ceph-authtool", "--create-keyring", "keyring", "--gen-key", "-n", "client.rgw")
    address = ("--addv", "a", f"[v2:127.0.0.1:{mon}]")
    servers.run("monmaptool", "--create", "--fsid", fsid, *address, "monmap")
    conf = ("-c", config)
    servers.run("ceph-mon", *conf, "-i", "a", "--mkfs", "--monmap", "monmap")
    servers.start("ceph-mon", *conf, "-i", "a", "-f")
    ceph = ("ceph", *conf, "--connect-timeout", 10)
    servers.wait("Ceph's monitor", lambda: "quorum" in servers.run(*ceph, "mon", "stat"))
    servers.run(*ceph, "osd", "new", osd)
    servers.run("ceph-osd", *conf, "-i", 0, "--mkfs", "--osd-uuid", osd)
    servers.start("ceph-osd", *conf, "-i", 0, "-f")
    servers.wait("Ceph's OSD", lambda: "1 up" in servers.run(*ceph, "osd", "stat"))
    servers.start("radosgw", *conf, "-n", "client.rgw", "-f")
    url = f"http://127.0.0.1:{gateway}"
    servers.wait("Ceph's gateway", lambda: answers(url))
    user = ("--uid=test", "--display-name=test", "--access-key=test", "--secret-key=testing")
    servers.run("radosgw-admin", *conf, "-n", "client.rgw", "user", "create", *user)
    return url
