"""Machine code as text."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emu.code.disassembly import disassemble, leading_up

SETTINGS = settings(derandomize=True, deadline=None, database=None)


@pytest.mark.parametrize(
    ("bits", "text"),
    [(16, "mov ax, word ptr [bx + si]"), (32, "mov eax, dword ptr [eax]"), (64, "mov eax, dword ptr [rax]")],
)
def test_same_bytes_are_other_code_in_other_modes(bits, text):
    assert disassemble(b"\x8b\x00", 0x1000, bits, 1)[0].text == text


def test_bytes_that_are_no_instruction_are_told_one_by_one():
    lines = disassemble(b"\x06\xf4", 0, 64, 9)  # PUSH ES is gone in long mode
    assert [(line.address, line.text) for line in lines] == [(0, "(bad)"), (1, "hlt")]


@SETTINGS
@given(st.binary(max_size=40), st.sampled_from([16, 32, 64]))
def test_lines_follow_each_other_and_lose_no_byte(code, bits):
    lines = disassemble(code, 0x1000, bits, 100)
    assert b"".join(line.code for line in lines) == code
    at = 0x1000
    for line in lines:
        assert line.address == at
        at += len(line.code)


def test_instructions_before_are_those_that_lead_up():
    code = b"\x90\x31\xc0\xb9\x07\x00\x00\x00"  # nop; xor eax, eax; mov ecx, 7
    assert [line.text for line in leading_up(code, 0x1000, 0x1008, 64, 2)] == ["xor eax, eax", "mov ecx, 7"]


def test_beginning_that_does_not_lead_up_gives_nothing():
    assert leading_up(b"\xb9\x07\x00", 0x1000, 0x1003, 64, 2) == []
    assert leading_up(b"", 0x1000, 0x1000, 64, 2) == []
