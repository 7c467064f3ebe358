"""guests/include/abi.h says what emu/abi.py says, in C and in assembler."""

import re

from emu import abi, data
from emu.abi_header import c_header

DEFINE = re.compile(r"^#define (\w+) (.+)$", re.MULTILINE)


def test_committed_header_is_the_generated_one() -> None:
    committed = (data.guests_dir() / "include" / "abi.h").read_text(encoding="utf-8")
    assert committed == c_header(), "run: python -m emu.abi_header > guests/include/abi.h"


def test_every_integer_of_abi_is_defined_with_its_value() -> None:
    defined = {name: text for name, text in DEFINE.findall(c_header()) if name != "KVM_SIGNATURE"}
    wanted = {name: value for name, value in vars(abi).items() if name.isupper() and isinstance(value, int)}
    assert {name: int(text, 0) for name, text in defined.items()} == wanted


def test_definitions_keep_the_order_of_abi() -> None:
    names = [name for name, _ in DEFINE.findall(c_header()) if name in vars(abi) and name != "KVM_SIGNATURE"]
    assert names == [name for name, value in vars(abi).items() if name.isupper() and isinstance(value, int)]


def test_no_definition_has_a_suffix_that_the_assembler_cannot_read() -> None:
    for name, text in DEFINE.findall(c_header()):
        assert name == "KVM_SIGNATURE" or re.fullmatch(r"0x[0-9A-Fa-f]+|[0-9]+", text), name


def test_headings_of_abi_become_comments() -> None:
    assert "\n/* KVM's paravirtual interface */\n#define KVM_CPUID_SIGNATURE 0x40000000\n" in c_header()


def test_signature_has_its_three_final_zeros() -> None:
    assert r'#define KVM_SIGNATURE "KVMKVMKVM\0\0\0"' in c_header()
