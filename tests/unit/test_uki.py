"""A UKI is what firmware will load: checked by a PE reader that is not ours."""

from __future__ import annotations

import contextlib
import itertools
import struct
from pathlib import Path

import pefile
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.disk.uki import make_uki, read_sections
from pipeline.errors import BuildError
from tests.fakes.efi_stub import make_stub

SECTIONS = {
    ".osrel": b"ID=debian\n",
    ".cmdline": b"roothash=00 quiet",
    ".initrd": b"\x01" * 7_001,
    ".linux": b"MZ" + b"\x02" * 12_345,
}
REAL_STUB = Path("/usr/lib/systemd/boot/efi/linuxx64.efi.stub")
names = st.text("abcdefghijklmnopqrstuvwxyz", min_size=1, max_size=7).map(lambda name: "." + name)
contents = st.dictionaries(names, st.binary(min_size=1, max_size=2_000), min_size=1, max_size=8)


def write(tmp_path: Path, stub: bytes) -> Path:
    path = tmp_path / "linuxx64.efi.stub"
    path.write_bytes(stub)
    return path


@pytest.fixture
def stub_file(tmp_path: Path) -> Path:
    return write(tmp_path, make_stub())


def stubs() -> list[Path | None]:
    return [None, REAL_STUB] if REAL_STUB.exists() else [None]


def check_as_firmware_does(image: bytes, stub: bytes, added: dict[str, bytes]) -> None:
    pe = pefile.PE(data=image, fast_load=True)
    old = pefile.PE(data=stub, fast_load=True)
    header = pe.OPTIONAL_HEADER
    # pefile also wonders at contents that are one byte over and over, as ours are.
    assert not [text for text in pe.get_warnings() if not text.startswith("Byte 0x")]
    found = {section.Name.rstrip(b"\0").decode(): section for section in pe.sections}
    assert list(found) == [s.Name.rstrip(b"\0").decode() for s in old.sections] + list(added)
    for name, data in added.items():
        assert found[name].get_data()[: found[name].Misc_VirtualSize] == data
        assert found[name].Characteristics == 0x40000040  # initialised data, readable, no more
    for section in old.sections:
        name = section.Name.rstrip(b"\0").decode()
        assert found[name].get_data() == section.get_data()
    table_end = pe.sections[-1].get_file_offset() + 40
    assert table_end <= header.SizeOfHeaders <= pe.sections[0].PointerToRawData
    memory, file = header.SizeOfHeaders, header.SizeOfHeaders
    for section in pe.sections:
        assert section.VirtualAddress % header.SectionAlignment == 0
        assert section.PointerToRawData % header.FileAlignment == 0
        assert section.SizeOfRawData % header.FileAlignment == 0
        assert section.VirtualAddress >= memory
        assert section.PointerToRawData >= file
        memory = section.VirtualAddress + section.Misc_VirtualSize
        file = section.PointerToRawData + section.SizeOfRawData
    assert header.SizeOfImage == -(-memory // header.SectionAlignment) * header.SectionAlignment
    assert file == len(image)
    assert header.AddressOfEntryPoint == old.OPTIONAL_HEADER.AddressOfEntryPoint
    assert pe.FILE_HEADER.PointerToSymbolTable == 0
    assert header.DATA_DIRECTORY[4].VirtualAddress == 0  # the signature
    assert header.CheckSum == 0


@pytest.mark.parametrize("stub", stubs())
def test_firmware_finds_every_section_where_the_headers_say(
    stub: Path | None, stub_file: Path
) -> None:
    path = stub or stub_file
    image = make_uki(path, SECTIONS)
    check_as_firmware_does(image, path.read_bytes(), SECTIONS)
    assert make_uki(path, SECTIONS) == image


@settings(max_examples=50)
@given(added=contents, there=contents, room=st.integers(2048, 4096))
def test_what_went_in_comes_out(
    added: dict[str, bytes],
    there: dict[str, bytes],
    room: int,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    there = {name: data for name, data in there.items() if name not in added}
    there[".text"] = b"\xf4"
    added.pop(".text", None)
    stub = make_stub(there, room=room)
    image = make_uki(write(tmp_path_factory.mktemp("stub"), stub), added)
    assert read_sections(image) == {**there, **added}
    check_as_firmware_does(image, stub, added)


def test_large_sections_begin_on_blocks_of_the_file_and_no_byte_is_in_no_section(
    stub_file: Path,
) -> None:
    for length in (1, 300, 4095, 4096, 5000):
        sections = {**SECTIONS, ".osrel": b"x" * length}
        pe = pefile.PE(data=make_uki(stub_file, sections), fast_load=True)
        found = {section.Name.rstrip(b"\0").decode(): section for section in pe.sections}
        for name in (".initrd", ".linux"):
            assert found[name].PointerToRawData % 4096 == 0
        added = [found[name] for name in sections]
        for one, next_one in itertools.pairwise(added):
            assert one.PointerToRawData + one.SizeOfRawData == next_one.PointerToRawData


def test_a_longer_command_line_moves_no_block_of_the_initrd(stub_file: Path) -> None:
    initrd = bytes(range(256)) * 100
    ukis = [
        make_uki(stub_file, {**SECTIONS, ".cmdline": b"x" * length, ".initrd": initrd})
        for length in (10, 3000)
    ]
    blocks = [{uki[at : at + 4096] for at in range(0, len(uki), 4096)} for uki in ukis]
    assert len(blocks[1] - blocks[0]) <= 3  # headers, and the command line


def test_a_signature_and_a_symbol_table_are_dropped_with_what_points_to_them(
    tmp_path: Path, stub_file: Path
) -> None:
    symbols = bytes(range(18)) * 3 + struct.pack("<I", 4)
    stub = make_stub(symbols=symbols, signature=b"\x30" * 512)
    image = make_uki(write(tmp_path, stub), SECTIONS)
    assert image == make_uki(write(tmp_path, make_stub()), SECTIONS)
    assert symbols not in image


def test_headers_that_are_full_are_not_written_over(tmp_path: Path) -> None:
    stub = write(tmp_path, make_stub(room=512))
    make_uki(stub, {".one": b"1"})
    with pytest.raises(BuildError, match="no room for 4 more sections"):
        make_uki(stub, SECTIONS)


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({".cmdline": b""}, ".cmdline of a UKI would be empty"),
        ({".far-too-long": b"1"}, "too long"),
        ({".sbat": b"1"}, "there already"),
    ],
)
def test_sections_that_no_firmware_could_tell_apart_are_refused(
    stub_file: Path, sections: dict[str, bytes], message: str
) -> None:
    with pytest.raises(BuildError, match=message):
        make_uki(stub_file, sections)


