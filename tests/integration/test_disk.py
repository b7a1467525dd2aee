"""One tree gives one disk, byte for byte, and the tools of others find in it what is meant."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import struct
import tempfile
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from pipeline import command, digest
from pipeline.disk import assemble, gpt, tree, verity
from pipeline.disk.uki import read_sections
from pipeline.errors import BudgetError, BuildError, DiskFullError
from tests.fakes import bootable_tree, newc

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="a tree's owners need root")

MIB = 1 << 20
VERSION = "20260102.030405.gabcdefabcdef.dirty.01234567"
NAMING = assemble.Naming("edge", VERSION, f"edge_{VERSION}_amd64")
SIZES = assemble.Sizes.of_budget(root=64 * MIB, esp=40 * MIB)


@dataclass(frozen=True)
class Made:
    parts: assemble.RootParts
    files: Mapping[str, Path]

    @property
    def digests(self) -> dict[str, str]:
        return {role: digest.of_file(file) for role, file in self.files.items()}


def make(tar: Path, folder: Path, *, budget: int = 64 * MIB) -> Made:
    folder.mkdir(exist_ok=True)
    log = io.StringIO()
    parts = assemble.make_root(tar, folder, image="edge", budget=budget, log=log)
    files = assemble.make_boot_files(
        parts, NAMING, arguments=["quiet"], sizes=SIZES, budget=8 * MIB, log=log
    )
    return Made(parts, files)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tree with what is easily lost: owners, capabilities, hard links, old times."""
    root = bootable_tree.make_folder(tmp_path_factory.mktemp("tree") / "root")
    (root / "opt/secret").write_text("x")
    os.chown(root / "opt/secret", 1234, 4321)
    (root / "opt/secret").chmod(0o4710)
    for name in "badc":
        (root / f"opt/{name}").write_text("one file, four names") if name == "b" else os.link(
            root / "opt/b", root / f"opt/{name}"
        )
    (root / "opt/ping").write_text("x")
    capability = struct.pack("<IIIII", 0x02000001, 1 << 13, 0, 0, 0)  # cap_net_raw=ep
    os.setxattr(root / "opt/ping", "security.capability", capability)
    os.setxattr(root / "opt/ping", "trusted.note", b"a")
    os.setxattr(root / "opt/ping", "trusted.also", b"b")
    return root


@pytest.fixture(scope="module")
def tar(folder: Path) -> Path:
    return bootable_tree.pack(folder, folder.with_name("tree.tar"))


@pytest.fixture(scope="module")
def made(tar: Path, tmp_path_factory: pytest.TempPathFactory) -> Made:
    return make(tar, tmp_path_factory.mktemp("made"))


@pytest.fixture
def other_filesystem() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(dir="/dev/shm" if os.path.isdir("/dev/shm") else None))
    yield path
    shutil.rmtree(path)


