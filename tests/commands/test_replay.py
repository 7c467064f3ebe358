"""`emu run --record` and `emu replay`, as a user runs them."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from emu.__main__ import main

RUN = ["run", "smp", "--vcpus", "3", "--pcpus", "2", "--task", "busy", "--policy", "random", "--seed", "4"]


@pytest.fixture
def recorded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> tuple[str, str, bytes]:
    """A recording, what the run printed, and its trace."""
    file, trace = tmp_path / "run.emurec", tmp_path / "run.jsonl"
    assert main([*RUN, "--record", str(file), "--trace", str(trace)]) == 0
    return str(file), capsys.readouterr().out, trace.read_bytes()


def test_replay_gives_the_same_bytes(
    recorded: tuple[str, str, bytes], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, out, trace = recorded
    again = tmp_path / "again.jsonl"
    assert main(["replay", file, "--trace", str(again)]) == 0
    assert capsys.readouterr().out == out
    assert again.read_bytes() == trace


def test_replay_gives_the_same_json(recorded: tuple[str, str, bytes], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*RUN, "--json"]) == 0
    run = capsys.readouterr().out
    assert main(["replay", recorded[0], "--json"]) == 0
    assert capsys.readouterr().out == run


@pytest.mark.parametrize(("guest", "options", "status"), [
    ("hog", ["--insn-limit", "10000"], 124), ("clock", ["--without", "steal-time"], 3),
])  # fmt: skip
def test_status_is_that_of_the_run(
    guest: str, options: list[str], status: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = str(tmp_path / "x.emurec")
    assert main(["run", guest, *options, "--record", file]) == status
    told = capsys.readouterr()
    assert main(["replay", file]) == status
    assert capsys.readouterr() == told


@pytest.mark.parametrize(
    "words",
    ["1234", "position:1000", "event:12", "event:wrmsr,vcpu=1", "main", "smp.c:30", "rax", "version:even"],
)
def test_goes_to_a_place(words: str, recorded: tuple[str, str, bytes], capsys: pytest.CaptureFixture[str]) -> None:
    if words == "smp.c:30":
        words = _a_line(recorded[0])
    assert main(["replay", recorded[0], "--to", words]) == 0
    text = capsys.readouterr().out
    assert "position " in text and "vcpu2" in text
    assert main(["replay", recorded[0], "--to", words, "--json"]) == 0
    seen = json.loads(capsys.readouterr().out)
    assert f"position {seen['position']:,}:" in text
    if words == "1234":
        assert seen["instructions"] == 1234
    if words == "main":
        assert any(one["symbol"] == "main" for one in seen["vcpus"])


def _a_line(file: str) -> str:
    from emu.code.lines import line_addresses
    from emu.history.recording import load_recording

    lines = line_addresses(load_recording(file).source)
    return next(f"smp.c:{line}" for name, line in sorted(lines) if name.endswith("smp.c") and line > 20)


def test_last_time_is_found_from_behind(recorded: tuple[str, str, bytes], capsys: pytest.CaptureFixture[str]) -> None:
    positions = []
    for flags in ([], ["--last"]):
        assert main(["replay", recorded[0], "--to", "event:console", *flags, "--json"]) == 0
        positions.append(json.loads(capsys.readouterr().out)["position"])
    assert positions[0] < positions[1]


def test_what_never_comes_to_pass_is_status_1(
    recorded: tuple[str, str, bytes], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["replay", recorded[0], "--to", "0xdead0000"]) == 1
    assert "never comes to pass" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--to", "mian"], "did you mean main"),
        (["--to", "smp.c:1"], "the nearest that has is"),
        (["--to", "event:wrmrs"], "there is no event"),
        (["--to", "event:wrmsr,cpu=1"], "has no 'cpu'"),
        (["--to", "vcpu9.rax"], "there is no vcpu9"),
        (["--to", "version:prime"], "odd or even"),
        (["--to", "position:x"], "no number"),
        (["--to", "mem:main/0"], "cannot be watched"),
        (["--last"], "give --to as well"),
    ],
)
def test_words_that_name_nothing_are_one_sentence(
    words: list[str], says: str, recorded: tuple[str, str, bytes], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["replay", recorded[0], *words]) == 2
    err = capsys.readouterr().err
    assert says in err and err.count("\n") == 1


def test_a_run_that_goes_otherwise_is_told(
    recorded: tuple[str, str, bytes], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from emu.history.recording import load_recording, to_bytes

    right = load_recording(recorded[0])
    file = tmp_path / "other.emurec"
    file.write_bytes(to_bytes(right._replace(config=right.config._replace(seed=5))))
    assert main(["replay", str(file), "--quiet"]) == 2
    assert "otherwise than it was recorded" in capsys.readouterr().err


@pytest.mark.parametrize("path", ["nowhere.emurec", ".", "README.md"])
def test_file_that_is_none_is_status_2(path: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["replay", path]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_recording_is_written_whole_or_not_at_all(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "hello", "--record", str(tmp_path / "no" / "x.emurec")]) == 2
    assert "cannot be written" in capsys.readouterr().err
    assert main(["run", "hello", "--record", str(tmp_path)]) == 2
    assert list(tmp_path.iterdir()) == []


def test_source_outside_is_never_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from emu.data import source_text

    (tmp_path / "secret.c").write_text("secret")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert source_text("../secret.c") is None
    assert source_text(str(tmp_path / "secret.c")) is None
    assert source_text("/etc/passwd") is None
    (tmp_path / "here" / "own.c").write_text("own")
    assert source_text("own.c") == "own"


def test_run_that_was_interrupted_replays_up_to_there(tmp_path: Path) -> None:
    file = str(tmp_path / "x.emurec")
    words = [sys.executable, "-m", "emu", "run", "hog", "--task", "busy", "--insn-limit", "4000000000"]
    words += ["--time-limit", "100s", "--record", file]
    with subprocess.Popen(words, stdout=subprocess.PIPE) as run:
        time.sleep(1)
        run.send_signal(signal.SIGINT)
        out, _ = run.communicate(timeout=60)
    assert run.returncode == 130
    again = subprocess.run([sys.executable, "-m", "emu", "replay", file], capture_output=True, timeout=100, check=False)
    assert (again.returncode, again.stdout) == (130, out)
