"""Golden traces: runs of the reference guests, whose every byte is known, on every machine.

The reference guests are built by one pinned compiler to the same bytes everywhere, so their traces must be the same
too. After a change that is meant to alter them: `python -m tests.test_golden` writes them anew; read the difference.
"""

import functools
import hashlib
import json
from pathlib import Path

import pytest

from emu import clock, data, toolchain
from emu.boot.elf import elf_image
from emu.faults import HostError
from emu.scenario import Config
from emu.trace import to_json
from tests.programs import Recorded

GOLDEN = Path(__file__).parent / "golden"
HASHES = GOLDEN / "traces.json"
WHOLE = "register"  # this one is kept line by line, to be read
RUNS: dict[str, tuple[str, dict[str, object]]] = {
    "hello": ("hello", {}),
    "detect": ("detect", {}),
    "register": ("register", {}),
    "register on the 2011 interface": ("register", {"abi": "kvm-2011"}),
    "clock, crowded": ("clock", {"vcpus": 2, "tasks": ("busy",)}),
    "clock, fair": ("clock", {"vcpus": 2, "tasks": ("busy:weight=2",), "policy": "fair"}),
    "clock, random": ("clock", {"vcpus": 2, "tasks": ("busy",), "policy": "random", "seed": 5}),
    "clock, seen from another CPU": ("clock", {"tasks": ("busy",), "host_model": "other-cpu", "seed": 3}),
    "smp, two pCPUs": ("smp", {"vcpus": 3, "pcpus": 2, "tasks": ("bursty:on=50us,off=20us",)}),
    "idle": ("idle", {"tasks": ("periodic:period=700us,run=200us",)}),
    "bad_msr": ("bad_msr", {}),
    "torn32": ("torn32", {"tasks": ("busy",), "quantum_ps": 50 * clock.UNITS["us"], "insn_limit": 500_000}),
    "shutdown": ("shutdown", {"tasks": ("busy",), "insn_limit": 2_000_000}),
}


@functools.cache
def built() -> None:
    toolchain.build_guests(reference=True)


def trace_of(name: str) -> str:
    guest, options = RUNS[name]
    path = data.guest_path(guest, reference=True)
    recorded = Recorded(elf_image(path.read_bytes(), guest), Config(**options))
    text = "".join(to_json(event) + "\n" for event in recorded.events)
    # The file's own hash stands in guests/reference.sha256; it moves with every line of a header, by the debug
    # information, and the trace must not.
    return text.replace(recorded.machine.image.sha256, guest)


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


@pytest.fixture(scope="module", autouse=True)
def _reference_guests() -> None:
    try:
        built()
    except HostError as missing:
        pytest.skip(f"the reference guests cannot be built here: {missing}")


@pytest.mark.parametrize("name", RUNS)
def test_trace_is_the_golden_one(name: str) -> None:
    text = trace_of(name)
    if name == WHOLE:
        assert text == (GOLDEN / f"{WHOLE}.jsonl").read_text(encoding="ascii")
    assert digest(text) == json.loads(HASHES.read_text(encoding="ascii"))[name]


if __name__ == "__main__":
    built()
    GOLDEN.mkdir(exist_ok=True)
    HASHES.write_text(json.dumps({name: digest(trace_of(name)) for name in RUNS}, indent=1) + "\n", encoding="ascii")
    (GOLDEN / f"{WHOLE}.jsonl").write_text(trace_of(WHOLE), encoding="ascii")
