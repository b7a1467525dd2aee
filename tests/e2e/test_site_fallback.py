"""A machine at a site is given releases that cannot be healthy there, over a bad link.

One machine goes through all of it: each test finds it where the one before has left it.
"""

from __future__ import annotations

import random
import time

import pytest

from pipeline.models.release import Release
from tests.e2e.harness import Bench
from tests.e2e.site import Site, add_unit, damage_deltas, make, publish

DEFINITION = "images/edge-web/image.yaml"

# A folder that persists decides: the same bytes are healthy on one machine and not on another.
UNIT = """\
[Unit]
ConditionPathExists=/var/lib/site/bad-unit
[Service]
Type=oneshot
ExecStart=/bin/false
"""
HEALTH = """
  - name: mood
    command: [test, "!", -e, /var/lib/site/bad-health]
    timeout: 3
"""
SIGNS = ("health check mood failed", "unit moody-unit.service failed")
HANG = "rd.systemd.mask=initrd-switch-root.service"


@pytest.fixture(scope="module")
def moody(own: Bench, site: Site) -> Release:
    """Healthy or not, as the site has it; not published yet."""
    add_unit(own, "moody-unit.service", "multi-user.target", UNIT)
    own.replace(DEFINITION, "    timeout: 60\n", f"    timeout: 60{HEALTH}")
    return make(own, "A release that likes few places")


def test_a_bad_link_and_a_power_cut_end_with_the_release_complete(
    site: Site, own: Bench, first: Release, moody: Release, chance: random.Random
) -> None:
    """And that one, not healthy here, with the one before."""
    site.runs(first.version)
    site.ready()
    site.shell("touch /var/lib/site/bad-health /var/lib/site/bad-unit; sync")
    # What would be least to fetch is damaged in the store, and a part of the rest on its way.
    site.link.damage, site.link.random = 0.002, chance
    site.link.cut_after = chance.randrange(1 << 20)
    publish(own)
    assert damage_deltas(own, moody) == 2
    site.poke()
    site.until(lambda r: r.target == moody.version, "the update's begin")
    moment = time.monotonic() + chance.uniform(0.0, 45.0)
    site.when(lambda: time.monotonic() > moment)
    site.cut_power()
    site.link.damage = 0.0
    report = site.failed(moody.version)
    assert report.version == first.version
    for sign in SIGNS:
        assert sign in report.reason
    site.ready()
    status = site.status()
    for sign in (moody.version, *SIGNS):
        assert sign in " ".join(status.split())
    assert site.link.passed < 20_000_000, "its chunks, where its deltas are damaged"


def test_what_failed_is_left_alone_until_it_is_allowed(
    site: Site, first: Release, moody: Release
) -> None:
    """Tried again because a person allowed it; what is in the slot is not fetched again."""
    site.shell("rm /var/lib/site/bad-*; sync")
    site.run("systemctl", "start", "recast-agent.service")
    assert first.root_hash in site.run("cat", "/proc/cmdline")
    before = site.link.passed
    site.run("recast-agent", "allow", moody.version)
    site.poke()
    site.runs(moody.version)
    assert site.link.passed - before < 500_000, "metadata alone"


def test_a_release_that_hangs_in_its_initrd_ends_on_the_one_before(
    site: Site, own: Bench, moody: Release
) -> None:
    own.replace(DEFINITION, "health:\n", f"kernel_arguments: [{HANG}]\nhealth:\n")
    hanging = make(own, "It never gets to its root")
    publish(own)
    assert hanging.root_hash == moody.root_hash
    site.poke()
    report = site.failed(hanging.version)
    assert report.version == moody.version
    assert "never got as far as its services" in report.reason
    site.ready()
