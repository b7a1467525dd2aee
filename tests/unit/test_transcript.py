"""If these fail, a build that failed does not say why, or blames the wrong thing."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from pipeline.command import CommandError
from pipeline.dib.transcript import Transcript, explain
from pipeline.errors import BuildError, DiskFullError, NetworkError

ENDED = CommandError(["disk-image-create"], 1, ())
HOOKS = "/store/work/r.1/web/build/tmp/dib_build.x/hooks"

# What diskimage-builder prints between the failure of a hook in the tree and its end.
WAY_OUT = """\
Unmount /store/work/r.1/web/build/tmp/dib_build.x/mnt/tmp/in_target.d
Unmount /store/work/r.1/web/build/tmp/dib_build.x/mnt/sys
INFO diskimage_builder.block_device.blockdevice [-] State already cleaned - no way to do anything
rm: cannot remove '/store/work/r.1/web/build/tmp/dib_build.x/mnt': Device or resource busy
"""

IN_THE_TREE = f"""\
diskimage-builder version 3.43.0
dib-run-parts Sourcing environment file /tmp/in_target.d/install.d/../environment.d/14-manifests
+ source /tmp/in_target.d/install.d/../environment.d/14-manifests
++ export DIB_MANIFEST_IMAGE_DIR=/etc/dib-manifests
dib-run-parts Running /tmp/in_target.d/install.d/40-early
all went well here
dib-run-parts 40-early completed
dib-run-parts Running /tmp/in_target.d/install.d/50-site
fetching the site
tar: site.tar: Cannot open: No such file or directory
{WAY_OUT}"""

UNFETCHED = f"""\
dib-run-parts Running {HOOKS}/root.d/08-debootstrap
I: running apt-get update...
Ign:1 http://mirror.test/debian trixie InRelease
Err:1 http://mirror.test/debian trixie InRelease
  Could not connect to mirror.test:80 (192.0.2.1). - connect (111: Connection refused)
