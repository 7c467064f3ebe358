"""Names for addresses."""

from emu import abi, data
from emu.boot.elf_file import read_header
from emu.code.lines import source_lines
from emu.code.symbols import Symbol, Symbols
from tests.boot.elf_bytes import elf_bytes

CLOCK = data.guest_path("clock").read_bytes()


def test_address_has_the_name_of_the_symbol_that_covers_it():
    symbols = Symbols([Symbol(0x100, 0x10, "one"), Symbol(0x120, 0, "label"), Symbol(0x130, 8, "two")])
    names = {0xFF: "", 0x100: "one", 0x10F: "one+0xf", 0x110: "", 0x120: "label", 0x12F: "label+0xf", 0x138: ""}
    assert {address: symbols.name(address) for address in names} == names


def test_symbol_says_where_it_begins():
    symbols = Symbols.of(CLOCK)
    main = symbols.address("main")
    assert main is not None and symbols.name(main) == "main"
    found = symbols.at(main + 1)
    assert found is not None and (found.address, found.name) == (main, "main")
    assert symbols.address("no such symbol") is None


def test_label_reaches_no_further_than_its_section():
    symbols = Symbols.of(CLOCK)
    assert symbols.name(abi.GUEST_GPA) == "_start"
    assert symbols.name(abi.MIN_RAM) == ""


def test_program_without_symbols_has_no_names():
    for source in (elf_bytes(), b"\xf4", b"", b"\x7fELF"):
        assert Symbols.of(source).name(abi.GUEST_GPA) == ""


def test_source_lines_are_those_of_the_source():
    symbols = Symbols.of(CLOCK)
    main = symbols.address("main")
    assert main is not None
    found = source_lines(CLOCK, [abi.GUEST_GPA, main, 5, abi.MIN_RAM])
    file, _, line = found[main].rpartition(":")
    text = (data.guests_dir().parent / file).read_text(encoding="utf-8").splitlines()
    assert any("main" in one for one in text[int(line) - 2 : int(line)])  # a compiler may name the brace's line
    assert found[abi.GUEST_GPA].startswith("guests/start.S:")
    assert not {5, abi.MIN_RAM} & found.keys()


def test_32_bit_program_has_names_and_lines_too():
    source = data.guest_path("torn32").read_bytes()
    assert read_header(source).bits == 32
    assert Symbols.of(source).name(abi.GUEST_GPA) == "_start"
    assert source_lines(source, [abi.GUEST_GPA])[abi.GUEST_GPA].startswith("guests/start32.S:")


def test_program_without_debug_information_has_no_lines():
    assert source_lines(elf_bytes(), [abi.GUEST_GPA]) == {}
    assert source_lines(b"", [0]) == {}
