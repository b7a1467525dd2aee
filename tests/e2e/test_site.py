"""A machine at a site, from release to release with nobody there: each test finds it where the
one before has left it.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.models.release import Release
from tests.e2e import site as sites
from tests.e2e.harness import Bench, settled
from tests.e2e.site import CHANNEL, CHANNELS, IMAGE, Site, publish

RENDER = "images/elements/nginx-site/nginx-site/usr/lib/site/render"
DEFINITION = "images/edge-web/image.yaml"
HOOK = "images/elements/nginx-site/post-install.d/71-nginx-site"
UNITS = "images/elements/nginx-site/nginx-site/usr/lib/systemd/system"

# What the third release makes of a folder that persists: the same bytes are healthy on one
# machine and not on another.
MOODS = {
    "moody-unit.service": """\
[Unit]
ConditionPathExists=/var/lib/site/bad-unit
[Service]
Type=oneshot
ExecStart=/bin/false
""",
    "moody-panic.service": """\
[Unit]
DefaultDependencies=no
RequiresMountsFor=/var/lib/site
ConditionPathExists=/var/lib/site/panic
[Service]
Type=oneshot
ExecStart=/bin/sh -c "echo c > /proc/sysrq-trigger"
""",
}
HEALTH = """
  - name: mood
    command: [test, "!", -e, /var/lib/site/bad-health]
    timeout: 3
"""


@pytest.fixture(scope="module")
def project(bench: Bench, first_run: object, scratch: Path) -> Iterator[Bench]:
    """The project, with a store of its own and one channel."""
    folder = scratch / "site"
    folder.mkdir()
    copy = bench.copy(folder)
    (copy.project / "images" / "channels.yaml").write_text(CHANNELS)
    copy.run("init")
    yield copy
    assert settled(folder) == []


@pytest.fixture(scope="module")
def first(project: Bench) -> Release:
    """What the machine was installed with; the channel has it."""
    return publish(project, "One channel for all", build=False)


@pytest.fixture(scope="module")
def site(project: Bench, first: Release, scratch: Path) -> Iterator[Site]:
    """The machine."""
    with sites.site(project, scratch / "site", first, tries="1") as made:
        yield made


@pytest.fixture(scope="module")
def second(project: Bench, site: Site) -> Release:
    """Another page."""
    project.replace(RENDER, "This machine runs one image", "One image runs this machine")
    return publish(project, "Another headline")


def test_it_follows_its_channel_unattended(site: Site, first: Release, second: Release) -> None:
    site.runs(second.version)
    site.ready()
    assert second.root_hash in site.run("cat", "/proc/cmdline")
    assert "One image runs this machine" in site.run("curl", "-fsS", "http://localhost/")
    print(site.status())


def test_what_persists_does_and_a_local_edit_vanishes(site: Site, second: Release) -> None:
    site.shell("echo kept > /var/lib/site/kept; echo edited > /etc/motd; sync")
    assert "/etc/motd" in site.status()
    site.run("systemctl", "reboot")
    site.until(lambda r: r.version == second.version and r.number > 0, "the reboot")
    site.ready()
    assert site.run("cat", "/var/lib/site/kept") == "kept\n"
    assert "edited" not in site.shell("cat /etc/motd || true")


@pytest.fixture(scope="module")
def third(project: Bench, site: Site, second: Release) -> Release:
    """Healthy or not, as the site has it; published while nobody follows."""
    site.run("recast-agent", "pin", second.version)
    for name, text in MOODS.items():
        (project.project / UNITS / name).write_text(text)
    project.append(HOOK, "systemctl add-wants multi-user.target moody-unit.service\n")
    project.append(HOOK, "systemctl add-wants sysinit.target moody-panic.service\n")
    project.replace(DEFINITION, "    timeout: 60\n", f"    timeout: 60{HEALTH}")
    return publish(project, "A release that likes few places")


@pytest.mark.parametrize(
    ("mood", "reason"),
    [
        ("bad-health", "health check mood"),
        ("bad-unit", "moody-unit.service"),
        ("panic", "never became healthy"),
    ],
)
def test_a_bad_release_ends_on_the_one_before(
    site: Site, second: Release, third: Release, mood: str, reason: str
) -> None:
    site.shell(f"touch /var/lib/site/{mood}; sync")
    site.run("recast-agent", "unpin")
    if mood != "bad-health":
        site.run("recast-agent", "allow", third.version)
    site.poke()
    report = site.failed(third.version)
    assert report.version == second.version
    assert reason in report.reason
    site.ready()
    text = site.status()
    assert third.version in text
    assert reason in text
    site.shell(f"rm /var/lib/site/{mood}; sync")
    # It is remembered: the next look leaves it alone.
    site.run("systemctl", "start", "recast-agent.service")
    assert second.root_hash in site.run("cat", "/proc/cmdline")


def test_a_rollback_needs_no_download(
    site: Site, project: Bench, second: Release, third: Release
) -> None:
    site.run("recast-agent", "allow", third.version)
    site.poke()
    site.runs(third.version)
    site.ready()
    before = site.link.passed
    project.run("rollback", IMAGE, "--channel", CHANNEL, "--reason", "People dislike it")
    site.poke()
    report = site.runs(second.version)
    assert report.downloaded == 0
    assert site.link.passed - before < 200_000, "metadata alone"
