"""The same run gives the same bytes: again, in another process, under another hash seed, however it is cut."""

import hashlib
import os
import subprocess
import sys

import pytest

from emu import clock, machine
from emu.trace import to_json
from tests.programs import run_guest

MIXED = {
    "vcpus": 3,
    "pcpus": 2,
    "tasks": ("busy:weight=2", "bursty:on=70us,off=50us"),
    "policy": "random",
    "seed": 11,
    "host_model": "other-cpu",
    "quantum_ps": 40 * clock.UNITS["us"],
}
RUNS = {
    "plain": ("clock", {"vcpus": 2, "tasks": ("busy",)}),
    "mixed": ("smp", MIXED),
    "sleeping": ("idle", {"tasks": ("periodic:period=1ms,run=300us",), "policy": "fair"}),
}

_HASH = """
import sys
from tests.test_determinism import RUNS, trace_hash
print(trace_hash(*RUNS[sys.argv[1]]))
"""


def trace_hash(guest: str, options: dict[str, object]) -> str:
    """SHA-256 of the run's trace as it stands in a file."""
    recorded = run_guest(guest, **options)
    return hashlib.sha256("".join(to_json(event) + "\n" for event in recorded.events).encode()).hexdigest()


@pytest.mark.parametrize("name", RUNS)
def test_ten_repeated_runs_have_one_trace(name):
    assert len({trace_hash(*RUNS[name]) for _ in range(10)}) == 1


def test_hash_seed_and_process_make_no_difference():
    here = trace_hash(*RUNS["mixed"])
    for seed in ("0", "1", "77"):
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        command = [sys.executable, "-c", _HASH, "mixed"]
        found = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        assert found.stdout.strip() == here


@pytest.mark.parametrize("chunk", [3, 7, 1000])
@pytest.mark.parametrize("name", ["mixed", "sleeping"])
def test_how_entries_are_cut_leaves_no_mark_in_the_trace(monkeypatch, name, chunk):
    guest, options = RUNS[name]
    # On one pCPU: on several, entries take turns, and which of them meets the limit is a matter of the cut.
    options = {**options, "pcpus": 1, "insn_limit": 60_000}
    whole = trace_hash(guest, options)
    monkeypatch.setattr(machine, "CHUNK_INSNS", chunk)
    assert trace_hash(guest, options) == whole


def test_another_seed_is_another_run():
    assert trace_hash("smp", MIXED) != trace_hash("smp", MIXED | {"seed": 12})


def main() -> None:
    """The full form of the bar: 100 runs of each, and hash seeds 0 to 9 (`make prove-determinism`)."""
    print(f"{'run':<10}{'repeats':>8}{'hash seeds':>12}  trace hashes")
    for name, (guest, options) in RUNS.items():
        hashes = {trace_hash(guest, options) for _ in range(100)}
        for seed in range(10):
            environment = {**os.environ, "PYTHONHASHSEED": str(seed)}
            command = [sys.executable, "-c", _HASH, name]
            hashes.add(
                subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout.strip()
            )
        print(f"{name:<10}{100:>8}{10:>12}  {len(hashes)}: {' '.join(sorted(hashes))[:64]}")


if __name__ == "__main__":
    main()
