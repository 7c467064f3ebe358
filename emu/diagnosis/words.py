"""Vectors, MSRs and exits by the names that a manual gives them.

In Linux: kvm_trace_symbol_exit in arch/x86/kvm/trace.h, and x86_pf_error_code in arch/x86/include/asm/trap_pf.h.
"""

from collections.abc import Callable, Sequence
from itertools import groupby
from typing import Any

from emu import abi, exits
from emu.exits import Exit
from emu.faults import exception as exception

_MSRS = {value: name for name, value in vars(abi).items() if name.startswith("MSR_")}
_PORTS = {
    abi.PORT_CONSOLE: "console",
    abi.PORT_EXIT: "exit",
    abi.PORT_MARK: "mark",
    **{abi.PORT_UART + n: "UART" for n in range(abi.UART_REGISTERS)},
}
_PRINTING = (abi.PORT_CONSOLE, abi.PORT_UART)
Placer = Callable[[int], str]


def short(vector: int) -> str:
    """`#PF`, or `vector 64`."""
    return exception(vector).partition(",")[0]


def msr(number: int) -> str:
    """`MSR_KVM_STEAL_TIME (0x4b564d03)`, or the bare number where no name is known."""
    return f"{_MSRS[number]} ({number:#x})" if number in _MSRS else f"MSR {number:#x}"


def history(last: Sequence[tuple[int, Exit]], place: Placer) -> list[str]:
    """A line for each of the last exits; what one vCPU printed in a row is one line. `place` names an address."""
    lines = []
    for (vcpu, printed), group in groupby(last, lambda one: (one[0], _is_output(one[1]))):
        found = [exit_ for _, exit_ in group]
        if printed:
            text = bytes(exit_.value & 0xFF for exit_ in found if isinstance(exit_, exits.PortOut))
            rip = getattr(found[-1], "rip", 0)
            lines.append(f"vcpu{vcpu}  printed {str(text)[1:]}, lastly at {place(rip)}")
            continue
        lines += [f"vcpu{vcpu}  {told(exit_)} at {place(getattr(exit_, 'rip', 0))}" for exit_ in found]
    return lines


def _is_output(exit_: Exit) -> bool:
    return isinstance(exit_, exits.PortOut) and exit_.port in _PRINTING


def told(exit_: Exit) -> str:
    """What the guest asked for, as one would write it: `RDMSR of MSR_IA32_TSC (0x10)`."""
    return _TOLD[type(exit_)](exit_)


def _fault(one: exits.Fault | exits.Shutdown) -> str:
    error = "" if one.error is None else f", error code {one.error:#x}"
    return f"{short(one.vector)}{error}{'' if one.address is None else f', address {one.address:#x}'}"


def _port(number: int) -> str:
    return f"port {number:#x}{f' ({_PORTS[number]})' if number in _PORTS else ''}"


_ACCESSES = {"read": "a load from", "write": "a store to", "fetch": "a fetch from"}
_TOLD: dict[type, Callable[[Any], str]] = {
    exits.BudgetSpent: lambda _: "its turn was over",
    exits.Cpuid: lambda one: f"CPUID, leaf {one.leaf:#x}, subleaf {one.subleaf:#x}",
    exits.Rdmsr: lambda one: f"RDMSR of {msr(one.msr)}",
    exits.Wrmsr: lambda one: f"WRMSR of {one.value:#x} to {msr(one.msr)}",
    exits.Rdtsc: lambda one: "RDTSCP" if one.aux else "RDTSC",
    exits.PortIn: lambda one: f"IN of {8 * one.size} bits from {_port(one.port)}",
    exits.PortOut: lambda one: f"OUT of {one.value:#x} to {_port(one.port)}",
    exits.Hlt: lambda _: "HLT",
    exits.Pause: lambda _: "PAUSE",
    exits.Hypercall: lambda one: f"a hypercall from CPL {one.cpl}",
    exits.TprRead: lambda _: "MOV from CR8",
    exits.TprWrite: lambda one: f"MOV of {one.value:#x} to CR8",
    exits.SoftwareInterrupt: lambda one: f"INT {one.vector:#x}",
    exits.Fault: _fault,
    exits.NestedFault: lambda one: f"{_ACCESSES[one.access]} guest-physical {one.gpa:#x}, where the host looks on",
    exits.InterruptWindow: lambda _: "interrupts could be delivered",
    exits.Shutdown: _fault,
}
