"""ELF files, good, damaged and hostile: an image or one sentence, and nothing else."""

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emu import abi, data
from emu.boot.elf import elf_image
from emu.boot.elf_file import (
    EM_386,
    ET_DYN,
    ET_REL,
    PF_W,
    PF_X,
    PT_INTERP,
    Damaged,
    read_header,
    symbols,
)
from emu.boot.image import Image
from emu.code.lines import source_lines
from emu.code.symbols import Symbols
from emu.faults import HostError
from emu.machine import Machine
from emu.scenario import Config
from tests.boot.elf_bytes import CODE, HEADER, PROGRAM_HEADER, Load, elf_bytes
from tests.effort import EFFORT

SETTINGS = settings(derandomize=True, deadline=None, database=None)
TINY = Config(ram=abi.MIN_RAM, insn_limit=50, exit_limit=20)


def refusal(source: bytes) -> HostError:
    with pytest.raises(HostError) as caught:
        elf_image(source, "hostile.elf")
    assert "\n" not in str(caught.value) and caught.value.where == "hostile.elf"
    return caught.value


def read_or_refuse(source: bytes) -> Image | None:
    """What a run does before the first instruction; any exception but HostError escapes and fails the test."""
    try:
        image = elf_image(source, "hostile.elf")
        Machine(image, TINY)
    except HostError as error:
        assert "\n" not in str(error)
        return None
    return image


def test_smallest_program_runs():
    image = elf_image(elf_bytes(), "good.elf")
    assert Machine(image, TINY).run().exit_code == 0


@pytest.mark.parametrize(
    ("machine", "name"), [(40, "ARM"), (183, "ARM"), (243, "RISC-V"), (8, "MIPS"), (0xFFFF, "machine number 65535")]
)
def test_other_processors_are_named(machine, name):
    assert f"for {name} " in refusal(elf_bytes(machine=machine)).message


def test_big_endian_file_is_refused_as_not_x86():
    error = refusal(elf_bytes(machine=21, order=">"))
    assert "PowerPC" in error.message and "big-endian" in error.message


def test_x32_and_64_bit_i386_are_refused():
    assert "not for x86" in refusal(elf_bytes(machine=EM_386, bits=64)).message
    assert "not for x86" in refusal(elf_bytes(bits=32)).message


@pytest.mark.parametrize(
    ("kind", "word"), [(ET_DYN, "position-independent"), (ET_REL, "not been linked"), (4, "type is 4")]
)
def test_other_kinds_of_elf_files_are_told_apart(kind, word):
    assert word in refusal(elf_bytes(kind=kind)).message


def test_dynamically_linked_program_is_refused():
    assert "dynamic linker" in refusal(elf_bytes(Load(), Load(type=PT_INTERP))).message


HOSTILE = {
    "no segments": (elf_bytes(Load(type=4)), "nothing to load"),
    "65535 program headers": (elf_bytes(phnum=65535), "65535 program headers"),
    "more headers than file": (elf_bytes(phnum=64), "ends before program header"),
    "filesz above memsz": (elf_bytes(Load(memsz=1)), "more bytes in the file than in memory"),
    "filesz beyond the file": (elf_bytes(Load(filesz=1 << 20, memsz=1 << 20)), "goes beyond its end"),
    "filesz of 2**63": (elf_bytes(Load(filesz=1 << 63, memsz=1 << 63)), "goes beyond its end"),
    "memsz of 2**63": (elf_bytes(Load(memsz=1 << 63)), "beyond any RAM"),
    "address of 2**63": (elf_bytes(Load(gpa=1 << 63), entry=1 << 63), "beyond any RAM"),
    "address that wraps": (elf_bytes(Load(gpa=(1 << 64) - 1), entry=(1 << 64) - 1), "beyond any RAM"),
    "offset of 2**64-1": (elf_bytes(Load(offset=(1 << 64) - 1)), "goes beyond its end"),
    "overlap": (elf_bytes(Load(memsz=4096), Load(gpa=abi.GUEST_GPA + 4095)), "overlap"),
    "same place twice": (elf_bytes(Load(), Load()), "overlap"),
    "entry outside": (elf_bytes(entry=abi.GUEST_GPA + len(CODE)), "entry point"),
    "entry in data": (elf_bytes(Load(flags=PF_W)), "entry point"),
    "entry of 2**64-1": (elf_bytes(entry=(1 << 64) - 1), "entry point"),
}


@pytest.mark.parametrize(("source", "word"), HOSTILE.values(), ids=HOSTILE)
def test_hostile_segments_are_refused(source, word):
    assert word in refusal(source).message


def test_file_that_uses_the_same_bytes_over_and_over_is_refused():
    loads = [Load(gpa=abi.GUEST_GPA + n * 0x1000, offset=0, filesz=0x1000, memsz=0x1000, data=b"") for n in range(8)]
    source = elf_bytes(*loads).ljust(0x1000, b"\0")
    assert "over and over" in refusal(source).message


@pytest.mark.parametrize(
    ("gpa", "size"),
    [
        (0, 16),
        (abi.GUEST_GPA - 1, 16),
        (abi.PAGE_TABLES_GPA, 16),
        (abi.MIN_RAM - 16, 16),  # the stack
        (abi.MIN_RAM - abi.STACK_SIZE - abi.PAGE_SIZE - 1, 2),  # into the guard page
        (abi.GUEST_GPA, abi.MIN_RAM),
    ],
)
def test_segment_outside_the_memory_for_programs_is_refused(gpa, size):
    image = elf_image(elf_bytes(Load(gpa=gpa, memsz=size, data=b"\xf4"), entry=gpa), "outside.elf")
    with pytest.raises(HostError, match="outside the memory for programs"):
        Machine(image, TINY)


