"""A machine at a site follows its channel, from release to release with nobody there.

One machine goes through all of it: each test finds it where the one before has left it.
"""

from __future__ import annotations

import os
import random
import time
from pathlib import Path

import pytest

from pipeline import digest
from pipeline.agent.blocks import FileDisk
from pipeline.errors import NetworkError
from pipeline.models.release import Release
from pipeline.serve import serve
from pipeline.store.http import HttpStore, Limits
from pipeline.store.http_errors import Patience
from pipeline.transfer.source import StoreSource
from tests.e2e.harness import Bench
from tests.e2e.site import CHANNEL, IMAGE, Site, described, make, publish, published
from tests.fakes.link import Link
from tests.fakes.places import NamedDisk

RENDER = "images/elements/nginx-site/nginx-site/usr/lib/site/render"

# A folder that persists decides: the same bytes are healthy on one machine and not on another.
PANIC = "[ ! -e /var/lib/site/panic ] || echo c > /proc/sysrq-trigger\n"


@pytest.fixture(scope="module")
def second(own: Bench, site: Site) -> Release:
    """Another page, and a kernel that panics where the site wants it; not published yet."""
    own.replace(RENDER, "This machine runs one image", "One image runs this machine")
    own.append(RENDER, PANIC)
    return make(own, "Another headline")


def promote(own: Bench, release: Release) -> None:
    own.run("promote", f"{IMAGE}@{release.version}", "--to", CHANNEL)


def roll_back(own: Bench, release: Release) -> None:
    words = ("--channel", CHANNEL, "--to", release.version, "--reason", "People dislike it")
    own.run("rollback", IMAGE, *words)


def test_it_follows_its_channel_unattended(
    site: Site, own: Bench, first: Release, second: Release
) -> None:
    """What persists persists, and nothing else."""
    site.runs(first.version)
    site.ready()
    site.shell("echo kept > /var/lib/site/kept; echo edited > /etc/motd; sync")
    assert "/etc/motd" in site.status()
    publish(own)
    report = site.runs(second.version)
    assert report.root_hash == second.root_hash
    assert report.downloaded < 2_000_000, "what is new is a line of a page"
    how = " ".join(site.status().split())
    assert how.count(f"delta from {first.version}") == 2, how
    site.ready()
    assert second.root_hash in site.run("cat", "/proc/cmdline")
    assert "One image runs this machine" in site.run("curl", "-fsS", "http://localhost/")
    assert site.run("cat", "/var/lib/site/kept") == "kept\n"
    assert "edited" not in site.shell("cat /etc/motd || true")
    assert second.version in site.status().splitlines()[0]
    security = site.shell("systemd-analyze security recast-agent recast-judge | grep Overall")
    assert security.count(" OK ") == 2, security


def test_a_rollback_needs_no_download(
    site: Site, own: Bench, first: Release, second: Release
) -> None:
    roll_back(own, first)
    before = site.link.passed
    site.poke()
    report = site.runs(first.version)
    assert report.downloaded == 0
    assert site.link.passed - before < 500_000, "metadata alone"
    site.ready()


def test_a_release_that_panics_ends_on_the_one_before(
    site: Site, own: Bench, first: Release, second: Release
) -> None:
    """And is left alone, until a person allows it."""
    site.shell("touch /var/lib/site/panic; sync")
    before = site.link.passed
    promote(own, second)
    site.poke()
    report = site.failed(second.version)
    assert report.version == first.version
    assert "never became healthy" in report.reason
    assert site.link.passed - before < 500_000, "it is in the slot still"
    site.ready()
    site.run("systemctl", "start", "recast-agent.service")
    assert first.root_hash in site.run("cat", "/proc/cmdline")
    assert "recast-agent allow" in " ".join(site.status().split())
    site.shell("rm /var/lib/site/panic; sync")


def test_no_tries_left_anywhere_still_boots(site: Site, first: Release, second: Release) -> None:
    """As after many power cuts while a release was on trial."""
    site.shell(
        "cd /efi/loader/entries && for e in recast-*.conf; do"
        ' n=${e%.conf}; mv "$e" "${n%%+*}+0-3.conf"; done; sync'
    )
    site.cut_power()
    site.ready()
    assert first.root_hash in site.run("cat", "/proc/cmdline")


