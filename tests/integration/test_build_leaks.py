"""If these fail, an image tells where it was built, or differs by where and when that was."""

from __future__ import annotations

from pipeline.dib.elements import stock_elements
from tests.fakes.toy import ToyProject
from tests.fakes.toys import needs_root, needs_tools, toy_tar, toys

__all__ = ["toy_tar", "toys"]
pytestmark = [needs_root, needs_tools]

# A mirror in each of apt's two formats, what apt keeps of it, and the way in which it is reached.
PLACES = """\
cd "$TARGET_ROOT"
mkdir -p etc/apt/sources.list.d etc/apt/apt.conf.d var/lib/apt/lists/partial var/cache/apt
echo "deb http://mirror.invalid/debian trixie main" > etc/apt/sources.list
echo "deb http://mirror.invalid/debian trixie main" > etc/apt/sources.list.d/recast.list
printf 'Types: deb\\nURIs: http://mirror.invalid/debian\\nSuites: trixie\\n' \\
    > etc/apt/sources.list.d/debian.sources
echo "http://mirror.invalid" > var/lib/apt/lists/mirror.invalid_debian_dists_trixie_InRelease
echo "http://mirror.invalid" > var/lib/apt/lists/partial/mirror.invalid_x
echo "http://mirror.invalid" > var/cache/apt/pkgcache.bin
mkdir -p var/log/apt
echo "Get:1 http://mirror.invalid/debian" > var/log/apt/term.log
"""


def test_neither_mirror_nor_proxy_nor_host_of_a_build_ends_in_an_image(toys: ToyProject) -> None:
    stock = stock_elements()[0] / "dpkg"
    for hook in ("root.d/50-build-with-http-cache", "cleanup.d/50-remove-img-build-proxy"):
        toys.hook("toy-minimal", hook, (stock / hook).read_text())
    toys.hook("toy-minimal", "root.d/20-places", PLACES)
    toys.hook(
        "toy-minimal",
        "install.d/50-seen",
        "grep -q proxy.invalid /etc/apt/apt.conf.d/60img-build-proxy\n"
        '[ "$(cat /proc/sys/kernel/hostname)" = localhost ]\n',
    )
    toys.image("toy-base")
    ended = toys.run("build", "toy-base", env={"http_proxy": "http://proxy.invalid:3128"})
    assert ended.code == 0, ended
    (disk,) = (toys.artifacts / "images" / "toy-base").glob("[0-9]*/*.raw")
    data = disk.read_bytes()
    assert b"VERSION_ID=1" in data, "files lie plain in an image, or this test finds nothing"
    here = (b"mirror.invalid", b"proxy.invalid", bytes(toys.folder.parent))
    assert [text for text in here if text in data] == []


def test_two_builds_of_one_commit_in_two_places_are_one_image(toys: ToyProject) -> None:
    toys.image("toy-base")
    ended = toys.run("build", "toy-base", "--check-reproducible")
    assert ended.code == 0, ended
    assert "toy-base reproduce: done" in ended.out


def test_two_builds_that_differ_name_the_file(toys: ToyProject) -> None:
    toys.image("toy-base", elements=["chance"])
    toys.hook("chance", "install.d/50-chance", "date +%s.%N > /etc/built\n")
    ended = toys.run("build", "toy-base", "--check-reproducible")
    assert ended.code == 5, ended
    assert "two builds of toy-base differ (root, verity, uki, disk):" in ended.out
    assert "etc/built" in ended.out
    assert "An element writes something of chance into them" in ended.out
    assert toys.left() == []
