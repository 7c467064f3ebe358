"""An event as one plain sentence."""

from collections.abc import Callable
from typing import Any

from emu import abi, trace
from emu.diagnosis import words
from emu.explain import msr
from emu.faults import exception
from emu.machine import Machine
from emu.trace import Event

_STORES = {
    "odd": "version becomes {value}, which is odd: an update begins; nothing in the area can be trusted",
    "steal": "steal becomes {value:,} ns",
    "steal-low": "the lower half of steal becomes {value:#x}; the upper one is still the old one",
    "steal-high": "the upper half of steal becomes {value:#x}",
    "even": "version becomes {value}, which is even: the update is done",
    "burst": "version becomes {value}: many updates at once",
}
_PREEMPTED = (
    "the vCPU runs, so its preempted byte is 0",
    "the vCPU was taken off its pCPU, so its preempted byte is 1",
)
_WHY = {
    "start": "it is the first in line",
    "quantum": "the quantum is over",
    "preempted": "one that has just woken up is more urgent",
    "blocked": "the one that had it sleeps",
    "wake": "the pCPU was idle",
    "yield": "that was asked for",
    "script": "the script says so",
    "away": "an edit takes it away",
    "back": "its wait is over",
}


def sentence(machine: Machine, event: Event) -> str:
    """What happened, and the rule behind it; the empty string for what needs no words."""
    teller = _TELLERS.get(type(event))
    return "" if teller is None else teller(machine, event)


def _store(machine: Machine, event: trace.Store) -> str:
    if event.area == "steal-time":
        if event.step == "preempted":
            return f"host: {_PREEMPTED[bool(event.value)]}"
        return f"host stores into vcpu{event.vcpu}'s area: {_STORES[event.step].format(value=event.value)}"
    return f"host stores {event.step} = {event.value:#x} at {event.gpa:#x} ({event.area} of vcpu{event.vcpu})"


def _switch(machine: Machine, event: trace.Switch) -> str:
    what = (
        f"pCPU {event.pcpu} goes from {event.prev} to {event.next}"
        if event.prev != "idle"
        else (f"pCPU {event.pcpu} goes to {event.next}")
    )
    waits = f"; {event.prev} waits, which is steal" if event.prev.startswith("vcpu") and event.why != "blocked" else ""
    return f"host: {what}, because {_WHY.get(event.why, event.why)}{waits}"


def _exit(machine: Machine, event: trace.ExitEvent) -> str:
    if event.exit in ("Wrmsr", "PortOut", "Fault", "InterruptWindow"):
        return ""  # told by what comes of them
    if event.exit == "Rdmsr":
        return f"exit: RDMSR of {words.msr(event.detail['msr'])}; the host answers"
    if event.exit == "Cpuid":
        return f"exit: CPUID, leaf {event.detail['leaf']:#x}; the host answers from its table"
    plain = {
        "Hlt": "exit: HLT, the vCPU wants to sleep until an interrupt comes; that time will be idle, not steal",
        "Pause": "exit: PAUSE",
        "Rdtsc": "exit: RDTSC, answered from virtual time",
        "Hypercall": "exit: a hypercall, the guest asks the host for something",
    }
    return plain.get(event.exit, f"exit: {event.exit}")


def _trap(machine: Machine, event: trace.Trap) -> str:
    if event.kind == "interrupt":
        return f"interrupt {event.vector:#x} is delivered; it will return to {event.rip:#x}"
    error = "" if event.error is None else f", error code {event.error:#x}"
    address = "" if event.address is None else f", address {event.address:#x}"
    return f"{exception(event.vector)}{error}{address}: the guest's own handler gets it"


def _mark(machine: Machine, event: trace.Mark) -> str:
    if event.mark == "begin":
        return f"mark: a read of the area at {event.value:#x} begins"
    return f"mark: the read has returned {event.value:,}"


_TELLERS: dict[type, Callable[[Machine, Any], str]] = {
    trace.Store: _store,
    trace.Switch: _switch,
    trace.ExitEvent: _exit,
    trace.Trap: _trap,
    trace.Mark: _mark,
    trace.MsrWrite: lambda machine, one: msr.wrote(machine.packages[one.vcpu], one.msr, one.value, one.accepted),
    trace.Wake: lambda machine, one: f"host: {one.who} wakes up, and waits for a pCPU from now on",
    trace.Console: lambda machine, one: f"the guest prints {bytes([one.byte])!r}"[:40],
    trace.Mmio: lambda machine, one: (
        f"the vCPU {'writes' if one.write else 'reads'} its APIC's register at {one.gpa % abi.PAGE_SIZE:#x}"
    ),
    trace.Swapped: lambda machine, one: (
        f"host: the page at {one.gpa:#x} is {'taken away' if one.way == 'out' else 'back'}"
    ),
    trace.PageMissing: lambda machine, one: f"the page at {one.gpa:#x} is away: {one.action}",
    trace.Ipi: lambda machine, one: (
        f"the APIC sends {one.mode} {one.vector:#x} to {', '.join(f'vcpu{n}' for n in one.to)}"
    ),
    trace.End: lambda machine, one: f"the run ends: {one.reason}",
}