if int(os.environ.get("RECAST_SOAK", "1")) > 1:  # the other site's power is cut once in any case

    @pytest.mark.soak
    def test_a_power_cut_at_any_moment_costs_time_alone(
        site: Site, own: Bench, first: Release, second: Release, chance: random.Random
    ) -> None:
        """From one release to the other: while it is read back, activated, booted, blessed."""
        site.set("tries", "3")
        there = site.report()
        assert there is not None
        wanted = second if there.version == first.version else first
        site.run("recast-agent", "allow", wanted.version)
        if wanted is first:
            roll_back(own, first)
        else:
            promote(own, second)
        site.poke()
        moment = chance.uniform(0.0, 120.0)
        print(f"the power is cut after {moment:.1f} s")
        end = time.monotonic() + moment
        site.when(lambda: time.monotonic() > end)
        site.cut_power()
        site.runs(wanted.version)
        site.ready()


def test_a_damaged_data_partition_costs_the_memory_alone(
    site: Site, own: Bench, first: Release, second: Release
) -> None:
    """The machine boots, says so, and is reimaged like any other.

    What has failed there it knows from its ESP alone, and is allowed again.
    """
    roll_back(own, first)
    site.shell("dd if=/dev/zero of=/dev/disk/by-partlabel/recast-data bs=1M count=64 conv=fsync")
    site.cut_power()
    site.boots(first)
    assert "The data partition is not there" in " ".join(site.status().split())
    assert site.run("curl", "-fsS", "http://localhost/")
    promote(own, second)
    site.run("recast-agent", "allow", second.version)
    site.poke()
    site.boots(second)
    assert second.version in site.status().splitlines()[0]
    assert site.ask("status")["confirmed"] is True


# --- the same two releases, without a machine -----------------------------------------------------

CUTS = 10  # of the link, by each way
PARTIAL = 1200 << 10  # bytes of a segment, as it is stored, that a cut may cost


@pytest.mark.parametrize("way", ["delta", "chunks", "whole"])
def test_a_link_that_is_cut_at_random_bytes_costs_little_more_than_the_way(
    own: Bench,
    first: Release,
    second: Release,
    tmp_path: Path,
    chance: random.Random,
    monkeypatch: pytest.MonkeyPatch,
    way: str,
) -> None:
    """From the first release to the second: each cut ends it, and the next call goes on."""
    monkeypatch.setattr("pipeline.transfer.ranged._PROGRESS", 1 << 40)  # a cut is an end
    release = described(own, second)
    part = release.parts["root"]
    assert part.chunks is not None
    assert part.segments is not None
    indexes = part.segments.size + (part.chunks.index.size if way == "chunks" else 20_000)
    old = own.store / "images" / IMAGE / first.version / first.parts["root"].file
    for name in ("plain", "slot"):
        (tmp_path / name).touch()
        os.truncate(tmp_path / name, part.size)
    limits = Limits(patience=Patience(attempts=1))
    with (
        serve(published(own)) as server,
        Link(int(server.url.rsplit(":", 1)[1])).running() as link,
        HttpStore(f"http://127.0.0.1:{link.own_port}", limits) as store,
        FileDisk(old) as root,
        FileDisk(tmp_path / "plain") as plain,
        FileDisk(tmp_path / "slot") as slot,
    ):
        seeds = [NamedDisk(root, first.root_hash if way == "delta" else "")][: way != "whole"]
        took = StoreSource(store).fill(release, "root", plain, seeds)
        assert took.how.startswith(way), took.how
        assert link.passed < took.downloaded + 50_000
        assert took.downloaded <= release.download_size
        print(f"{way}: {took.downloaded} bytes")
        before, cuts = link.passed, 0
        for _ in range(CUTS):
            link.cut_after = chance.randrange(max(2 * took.downloaded // CUTS, indexes))
            try:
                StoreSource(store).fill(release, "root", slot, seeds)
            except NetworkError:
                cuts += 1
        link.cut_after = None
        StoreSource(store).fill(release, "root", slot, seeds)
        assert cuts
        passed = link.passed - before
    assert digest.of_file(tmp_path / "slot") == part.digest
    assert passed < took.downloaded + (CUTS + 1) * (indexes + PARTIAL), f"{cuts} cuts"
