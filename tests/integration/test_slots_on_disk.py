"""A machine's own GPT and hash trees against the tools of others: sfdisk and veritysetup."""

from __future__ import annotations

import json
import random
import re
import uuid
from pathlib import Path

import pytest

from pipeline import digest
from pipeline.agent import gpt, verity
from pipeline.agent.blocks import FileDisk, Part
from pipeline.agent.esp import MountedEsp
from pipeline.agent.slots import DiskSlots
from pipeline.agent.verity import BLOCK, Recipe
from pipeline.command import run
from pipeline.disk.gpt import ESP, ROOT_VERITY_X86_64, ROOT_X86_64, partition_uuids
from pipeline.disk.tree import ENVIRONMENT
from pipeline.models.device import Attempt
from tests.fakes.slots import Built, FakeSource, build, make_attempt, make_running

MIB = 1 << 20
V1, V2 = build(1, blocks=700), build(2, blocks=900)


def make_disk(path: Path, running: Built) -> None:
    """As a machine's disk is after its first boot, made with sfdisk."""
    root, tree = partition_uuids(running.release.root_hash)
    script = f"""label: gpt
start=2048, size=8192, type={ESP}, name="esp"
size=16384, type={ROOT_X86_64}, uuid={root}, name="{running.release.version[:36]}", attrs="GUID:60"
size=2048, type={ROOT_VERITY_X86_64}, uuid={tree}, name="v", attrs="GUID:60"
size=16384, type={ROOT_X86_64}, name="_empty", attrs="GUID:59"
size=2048, type={ROOT_VERITY_X86_64}, name="_empty"
size=8192, type=0FC63DAF-8483-4772-8E79-3D69D8477DE4, name="recast-data"
"""
    with path.open("wb") as file:
        file.truncate(40 * MIB)
    run(["sfdisk", "--quiet", str(path)], env=ENVIRONMENT, input=script.encode())
    with FileDisk(path) as disk:
        for part, data in zip(
            gpt.read(disk).partitions[1:3], (running.root, running.tree), strict=True
        ):
            part.on(disk).write(0, data)
        disk.sync()


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    path = tmp_path / "disk.raw"
    make_disk(path, V1)
    return path


@pytest.fixture
def esp(tmp_path: Path) -> MountedEsp:
    return fill_esp(tmp_path / "esp")


def fill_esp(root: Path) -> MountedEsp:
    for folder in ("EFI/BOOT", "EFI/Linux", "loader"):
        (root / folder).mkdir(parents=True)
    (root / f"EFI/Linux/{V1.release.name}.efi").write_bytes(V1.uki)
    return MountedEsp(root)


def told(path: Path) -> list[dict[str, object]]:
    table = json.loads(run(["sfdisk", "--json", str(path)], env=ENVIRONMENT).stdout)
    partitions = table["partitiontable"]["partitions"]
    assert isinstance(partitions, list)
    return partitions


def verify(path: Path) -> str:
    return run(["sfdisk", "--verify", str(path)], env=ENVIRONMENT).stdout


def put(disk: Path, esp: MountedEsp, wanted: Built) -> Attempt:
    with FileDisk(disk) as device:
        slots = DiskSlots(device, esp, make_running(V1), machine="x86_64")
        assert all(gate.passed for gate in slots.check(wanted.release)[:2])
        return slots.apply(make_attempt(wanted), FakeSource((V1, V2)), lambda _: None, sequence=1)


def test_sfdisk_reads_the_table_as_we_do(disk: Path) -> None:
    with FileDisk(disk) as device:
        ours = gpt.read(device).partitions
    for mine, theirs in zip(ours, told(disk), strict=True):
        assert (mine.first, mine.size // 512) == (theirs["start"], theirs["size"])
        assert str(mine.uuid) == str(theirs["uuid"]).lower()
        assert str(mine.type) == str(theirs["type"]).lower()
        assert mine.label == theirs.get("name", "")


def test_sfdisk_finds_no_fault_in_an_edited_table_and_sees_the_new_names(disk: Path) -> None:
    identity = uuid.uuid5(uuid.NAMESPACE_DNS, "slot")
    before = told(disk)
    with FileDisk(disk) as device:
        part = gpt.read(device).partitions[3]
        new = gpt.named(part, identity, "20260301.120000.gabc", attributes=gpt.READ_ONLY)
        gpt.rename(device, {4: new})
    assert "No errors detected" in verify(disk)
    after = told(disk)
    assert after[3].pop("uuid") == str(identity).upper()
    assert after[3].pop("name") == "20260301.120000.gabc"
    assert after[3].pop("attrs") == "GUID:60"
    for key in ("uuid", "name", "attrs"):
        before[3].pop(key)
    assert after == before


@pytest.mark.parametrize("at", [512, 1024, -512, -33 * 512], ids=["head", "rows", "tail", "tail2"])
def test_sfdisk_finds_a_damaged_copy_made_good(disk: Path, at: int) -> None:
    size = disk.stat().st_size
    with disk.open("r+b") as file:
        file.seek(at % size)
        file.write(b"\xff" * 512)
    with FileDisk(disk) as device:
        gpt.rename(device, {})
    printed = verify(disk)
    assert "No errors detected" in printed
    assert "corrupt" not in printed


@pytest.mark.parametrize("blocks", [1, 2, 127, 128, 129, 16384, 16385, 20000])
def test_a_tree_has_the_bytes_that_veritysetup_writes(tmp_path: Path, blocks: int) -> None:
    data, theirs, ours = (tmp_path / name for name in ("data", "theirs", "ours"))
    data.write_bytes(random.Random(blocks).randbytes(blocks * BLOCK))
    recipe = Recipe.of_content(blocks * BLOCK, digest.of_file(data))
    argv = ["veritysetup", "format", str(data), str(theirs), "--hash", "sha256"]
    argv += ["--data-block-size", str(BLOCK), "--hash-block-size", str(BLOCK)]
    argv += ["--salt", recipe.salt.hex(), "--uuid", str(recipe.uuid)]
    found = re.search(r"Root hash:\s*([0-9a-f]{64})\b", run(argv, env=ENVIRONMENT).stdout)
    assert found is not None
    ours.write_bytes(bytes(recipe.tree_size))
    with FileDisk(data) as source, FileDisk(ours) as tree:
        root_hash = verity.hash_data(recipe, Part(source, 0, source.size), tree.write)
        tree.sync()
        assert verity.check_tree(recipe, Part(tree, 0, tree.size), root_hash)
    assert root_hash == found[1]
    assert ours.read_bytes() == theirs.read_bytes()


def test_an_updated_disk_has_a_slot_that_veritysetup_and_sfdisk_accept(
    tmp_path: Path, disk: Path, esp: MountedEsp
) -> None:
    done = put(disk, esp, V2)
    assert done.step == "activated"
    assert "No errors detected" in verify(disk)
    rows = told(disk)
    halves = partition_uuids(V2.release.root_hash)
    assert [str(rows[n]["uuid"]).lower() for n in (3, 4)] == [str(half) for half in halves]
    assert {rows[n]["name"] for n in (3, 4)} == {V2.release.version[:36]}
    assert {rows[n]["attrs"] for n in (3, 4)} == {"GUID:60"}
    with FileDisk(disk) as device:
        for number, name in ((3, "root"), (4, "tree")):
            part = gpt.read(device).partitions[number].on(device)
            (tmp_path / name).write_bytes(part.read(0, part.size))
    argv = ["veritysetup", "verify", str(tmp_path / "root"), str(tmp_path / "tree")]
    run([*argv, V2.release.root_hash], env=ENVIRONMENT)
