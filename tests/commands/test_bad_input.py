"""Whatever cannot be used is answered with one sentence and status 2; with --json also with exactly one object."""

import json
import re

import pytest

from emu.__main__ import COMMANDS, main
from emu.commands.flags import MOST_USED, THEMES
from emu.faults import HostError
from emu.scenario import FLAG, OPTIONS
from tests.boot.elf_bytes import Load, elf_bytes

SENTENCE = re.compile(r"emu: [^\n]+\n")


def refused(capsys, *words: object) -> str:
    """The sentence; without --json first, then with it."""
    assert main(list(map(str, words))) == 2
    told = capsys.readouterr()
    assert SENTENCE.fullmatch(told.err) and told.out == "", told
    assert main([*map(str, words), "--json"]) == 2
    again = capsys.readouterr()
    found = json.loads(again.out)
    assert set(found) == {"error", "where", "remedy"} and found["error"]
    assert again.out.count("\n") == 1 and SENTENCE.fullmatch(again.err)
    return told.err


BAD_RUNS = {
    "no guest": ([], "no guest is named"),
    "no such file": (["nowhere.elf"], "no such file"),
    "no such name": (["nowhere"], "no guest called"),
    "misspelt name": (["clokc"], "did you mean clock?"),
    "misspelt scenario": (["demoo"], "did you mean demo?"),
    "unknown name": (["zzz"], "smp, torn, torn32, demo"),
    "trace to standard output": (["hello", "--trace", "-"], "name a file"),
    "folder": (["."], "folder"),
    "unknown option": (["hello", "--vcpu", "2"], "did you mean --vcpus?"),
    "abbreviated option": (["hello", "--polic", "fair"], "did you mean --policy?"),
    "unknown short option": (["hello", "-x"], "no option '-x'"),
    "two guests": (["hello", "clock"], "one word too many"),
    "missing value": (["hello", "--seed"], "expected one argument"),
    "value for a switch": (["hello", "--quiet=3"], "--quiet"),
    "trace twice": (["hello", "--trace", "a", "--trace", "b"], "given twice"),
    "seed twice": (["hello", "--seed", "1", "--seed", "2"], "given 2 times"),
    "huge RAM": (["hello", "--ram", "4G"], "--ram"),
    "negative": (["hello", "--vcpus=-1"], "--vcpus"),
    "unicode digits": (["hello", "--vcpus", "٢"], "--vcpus"),
    "unknown task": (["hello", "--task", "lazy"], "known are busy"),
    "unknown part of a task": (["hello", "--task", "busy:colour=red"], "colour=red"),
    "task on no pCPU": (["hello", "--task", "busy:pcpu=7"], "pCPU"),
    "pin of no vCPU": (["hello", "--pin", "7=0"], "vCPU 7"),
    "pin to no pCPU": (["hello", "--pin", "0=7"], "pCPU 7"),
    "weight of zero": (["hello", "--weight", "0=0"], "weight of 0"),
    "script without file": (["hello", "--policy", "script"], "--policy"),
    "scenario that is not there": (["hello", "--scenario", "nowhere.toml"], "nowhere.toml"),
    "bare scenario that is not there": (["nowhere.toml"], "nowhere.toml"),
    "mode for an ELF file": (["hello", "--mode", "real"], "--mode real"),
    "path with orders to a terminal": (["a/\x1b[31mred.elf"], "emu: a/\\x1b[31mred.elf: "),
    "name with orders to a terminal": (["\x1b[31mred\nline"], "\\x1b[31mred"),
}


@pytest.mark.parametrize(("words", "told"), BAD_RUNS.values(), ids=BAD_RUNS)
def test_run_refuses(capsys, words, told):
    assert told in refused(capsys, "run", *words)


@pytest.mark.parametrize("option", OPTIONS, ids=lambda option: option.name)
def test_every_option_refuses_nonsense(capsys, option):
    words = [f"--{option.name}=no sense"] if option.kind is FLAG else [f"--{option.name}", "no sense"]
    assert f"--{option.name}" in refused(capsys, "run", "hello", *words)


@pytest.mark.parametrize("name", ["mine.c", "mine.S", "mine.toml", "mine.elf"])
def test_name_without_its_ending_is_answered_with_the_file_beside(capsys, tmp_path, monkeypatch, name):
    (tmp_path / name).write_text("")
    monkeypatch.chdir(tmp_path)
    assert f"did you mean {name}?" in refused(capsys, "run", "mine")
    assert f"did you mean {tmp_path / name}?" in refused(capsys, "run", tmp_path / "mine")


