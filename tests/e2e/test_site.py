"""A machine at a site follows its channel, from release to release with nobody there.

One machine goes through all of it: each test finds it where the one before has left it.
"""

from __future__ import annotations

import os
import random
import time

import pytest

from pipeline.models.release import Release
from tests.e2e.harness import Bench
from tests.e2e.site import CHANNEL, IMAGE, Site, download_size, make, publish

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
    assert report.downloaded < download_size(site.bench, second) / 2, "most of it was here"
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
