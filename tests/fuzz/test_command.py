"""`emu fuzz`, as somebody uses it."""

import contextlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from emu.__main__ import main
from emu.commands.fuzz import _ENGINES
from emu.fuzz.outcome import ORACLES
from emu.fuzz.records import GROUPS, HOSTS, ODD_HOST, decode, from_text
from emu.history.recording import load_recording


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def emu(*words: str) -> int:
    return main(["fuzz", *words])


def campaign(*words: str, capsys: pytest.CaptureFixture[str]) -> dict:
    status = emu("guest", *words, "--json", "--quiet")
    told = json.loads(capsys.readouterr().out)
    assert status == (1 if told["findings"] else 0)
    return told


def test_finding_is_kept_told_and_replayed(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert emu("guest", "readers/odd_only", "--engine", "sweep", "--quiet") == 1
    out = capsys.readouterr().out
    assert "1 finding, by cause" in out and "odd_only.c:13: version is not loaded again" in out
    (place,) = (tmp_path / "fuzz-odd_only" / "findings").iterdir()
    assert f"emu step fuzz-odd_only/findings/{place.name}/replay.emurec" in out
    assert (tmp_path / "fuzz-odd_only" / "coverage.html").stat().st_size > 1000
    assert load_recording(str(place / "replay.emurec")).story
    assert emu("replay", str(place), "--record", "again.emurec") == 1
    assert "has read 0x1" in capsys.readouterr().out
    assert load_recording("again.emurec").edits == load_recording(str(place / "replay.emurec")).edits
    # The same input on a build without the bug.
    assert emu("replay", str(place), "readers/seqlock") == 0
    assert "fixed" in capsys.readouterr().out


@pytest.mark.parametrize("engine", ["sweep", "afl"])  # whoever is to lead, there is nothing to be led
def test_what_goes_wrong_before_is_found_and_replayed(
    engine: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert emu("guest", "readers/no_enable", "--engine", engine, "--quiet") == 1
    (place,) = (tmp_path / "fuzz-no_enable" / "findings").iterdir()
    assert emu("replay", str(place)) == 1
    assert "has registered none" in capsys.readouterr().out


def test_finding_that_was_fixed_is_put_aside(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    source = Path(__file__).parents[2] / "tutorials" / "15-a-host-that-lies"
    words = ("guest", "bill.c", "--host", "hostile", "--engine", "sweep", "--quiet")
    shutil.copy(source / "bill.c", tmp_path)
    assert emu(*words) == 1
    (key,) = (one.name for one in (tmp_path / "fuzz-bill" / "findings").iterdir())
    assert "bill.c:" in capsys.readouterr().out  # the line of the author's own, not of what every guest is linked with
    shutil.copy(source / "solution" / "bill.c", tmp_path)
    assert emu(*words) == 0
    assert f"fixed since it was found: {key}" in capsys.readouterr().out
    assert (tmp_path / "fuzz-bill" / "fixed" / key / "input").is_file()


def test_sweep_says_what_was_tried(capsys: pytest.CaptureFixture[str]) -> None:
    told = campaign("readers/seqlock", "--engine", "sweep", capsys=capsys)
    assert told["swept"][0][0] == "no step of the host"
    assert sum(size for _, size in told["swept"]) == told["executions"] - 1  # and the one that counts accesses
    assert not told["findings"]
    done, every = told["lines"]
    assert 0 < done < every


@pytest.mark.parametrize("engine", ["atheris", "afl", "hypothesis", "random"])
def test_engine_finds_it_without_the_sweep(engine: str, capsys: pytest.CaptureFixture[str]) -> None:
    if engine == "afl" and shutil.which("afl-fuzz") is None:
        pytest.skip("afl-fuzz is not installed")
    if engine in ("atheris", "hypothesis"):
        pytest.importorskip(engine)
    words = ("readers/no_check", "--engine", engine, "--no-sweep", "--exit-on-first", "--time", "60s", "--seed", "3")
    told = campaign(*words, capsys=capsys)
    assert [one["oracle"] for one in told["findings"]] == ["current"]
    assert told["executions"] > 0 and told["edges"] >= 3 and not told["deaths"]


@pytest.mark.parametrize("engine", ["atheris", "hypothesis"])
def test_engine_that_is_not_installed_is_told_at_once(
    engine: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("emu.fuzz.campaign.importlib.util.find_spec", lambda name: None)
    assert emu("guest", "readers/seqlock", "--engine", engine) == 2
    assert f"the package `{engine}` is not installed" in capsys.readouterr().err
    assert emu("guest", "readers/seqlock") == 2
    assert "no fuzzing engine is installed" in capsys.readouterr().err


@pytest.mark.skipif(shutil.which("afl-fuzz") is None, reason="afl-fuzz is not installed")
def test_two_instances_of_afl_share_what_they_find(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    words = ("readers/seqlock", "--engine", "afl", "--no-sweep", "-j", "2")
    instances = tmp_path / "fuzz-seqlock" / "afl"
    for seconds in (6, 12, 24):  # on a machine that is busy with other things, the same campaign goes on
        told = campaign(*words, "--time", f"{seconds}s", capsys=capsys)
        synced = [*instances.glob("emu1/queue/*sync:emu0*"), *instances.glob("emu1/.synced/emu0")]
        if synced and told["executions"] > 1000:
            break
    assert synced and told["executions"] > 1000 and told["edges"] > 8 and told["lines"][0] > 8
    assert not told["findings"]
    for number in (0, 1):
        assert list((instances / f"emu{number}" / "queue").glob("id*"))


@pytest.mark.parametrize("engine", ["atheris", "hypothesis"])
def test_engine_that_has_found_nothing_comes_to_an_end(engine: str, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip(engine)
    told = campaign("readers/seqlock", "--engine", engine, "--no-sweep", "--runs", "300", capsys=capsys)
    assert 300 <= told["executions"] < 400 and not told["deaths"]


def test_two_jobs_share_runs(capsys: pytest.CaptureFixture[str]) -> None:
    told = campaign("readers/seqlock", "--engine", "random", "--runs", "2000", "-j", "2", "--no-sweep", capsys=capsys)
    assert 2000 <= told["executions"] < 2400


def test_input_goes_to_lines_and_back(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(random.Random(1).randbytes(77))
    assert emu("decode", "a") == 0
    (tmp_path / "a.txt").write_text(capsys.readouterr().out)
    assert emu("encode", "a.txt", "-o", "b") == 0
    assert decode((tmp_path / "b").read_bytes(), ODD_HOST) == decode((tmp_path / "a").read_bytes(), ODD_HOST)


def test_input_is_shrunk(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    lines = "host odd\n" + "after 3 pad 0x7\n" * 5 + "after 1 halves 0x2\nafter 0 halves 0x0\nafter 9 preempted 0x1\n"
    (tmp_path / "long.txt").write_text("host odd\nafter 2 halves 0x2\nafter 0 halves 0x0\nafter 9 preempted 0x1\n")
    assert emu("encode", "long.txt", "-o", "long") == 0
    assert emu("shrink", "long", "readers/odd_only") == 0
    short = decode((tmp_path / "long.short").read_bytes(), ODD_HOST)
    assert [one.kind for one in short.records] == ["halves", "halves"]
    assert emu("shrink", "long", "readers/seqlock") == 1
    assert from_text(lines, "x").records[5].kind == "halves"


def test_seeds_are_made_of_what_a_host_did(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["run", "readers/seqlock", "--task", "busy", "--quantum", "10us", "--record", "r.emurec"]) == 0
    assert emu("seeds", "r.emurec", "--out", "corpus") == 0
    given = decode((tmp_path / "corpus" / "r.seed").read_bytes(), ODD_HOST)
    assert given.records and {one.kind for one in given.records} <= {"update", "step"}


def test_target_may_be_a_file(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "t.toml").write_text('guest = "readers/seqlock"\nhost = "hostile"\nsince = "main"\ninsns = 3000\n')
    told = campaign("t.toml", "--engine", "random", "--runs", "50", capsys=capsys)
    assert told["host"] == "hostile" and told["exactly"] == told["executions"]  # it has the MSR to write yet


LATER = """
.intel_syntax noprefix
.section .text.start, "ax"
.globl _start, enter
_start: hlt
enter: mov ecx, 0x4b564d03
lea eax, [rip + area + 1]
xor edx, edx
wrmsr
1: mov eax, [rip + area + 8]
test eax, 1
jnz 1b
test eax, eax
jns 2f
ud2
2: xor eax, eax
mov edx, 0xf4
out dx, al
.bss
.balign 64
.globl area
area: .skip 64
"""


def test_program_may_be_started_elsewhere(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "late.S").write_text(LATER)
    assert emu("guest", "late.S") == 2
    assert "the guest registers no area" in capsys.readouterr().err
    told = campaign("late.S", "--start", "enter", "--engine", "random", "--runs", "500", "--out", "c", capsys=capsys)
    (found,) = (one for one in told["findings"] if "#UD" in one["why"])
    assert emu("replay", f"c/findings/{found['key']}") == 1
    assert "#UD" in capsys.readouterr().out
    (tmp_path / "t.toml").write_text('guest = "late.S"\nstart = "enter"\n')
    assert emu("guest", "t.toml", "--engine", "sweep", "--exit-on-first", "--json", "--out", "d") == 1
    capsys.readouterr()
    assert emu("guest", "late.S", "--start", "area") == 2
    assert "no code stands at 'area'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("gest",), "there is no way to fuzz called 'gest'"),
        (("guest", "hello"), "the guest registers no area"),
        (("guest", "readers/seqlock", "--engine", "afk"), "there is no engine 'afk'"),
        (("guest", "readers/seqlock", "--host", "kind"), "there is no host 'kind'"),
        (("guest", "readers/seqlock", "--also", "answer"), "there is no group of events 'answer'"),
        (("guest", "readers/seqlock", "--read", "redaer"), "there is no function 'redaer'"),
        (("guest", "readers/seqlock", "--time", "soon"), "'soon' is no time"),
        (("guest", "readers/seqlock", "--insns", "7"), "insns = 7 cannot be used"),
        (("guest", "readers/seqlock", "--since", "mian"), "there is no function 'mian'"),
        (("guest", "readers/seqlock", "--start", "mian"), "there is no function 'mian'"),
        (("guest", "t.toml"), "there is no key 'gest'"),
        (("decode", "nothing"), "it cannot be read"),
        (("replay", "x"), "an input alone does not say what it is for"),
        (("seeds", "x"), "x"),
    ],
)
def test_bad_word_gets_one_sentence(
    words: tuple[str, ...], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "t.toml").write_text('gest = "readers/seqlock"\n')
    (tmp_path / "x").write_bytes(b"")
    assert emu(*words) == 2
    told = capsys.readouterr().err
    assert message in told and told.count("\n") == 1
    assert not list(tmp_path.glob("fuzz-*"))


def test_killed_at_any_moment_nothing_is_lost(tmp_path: Path) -> None:
    killed(tmp_path, 3)


def killed(folder: Path, times: int) -> None:
    """SIGKILL to all of a campaign, again and again: each file that was there is there, whole, and it goes on."""
    words = [sys.executable, "-m", "emu", "fuzz", "guest", "readers/odd_only", "--out", "o", "--time", "60s", "--quiet"]
    words += ["--no-sweep"]
    rng = random.Random(5)
    before: dict[str, bytes] = {}
    for _ in range(times):
        process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=folder)
        deadline = time.monotonic() + 15
        while time.monotonic() < deadline and not list((folder / "o" / "corpus").glob("*")):
            time.sleep(0.02)
        time.sleep(rng.random())
        for pid in (process.pid, *_children(process.pid)):
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        process.wait()
        time.sleep(0.1)
        kept = {str(path): path.read_bytes() for path in sorted((folder / "o").rglob("*")) if _kept(path)}
        # A finding may have been replaced by a shorter one; nothing else changes.
        lost = {name for name, content in before.items() if "findings" not in name and kept.get(name) != content}
        assert not lost
        for place in (folder / "o" / "findings").glob("[a-z]*"):
            assert load_recording(str(place / "replay.emurec")).story
            assert json.loads((place / "finding.json").read_text())
        before = kept
    assert any("corpus" in name for name in before)


def _kept(path: Path) -> bool:
    return path.is_file() and not any(part.startswith((".", "blocks")) for part in path.parts[-2:])


def _children(pid: int) -> list[int]:
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").glob("*"):
        found += map(int, (task / "children").read_text().split())
    return found


def test_guide_names_every_oracle_host_kind_and_engine() -> None:
    guide = (Path(__file__).parents[2] / "tutorials" / "fuzzing.md").read_text(encoding="utf-8")
    rows = set(re.findall(r"^\| `([a-z][a-z-]*)` \|", guide, re.MULTILINE))
    assert rows == {*ORACLES, "zeroed", *HOSTS, *_ENGINES, *GROUPS}
    for name, text in ORACLES.items():
        assert name in ("passes", "forward") or f"| `{name}` | {text} |" in guide


def test_corpora_are_merged(capsys: pytest.CaptureFixture[str]) -> None:
    for number in (1, 2):
        words = ("--engine", "random", "--no-sweep", "--runs", "300", "--seed", str(number), "--out", f"c{number}")
        campaign("readers/seqlock", *words, capsys=capsys)
        (Path(f"c{number}") / "corpus").mkdir(exist_ok=True)
        (Path(f"c{number}") / "corpus" / "mine").write_bytes(bytes((0, 0, 0, 0, 1, number, 9, 0, 0, 0)))
    assert emu("merge", "readers/seqlock", "c1/corpus", "c2/corpus", "-o", "merged") == 0
    assert "inputs, for" in capsys.readouterr().out and any(Path("merged").iterdir())
    assert emu("merge", "readers/seqlock", "c1/corpus", "-o", "merged") == 2
    assert "there is something in this folder already" in capsys.readouterr().err
    assert emu("merge", "readers/seqlock", "c3", "-o", "new") == 2
    assert "this is no folder" in capsys.readouterr().err


def test_read_can_be_declared_from_outside(capsys: pytest.CaptureFixture[str]) -> None:
    Path("plain.c").write_text(
        '#include "steal.h"\n'
        "__attribute__((noinline)) uint64_t torn_read(const volatile struct kvm_steal_time *area)\n"
        "{\n    return area->steal;\n}\n"
        "int main(void)\n{\n    if (!steal_offered(0))\n        return EXIT_NO_FEATURE;\n"
        "    steal_register(&steal_areas[0]);\n    return torn_read(&steal_areas[0]) == 1;\n}\n"
    )
    words = ("plain.c", "--engine", "sweep", "--exit-on-first", "--passes", "0,1")
    assert campaign(*words, capsys=capsys)["findings"] == []
    found = campaign(*words, "--read", "torn_read", "--out", "declared", capsys=capsys)["findings"]
    assert [one["oracle"] for one in found] == ["current"]
    assert emu("replay", f"declared/findings/{found[0]['key']}") == 1


def test_finding_is_replayed_by_what_the_target_claimed(capsys: pytest.CaptureFixture[str]) -> None:
    words = ("--since", "main", "--also", "answers", "--passes", "0,3", "--engine", "sweep", "--exit-on-first")
    found = campaign("readers/seqlock", *words, capsys=capsys)["findings"]
    assert [one["oracle"] for one in found] == ["no-fault"]
    assert emu("replay", f"fuzz-seqlock/findings/{found[0]['key']}") == 1
    assert "the host refuses vcpu0's next WRMSR" in capsys.readouterr().out


def test_oracle_of_ones_own_is_asked_of_every_execution(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "def looks_seldom(seen):\n"
        "    if seen.execution.accesses > 6 and len(seen.stores) > 2:\n"
        "        return f'the guest has looked {seen.execution.accesses} times, {seen.load(0x100000, 1):#x}'\n"
        "def fails(seen):\n    return 1 / 0\n"
        "def says(seen):\n    return 7\n"
    )
    words = ("readers/seqlock", "--engine", "sweep", "--oracle")
    told = campaign("readers/seqlock", "--engine", "sweep", "--oracle", "mine.py:looks_seldom", capsys=capsys)
    assert [one["oracle"] for one in told["findings"]] == ["looks_seldom"]
    assert emu("replay", f"fuzz-seqlock/findings/{told['findings'][0]['key']}", "--oracle", "mine.py:looks_seldom") == 1
    for name, message in (
        ("fails", "this oracle failed"),
        ("says", "it returned 7"),
        ("gone", "there is no function 'gone'"),
    ):
        assert emu("guest", *words, f"mine.py:{name}", "--out", name) == 2
        assert message in capsys.readouterr().err
