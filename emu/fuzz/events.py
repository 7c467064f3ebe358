"""What an event of an input does to the machine as it stands: the edit that replays it.

In Linux: svm_inject_irq() and kvm_emulate_rdmsr() are where an honest host does these things.
"""

from emu import abi
from emu.fuzz import records
from emu.fuzz.plan import Event
from emu.history.edits import Change, Interrupt, SetAnswer, SetMemory, SetMsr
from emu.machine import Machine
from emu.package import Package

_MASK32, _MASK64 = (1 << 32) - 1, (1 << 64) - 1
_TSC_STEP = 4096
_PRESENT, _GATE64, _GATE32, _GATE16 = 0x80, 16, 8, 4


def change_of(machine: Machine, event: Event) -> Change | None:
    """The change that this event is here, to vCPU 0; None where there is nothing that it could be done to."""
    package, argument = machine.packages[0], event.argument
    if event.kind in (records.AHEAD, records.BACK_IN_TIME):
        step = (argument + 1) * _TSC_STEP
        now = package.tsc.value()
        then = min(now + step, _MASK64) if event.kind == records.AHEAD else max(now - step, 0)
        return SetMsr(0, abi.MSR_IA32_TSC, then)
    if event.kind == records.INTERRUPT:
        vectors = handled(package)
        return Interrupt(0, vectors[argument % len(vectors)]) if vectors else None
    if event.kind == records.ELSEWHERE:
        places = elsewhere(package)
        if not places:
            return None
        gpa, size = places[argument % len(places)]
        return SetMemory(gpa + (argument >> 16) % size, bytes((argument >> 8 & 0xFF,)))
    if event.kind == records.REFUSE:
        return SetAnswer(0, "wrmsr" if argument & 1 else "rdmsr", True, 0, _MASK64, 0)
    if event.kind == records.HIDE:
        hidden = argument >> 2 << 2 | 3 if argument >> 2 else _MASK32
        return SetAnswer(0, "cpuid", False, argument & 3, _MASK32 & ~hidden, 0)
    if event.kind == records.ANSWER:
        return SetAnswer(0, "rdmsr", False, 0, _MASK64, argument << 32 | argument)
    return SetAnswer(0, "cpuid", False, argument & 3, _MASK32, argument)


def handled(package: Package) -> list[int]:
    """The interrupts for which the guest has a gate that is present; none before it has switched its APIC on."""
    if not package.lapic.software_enabled:
        return []
    state = package.vcpu.state()
    protected = bool(state.cr0 & abi.CR0_PE)
    size = _GATE64 if dict(state.msrs)[abi.MSR_EFER] & abi.EFER_LMA else _GATE32 if protected else _GATE16
    gates = package.vcpu.read_linear(state.idtr.base, min(state.idtr.limit + 1, 256 * size))
    found = []
    for vector in range(32, len(gates) // size):
        gate = gates[vector * size : (vector + 1) * size]
        if gate[5] & _PRESENT if protected else any(gate):
            found.append(vector)
    return found


def elsewhere(package: Package) -> list[tuple[int, int]]:
    """Where structures of this vCPU are that are not its steal area, and their sizes."""
    found = []
    if package.clock is not None:
        if package.clock.time.enabled:
            found.append((package.clock.time.area_gpa, abi.PVCLOCK_VCPU_TIME_INFO_SIZE))
        wall = package.clock.rdmsr(abi.MSR_KVM_WALL_CLOCK_NEW)
        if wall:
            found.append((wall, abi.PVCLOCK_WALL_CLOCK_SIZE))
    if package.async_pf is not None and package.async_pf.enabled:
        found.append((package.async_pf.area_gpa, abi.KVM_APF_SIZE))
    if package.pv_eoi is not None and package.pv_eoi.enabled:
        found.append((package.pv_eoi.area_gpa, 1))
    return found
