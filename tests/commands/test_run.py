"""`emu run`: what it prints, where, and with which status."""

import json
import os
import subprocess
import sys

import pytest

from emu import abi, data
from emu.__main__ import main
from emu.commands.guests import entry

KEYS = {"exit_code", "reason", "virtual_ns", "instructions", "vcpus", "console", "fault", "where"}
# What is left in a buffer is flushed by the interpreter once more at its end, and must not fail there again.
BUFFERED = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
VCPU = {"id", "ran_ns", "stolen_ns", "idle_ns", "elapsed_ns", "instructions", "updates", "msr", "area"}


def as_json(capsys, *words: object) -> tuple[int, dict]:
    status = main(["run", *map(str, words), "--json"])
    out = capsys.readouterr().out
    assert out.count("\n") == 1
    return status, json.loads(out)


@pytest.mark.parametrize(
    ("program", "options", "status", "reason", "exit_code"),
    [
        ("status", (), 77, "exit", 77),
        ("halted", (), 0, "halted", None),
        ("endless", ("--time-limit", "1us"), 124, "time-limit", None),
        ("endless", ("--insn-limit", "1e3"), 124, "insn-limit", None),
        ("chatter", ("--exit-limit", "9"), 124, "exit-limit", None),
        ("chatter", ("--output-limit", "1K"), 124, "output-limit", None),
        ("crash", (), 125, "triple-fault", None),
    ],
)
def test_json_has_the_same_keys_however_a_run_ends(capsys, programs, program, options, status, reason, exit_code):
    found_status, found = as_json(capsys, programs / f"{program}.elf", *options)
    assert (found_status, found["reason"], found["exit_code"]) == (status, reason, exit_code)
    assert set(found) == KEYS and set(found["vcpus"][0]) == VCPU


def test_json_has_the_area_of_a_vcpu_that_registered_one(capsys):
    _, found = as_json(capsys, "clock", "--vcpus", 2, "--task", "busy")
    for one in found["vcpus"]:
        assert set(one["area"]) == {"steal", "version", "flags", "preempted"}
        assert one["area"]["version"] == 2 * one["updates"]
        assert one["ran_ns"] + one["stolen_ns"] + one["idle_ns"] == one["elapsed_ns"]


def test_json_leaves_the_console_to_stderr_while_it_runs(capfd):
    assert main(["run", "hello", "--json"]) == 0
    told = capfd.readouterr()
    assert told.err == "hello from the guest\n" == json.loads(told.out)["console"]


def test_quiet_prints_what_the_guest_prints_and_nothing_else(capfd):
    assert main(["run", "hello", "--quiet"]) == 0
    assert capfd.readouterr() == ("hello from the guest\n", "")


def test_bytes_pass_a_pipe_as_they_are(emu, programs):
    from tests.commands.conftest import HOSTILE

    assert emu("run", programs / "hostile.elf", "--quiet").stdout == HOSTILE


def test_summary_begins_on_a_line_of_its_own(emu, programs):
    assert b"end\n" in emu("run", programs / "hostile.elf").stdout


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "utf-8"])
def test_any_encoding_of_the_output_can_show_the_summary(emu, encoding):
    run = emu("run", "demo", env={**os.environ, "PYTHONIOENCODING": encoding})
    assert run.returncode == 0 and run.stderr == b""
    assert ("█" in run.stdout.decode(encoding)) == (encoding == "utf-8")


def test_diagnosis_goes_to_stderr(emu, programs):
    run = emu("run", programs / "crash.elf")
    assert run.returncode == 125
    assert run.stderr.startswith(b"triple fault on vcpu0: #UD") and b"triple fault on" not in run.stdout


def test_demo_is_the_scenario_and_flags_win_over_it(capsys):
    assert as_json(capsys, "demo")[1] == as_json(capsys, "clock", "--vcpus", 2, "--task", "busy")[1]
    assert len(as_json(capsys, "demo", "--vcpus", 3)[1]["vcpus"]) == 3


