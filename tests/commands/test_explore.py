"""`emu explore`, as a user runs it."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from emu.__main__ import main
from emu.explore import saved
from emu.explore.instance import Instance
from emu.explore.search import Search
from emu.faults import HostError
from emu.guest import load_guest
from tests.explore.readers import ALL


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def as_json(capsys: pytest.CaptureFixture[str], *words: str, status: int) -> dict:  # type: ignore[type-arg]
    assert main(["explore", *words, "--json"]) == status
    out = capsys.readouterr().out
    assert out.count("\n") == 1
    return dict(json.loads(out))


def test_proof_is_status_0_and_says_what_was_covered(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explore", "readers/seqlock", "--updates", "1"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("readers/seqlock: proved")
    assert "up to 1 update," in out and "placements between instructions" in out
    assert "does not offer steal time" in out and "never put to the test" not in out


def test_refutation_is_status_1_a_story_and_a_recording(capsys: pytest.CaptureFixture[str]) -> None:
    found = as_json(capsys, "readers/odd_only", status=1)
    assert found["verdict"] == "refuted" and found["violation"]["property"] == "current"
    assert [step["kind"] for step in found["steps"]] == ["store", "store"]
    assert main(["explore", "readers/odd_only"]) == 1
    out = capsys.readouterr().out
    assert out.count("\n") < 45
    for line in found["story"]:
        assert line in out
    assert main(["replay", "odd_only.emurec"]) == 0
    shown = capsys.readouterr().out
    assert found["story"][-1] in shown and "position " in shown
    assert main(["replay", "odd_only.emurec", "--end", "--quiet"]) == 0


def test_recording_goes_where_it_is_told_and_replaces_nothing_else(capsys: pytest.CaptureFixture[str]) -> None:
    Path("no_check.emurec").write_text("mine")
    assert main(["explore", "readers/no_check"]) == 2
    assert "would be replaced" in capsys.readouterr().err
    assert Path("no_check.emurec").read_text() == "mine"
    assert main(["explore", "readers/no_check", "--record", "other.emurec"]) == 1
    assert Path("other.emurec").exists()


def test_what_was_never_tested_is_no_proof(capsys: pytest.CaptureFixture[str]) -> None:
    found = as_json(capsys, "hello", "--updates", "1", status=3)
    assert found["verdict"] == "open" and "current" in found["untested"]
    assert main(["explore", "hello", "--property", "no-fault"]) == 0


def test_bounds_that_are_met_are_status_3(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explore", "readers/seqlock", "--state-limit", "50"]) == 3
    out = capsys.readouterr().out
    assert "bound on states" in out and "50 states" in out
    alone = as_json(capsys, "readers/seqlock", "--state-limit", "300", status=3)
    assert alone["explored"][0]["states"] == 300
    assert as_json(capsys, "readers/seqlock", "--state-limit", "300", "--jobs", "2", status=3) == alone
    assert main(["explore", "readers/seqlock", "--insn-limit", "160", "--updates", "1"]) == 3
    assert "bound on instructions" in capsys.readouterr().out


def test_read_can_be_named_from_outside(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--read", "torn_read", "--property", "current", "--updates", "1", "--insn-limit", "3000"]
    Path("plain.c").write_text(_UNMARKED)
    assert as_json(capsys, "plain.c", *words, status=1)["violation"]["property"] == "current"
    assert as_json(capsys, "plain.c", *words, "--host-model", "kvm", status=0)["judged"]["current"] > 0
    Path("plain32.c").write_text(_UNMARKED)
    words[1] = "torn_read:edx+eax"
    found = as_json(capsys, "plain32.c", *words, "--host-model", "kvm", status=1)
    assert found["violation"]["property"] == "current"


_UNMARKED = """
#include "steal.h"
__attribute__((noinline)) uint64_t torn_read(const volatile struct kvm_steal_time *area)
{
    return area->steal;
}
int main(void)
{
    if (!steal_offered(0))
        return EXIT_NO_FEATURE;
    steal_register(&steal_areas[0]);
    return torn_read(&steal_areas[0]) == 1;
}
"""


def test_property_of_ones_own(capsys: pytest.CaptureFixture[str]) -> None:
    Path("mine.py").write_text(
        "def small(moment):\n"
        "    for vcpu, value, currents in moment.reads:\n"
        "        if value:\n"
        "            return f'vCPU {vcpu} has read {value}'\n"
        "def wrong(moment):\n"
        "    return 5\n"
        "def broken(moment):\n"
        "    return 1 / 0\n"
    )
    found = as_json(capsys, "readers/seqlock", "--property", "mine.py:small", status=1)
    assert found["violation"] == {"property": "small", "why": "vCPU 0 has read 4294967297"}
    found = as_json(capsys, "readers/seqlock", "--property", "mine.py:small", "--updates", "0", status=0)
    assert found["judged"]["small"] > 0
    for name, says in (("wrong", "returned 5"), ("broken", "ZeroDivisionError"), ("missing", "there is no function")):
        assert main(["explore", "readers/seqlock", "--property", f"mine.py:{name}"]) == 2
        assert says in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["readers/seqlock", "--property", "curent"], "did you mean current"),
        (["readers/seqlock", "--property", "nowhere.py:f"], "there is no such file"),
        (["readers/seqlock", "--read", "redaer"], "there is no function"),
        (["readers/seqlock", "--read", "0x1-zz"], "no pair of addresses"),
        (["readers/seqlock", "--read", "main:rxx"], "there is no register 'rxx'"),
        (["readers/seqlock", "--updates", "99"], "from 0 to 16"),
        (["readers/seqlock", "--burst", "0"], "from 1 to"),
        (["readers/seqlock", "--jobs", "x"], "whole number"),
        (["readers/nothing"], "there is no"),
        ([], "required: GUEST"),
    ],
)
def test_bad_input_is_status_2_and_one_line(words: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explore", *words]) == 2
    err = capsys.readouterr().err
    assert says in err and err.count("\n") == 1


def test_several_vcpus_find_the_lost_wake_up(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--vcpus", "2", "--switches", "2", "--updates", "0", "--property", "awake", "--property", "ends"]
    found = as_json(capsys, "handoff_lost", *words, status=1)
    assert found["violation"]["property"] == "awake"
    assert [step["kind"] for step in found["steps"]] == ["preempt", "preempt"]
    assert main(["replay", "handoff_lost.emurec", "--end", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["reason"] == "halted"
    assert as_json(capsys, "handoff", *words, status=0)["verdict"] == "proved"
    words[3] = "1"
    assert as_json(capsys, "handoff_lost", *words, status=0)["verdict"] == "proved"


# --- several processes, and going on ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("guest", "status"), [("readers/seqlock32", 0), ("readers/version_late32", 1)])
def test_answer_is_the_same_whatever_the_number_of_jobs(
    guest: str, status: int, capsys: pytest.CaptureFixture[str]
) -> None:
    updates = "1" if status == 0 else "2"
    alone = as_json(capsys, guest, "--updates", updates, "--steal-store", "halves", status=status)
    for jobs in ("2", "3"):
        words = ["--updates", updates, "--steal-store", "halves", "--jobs", jobs]
        assert as_json(capsys, guest, *words, status=status) == alone


class Enough(Exception):
    pass


def test_search_goes_on_from_what_is_saved() -> None:
    instance = Instance(load_guest("readers/change_only32"), "kvm", 2, properties=ALL)
    whole = Search(instance).run()
    kept: list[bytes] = []

    def layer_done(search: Search) -> None:
        kept.append(saved.to_bytes(search))
        if len(kept) == 2:
            raise Enough

    with pytest.raises(Enough):
        Search(instance, layer_done=layer_done).run()
    for content in kept:
        search = Search(instance)
        saved.take_up(search, content, "x")
        assert search.layers > 0 and search.run() == whole
    other = Search(instance._replace(updates=1))
    with pytest.raises(HostError, match="another search"):
        saved.take_up(other, kept[0], "x")
    for damaged in (kept[1][:-9], kept[1][:40] + b"x" + kept[1][41:], b"emuexplore 4\n"):
        with pytest.raises(HostError, match="damaged"):
            saved.take_up(Search(instance), damaged, "x")
    with pytest.raises(HostError, match="no search"):
        saved.take_up(Search(instance), b"other", "x")


def test_interrupted_search_is_status_130_and_goes_on(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["explore", "readers/seqlock32", "--resume", "search.exp", "--json"]
    process = subprocess.Popen([sys.executable, "-m", "emu", *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 30
    while not os.path.exists("search.exp") and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130 and b"the same command goes on" in err
    assert main(words) == 0
    assert json.loads(capsys.readouterr().out)["verdict"] == "proved"
