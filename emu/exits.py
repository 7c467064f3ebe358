"""Why a vCPU stopped: one small frozen class per reason.

Every class says what the guest asked for. `rip` is the RIP of the instruction that asked (relative to CS, as in the
register). Where the host completes the instruction (CPUID, an MSR), `length` tells how far to step over it.

In Linux: the KVM_EXIT_* reasons in include/uapi/linux/kvm.h, and svm_exit_handlers in arch/x86/kvm/svm/svm.c.
"""

from typing import NamedTuple


class BudgetSpent(NamedTuple):
    """The instructions granted to this entry have been retired, exactly."""


class Cpuid(NamedTuple):
    rip: int
    length: int
    leaf: int
    subleaf: int


class Rdmsr(NamedTuple):
    rip: int
    length: int
    msr: int


class Wrmsr(NamedTuple):
    rip: int
    length: int
    msr: int
    value: int


class Rdtsc(NamedTuple):
    """RDTSC, or RDTSCP where `aux` is true."""

    rip: int
    length: int
    aux: bool


class PortIn(NamedTuple):
    """One IN, or one iteration of INS; `size` is 1, 2 or 4 bytes. The answer goes to `Vcpu.complete_in`."""

    rip: int
    port: int
    size: int
    string: bool


class PortOut(NamedTuple):
    """One OUT, or one iteration of OUTS; already complete for the guest."""

    rip: int
    port: int
    size: int
    value: int


class Hlt(NamedTuple):
    rip: int
    length: int


class Pause(NamedTuple):
    rip: int
    length: int


class Hypercall(NamedTuple):
    """VMCALL or VMMCALL; number and arguments stand in RAX, RBX, RCX, RDX and RSI.

    `long`: asked by 64-bit code, with 64-bit arguments.
    """

    rip: int
    length: int
    cpl: int
    long: bool


class TprRead(NamedTuple):
    """MOV from CR8: the task priority of the local APIC, wanted in general register number `register`."""

    rip: int
    length: int
    register: int


class TprWrite(NamedTuple):
    """MOV to CR8: the task priority of the local APIC, 0 to 15 where the guest keeps to the architecture."""

    rip: int
    length: int
    value: int


class SoftwareInterrupt(NamedTuple):
    """INT n, INT3 or INTO; the trap returns to the instruction after it."""

    rip: int
    length: int
    vector: int


class Fault(NamedTuple):
    """An exception the guest's instruction raised; `error` is None where the vector has no error code."""

    rip: int
    vector: int
    error: int | None
    address: int | None


class NestedFault(NamedTuple):
    """A nested page fault: an access to guest-physical `gpa`, which the host's own tables do not let through.

    Nothing has happened yet. `access` is `read`, `write` or `fetch`; a walk of the guest's own page tables is a write.
    With `delivering` it was no instruction: an exception or interrupt found no way to its handler.
    """

    rip: int
    gpa: int
    access: str
    delivering: bool = False


class InterruptWindow(NamedTuple):
    """The first instruction boundary with IF set and no shadow, asked for because an interrupt waits."""

    rip: int


class Shutdown(NamedTuple):
    """A fault while delivering a double fault: the triple fault that resets a real machine."""

    rip: int
    vector: int
    error: int | None
    address: int | None


Exit = (
    BudgetSpent
    | Cpuid
    | Rdmsr
    | Wrmsr
    | Rdtsc
    | PortIn
    | PortOut
    | Hlt
    | Pause
    | Hypercall
    | TprRead
    | TprWrite
    | SoftwareInterrupt
    | Fault
    | NestedFault
    | InterruptWindow
    | Shutdown
)