def test_scenario_file_names_guest_and_script_beside_it(capsys, programs, tmp_path, monkeypatch):
    (tmp_path / "who.txt").write_text("0 vcpu0 1us\nloop\n")
    (tmp_path / "mine.elf").write_bytes((programs / "status.elf").read_bytes())
    (tmp_path / "mine.toml").write_text('guest = "mine.elf"\npolicy = "script"\nscript = "who.txt"\n')
    monkeypatch.chdir(programs)
    assert as_json(capsys, tmp_path / "mine.toml")[0] == 77
    assert as_json(capsys, "hello", "--scenario", tmp_path / "mine.toml")[0] == 0


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("mine.c", "int main(int cpu, int ncpus) { (void)cpu; return 40 + ncpus; }\n"),
        ("mine32.c", "int main(int cpu, int ncpus) { (void)cpu; return 40 + ncpus; }\n"),
        ("mine.S", '#include "abi.h"\n.globl _start\n_start: mov $42, %al\n out %al, $PORT_EXIT\n'),
    ],
)
def test_source_runs_and_leaves_nothing_behind(capsys, tmp_path, name, text):
    (tmp_path / name).write_text(text)
    assert as_json(capsys, tmp_path / name, "--vcpus", 2 if name != "mine.S" else 1)[0] == 42
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_endless_recursion_of_faults_is_bounded(capsys, tmp_path):
    path = tmp_path / "faults.S"
    path.write_text(
        '.intel_syntax noprefix\n#include "abi.h"\n.globl _start\n_start: lea rax, [rip + handler]\n'
        " lea rdi, [rip + idt + 96]\n mov [rdi], ax\n mov word ptr [rdi + 2], SELECTOR_CODE64\n"
        " mov word ptr [rdi + 4], 0x8e00\n shr rax, 16\n mov [rdi + 6], ax\n lea rax, [rip + idt]\n"
        " mov [rip + idtr + 2], rax\n lidt [rip + idtr]\n handler: mov rsp, 0x300000\n ud2\n"
        ".data\n idtr: .word 4095\n .quad 0\n.bss\n.balign 16\n idt: .skip 4096\n"
    )
    status, found = as_json(capsys, path, "--exit-limit", "5e3")
    assert (status, found["reason"]) == (124, "exit-limit")


def test_reader_that_leaves_ends_the_run_quietly(programs):
    command = [sys.executable, "-m", "emu", "run", str(programs / "lines.elf")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=BUFFERED) as run:
        assert run.stdout is not None and run.stderr is not None
        assert run.stdout.readline() == b"y\n"
        run.stdout.close()
        assert run.stderr.read() == b""
    assert run.returncode == 141


@pytest.mark.skipif(sys.platform != "linux", reason="/dev/full is Linux's")
def test_full_disk_is_one_sentence():
    command = [sys.executable, "-m", "emu", "run", "hello"]
    with open("/dev/full", "w") as full:
        run = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, timeout=60, env=BUFFERED, check=False)
    assert (run.returncode, run.stderr) == (2, b"emu: output: the system refused: No space left on device\n")


@pytest.mark.skipif(sys.platform == "win32", reason="a shell's closing of streams")
@pytest.mark.parametrize("closing", [">&-", "2>&-", ">&- 2>&-"])
def test_closed_streams_are_no_fault(closing):
    run = subprocess.run(f"{sys.executable} -m emu run hello {closing}", shell=True, capture_output=True, timeout=60)
    assert run.returncode == 0 and b"Traceback" not in run.stdout + run.stderr


def test_guests_lists_every_guest_and_scenario(capsys):
    assert main(["guests"]) == 0
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines()[:-1])) <= 80  # but for the last line, which is a path
    for name in (*data.guest_names(), "demo"):
        told = f"\n{out}".partition(f"\n{name:<10}" + ("\n" if len(name) > 10 else " "))[2].lstrip()
        assert told[:1].isalpha() and f"\n{'':11}emu run {name}" in told.partition("\n\n")[0]


