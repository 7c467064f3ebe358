"""A mark is told once."""

from emu.devices.marks import Marks


def test_mark_is_taken_once() -> None:
    marks = Marks()
    assert marks.take() is None
    marks.write(0xE0, 1, 1)
    assert (marks.take(), marks.take()) == (1, None)


def test_low_byte_is_the_mark_at_any_width() -> None:
    marks = Marks()
    marks.write(0xE0, 4, 0xFFFFFF02)
    assert marks.mark == 2


def test_reading_finds_all_ones() -> None:
    assert Marks().read(0xE0, 4) == 0xFFFFFFFF