Reading package lists...
E: Failed to fetch http://mirror.test/debian/dists/trixie/InRelease  Could not connect to \
mirror.test:80 (192.0.2.1). - connect (111: Connection refused)
E: Some index files failed to download. They have been ignored, or old ones used instead.
W: Target Packages (main/binary-amd64/Packages) is configured multiple times in /a and /b
E: apt-get update --error-on=any failed
I: main() received signal PIPE: waiting for setup...
E: mmdebstrap failed to run
INFO diskimage_builder.block_device.blockdevice [-] State already cleaned - no way to do anything
"""


def elements(folder: Path, **hooks: str) -> dict[str, Path]:
    """Elements by name, each with the one hook that is given."""
    for name, hook in hooks.items():
        path = folder / name / hook
        path.parent.mkdir(parents=True)
        path.touch()
    return {name: folder / name for name in hooks}


def test_a_failing_hook_is_named_with_its_element_its_phase_and_its_own_last_words(
    tmp_path: Path,
) -> None:
    taking_part = elements(tmp_path, early="install.d/40-early", site="install.d/50-site")
    error = explain(IN_THE_TREE.splitlines(), taking_part, ENDED, log="/store/web.build.log")
    assert type(error) is BuildError
    assert error.message == (
        "hook install.d/50-site of element site failed\n"
        "    fetching the site\n"
        "    tar: site.tar: Cannot open: No such file or directory"
    )
    assert error.hint == "The whole output is in /store/web.build.log."


def test_only_the_last_lines_of_a_long_output_are_shown() -> None:
    lines = [f"dib-run-parts Running {HOOKS}/install.d/50-site", *(f"line {n}" for n in range(99))]
    told = explain(lines, {}, ENDED).message.splitlines()
    assert told[0] == "hook install.d/50-site failed"
    assert told[1:] == [f"    line {n}" for n in range(87, 99)]


def test_a_hook_that_says_nothing_is_named_all_the_same() -> None:
    lines = [f"dib-run-parts Running {HOOKS}/install.d/50-site", *WAY_OUT.splitlines()]
    # The first line after a hook's start is its own, whatever it looks like.
    assert explain(lines, {}, ENDED).message.splitlines()[0] == "hook install.d/50-site failed"


def test_the_hook_that_is_made_of_the_definition_is_told_as_that() -> None:
    lines = [
        "dib-run-parts Running /tmp/in_target.d/post-install.d/60-recast-image",
        "install: cannot create directory '/proc/x': No such file or directory",
    ]
    message = explain(lines, {}, ENDED).message
    assert message.startswith(
        "hook post-install.d/60-recast-image (made from the image's definition) failed\n"
    )


def test_an_end_between_two_hooks_does_not_blame_the_hook_before(tmp_path: Path) -> None:
    taking_part = elements(tmp_path, site="install.d/50-site")
    lines = [
        f"dib-run-parts Running {HOOKS}/install.d/50-site",
        "copied",
        "dib-run-parts 50-site completed",
        "dib-run-parts ----------------------- PROFILING -----------------------",
        "dib-run-parts Target: install.d",
        "dib-run-parts 50-site                                     0.027",
        "dib-run-parts --------------------- END PROFILING ---------------------",
        "umount: /x/mnt/tmp/in_target.d: target is busy.",
    ]
    assert explain(lines, taking_part, ENDED).message == (
        "diskimage-builder ended with code 1 after hook install.d/50-site of element site\n"
        "    umount: /x/mnt/tmp/in_target.d: target is busy."
    )


BEFORE_ANY_HOOK = """\
diskimage-builder version 3.43.0
Building elements: debian-minimal one two recast-image
WARNING diskimage_builder.element_dependencies [-] Element </x/site> overrides </y/site>
Expanded element dependencies to: debian-minimal one two recast-image
Building in /store/work/r.1/web/build/tmp/dib_build.x
INFO diskimage_builder.block_device.config [-] done
"""


def test_a_failure_before_any_hook_shows_what_diskimage_builder_said_of_it() -> None:
    text = BEFORE_ANY_HOOK + "mount: /x/tmp/dib_build.x: permission denied.\n" + WAY_OUT
    error = explain(text.splitlines(), {}, ENDED)
    assert type(error) is BuildError
    assert error.message.splitlines()[:2] == [
        "diskimage-builder ended with code 1 before its first hook",
        "    mount: /x/tmp/dib_build.x: permission denied.",
    ]


def test_two_elements_with_one_hook_are_both_named(tmp_path: Path) -> None:
    taking_part = elements(tmp_path, one="install.d/50-site", two="install.d/50-site")
    text = BEFORE_ANY_HOOK + "There is a duplicated hook in your elements: /install.d/50-site\n"
    error = explain((text + WAY_OUT).splitlines(), taking_part, ENDED)
    assert type(error) is BuildError
    assert error.message == "the elements one and two both have a hook install.d/50-site"
    assert "rename one of them" in error.hint


def test_a_mirror_that_does_not_answer_is_named_with_the_setting_for_another(
    tmp_path: Path,
) -> None:
    taking_part = elements(tmp_path, debootstrap="root.d/08-debootstrap")
    error = explain(UNFETCHED.splitlines(), taking_part, ENDED)
    assert type(error) is NetworkError
    assert error.message == (
        "http://mirror.test/debian could not be reached: hook root.d/08-debootstrap of element "
        "debootstrap failed\n"
        "      Could not connect to mirror.test:80 (192.0.2.1). - connect (111: Connection "
        "refused)\n"
        "    E: Failed to fetch http://mirror.test/debian/dists/trixie/InRelease  Could not "
        "connect to mirror.test:80 (192.0.2.1). - connect (111: Connection refused)"
    )
    assert "`mirror:` in images/settings.yaml" in error.hint


def test_a_refused_connection_long_before_the_end_is_not_the_cause() -> None:
    lines = [
        f"dib-run-parts Running {HOOKS}/install.d/50-site",
        "curl: (7) Connection refused, trying the next one",
        *(f"compiling {n}" for n in range(60)),
        "error: no such variable",
    ]
    assert type(explain(lines, {}, ENDED)) is BuildError


@pytest.mark.parametrize(
    "line",
    [
        "dpkg: error: failed to write (No space left on device)",
        "tar: ./usr/bin/x: Cannot write: No space left on device",
        "tar: /store/work/r.1/web/build/out/tree.tar: Wrote only 4096 of 10240 bytes",
    ],
)
def test_a_full_disk_is_told_as_that_even_when_the_network_is_blamed_as_well(line: str) -> None:
    lines = [
        "dib-run-parts Running /tmp/in_target.d/install.d/01-package-installs",
        line,
        "E: Failed to fetch http://mirror.test/x.deb  No space left on device",
    ]
    error = explain(lines, {}, ENDED)
    assert type(error) is DiskFullError
    assert line in error.message
    assert "Free space" in error.hint


def test_a_package_that_does_not_exist_points_at_the_definition() -> None:
    lines = [
        f"dib-run-parts Running {HOOKS}/root.d/08-debootstrap",
        "E: Unable to locate package ngnix",
        "E: mmdebstrap failed to run",
    ]
    error = explain(lines, {}, ENDED, log="x.log")
    assert "E: Unable to locate package ngnix" in error.message
    assert error.hint == (
        "Is `ngnix` under `packages:` the name that the archive knows it by? "
        "The whole output is in x.log."
    )


def test_the_transcript_passes_everything_on_and_tells_which_hook_runs() -> None:
    log, heard = io.StringIO(), list[str]()
    transcript = Transcript(log, heard.append)
    stamped = "2026-03-01 12:00:00.123 | dib-run-parts Running /x/hooks/root.d/10-toy\n"
    transcript.write(stamped)
    transcript.write("2026-03-01 12:00:00.124 | done\n")
    assert log.getvalue() == stamped + "2026-03-01 12:00:00.124 | done\n"
    assert transcript.lines == ["dib-run-parts Running /x/hooks/root.d/10-toy", "done"]
    assert heard == ["root.d/10-toy"]
