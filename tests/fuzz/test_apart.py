"""Whatever a call does to its process, this one goes on and is told how it ended."""

import os
import signal
import time
from pathlib import Path

import pytest

from emu.fuzz.apart import Lost, apart


class Unreadable:
    def __reduce__(self) -> tuple:
        return int, ("no number",)


def test_answer_comes_back() -> None:
    assert apart(lambda: {"a": (1, b"x" * 100_000)}) == {"a": (1, b"x" * 100_000)}


def test_what_it_changes_stays_apart() -> None:
    changed: list[int] = []
    assert apart(lambda: changed.append(1)) is None
    assert changed == []


@pytest.mark.parametrize(
    ("call", "why"),
    [
        (lambda: os._exit(0), "the end of the process, with status 0"),
        (lambda: os._exit(9), "the end of the process, with status 9"),
        (lambda: os.kill(os.getpid(), signal.SIGKILL), "the end of the process, by signal 9"),
        (lambda: time.sleep(60), "no end within 0.5 s"),
        (lambda: bytearray(1 << 34), "MemoryError()"),
        (lambda: 1 // 0, "ZeroDivisionError('integer division or modulo by zero')"),
        (lambda: (_ for _ in ()), "cannot pickle 'generator' object"),
        (Unreadable, "an answer that cannot be read"),
    ],
)
def test_end_without_an_answer_is_told(call, why: str) -> None:
    found = apart(call, 0.5)
    assert type(found) is Lost and why in found.why


def test_copy_that_does_not_end_is_not_waited_for_after_ctrl_c(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("emu.fuzz.apart.select.select", interrupted)
    before = _left()
    with pytest.raises(KeyboardInterrupt):
        apart(lambda: time.sleep(600))
    assert _left() == before


def test_nothing_that_it_prints_is_seen(capfd: pytest.CaptureFixture[str]) -> None:
    assert apart(lambda: os.write(1, b"out") + os.write(2, b"err")) == 6
    assert capfd.readouterr() == ("", "")


def _left() -> tuple[list[str], str]:
    children = Path(f"/proc/self/task/{os.getpid()}/children")  # not every kernel has it
    return os.listdir("/proc/self/fd"), children.read_text() if children.is_file() else ""


def test_no_process_and_no_descriptor_is_left() -> None:
    before = _left()
    for call in (lambda: 1, lambda: os._exit(1), lambda: time.sleep(9)):
        apart(call, 0.1)
    assert _left() == before
