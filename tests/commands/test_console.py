"""The guest's console: harmless on a terminal, untouched elsewhere, live in both cases."""

import io

from hypothesis import given, settings
from hypothesis import strategies as st

from emu.commands.console import ConsoleWriter
from emu.commands.progress import Progress

SETTINGS = settings(derandomize=True, deadline=None, database=None)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True

    def fileno(self) -> int:
        raise OSError("no descriptor")


class Pipe(io.TextIOWrapper):
    def __init__(self) -> None:
        super().__init__(io.BytesIO(), encoding="utf-8")

    @property
    def bytes(self) -> bytes:
        return self.buffer.getvalue()  # type: ignore[attr-defined]


def shown(data: bytes, *, raw: bool = False) -> str:
    stream = Terminal()
    writer = ConsoleWriter(stream, raw=raw)
    for byte in data:
        writer(byte)
    writer.finish()
    return stream.getvalue()


def test_orders_to_the_terminal_are_shown_and_not_obeyed():
    assert shown(b"\x1b[2J\x07\r\x08\x7f") == "\\x1b[2J\\x07\\x0d\\x08\\x7f\n"


def test_newline_tab_and_utf8_pass():
    assert shown("tab\tline\nμs 日本 ✓\n".encode()) == "tab\tline\nμs 日本 ✓\n"


def test_what_is_hidden_in_unicode_is_shown_too():
    assert shown("\x9b\u202e\u2028\ufeff\U000e0041".encode()) == "\\x9b\\u202e\\u2028\\ufeff\\U000e0041\n"


def test_bytes_that_are_no_utf8_are_shown_as_numbers():
    assert shown(b"\xff\xc3(\xe2\x82") == "\\xff\\xc3(\\xe2\\x82\n"


def test_raw_passes_everything_printable_or_not():
    assert shown(b"\x1b[2J\r\n", raw=True) == "\x1b[2J\r\n"


@SETTINGS
@given(st.binary(max_size=64))
def test_no_output_at_all_can_give_an_order(data):
    assert all(character.isprintable() or character in "\n\t" for character in shown(data))


@SETTINGS
@given(st.binary(max_size=64), st.lists(st.booleans(), max_size=8))
def test_bytes_pass_a_pipe_whatever_they_are_and_whenever_it_is_flushed(data, flushes):
    pipe = Pipe()
    writer = ConsoleWriter(pipe, raw=False)
    for number, byte in enumerate(data):
        writer(byte)
        if number < len(flushes) and flushes[number]:
            writer.flush()
    writer.finish()
    assert pipe.bytes == data


def test_lines_appear_at_once_and_the_rest_on_flush():
    pipe = Pipe()
    writer = ConsoleWriter(pipe, raw=False)
    for byte in b"one\ntw":
        writer(byte)
    assert pipe.bytes == b"one\n"
    writer.flush()
    assert pipe.bytes == b"one\ntw"


def test_character_cut_by_a_flush_is_still_one_character():
    stream = Terminal()
    writer = ConsoleWriter(stream, raw=False)
    writer(0xC3)
    writer.flush()
    writer(0xA9)
    writer.finish()
    assert stream.getvalue() == "é\n"


def test_unfinished_line_is_ended_in_a_pipe_only_where_something_follows():
    for more, expected in ((False, b"x"), (True, b"x\n")):
        pipe = Pipe()
        writer = ConsoleWriter(pipe, raw=False)
        writer(ord("x"))
        writer.finish(more=more)
        assert pipe.bytes == expected


# --- the progress line ---


class Clock:
    def __init__(self, monkeypatch) -> None:
        self.now = 100.0
        monkeypatch.setattr("emu.commands.progress.time.monotonic", lambda: self.now)


class Running:
    instructions = 123_456_789
    now_ns = 123_456_789


def screen(text: str) -> str:
    """The last line of a terminal that understands carriage returns and nothing else."""
    line: list[str] = []
    at = 0
    for character in text.rpartition("\n")[2]:
        if character == "\r":
            at = 0
        else:
            line[at : at + 1] = character
            at += 1
    return "".join(line).rstrip()


def test_progress_line_appears_after_a_moment_and_goes_away(monkeypatch):
    clock, stream = Clock(monkeypatch), Terminal()
    progress = Progress(stream, ConsoleWriter(stream, raw=False), enabled=True)
    clock.now += 0.5
    progress(Running())
    assert stream.getvalue() == ""
    clock.now += 0.5
    progress(Running())
    assert screen(stream.getvalue()).startswith("123.5 ms virtual, 123,456,789 instructions")
    progress.clear()
    assert screen(stream.getvalue()) == "" and "\x1b" not in stream.getvalue()


def test_progress_line_never_wraps(monkeypatch):
    clock, stream = Clock(monkeypatch), Terminal()
    monkeypatch.setattr(stream, "fileno", lambda: 0)
    monkeypatch.setattr("emu.commands.progress.os.get_terminal_size", lambda _: type("Size", (), {"columns": 20})())
    progress = Progress(stream, ConsoleWriter(stream, raw=False), enabled=True)
    clock.now += 5
    progress(Running())
    assert len(screen(stream.getvalue())) == 19


def test_progress_line_keeps_away_while_the_guest_is_in_mid_line(monkeypatch):
    clock, stream = Clock(monkeypatch), Terminal()
    writer = ConsoleWriter(stream, raw=False)
    progress = Progress(stream, writer, enabled=True)
    for byte in b"computing...":
        writer(byte)
    clock.now += 5
    progress(Running())
    assert stream.getvalue() == "computing..."
    writer(10)
    clock.now += 5
    progress(Running())
    assert "instructions" in screen(stream.getvalue())


def test_progress_line_is_never_drawn_where_it_is_not_enabled(monkeypatch):
    clock, stream = Clock(monkeypatch), Terminal()
    progress = Progress(stream, ConsoleWriter(Pipe(), raw=False), enabled=False)
    clock.now += 5
    progress(Running())
    progress.clear()
    assert stream.getvalue() == ""
