"""`emu run --on kvm`: the command line's half."""

import json
import signal
import subprocess
import sys
import time

import pytest

from emu.__main__ import main
from emu.commands.on_kvm import settings_from
from emu.kvm import system
from emu.scenario import OPTIONS, Config

VALUES = {
    "task": "busy",
    "policy": "fair",
    "quantum": "7us",
    "seed": "7",
    "pin": "0=0",
    "weight": "0=2",
    "pcpus": "2",
    "host-model": "other-cpu",
    "store-gap": "1",
    "steal-store": "halves",
    "abi": "kvm-2011",
    "ps-per-insn": "7",
    "tsc-khz": "7",
    "interleave": "7us",
    "insn-limit": "7",
}
MEANT = ("vcpus", "ram", "without", "lax-cpuid", "start", "mode", "time-limit", "exit-limit", "output-limit")


def run(capfd: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    status = main(["run", *words, "--on", "kvm"])
    return status, *capfd.readouterr()


def test_missing_device_is_one_sentence_and_status_2(capfd, monkeypatch, tmp_path):
    monkeypatch.setattr(system, "PATH", str(tmp_path / "kvm"))
    status, out, err = run(capfd, "hello")
    assert (status, out) == (2, "") and err.count("\n") == 1 and err.startswith("emu: there is no /dev/kvm")


def test_missing_device_is_one_object_with_json(capfd, monkeypatch, tmp_path):
    monkeypatch.setattr(system, "PATH", str(tmp_path / "kvm"))
    status, out, _ = run(capfd, "hello", "--json")
    assert status == 2 and set(json.loads(out)) == {"error", "where", "remedy"}


@pytest.mark.parametrize("name", VALUES)
def test_option_of_the_emulated_host_is_refused_by_name(capfd, name):
    status, out, err = run(capfd, "hello", f"--{name}", VALUES[name])
    assert (status, out) == (2, "") and err.startswith(f"emu: --{name}: ")


def test_every_option_has_a_meaning_or_is_refused():
    known = {option.name for option in OPTIONS}
    assert known >= set(MEANT) and known - set(MEANT) - {"script"} >= set(VALUES)


def test_trace_is_refused_and_no_file_appears(capfd, tmp_path):
    status, _, err = run(capfd, "hello", "--trace", str(tmp_path / "trace"))
    assert status == 2 and err.startswith("emu: --trace: ") and not list(tmp_path.iterdir())


def test_time_limit_is_real_time():
    assert settings_from(Config(time_limit_ps=5 * 10**12)).limit_ns == 5 * 10**9
    assert settings_from(Config()).limit_ns == 20 * 10**9


def test_console_and_status_are_the_guests(kvm, capfd):
    status, out, err = run(capfd, "hello", "--quiet")
    assert (status, out, err) == (0, "hello from the guest\n", "")


def test_summary_tells_books_and_end(kvm, capfd):
    status, out, _ = run(capfd, "register")
    assert status == 0 and "vcpu0: ran " in out and "version " in out
    assert "the guest ended the run with status 0, after " in out


def test_json_is_one_object_with_what_can_be_known(kvm, capfd):
    status, out, err = run(capfd, "register", "--json")
    found = json.loads(out)
    assert status == found["exit_code"] == 0 and err == found["console"]
    assert found["virtual_ns"] is None and found["instructions"] is None and found["wall_ns"] > 0
    assert set(found["vcpus"][0]["area"]) == {"steal", "version", "flags", "preempted"}


def test_limit_is_status_124(kvm, capfd):
    assert run(capfd, "hog", "--time-limit", "100ms", "--quiet")[0] == 124


def test_interrupt_is_status_130_with_the_books_so_far(kvm):
    words = [sys.executable, "-m", "emu", "run", "hog", "--on", "kvm", "--json"]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        time.sleep(1)
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=10)
    finally:
        process.kill()
    assert process.returncode == 130
    assert json.loads(out)["reason"] == "interrupted"
