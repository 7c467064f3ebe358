"""A trace holds what happened in the machine, and nothing of the machine it ran on."""

import json
from pathlib import Path

from emu.__main__ import main
from emu.machine import Machine
from emu.scenario import from_text
from emu.trace import to_json
from tests.programs import assembled, run


def test_trace_holds_the_script_and_not_its_path(tmp_path: Path):
    lines = []
    for folder in ("one", "another"):
        path = tmp_path / folder / "who.script"
        path.parent.mkdir()
        path.write_text("0 vcpu0 5us\n", encoding="utf-8")
        config = from_text({"policy": ["script"], "script": [str(path)]})
        events = []
        Machine(assembled("mov al, 0\n out PORT_EXIT, al"), config, trace=events.append).run()
        lines.append([to_json(event) for event in events])
    assert lines[0] == lines[1]
    assert str(tmp_path) not in "".join(lines[0])
    assert "vcpu0 5us" in lines[0][0]


def test_times_in_a_trace_never_run_backwards_on_one_pcpu():
    recorded = run("mov rcx, 50000\n1: dec rcx\n jnz 1b\n xor eax, eax\n out PORT_EXIT, al", vcpus=2, tasks=("busy",))
    times = [event.t for event in recorded.events]
    assert times == sorted(times)
    assert times[-1] == recorded.result.virtual_ns


def test_trace_file_is_one_json_object_per_line(tmp_path: Path):
    path = tmp_path / "trace.jsonl"
    assert main(["run", "hello", "--quiet", "--trace", str(path)]) == 0
    events = [json.loads(line) for line in path.read_text(encoding="ascii").splitlines()]
    assert [events[0]["event"], events[-1]["event"]] == ["begin", "end"]
    assert bytes(event["byte"] for event in events if event["event"] == "console") == b"hello from the guest\n"
