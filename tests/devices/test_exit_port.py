"""The first write ends the run, and no later one changes the status."""

import pytest

from emu.devices.exit_port import ExitPort


def test_no_code_until_the_guest_writes() -> None:
    assert ExitPort().code is None


@pytest.mark.parametrize(("size", "value", "code"), [(1, 0, 0), (1, 255, 255), (2, 0x1203, 3), (4, 0xFFFFFF00, 0)])
def test_low_byte_is_the_code_at_any_width(size: int, value: int, code: int) -> None:
    port = ExitPort()
    port.write(0xF4, size, value)
    assert port.code == code


def test_first_write_wins_even_where_it_is_zero() -> None:
    port = ExitPort()
    port.write(0xF4, 1, 0)
    port.write(0xF4, 1, 7)
    assert port.code == 0


def test_reading_finds_all_ones() -> None:
    assert ExitPort().read(0xF4, 2) == 0xFFFF