def test_code_spread_over_more_memory_than_page_tables_can_map_is_refused():
    ram = abi.MAX_RAM
    loads = [
        Load(gpa=abi.GUEST_GPA + n * 0x200000 * 20, data=b"\xf4", memsz=0x200000 * 20, flags=PF_X) for n in range(60)
    ]
    with pytest.raises(HostError, match="page tables"):
        Machine(elf_image(elf_bytes(*loads), "wide.elf"), Config(ram=ram))


def test_page_shared_by_two_segments_has_the_rights_of_both():
    image = elf_image(
        elf_bytes(Load(), Load(gpa=abi.GUEST_GPA + 0x800, flags=PF_W), Load(gpa=abi.GUEST_GPA + 0x1000, flags=0)), "x"
    )
    assert [(one.gpa, one.writable, one.executable) for one in image.rights] == [
        (abi.GUEST_GPA, True, True),
        (abi.GUEST_GPA + 0x1000, False, False),
    ]


@pytest.mark.parametrize("name", ["hello", "torn32"])
def test_file_cut_off_anywhere_is_refused_or_still_whole(name):
    source = data.guest_path(name).read_bytes()
    needed = max(
        fields[2] + fields[5] for fields in program_header_fields(source) if fields[0] == 1
    )  # offset + filesz of the last PT_LOAD
    for size in range(0, len(source), 7 if len(source) > 4096 else 1):
        try:
            elf_image(source[:size], "cut.elf")
        except HostError as error:
            assert size < needed, error
        else:
            assert size >= needed


def program_header_fields(source: bytes) -> list[tuple[int, ...]]:
    header = read_header(source)
    found = []
    for number in range(header.phnum):
        at = header.phoff + number * header.phentsize
        if header.bits == 64:
            kind, flags, offset, vaddr, _, filesz, *_ = struct.unpack_from("<IIQQQQQQ", source, at)
        else:
            kind, offset, vaddr, _, filesz, _, flags, _ = struct.unpack_from("<IIIIIIII", source, at)
        found.append((kind, flags, offset, vaddr, 0, filesz))
    return found


GOOD = elf_bytes(Load(), Load(gpa=abi.GUEST_GPA + 0x1000, flags=PF_W, data=bytes(16), memsz=64))
HEADERS = HEADER + 2 * PROGRAM_HEADER


@settings(SETTINGS, max_examples=60 * EFFORT * EFFORT)
@given(st.lists(st.tuples(st.integers(0, HEADERS - 1), st.integers(0, 255)), min_size=1, max_size=4))
def test_only_host_errors_escape_from_mutated_headers(changes):
    source = bytearray(GOOD)
    for place, value in changes:
        source[place] = value
    read_or_refuse(bytes(source))


@pytest.mark.parametrize("value", [0, 1, 0x7F, 0x80, 0xFF])
def test_only_host_errors_escape_whichever_header_byte_is_wrong(value):
    for place in range(HEADERS):
        source = bytearray(GOOD)
        source[place] = value
        read_or_refuse(bytes(source))


@settings(SETTINGS, max_examples=80 * EFFORT)
@given(st.binary(max_size=300))
def test_only_host_errors_escape_from_noise_behind_the_magic(noise):
    assert read_or_refuse(b"\x7fELF" + noise) is None
    read_or_refuse(b"\x7fELF\x02\x01\x01" + bytes(9) + noise)


CLOCK = data.guest_path("clock").read_bytes()
TABLES = read_header(CLOCK)


@settings(SETTINGS, max_examples=60 * EFFORT)
@given(
    st.lists(
        st.tuples(
            st.integers(0, TABLES.shnum * TABLES.shentsize - 1),
            st.sampled_from((0, 1, 0x7F, 0xFF)) | st.integers(0, 255),
        ),
        min_size=1,
        max_size=6,
    )
)
def test_section_tables_that_lie_cost_names_and_lines_and_nothing_else(changes):
    source = bytearray(CLOCK)
    for place, value in changes:
        source[TABLES.shoff + place] = value
    lying = bytes(source)
    Symbols.of(lying).name(abi.GUEST_GPA)
    for text in source_lines(lying, [abi.GUEST_GPA]).values():
        assert text.isprintable()
    assert elf_image(lying, "x").pieces == elf_image(CLOCK, "x").pieces


def test_section_header_offset_beyond_the_file_means_no_symbols():
    source = bytearray(CLOCK)
    struct.pack_into("<Q", source, 40, 1 << 63)
    assert Symbols.of(bytes(source)).name(abi.GUEST_GPA) == ""
    assert source_lines(bytes(source), [abi.GUEST_GPA]) == {}


def test_reader_caps_how_many_symbols_a_file_may_claim():
    source = bytearray(CLOCK)
    for number in range(TABLES.shnum):
        at = TABLES.shoff + number * TABLES.shentsize
        if struct.unpack_from("<I", source, at + 4)[0] == 2:  # SHT_SYMTAB
            struct.pack_into("<Q", source, at + 32, 1 << 62)
    with pytest.raises(Damaged, match="symbols"):
        symbols(bytes(source), read_header(bytes(source)))


def test_hostile_names_cannot_give_orders_to_a_terminal():
    hostile = CLOCK.replace(b"\0main\0", b"\0m\x1b[m\0")
    assert hostile != CLOCK
    name = next(
        name for name in map(Symbols.of(hostile).name, range(abi.GUEST_GPA, abi.GUEST_GPA + 0x400)) if "[m" in name
    )
    assert name == "m\\x1b[m"