def test_a_stub_that_is_cut_off_anywhere_is_refused(tmp_path: Path) -> None:
    whole = make_stub({".text": b"\xf4"})
    for length in range(len(whole)):
        with pytest.raises(BuildError):
            read_sections(whole[:length])
    for length in range(0, len(whole), 61):
        with pytest.raises(BuildError):
            make_uki(write(tmp_path, whole[:length]), SECTIONS)


@given(
    changes=st.lists(
        st.tuples(st.integers(0, 511), st.sampled_from([0, 1, 0x7F, 0x80, 0xFF])), max_size=12
    ),
    length=st.integers(0, 2048),
)
def test_a_damaged_stub_is_used_or_refused_and_nothing_else(
    changes: list[tuple[int, int]], length: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    stub = bytearray(make_stub())
    for at, value in changes:
        stub[at] = value
    damaged = bytes(stub[: len(stub) - length])
    path = write(tmp_path_factory.mktemp("stub"), damaged)
    for use in (lambda: make_uki(path, {".one": b"1"}), lambda: read_sections(damaged)):
        with contextlib.suppress(BuildError):
            use()


@pytest.mark.parametrize("damage", [(0, b"ZM"), (0x80, b"XE"), (0x98, b"\x0b\x01")])
def test_what_is_no_efi_program_is_called_that(tmp_path: Path, damage: tuple[int, bytes]) -> None:
    stub = bytearray(make_stub())
    at, value = damage
    stub[at : at + len(value)] = value
    with pytest.raises(BuildError, match="is not an EFI program"):
        make_uki(write(tmp_path, bytes(stub)), SECTIONS)


@pytest.mark.parametrize("value", [0, 3, 1 << 31])
@pytest.mark.parametrize("field", [32, 36])
def test_alignments_that_make_no_sense_are_refused(tmp_path: Path, field: int, value: int) -> None:
    stub = bytearray(make_stub())
    struct.pack_into("<I", stub, 0x98 + field, value)
    with pytest.raises(BuildError, match="makes no sense"):
        make_uki(write(tmp_path, bytes(stub)), SECTIONS)
