"""`emu run` on a real terminal, and under Ctrl-C."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

pty = pytest.importorskip("pty", reason="no terminals to be had here")
WAIT_S = 30
SUMMARY = "ran ns"
COLOUR = re.compile(r"\x1b\[[0-9;]*m")


class Screen:
    """`emu run` with all its streams on one terminal, or only those that are asked for."""

    def __init__(self, *words: object, **streams: object) -> None:
        self.master, slave = pty.openpty()
        command = [sys.executable, "-m", "emu", "run", *map(str, words)]
        options = {"stdin": slave, "stdout": slave, "stderr": slave, **streams}
        self.run = subprocess.Popen(command, start_new_session=True, env={**os.environ, "COLUMNS": "90"}, **options)
        os.close(slave)
        self.text = ""

    def read(self) -> bool:
        """Whether there was more to be read."""
        try:
            data = os.read(self.master, 65536)
        except OSError:  # Linux's way of telling the end of a terminal
            data = b""
        self.text += data.decode("utf-8", "replace")
        return bool(data)

    def until(self, word: str) -> None:
        end = time.monotonic() + WAIT_S
        while word not in self.text:
            assert time.monotonic() < end and self.read(), f"no {word!r} in {self.text!r}"

    def end(self) -> int:
        while self.read():
            pass
        return self.run.wait(WAIT_S)


@contextlib.contextmanager
def screen(*words: object, **streams: object) -> Iterator[Screen]:
    found = Screen(*words, **streams)
    try:
        yield found
    finally:
        if found.run.poll() is None:
            found.run.kill()
            found.run.wait()
        os.close(found.master)


def test_hostile_console_is_shown_and_not_obeyed(programs):
    with screen(programs / "hostile.elf", "--quiet") as found:
        assert found.end() == 0
    assert found.text == "\\x1b]0;pwned\\x07\\x1b[2Jtab\there\\x0d\\x08\r\né\\x9b\\x9b\\u202e\\xffend\r\n"


def test_raw_passes_all_of_it(programs):
    with screen(programs / "hostile.elf", "--quiet", "--raw") as found:
        assert found.end() == 0
    assert "\x1b]0;pwned\x07\x1b[2Jtab" in found.text


def test_summary_is_drawn_below_the_console(programs):
    with screen(programs / "hostile.elf") as found:
        assert found.end() == 0
    assert SUMMARY in found.text.partition("end\r\n")[2]


def test_ctrl_c_ends_with_the_summary_so_far_and_130(programs):
    with screen(programs / "endless.elf", "--insn-limit", "1e15", "--time-limit", "1000s") as found:
        found.until("Ctrl-C")
        os.kill(found.run.pid, signal.SIGINT)
        assert found.end() == 130
    assert SUMMARY in found.text and "interrupted" in found.text and "Traceback" not in found.text


def test_progress_line_comes_and_goes(programs):
    with screen(
        programs / "ticking.elf", "--insn-limit", "1e15", "--time-limit", "1000s", "--output-limit", "1K"
    ) as found:
        found.until("instructions, ")
        os.kill(found.run.pid, signal.SIGINT)
        assert found.end() == 130
    drawn = [line for line in found.text.partition(SUMMARY)[0].split("\r\n") if "instructions, " in line]
    for line in drawn:
        # Each was overwritten with blanks before the guest's next line, or the summary, came in its place.
        left, _, after = line.rpartition("\r")
        assert left.rpartition("\r")[2].strip() == "" and COLOUR.sub("", after).strip() in ("x", "")
    assert drawn


def test_no_progress_line_outside_a_terminal(programs):
    run = running(programs, "--json")
    try:
        time.sleep(1.5)
    finally:
        run.send_signal(signal.SIGINT)
    out, err = run.communicate(timeout=WAIT_S)
    assert err == b"" and json.loads(out)["reason"] == "interrupted"


def test_no_progress_line_where_a_pager_may_draw(programs):
    with screen(programs / "endless.elf", "--insn-limit", "2e8", stdout=subprocess.PIPE) as found:
        assert found.run.stdout is not None
        summary = found.run.stdout.read()
        assert found.end() == 124
    assert SUMMARY.encode() in summary and "MIPS" not in found.text


def test_progress_line_where_the_output_goes_to_a_file(programs, tmp_path):
    with (
        (tmp_path / "out").open("wb") as out,
        screen(programs / "endless.elf", "--insn-limit", "1e15", "--time-limit", "1000s", stdout=out) as found,
    ):
        found.until("MIPS")
        os.kill(found.run.pid, signal.SIGINT)
        assert found.end() == 130
    text = (tmp_path / "out").read_text(encoding="utf-8")
    assert SUMMARY in text and "\nvcpu0 was at 0x100000 <_start>" in text


def test_diagnosis_is_as_wide_as_the_terminal_and_ends_with_the_verdict(programs):
    with screen(programs / "crash.elf") as found:
        assert found.end() == 125
    lines = COLOUR.sub("", found.text).splitlines()
    assert max(map(len, lines)) <= 90 and lines[-1].startswith("triple fault: #UD")


def running(programs: Path, *words: object) -> subprocess.Popen[bytes]:
    """An endless run, once it is under way: its trace, if it has one, has been begun."""
    limits = ("--insn-limit", "1e15", "--time-limit", "1000s", "--exit-limit", "1e12", "--output-limit", "256M")
    command = [sys.executable, "-m", "emu", "run", str(programs / "endless.elf"), *limits, *map(str, words)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True)


def test_ctrl_c_leaves_json_and_a_whole_trace(programs, tmp_path):
    run = running(programs, "--json", "--task", "busy", "--trace", tmp_path / "t.jsonl")
    end = time.monotonic() + WAIT_S
    # What has been written before the handler stands would be a Ctrl-C during start-up.
    while not any(one.stat().st_size for one in tmp_path.iterdir()):
        assert time.monotonic() < end and run.poll() is None
        time.sleep(0.05)
    run.send_signal(signal.SIGINT)
    out, err = run.communicate(timeout=WAIT_S)
    assert (run.returncode, err) == (130, b"")
    found = json.loads(out)
    assert found["reason"] == "interrupted" and found["exit_code"] is None
    for one in found["vcpus"]:
        assert one["ran_ns"] + one["stolen_ns"] + one["idle_ns"] == one["elapsed_ns"]
    assert [one.name for one in tmp_path.iterdir()] == ["t.jsonl"]
    events = [json.loads(line) for line in (tmp_path / "t.jsonl").read_text().splitlines()]
    assert events[-1]["event"] == "end" and events[-1]["reason"] == "interrupted"


def test_ctrl_c_again_and_again_is_never_a_traceback(programs, tmp_path):
    run = running(programs, "--trace", tmp_path / "t.jsonl", "--task", "busy")
    time.sleep(0.8)
    while run.poll() is None:
        run.send_signal(signal.SIGINT)
        time.sleep(0.002)
    out, err = run.communicate(timeout=WAIT_S)
    assert run.returncode in (130, -signal.SIGINT)
    assert b"Traceback" not in out + err
    assert [one.name for one in tmp_path.iterdir()] in ([], ["t.jsonl"])


def test_ctrl_c_during_start_up_is_never_a_traceback():
    for delay_ms in range(0, 200, 20):
        command = [sys.executable, "-m", "emu", "run", "hello", "--json"]
        run = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True)
        time.sleep(delay_ms / 1000)
        run.send_signal(signal.SIGINT)
        out, err = run.communicate(timeout=WAIT_S)
        if run.returncode == 130:
            assert json.loads(out)
            assert b"Traceback" not in err
