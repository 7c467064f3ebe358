"""The trace appears whole or not at all, and never in place of what a run is read from."""

import json
import os
import sys
from pathlib import Path

import pytest

from emu.__main__ import main
from emu.commands.trace_file import trace_file
from emu.faults import HostError
from emu.trace import End, Wake, to_json


def names(folder: Path) -> list[str]:
    return sorted(one.name for one in folder.iterdir())


def test_trace_is_whole(tmp_path):
    path = tmp_path / "t.jsonl"
    assert main(["run", "hello", "--quiet", "--trace", str(path)]) == 0
    events = [json.loads(line)["event"] for line in path.read_text().splitlines()]
    assert (events[0], events[-1], names(tmp_path)) == ("begin", "end", ["t.jsonl"])


def test_no_path_no_sink():
    with trace_file(None) as sink:
        assert sink is None


@pytest.mark.parametrize("failure", [HostError("planted"), KeyboardInterrupt(), ValueError("planted")])
def test_failed_run_leaves_the_old_trace_and_nothing_else(tmp_path, failure):
    path = tmp_path / "t.jsonl"
    path.write_text("old")
    with pytest.raises(type(failure)), trace_file(str(path)) as sink:  # noqa: PT012
        assert sink is not None
        sink(Wake(1, "vcpu0"))
        assert len(names(tmp_path)) == 2
        raise failure
    assert (path.read_text(), names(tmp_path)) == ("old", ["t.jsonl"])


def test_own_file_called_part_is_left_alone(tmp_path):
    (tmp_path / "t.jsonl.part").write_text("mine")
    with trace_file(str(tmp_path / "t.jsonl")) as sink:
        assert sink is not None
        sink(End(2, "halted", None))
    assert (tmp_path / "t.jsonl.part").read_text() == "mine"
    assert (tmp_path / "t.jsonl").read_text() == to_json(End(2, "halted", None)) + "\n"


@pytest.mark.parametrize("place", ["nowhere/t.jsonl", ".", "", "nul\0l", "x" * 4000])
def test_unwritable_place_is_refused_before_anything_runs(tmp_path, monkeypatch, place):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(HostError), trace_file(place):
        pytest.fail("the run has begun")
    assert names(tmp_path) == []


@pytest.mark.skipif(sys.platform == "win32", reason="needs links")
@pytest.mark.parametrize("how", ["itself", "link", "hard link", "other spelling"])
def test_guest_is_never_replaced_by_its_trace(capsys, programs, tmp_path, how):
    guest = tmp_path / "guest.elf"
    guest.write_bytes((programs / "halted.elf").read_bytes())
    place = tmp_path / "t"
    if how == "link":
        place.symlink_to(guest)
    elif how == "hard link":
        os.link(guest, place)
    else:
        place = guest if how == "itself" else tmp_path / ".." / tmp_path.name / "guest.elf"
    assert main(["run", str(guest), "--trace", str(place)]) == 2
    assert "would replace" in capsys.readouterr().err
    assert guest.read_bytes() == (programs / "halted.elf").read_bytes()


def test_scenario_and_script_are_never_replaced_by_a_trace(capsys, tmp_path):
    script, scenario = tmp_path / "who", tmp_path / "s.toml"
    script.write_text("0 vcpu0 1ms\n")
    scenario.write_text('guest = "hello"\npolicy = "script"\nscript = "who"\n')
    for place in (script, scenario):
        before = place.read_text()
        assert main(["run", str(scenario), "--trace", str(place)]) == 2
        assert place.read_text() == before
    assert "would replace" in capsys.readouterr().err


@pytest.mark.skipif(sys.platform != "linux", reason="Linux's devices")
def test_device_is_written_to_and_not_replaced(capsys):
    assert main(["run", "hello", "--quiet", "--trace", "/dev/null"]) == 0
    assert main(["run", "hello", "--quiet", "--trace", "/dev/full"]) == 2
    assert "No space left" in capsys.readouterr().err
    assert not os.path.isfile("/dev/null") and not os.path.isfile("/dev/full")


@pytest.mark.skipif(sys.platform == "win32", reason="needs links")
def test_link_keeps_pointing_to_the_file_that_is_written(tmp_path):
    (tmp_path / "real").write_text("old")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    with trace_file(str(tmp_path / "link")):
        pass
    assert (tmp_path / "link").is_symlink() and (tmp_path / "real").read_text() == ""
