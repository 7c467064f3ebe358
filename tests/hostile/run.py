"""Running one case and checking everything that must hold of the host."""

import hashlib
import time
from collections import Counter
from typing import NamedTuple

from emu import trace
from emu.diagnosis.report import diagnose
from emu.faults import HostError
from emu.machine import Machine
from emu.result import EXIT, EXIT_LIMIT, HALTED, INSN_LIMIT, OUTPUT_LIMIT, TIME_LIMIT, TRIPLE_FAULT
from emu.trace import to_json
from emu.vcpu import host_window
from tests.hostile.case import draw, machine_of
from tests.hostile.guard import guarded

REASONS = (EXIT, HALTED, TRIPLE_FAULT, TIME_LIMIT, INSN_LIMIT, EXIT_LIMIT, OUTPUT_LIMIT)
TIMETABLE = "timetable"
# Pages of the host's window that an entry writes to; the rest is the same for ever.
_WRITTEN = (host_window.VMCB, host_window.VMCB + 0x1000, host_window.HSAVE, host_window.HSAVE + 0x1000)
_SCRATCH_PAGE = 0xC000
_SCRATCH_STACK = (_SCRATCH_PAGE + 0x400, _SCRATCH_PAGE + 0x800)


class Wrong(Exception):
    """A claim about the host that did not hold."""


class Outcome(NamedTuple):
    """How a run ended, what it did by kind, and the hash of its trace where that was asked for."""

    reason: str
    kinds: Counter[str]
    instructions: int
    seconds: float
    digest: str


def run(number: int, *, digest: bool = False) -> Outcome:
    """Case `number`, checked. Raises Wrong, or whatever the host raised."""
    kinds: Counter[str] = Counter()
    hashed = hashlib.sha256()

    def sink(event: trace.Event) -> None:
        if type(event) is trace.ExitEvent:
            kinds[event.exit] += 1
        else:
            kinds[type(event).__name__] += 1
        if digest:
            hashed.update(to_json(event).encode())

    began = time.monotonic()
    with guarded() as guards:
        case = draw(number)
        config = case.config
        machine = machine_of(case, sink)
        fixed = _fixed(machine)
        try:
            machine.run()
        except HostError as error:
            # The one refusal that only a run can bring to light: its timetable names a vCPU that sleeps.
            if config.policy != "script" or "is blocked at" not in error.message:
                raise
            reason = TIMETABLE
        else:
            reason = machine.result().reason
            _check(machine, kinds["Switch"])
        if _fixed(machine) != fixed:
            raise Wrong("the host's window was written to")
        if broken := guards.broken():
            raise Wrong(f"memory was written {', '.join(broken)}")
    return Outcome(reason, kinds, machine.instructions, time.monotonic() - began, hashed.hexdigest())


def _fixed(machine: Machine) -> bytes:
    window = bytearray(machine._engine._window)
    for first, end in (_WRITTEN[:2], _WRITTEN[2:], _SCRATCH_STACK):
        window[first:end] = bytes(end - first)
    return bytes(window)


def _check(machine: Machine, switches: int) -> None:
    result, config = machine.result(), machine.config
    if result.reason not in REASONS:
        raise Wrong(f"the run ended by {result.reason!r}")
    for one in result.vcpus:
        if one.ran_ns + one.stolen_ns + one.idle_ns != one.elapsed_ns or min(one[1:4]) < 0:
            raise Wrong(f"the books of vcpu{one.id} do not add up: {one}")
        if one.elapsed_ns > result.virtual_ns or (config.pcpus == 1 and one.elapsed_ns != result.virtual_ns):
            raise Wrong(f"vcpu{one.id} is not where the run is, at {result.virtual_ns} ns: {one}")
    if sum(one.instructions for one in result.vcpus) != result.instructions:
        raise Wrong(f"{result.instructions} instructions in all, and of the vCPUs {result.vcpus}")
    # Each switch floors a timestamp.
    off_ps = sum(one.ran_ns for one in result.vcpus) * 1000 - result.instructions * config.ps_per_insn
    if abs(off_ps) > 1000 * (switches + len(result.vcpus)):
        raise Wrong(f"{off_ps} ps ran that are no instructions")
    if len(result.console) > config.output_limit + 4:
        raise Wrong("more output than allowed")
    if result.reason == TRIPLE_FAULT and not diagnose(machine):
        raise Wrong("a triple fault without a diagnosis")
    for package in machine.packages:
        saved = package.vcpu.state()
        package.vcpu.load(saved)
        if package.vcpu.state() != saved:
            raise Wrong(f"the state of vcpu{package.number} is not what was loaded")
