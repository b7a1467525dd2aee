"""What chance, time and place put into a tree is gone, and nothing outside the tree is touched."""

from __future__ import annotations

import contextlib
import os
import py_compile
import shutil
import socket
import stat
import struct
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.disk.rooted import resolve
from pipeline.disk.tree import EPOCH, normalise, program
from pipeline.errors import BuildError

Snapshot = dict[str, tuple[int, bytes | str]]


def write(path: Path, text: str = "x", mode: int = 0o644) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(mode)
    return path


def snapshot(root: Path) -> Snapshot:
    """Modes, contents and link targets; times of files that were not written stay out of it."""
    found: Snapshot = {}
    for parent, folders, files in os.walk(root):
        for name in (*folders, *files):
            path = Path(parent) / name
            mode = path.lstat().st_mode
            content: bytes | str = ""
            if stat.S_ISLNK(mode):
                content = os.readlink(path)
            elif stat.S_ISREG(mode):
                content = path.read_bytes()
            found[path.relative_to(root).as_posix()] = (mode, content)
    return found


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return make_tree(tmp_path / "tree")


def make_tree(root: Path) -> Path:
    write(root / "usr/lib/os-release", "ID=debian\n")
    write(root / "etc/passwd", "root:x:0:0:root:/root:/bin/bash\n")
    write(root / "etc/machine-id", "uninitialized\n", 0o444)
    write(root / "etc/shadow", "root:*:20779:0:99999:7:::\n", 0o640)
    (root / "var/log").mkdir(parents=True)
    return root


@pytest.mark.parametrize(
    "name",
    [
        "etc/ssh/ssh_host_ed25519_key",
        "etc/ssh/ssh_host_rsa_key.pub",
        "etc/hostname",
        "etc/shadow-",
        "etc/dib-manifests/dib_arguments",
        "etc/iscsi/initiatorname.iscsi",
        "etc/apt/sources.list",
        "etc/apt/sources.list.d/build.list",
        "boot/vmlinuz-6.12",
        "root/.bash_history",
        "usr/lib/diskimage-builder/x",
        "var/cache/ldconfig/aux-cache",
        "var/lib/apt/lists/partial/x",
        "var/lib/dbus/machine-id",
        "var/lib/systemd/random-seed",
        "var/log/journal/0123/system.journal",
        "var/log/dpkg.log",
        "tmp/x/y",
    ],
)
def test_what_names_a_build_or_a_host_is_gone(root: Path, name: str) -> None:
    write(root / name)
    normalise(root)
    assert not (root / name).exists()


@pytest.mark.parametrize(
    "name",
    [
        "etc/ssh/sshd_config",
        "etc/ssh/ssh_host_config",
        "etc/apt/apt.conf.d/70debconf",
        "root/.bashrc",
        "var/lib/dpkg/status",
        "var/cache/debconf/config.dat",
    ],
)
def test_what_an_image_is_made_of_stays(root: Path, name: str) -> None:
    write(root / name)
    normalise(root)
    assert (root / name).read_text() == "x"


def test_folders_for_logs_stay_with_their_modes(root: Path) -> None:
    write(root / "var/log/private/app/today.log")
    (root / "var/log/private").chmod(0o700)
    normalise(root)
    assert stat.S_IMODE((root / "var/log/private").stat().st_mode) == 0o700
    assert os.listdir(root / "var/log/private/app") == []


def test_sockets_pipes_and_the_hosts_devices_are_gone(root: Path, tmp_path: Path) -> None:
    (root / "dev/pts").mkdir(parents=True)
    os.mkfifo(root / "dev/initctl")
    os.mkfifo(root / "var/log/pipe")
    if os.geteuid() == 0:
        os.mknod(root / "dev/vda", 0o600 | stat.S_IFBLK, os.makedev(254, 0))
        os.mknod(root / "dev/kvm", 0o600 | stat.S_IFCHR, os.makedev(10, 232))
    with socket.socket(socket.AF_UNIX) as listener:
        (tmp_path / "s").symlink_to(root)  # the path of a socket has at most 107 bytes
        listener.bind(str(tmp_path / "s/dev/log"))
    normalise(root)
    assert os.listdir(root / "dev") == os.listdir(root / "var/log") == []


def test_a_machine_gets_an_id_of_its_own_at_each_boot(root: Path) -> None:
    normalise(root)
    info = (root / "etc/machine-id").stat()
    assert (info.st_size, stat.S_IMODE(info.st_mode)) == (0, 0o444)


def test_folders_to_mount_on_are_there_whatever_our_umask(tmp_path: Path) -> None:
    trees = []
    for name, umask in (("one", 0o022), ("two", 0o077)):
        root = make_tree(tmp_path / name)
        shutil.rmtree(root / "var")
        (root / "etc/machine-id").unlink()
        old = os.umask(umask)
        try:
            normalise(root)
        finally:
            os.umask(old)
        trees.append(snapshot(root))
    assert trees[0] == trees[1]
    modes = {name: oct(stat.S_IMODE(mode)) for name, (mode, _) in trees[0].items()}
    assert modes["proc"] == modes["sys"] == "0o555"
    assert modes["tmp"] == modes["var/tmp"] == "0o1777"
    assert {modes[name] for name in ("boot", "data", "dev", "efi", "run", "var")} == {"0o755"}
    assert modes["etc/machine-id"] == "0o644"