def test_trace_to_standard_output_makes_no_file(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "--trace -: " in refused(capsys, "run", "hello", "--trace", "-")
    assert not list(tmp_path.iterdir())


def test_unknown_command_is_answered_with_what_it_resembles(capsys):
    assert "did you mean run?" in refused(capsys, "rnu")
    assert "did you mean `emu run hello`?" in refused(capsys, "hello")
    assert "did you mean `emu run x.elf`?" in refused(capsys, "x.elf")


@pytest.mark.parametrize(
    ("lines", "place", "told"),
    [
        ("0 vcpu0 1ms\n0 vcpu9 1ms\n", ":2", "no vcpu9"),
        ("0 vcpu0\n", ":1", "words"),
        ("# nothing\n", "", "no lines"),
        ("0 vcpu0 ٣ms\n", ":1", "not a duration"),
        ("loop\n0 vcpu0 1ms\n", ":2", "follows `loop`"),
    ],
)
def test_script_is_refused_with_file_and_line(capsys, tmp_path, lines, place, told):
    path = tmp_path / "who.txt"
    path.write_text(lines, encoding="utf-8")
    text = refused(capsys, "run", "hello", "--policy", "script", "--script", path)
    assert f"{path}{place}: " in text and told in text


def test_script_that_cannot_be_followed_is_refused_in_mid_run(capsys, programs, tmp_path):
    path = tmp_path / "who.txt"
    path.write_text("0 vcpu0 10insns\n0 vcpu1 1us\n0 vcpu0 1us\n")
    words = ("--vcpus", 2, "--policy", "script", "--script", path, "--trace", tmp_path / "t.jsonl", "--quiet")
    assert f"{path}:2: " in refused(capsys, "run", programs / "endless.elf", "--start", "bsp", *words)
    assert sorted(one.name for one in tmp_path.iterdir()) == ["who.txt"]


def test_segment_outside_ram_names_the_file_and_more_ram(capsys, tmp_path):
    path = tmp_path / "far.elf"
    path.write_bytes(elf_bytes(Load(gpa=32 << 20), entry=32 << 20))
    assert "--ram" in refused(capsys, "run", path)
    assert main(["run", str(path), "--ram", "64M", "--quiet"]) == 0


def test_scenario_is_refused_with_its_place(capsys, tmp_path):
    path = tmp_path / "bad.toml"
    path.write_text('guest = "hello"\nvcpu = 3\n')
    assert f"{path}: " in refused(capsys, "run", path)
    path.write_text("vcpus = 2\n")
    assert f"{path}: no guest" in refused(capsys, "run", path)


def test_fault_of_emus_own_is_70_and_says_so(capsys, monkeypatch):
    def fail(*_: object) -> None:
        raise ZeroDivisionError("planted")

    monkeypatch.setattr("emu.commands.run.load_guest", fail)
    assert main(["run", "hello", "--json"]) == 70
    told = capsys.readouterr()
    assert json.loads(told.out)["error"].startswith("this is a fault of emu itself")
    assert "planted" in told.err and told.err.splitlines()[-1].startswith("emu: ")


def test_system_that_refuses_is_one_sentence(capsys, monkeypatch):
    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device", "somewhere")

    monkeypatch.setattr("emu.commands.run.load_guest", fail)
    assert main(["run", "hello"]) == 2
    assert capsys.readouterr().err == "emu: somewhere: the system refused: No space left on device\n"


@pytest.mark.parametrize("words", [[], ["--help"], ["help"], ["-h"], *([name, "--help"] for name in COMMANDS)])
def test_help_is_no_error(capsys, words):
    assert main(words) == 0
    assert "usage: emu" in capsys.readouterr().out


def test_help_names_every_option_and_its_default(capsys):
    main(["run", "--help"])
    text = capsys.readouterr().out
    for option in OPTIONS:
        assert f"--{option.name} " in text
    assert "(default: 16M)" in text and "(default: 100us)" in text.replace("\n", " ").replace("  ", " ")


def test_help_has_each_option_in_one_group_and_the_most_used_first(capsys):
    grouped = [*MOST_USED, *(name for _, names in THEMES for name in names)]
    assert sorted(grouped) == sorted(option.name for option in OPTIONS)
    main(["run", "--help"])
    text = capsys.readouterr().out
    first = text.partition("most used:")[2].partition("\n\n")[0]
    assert [word for word in first.split() if word.startswith("--")] == [
        "--vcpus", "--pcpus", "--task", "--policy", "--quantum", "--trace", "--record", "--json",
    ]  # fmt: skip
    assert {"0", "2", "70", "124", "125", "130", "141"} <= set(text.partition("exit status:")[2].split())
    assert max(map(len, text.splitlines())) <= 80


def test_version_is_told(capsys):
    assert main(["--version"]) == 0
    assert re.fullmatch(r"emu \d+\.\d+.*\n", capsys.readouterr().out)


def test_memory_that_the_host_does_not_give_is_refused(capsys, monkeypatch):
    def fail(size: int) -> None:
        raise OSError(12, "Cannot allocate memory")

    monkeypatch.setattr("emu.ram.anonymous", fail)
    assert "Cannot allocate memory" in refused(capsys, "run", "hello", "--ram", "3G")


def test_host_error_never_has_a_second_line():
    assert "\n" not in str(HostError("a", "b", "c"))