def test_guests_entry_is_its_first_sentence_and_its_command():
    source = "// emu run x --a 1\n//\n// Shows it. Then\n// more.\n//\n// Else.\n\n// not this\n"
    assert entry("x", source) == ["x          Shows it.", "           emu run x --a 1"]
    assert entry("x", "# emu run x\n") == ["x", "           emu run x"]
    broken = entry("x", f"// emu run x --a {'1' * 40} --b 2 --c 3333333333\n// y\n")
    assert broken[1:] == [f"           emu run x --a {'1' * 40} --b 2 \\", "             --c 3333333333"]


@pytest.mark.parametrize("program", ["endless", "crash"])
def test_quiet_leaves_one_line_on_why_the_guest_did_not_end_by_itself(capfd, programs, program):
    assert main(["run", str(programs / f"{program}.elf"), "--quiet", "--insn-limit", "1e3"]) in (124, 125)
    out, err = capfd.readouterr()
    assert out == "" and err.count("\n") == 1
    assert err.startswith("emu: triple fault: #UD" if program == "crash" else "emu: stopped at --insn-limit 1,000 ")
    assert ("vcpu0 was at 0x1" in err) == (program == "endless")


def test_run_cut_short_says_where_the_vcpus_were(capsys, programs):
    status, found = as_json(capsys, programs / "endless.elf", "--vcpus", 2, "--insn-limit", "1e3")
    assert status == 124 and found["fault"] is None
    assert [(one["vcpu"], one["symbol"]) for one in found["where"]] == [(0, "_start"), (1, "_start")]
    assert as_json(capsys, programs / "status.elf")[1]["where"] == []
    main(["run", str(programs / "endless.elf"), "--insn-limit", "1e3"])
    assert "\nvcpu0 was at 0x100000 <_start> (" in capsys.readouterr().out


def test_json_tells_the_fault_of_a_crash(capsys, programs):
    fault = as_json(capsys, programs / "crash.elf")[1]["fault"]
    assert list(fault) == ["vcpu", "vector", "error", "address", "rip", "place", "text"]
    assert (fault["vector"], fault["error"], fault["rip"]) == (abi.UD_VECTOR, None, abi.GUEST_GPA)
    assert fault["text"].startswith("triple fault: #UD, invalid opcode, at _start (")


def test_crash_is_summed_up_first_and_its_verdict_is_the_last_line(programs):
    command = [sys.executable, "-m", "emu", "run", str(programs / "crash.elf")]
    run = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=60, check=False)
    lines = run.stdout.decode().splitlines()
    assert "ran ns" in lines[0] and lines[-1].startswith("triple fault: #UD, invalid opcode, at _start (")
    assert next(n for n, line in enumerate(lines) if line.startswith("triple fault on vcpu0")) > 3


def test_script_alone_is_followed(capsys, programs, tmp_path):
    (tmp_path / "who.txt").write_text("0 vcpu0 1us\n0 task0 9us\nloop\n")
    words = (programs / "endless.elf", "--task", "busy", "--time-limit", "100us", "--script", tmp_path / "who.txt")
    assert as_json(capsys, *words)[1]["vcpus"][0]["ran_ns"] == 10_000
    (tmp_path / "s.toml").write_text('script = "who.txt"\ntask = ["busy"]\ntime-limit = "100us"\n')
    words = (programs / "endless.elf", "--scenario", tmp_path / "s.toml")
    assert as_json(capsys, *words)[1]["vcpus"][0]["ran_ns"] == 10_000


def test_options_without_effect_are_noted_and_no_error(capfd):
    assert main(["run", "hello", "--weight", "0=2"]) == 0
    assert capfd.readouterr().err == "emu: note: --weight has no effect without --policy fair\n"
    assert main(["run", "hello", "--weight", "0=2", "--quiet"]) == 0
    assert capfd.readouterr().err == ""