def test_the_day_of_a_password_is_settled_and_nothing_else_of_it(root: Path) -> None:
    lines = [
        b"root:$6$salt$hash:20779:0:99999:7:::",
        b"new:!:0:0:99999:7:::",  # 0: must be changed at the first login
        b"old:*::0:99999:7:::",
        b"caf\xe9:*:19000:0:99999:7:::",  # no UTF-8
        b"broken",
    ]
    shadow = root / "etc/shadow"
    shadow.write_bytes(b"\n".join(lines))
    shadow.chmod(0o640)
    if os.geteuid() == 0:
        os.chown(shadow, 0, 42)
    before = shadow.stat()
    normalise(root)
    day = str(EPOCH // 86400).encode()
    settled = [line.replace(b"20779", day).replace(b"19000", day) for line in lines]
    assert shadow.read_bytes() == b"".join(line + b"\n" for line in settled)
    after = shadow.stat()
    assert (after.st_mode, after.st_gid) == (before.st_mode, before.st_gid)


def compiled(source: Path) -> Path:
    """Compile as the packages of a distribution do: the source's time goes into the header."""
    name = py_compile.compile(
        str(source), doraise=True, invalidation_mode=py_compile.PycInvalidationMode.TIMESTAMP
    )
    return Path(name or "")


def header(path: Path) -> tuple[int, int]:
    flags, time = struct.unpack("<4xII", path.read_bytes()[:12])
    return flags, time


@pytest.mark.parametrize("folder", ["usr/lib/python3", "opt/app"])
def test_python_finds_its_bytecode_fresh_when_all_files_have_the_roots_time(
    root: Path, folder: str
) -> None:
    source = write(root / folder / "greet.py", "print('hello')\n")
    os.utime(source, (1_700_000_000, 1_700_000_000))
    bytecode = compiled(source)
    normalise(root)
    assert header(bytecode) == (0, EPOCH)
    os.utime(source, (EPOCH, EPOCH))  # as mkfs.erofs does
    command = [sys.executable, "-I", "-S", "-v", "-c"]
    command += [f"import sys; sys.path.insert(0, {str(source.parent)!r}); import greet"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert f"{bytecode} matches {source}" in done.stderr
    assert done.stdout == "hello\n"


def test_bytecode_of_a_source_that_was_changed_since_is_never_made_valid(root: Path) -> None:
    source = write(root / "usr/lib/python3/port.py", "port = 80\n")
    os.utime(source, (1_700_000_000, 1_700_000_000))
    bytecode = compiled(source)
    source.write_text("port = 81\n")  # the same size: with equal times Python could not tell
    normalise(root)
    assert not bytecode.exists()


def test_bytecode_that_names_no_time_and_what_only_looks_like_bytecode_stay(root: Path) -> None:
    source = write(root / "usr/lib/python3/checked.py", "x = 1\n")
    py_compile.compile(
        str(source),
        cfile=str(root / "usr/lib/python3/__pycache__/checked.pyc"),
        invalidation_mode=py_compile.PycInvalidationMode.CHECKED_HASH,
    )
    hashed = root / "usr/lib/python3/__pycache__/checked.pyc"
    other = write(root / "usr/share/data.pyc", "0123456789abcdef and no bytecode")
    short = write(root / "usr/share/short.pyc", "short")
    before = [path.read_bytes() for path in (hashed, other, short)]
    normalise(root)
    assert [path.read_bytes() for path in (hashed, other, short)] == before


def test_a_folder_without_a_system_is_refused(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    with pytest.raises(BuildError, match="holds no operating system"):
        normalise(tmp_path)


def test_a_file_where_a_folder_belongs_is_told(root: Path) -> None:
    write(root / "data")
    with pytest.raises(BuildError, match="/data of the tree cannot be a folder"):
        normalise(root)


# --- links that lead out of the tree -------------------------------------------------------------

PLACES = [
    *("etc", "usr", "var", "var/lib", "var/log", "var/tmp", "boot", "dev", "tmp", "run", "root"),
    *("data", "efi", "proc", "etc/ssh", "etc/apt", "etc/machine-id", "etc/shadow", "etc/.updated"),
    *("etc/apt/sources.list.d", "var/cache", "var/cache/apt", "var/.updated", "usr/lib/python3"),
    *("usr/lib/python3/__pycache__", "etc/hostname", "usr/lib/diskimage-builder"),
]


def make_host(host: Path) -> Path:
    """A host that has everything which is changed in a tree."""
    for name in ("etc/hostname", "etc/ssh/ssh_host_rsa_key", "etc/apt/sources.list.d/host.list"):
        write(host / name)
    for name in ("var/log/syslog", "var/lib/dbus/machine-id", "boot/vmlinuz", "tmp/x", "run/x"):
        write(host / name)
    write(host / "etc/machine-id", "0123\n")
    write(host / "etc/shadow", "root:*:20779:0:99999:7:::\n", 0o640)
    source = write(host / "usr/lib/python3/mine.py", "x = 1\n")
    os.utime(source, (1_700_000_000, 1_700_000_000))
    compiled(source)
    return host


@pytest.mark.parametrize("absolute", [True, False], ids=["absolute", "relative"])
@pytest.mark.parametrize("place", PLACES)
def test_a_link_out_of_the_tree_never_changes_the_host(
    tmp_path: Path, place: str, absolute: bool
) -> None:
    host = make_host(tmp_path / "host")
    root = make_tree(tmp_path / "build/tree")
    source = write(root / "usr/lib/python3/app.py", "x = 1\n")
    compiled(source)
    path = root / place
    if path.is_dir():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    up = os.path.relpath(host, path.parent)
    path.symlink_to(Path(str(host) if absolute else up) / place)
    before = snapshot(host)
    with contextlib.suppress(BuildError):  # a link that leads nowhere may be refused
        normalise(root)
    assert snapshot(host) == before


def test_a_link_to_where_it_stands_is_refused_not_followed_for_ever(root: Path) -> None:
    shutil.rmtree(root / "etc")
    (root / "etc").symlink_to("/etc")
    with pytest.raises(BuildError, match="never end"):
        normalise(root)


def test_links_inside_the_tree_are_followed_inside_the_tree(root: Path) -> None:
    (root / "usr/etc").mkdir()
    write(root / "usr/etc/hostname")
    write(root / "usr/etc/passwd")
    shutil.rmtree(root / "etc")
    (root / "etc").symlink_to("/usr/etc")
    normalise(root)
    assert not (root / "usr/etc/hostname").exists()
    assert (root / "usr/etc/machine-id").read_bytes() == b""


def test_a_folder_that_is_a_link_stays_one(root: Path) -> None:
    (root / "var/run").symlink_to("/run")
    (root / "var/tmp").symlink_to("/tmp")
    (root / "tmp").mkdir()
    normalise(root)
    assert os.readlink(root / "var/run") == "/run"
    assert os.readlink(root / "var/tmp") == "/tmp"


@pytest.mark.parametrize(
    ("name", "follow", "expected"),
    [
        ("plain/file", True, "plain/file"),
        ("/plain", True, "plain"),
        ("up/../../../x", True, "x"),
        ("absolute/x", True, "usr/lib/x"),
        ("relative/x", True, "usr/lib/x"),
        ("absolute", False, "absolute"),
        ("above", True, "etc"),
        ("twice/x", True, "usr/lib/x"),
        ("to-root/etc", True, "etc"),
    ],
)
def test_a_path_is_what_a_program_of_the_tree_would_see(
    tmp_path: Path, name: str, follow: bool, expected: str
) -> None:
    (tmp_path / "absolute").symlink_to("/usr/lib")
    (tmp_path / "relative").symlink_to("usr/./lib")
    (tmp_path / "above").symlink_to("../../../../etc")
    (tmp_path / "twice").symlink_to("/absolute")
    (tmp_path / "to-root").symlink_to("/")
    assert resolve(tmp_path, name, follow=follow) == tmp_path / expected


# --- once is enough ------------------------------------------------------------------------------

files = st.dictionaries(
    st.sampled_from(
        "etc/hostname etc/ssh/ssh_host_rsa_key var/log/a/b var/.updated etc/shadow run/x dev/x "
        "usr/lib/a.py usr/lib/__pycache__/a.cpython-311.pyc tmp/x etc/machine-id lost+found/x "
        "usr/lib/b.pyc".split()
    ),
    st.binary(max_size=40)
    | st.binary(max_size=24).map(lambda data: b"\xa7\x0d\r\n" + bytes(4) + data),
)


@settings(max_examples=40)
@given(contents=files)
def test_normalising_twice_is_normalising_once(
    contents: dict[str, bytes], tmp_path_factory: pytest.TempPathFactory
) -> None:
    root = make_tree(tmp_path_factory.mktemp("tree") / "root")
    for name, data in contents.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        path.write_bytes(data)
    normalise(root)
    once = snapshot(root)
    normalise(root)
    assert snapshot(root) == once


# --- programs of the tree ------------------------------------------------------------------------


def test_a_program_runs_with_the_loader_and_libraries_of_the_tree(root: Path) -> None:
    write(root / "usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2")
    (root / "usr/lib64").mkdir()
    (root / "lib64").symlink_to("usr/lib64")
    # Absolute, as in Debian 12: it means the tree's, not the host's.
    loader = root / "usr/lib64/ld-linux-x86-64.so.2"
    loader.symlink_to("/usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2")
    write(root / "usr/sbin/veritysetup")
    assert program(root, "veritysetup") == [
        f"{root}/usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2",
        "--library-path",
        f"{root}/usr/lib/x86_64-linux-gnu:{root}/usr/lib64",
        f"{root}/usr/sbin/veritysetup",
    ]


def test_a_program_that_is_missing_is_named(root: Path) -> None:
    with pytest.raises(BuildError, match=r"no `mkfs\.erofs`") as caught:
        program(root, "mkfs.erofs")
    assert "recast-base" in caught.value.hint
