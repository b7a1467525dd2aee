"""That a definition's words arrive on the machine; and a test that fails, for its message."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from testinfra.host import Host


def test_a_file_with_its_content(host: Host) -> None:
    file = host.file("/etc/sampler/inline.conf")
    assert file.content_string == 'inline = "yes"\n'
    assert file.mode == 0o644


def test_a_file_from_the_images_folder(host: Host) -> None:
    assert host.file("/usr/lib/sampler/probe").mode == 0o755


def test_an_argument_of_the_kernel(host: Host) -> None:
    assert "sampler.mode=e2e" in host.check_output("cat /proc/cmdline").split()


def test_a_health_check_got_its_words_as_they_are(host: Host) -> None:
    assert host.file("/run/sampler-probed").exists


def test_own_and_inherited_paths_persist(host: Host) -> None:
    for path in ("/var/lib/sampler", "/var/log/journal"):
        assert host.mount_point(path).exists, path


def test_the_tap_is_open(host: Host) -> None:
    assert host.check_output("echo closed") == "open", "somebody has closed the tap"
