"""Readers with a bug each: what must be found of them, why, and how soon; and nothing of those without one."""

import json
from pathlib import Path

import pytest

from emu import data
from emu.fuzz import findings, sweep
from emu.fuzz.harness import Harness
from emu.fuzz.records import HONEST, HOSTILE, HOSTS, ODD_HOST, encode
from emu.fuzz.target import Target
from emu.guest import load_guest
from emu.history.recording import load_recording

# What is found, by which words of its cause or why.
PLANTED = {
    "change_only": ("current", "odd"),
    "gives_up": ("current", "version was"),
    "halves": ("current", ""),
    "low_byte": ("current", "version was 2 before and "),
    "no_check": ("current", ""),
    "no_cpuid": ("no-fault", "the host offers no steal time"),
    "no_enable": ("own-area", "has registered none"),
    "no_zeroing": ("zeroed", "is registered while it holds"),
    "odd_only": ("current", "not loaded again"),
    "stale_pointer": ("own-area", "has registered the one at"),
    "stale_version": ("ends", "version from before the loop"),
    "version_late": ("current", "loaded before version"),
    "version_once": ("ends", "does not load version again"),
    "writes_back": ("unwritten", "offset 0 of the area"),
}


def found_by_sweep(name: str, host: str = ODD_HOST) -> findings.Finding | None:
    """The first thing that is found, before anything is left to chance."""
    target = Target(load_guest(name), name, host)
    early = findings.before(target, data.source_text)
    if early:
        return early[0]
    harness = Harness(target)
    _, _, plain = harness.run(b"")
    for family in sweep.families(host, plain.accesses):
        for given in family.inputs:
            content = encode(given)
            if harness.fails(content) is not None:
                return findings.finding(harness, findings.shortest(harness, content), data.source_text)
    return None


@pytest.mark.parametrize("bits", ["", "32"])
@pytest.mark.parametrize("name", PLANTED)
def test_planted_bug_is_found_and_its_cause_named(name: str, bits: str) -> None:
    found = found_by_sweep(f"readers/{name}{bits}")
    oracle, words = PLANTED[name]
    assert found is not None and found.oracle == oracle, found
    assert words in f"{found.why} {found.cause}", (found.why, found.cause)


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize("bits", ["", "32"])
def test_nothing_is_found_of_the_reader_without_a_bug(host: str, bits: str) -> None:
    assert found_by_sweep(f"readers/seqlock{bits}", host) is None


def test_honest_host_breaks_those_that_any_host_breaks() -> None:
    assert found_by_sweep("readers/odd_only", HONEST) is not None
    assert found_by_sweep("readers/stale_version", HOSTILE) is not None


def test_recording_of_a_finding_replays_it(tmp_path: Path) -> None:
    found = found_by_sweep("readers/odd_only")
    assert found is not None
    target = Target(load_guest("readers/odd_only"), "readers/odd_only")
    kept = findings.Findings(tmp_path, target)
    assert kept.add(found)
    assert not kept.add(found)  # known, and no shorter
    place = tmp_path / found.key
    assert sorted(one.name for one in place.iterdir()) == [
        *("finding.json", "input", "input.txt", "replay.emurec", "story.txt"),
    ]
    assert json.loads((place / "finding.json").read_text())["oracle"] == "current"
    recording = load_recording(str(place / "replay.emurec"))
    history = recording.history("x")
    history.end()
    assert (history.position, history.machine.reason) == (recording.outcome.position, recording.outcome.reason)
    assert recording.cursor is not None
    history.go(recording.cursor)
    assert recording.story[-1].startswith("=> the read returns")