def test_a_tree_gives_the_same_bytes_wherever_and_whenever_it_is_assembled(
    folder: Path,
    made: Made,
    tmp_path: Path,
    other_filesystem: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Times before and after the root's own; another order; another host's settings.
    turned = bootable_tree.pack(folder, tmp_path / "tree.tar", turned=True, time=1_000_000_000)
    for name, value in {
        "SOURCE_DATE_EPOCH": "1",
        "TZ": "Asia/Tokyo",
        "LC_ALL": "de_DE.UTF-8",
        "MTOOLS_LOWER_CASE": "1",
        "TAR_OPTIONS": "--exclude=secret",
    }.items():
        monkeypatch.setenv(name, value)
    old = os.umask(0o077)
    try:
        again = make(turned, other_filesystem / "elsewhere")
    finally:
        os.umask(old)
    assert again.parts.root_hash == made.parts.root_hash
    assert again.digests == made.digests


def test_other_content_is_another_root_and_another_name_is_not(
    folder: Path, made: Made, tmp_path: Path
) -> None:
    changed = tmp_path / "root"
    shutil.copytree(folder, changed, symlinks=True)
    (changed / "opt/new").write_text("x")
    other = make(bootable_tree.pack(changed, tmp_path / "tree.tar"), tmp_path / "made")
    assert other.parts.root_hash != made.parts.root_hash
    assert other.parts.boot_digest(["quiet"]) == made.parts.boot_digest(["quiet"])
    assert made.parts.boot_digest([]) != made.parts.boot_digest(["quiet"])


def test_unpacking_keeps_owners_modes_capabilities_and_hard_links(made: Made, folder: Path) -> None:
    root = made.parts.tree
    info = (root / "opt/secret").stat()
    assert (info.st_uid, info.st_gid, info.st_mode & 0o7777) == (1234, 4321, 0o4710)
    assert {*os.listxattr(root / "opt/ping")} == {*os.listxattr(folder / "opt/ping")}
    capability = os.getxattr(folder / "opt/ping", "security.capability")
    assert os.getxattr(root / "opt/ping", "security.capability") == capability
    assert len({(root / f"opt/{name}").stat().st_ino for name in "abcd"}) == 1
    assert (root / "opt/a").stat().st_nlink == 4


def test_the_root_is_an_erofs_that_others_read(made: Made, tmp_path: Path) -> None:
    root = made.parts.root
    assert root.stat().st_size % 4096 == 0
    command.run(["fsck.erofs", str(root)])
    shown = command.run(["dump.erofs", "--path=/opt/secret", str(root)], env=tree.ENVIRONMENT)
    assert "Uid: 1234" in shown.stdout
    assert "Gid: 4321" in shown.stdout
    assert "710/rwx--x---" in shown.stdout
    # One time for all: those that were older and those that were newer.
    for name in ("/opt/secret", "/usr/lib/os-release", "/etc/machine-id", "/"):
        shown = command.run(["dump.erofs", f"--path={name}", str(root)], env=tree.ENVIRONMENT)
        assert "2020-01-01 00:00:00" in shown.stdout


def test_the_disk_has_the_partitions_that_an_initrd_looks_for(made: Made) -> None:
    disk = made.files["disk"]
    table = json.loads(command.run(["sfdisk", "--json", str(disk)]).stdout)["partitiontable"]
    assert (table["label"], table["unit"], table["sectorsize"]) == ("gpt", "sectors", 512)
    esp, root, hashes = table["partitions"]
    assert [part["type"].lower() for part in (esp, root, hashes)] == [
        gpt.ESP,
        gpt.ROOT_X86_64,
        gpt.ROOT_VERITY_X86_64,
    ]
    halves = made.parts.root_hash[:32], made.parts.root_hash[32:]
    assert (uuid.UUID(root["uuid"]).hex, uuid.UUID(hashes["uuid"]).hex) == halves
    assert esp["name"] == "esp"
    assert root["name"] == hashes["name"] == VERSION[:36]
    assert "GUID:60" in root["attrs"]
    assert "GUID:60" in hashes["attrs"]
    assert "attrs" not in esp
    for part, size in ((esp, SIZES.esp), (root, SIZES.root), (hashes, SIZES.verity)):
        assert part["start"] * 512 % MIB == 0
        assert part["size"] * 512 == size
    for part, file in ((root, made.files["root"]), (hashes, made.files["verity"])):
        assert read_at(disk, part["start"] * 512, file.stat().st_size) == file.read_bytes()
    command.run(["sfdisk", "--verify", str(disk)])


def read_at(disk: Path, start: int, size: int) -> bytes:
    with disk.open("rb") as file:
        file.seek(start)
        return file.read(size)


def test_the_disk_takes_no_more_room_than_what_is_on_it(made: Made) -> None:
    data = sum(made.files[role].stat().st_size for role in ("root", "verity", "uki"))
    info = made.files["disk"].stat()
    assert info.st_blocks * 512 < data + 2 * MIB < info.st_size


def test_the_esp_holds_the_boot_loader_and_a_uki_with_three_tries(
    made: Made, tmp_path: Path
) -> None:
    at = f"{made.files['disk']}@@{MIB}"
    listed = command.run(["mdir", "-/", "-b", "-i", at, "::"]).stdout.split("\n")
    uki = f"EFI/Linux/{NAMING.name}+3.efi"
    expected = {
        uki: made.files["uki"].read_bytes(),
        "EFI/BOOT/BOOTX64.EFI": bootable_tree.BOOT_LOADER,
        "loader/loader.conf": b"timeout 0\neditor no\n",
    }
    assert {line.removeprefix("::/") for line in listed if line and line[-1] != "/"} == {*expected}
    for name, content in expected.items():
        target = tmp_path / Path(name).name
        command.run(["mcopy", "-n", "-i", at, f"::{name}", str(target)])
        assert target.read_bytes() == content


def test_the_uki_pins_exactly_this_root(made: Made) -> None:
    sections = read_sections(made.files["uki"].read_bytes())
    words = sections[".cmdline"].decode().split(" ")
    assert words[0] == f"roothash={made.parts.root_hash}"
    assert words[-2:] == ["quiet", f"recast.release={NAMING.name}"]
    assert "systemd.volatile=overlay" in words
    assert sections[".linux"] == bootable_tree.KERNEL
    uki = made.files["uki"].read_bytes()
    libraries = [each for each in newc.pieces(sections[".initrd"]) if each.name.endswith(b".so")]
    assert libraries
    assert all(uki.index(each.data) % 4096 == 0 for each in libraries)
    assert newc.unpacked(sections[".initrd"]) == newc.unpacked(bootable_tree.INITRD)
    assert f"IMAGE_VERSION={VERSION}\n" in sections[".osrel"].decode()


# --- verity ---------------------------------------------------------------------------------------


def hash_tree(data: bytes, salt: bytes) -> tuple[str, bytes]:
    """dm-verity, version 1, after the kernel's documentation: root hash, and levels, top first."""
    levels: list[bytes] = []
    blocks = [data[at : at + 4096] for at in range(0, len(data), 4096)]
    while True:
        hashes = b"".join(hashlib.sha256(salt + block).digest() for block in blocks)
        if len(blocks) == 1:
            return hashes.hex(), b"".join(reversed(levels))
        level = hashes.ljust(-(-len(hashes) // 4096) * 4096, b"\0")
        levels.append(level)
        blocks = [level[at : at + 4096] for at in range(0, len(level), 4096)]


@pytest.mark.parametrize("blocks", [1, 2, 127, 128, 129, 300])
def test_the_hash_tree_is_what_the_kernel_documents(
    made: Made, tmp_path: Path, blocks: int
) -> None:
    data = tmp_path / "data"
    data.write_bytes(b"".join(b"%4096d" % number for number in range(blocks)))
    target = tmp_path / "verity"
    found = verity.make_verity(made.parts.tree, data, target)
    written = target.read_bytes()
    version, kind, raw, algorithm, size, hash_size, count, salt_size = struct.unpack_from(
        "<8xII16s32sIIQH", written
    )
    assert (written[:8], version, kind) == (b"verity\0\0", 1, 1)
    assert (algorithm.rstrip(b"\0"), size, hash_size, count) == (b"sha256", 4096, 4096, blocks)
    root_hash, levels = hash_tree(data.read_bytes(), written[88 : 88 + salt_size])
    assert found.root_hash == root_hash
    assert written[4096:] == levels
    assert len(written) == verity.tree_size(blocks * 4096)
    assert found.content == digest.of_file(data)
    # Identity and salt follow from the data.
    again = tmp_path / "again"
    assert verity.make_verity(made.parts.tree, data, again) == found
    assert again.read_bytes() == written
    data.write_bytes(data.read_bytes()[:-1] + b"!")
    verity.make_verity(made.parts.tree, data, again)
    other = again.read_bytes()
    assert other[16:32] != raw
    assert other[88:120] != written[88:120]


def test_the_tree_of_a_large_root_has_the_size_that_partitions_are_planned_with(
    made: Made, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    with data.open("wb") as file:
        file.truncate((128 * 128 + 1) * 4096)  # a third level
    verity.make_verity(made.parts.tree, data, tmp_path / "verity")
    assert (tmp_path / "verity").stat().st_size == verity.tree_size(data.stat().st_size)


# --- what goes wrong ------------------------------------------------------------------------------


def test_a_root_over_its_budget_names_its_largest_folders_once(tar: Path, tmp_path: Path) -> None:
    with pytest.raises(BudgetError, match=r"the root of edge is .* budget is 1\.0 MiB") as caught:
        make(tar, tmp_path / "made", budget=MIB)
    lines = caught.value.message.splitlines()[1:]
    assert lines[0].endswith("usr/lib")
    names = [line.split()[-1] for line in lines]
    assert len(set(names)) == len(names)
    assert not any(name.startswith("lib/") for name in names)  # a link: counted as usr/lib
    assert "images/edge/image.yaml" in caught.value.hint


def test_a_uki_over_its_budget_is_refused(made: Made) -> None:
    with pytest.raises(BudgetError, match=r"the UKI of edge is .*initrd"):
        assemble.make_boot_files(
            made.parts, NAMING, arguments=[], sizes=SIZES, budget=1000, log=io.StringIO()
        )


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        ("boot/vmlinuz-6.12", "one kernel in /boot, this tree has: none"),
        ("boot/recast/initrd", "no /boot/recast/initrd"),
        ("usr/lib/systemd/boot/efi/linuxx64.efi.stub", r"no /usr/lib/.*linuxx64\.efi\.stub"),
        ("usr/lib/os-release", "no /usr/lib/os-release"),
        ("usr/sbin/mkfs.erofs", r"no `mkfs\.erofs`"),
        ("usr/sbin/veritysetup", "no `veritysetup`"),
    ],
)
def test_a_tree_that_cannot_boot_says_what_it_lacks(
    folder: Path, tmp_path: Path, missing: str, message: str
) -> None:
    root = tmp_path / "root"
    shutil.copytree(folder, root, symlinks=True)
    (root / missing).unlink()
    with pytest.raises(BuildError, match=message):
        make(bootable_tree.pack(root, tmp_path / "tree.tar"), tmp_path / "made")


def test_an_initrd_that_is_cut_off_ends_the_build(folder: Path, tmp_path: Path) -> None:
    root = tmp_path / "root"
    shutil.copytree(folder, root, symlinks=True)
    (root / "boot/recast/initrd").write_bytes(bootable_tree.INITRD[:10_000])
    with pytest.raises(BuildError, match="initrd is not what a kernel unpacks: it is cut off"):
        make(bootable_tree.pack(root, tmp_path / "tree.tar"), tmp_path / "made")


def test_a_kernel_that_is_a_link_to_the_hosts_is_not_taken(folder: Path, tmp_path: Path) -> None:
    root = tmp_path / "root"
    shutil.copytree(folder, root, symlinks=True)
    (tmp_path / "host-kernel").write_bytes(b"the host's")
    (root / "boot/vmlinuz-6.12").unlink()
    (root / "boot/vmlinuz-6.12").symlink_to(tmp_path / "host-kernel")
    with pytest.raises(BuildError, match=r"no /boot/vmlinuz-6\.12"):
        make(bootable_tree.pack(root, tmp_path / "tree.tar"), tmp_path / "made")


@pytest.mark.parametrize("share", [0.05, 0.35, 0.5, 0.65, 0.75, 0.85, 0.98])
def test_a_full_disk_is_told_as_that_wherever_it_fills_up(
    made: Made, tar: Path, tmp_path: Path, share: float
) -> None:
    needed = sum(path.lstat().st_blocks * 512 for path in made.parts.folder.rglob("*"))
    room = int(share * needed)
    small = tmp_path / "small"
    small.mkdir()
    command.run(["mount", "-t", "tmpfs", "-o", f"size={room}", "tmpfs", str(small)])
    try:
        with pytest.raises(DiskFullError, match="small") as caught:
            make(tar, small / "made")
        assert "Free some space" in caught.value.hint
    finally:
        command.run(["umount", str(small)])


# --- containers, and what remains -----------------------------------------------------------------


def test_a_qcow2_holds_the_same_bytes_compressed(made: Made, tmp_path: Path) -> None:
    disk, target, back = made.files["disk"], tmp_path / "disk.qcow2", tmp_path / "back.raw"
    assemble.make_qcow2(disk, target, log=io.StringIO())
    info = json.loads(command.run(["qemu-img", "info", "--output=json", str(target)]).stdout)
    assert info["format-specific"]["data"]["compression-type"] == "zstd"
    assert target.stat().st_size < disk.stat().st_blocks * 512
    command.run(["qemu-img", "convert", "-O", "raw", str(target), str(back)])
    assert digest.of_file(back) == digest.of_file(disk)
    again = tmp_path / "again.qcow2"
    assemble.make_qcow2(disk, again, log=io.StringIO())
    assert again.read_bytes() == target.read_bytes()


def test_digests_are_those_of_the_files_and_the_tree_is_gone(tar: Path, tmp_path: Path) -> None:
    made = make(tar, tmp_path / "made")
    expected = {
        role: hashlib.sha256(file.read_bytes()).hexdigest() for role, file in made.files.items()
    }
    assert assemble.digests(made.parts, made.files) == expected
    assert not made.parts.tree.exists()
