"""What a sequence of the judge consists of: operations on one vCPU and what came of each.

Neutral on purpose: the model, the emulator and real KVM all take these lists and give these answers. A sequence runs
on a vCPU whose paravirtual MSRs are all off and whose PAGES are all zero.
"""

from typing import NamedTuple

from emu import abi

# Guest-physical memory of a sequence: RAM of this size, in which these pages are a sequence's own. Where else a
# sequence stores or registers an area in RAM, it may hit the program that executes it.
RAM_SIZE = 8 << 20
ARENA_GPA = 0x200000
ARENA_SIZE = 2 * abi.PAGE_SIZE
PAGES = ((0, abi.PAGE_SIZE), (ARENA_GPA, ARENA_SIZE), (RAM_SIZE - abi.PAGE_SIZE, abi.PAGE_SIZE))
MAX_OPERATIONS = 32

# --- Executed by the guest -------------------------------------------------------------------------------------------


class Rdmsr(NamedTuple):
    """Outcome: Value or Refused."""

    msr: int


class Wrmsr(NamedTuple):
    """Outcome: Done or Refused."""

    msr: int
    value: int


class Cpuid(NamedTuple):
    """Outcome: Leaf."""

    leaf: int
    subleaf: int = 0


class Load(NamedTuple):
    """A load of 1, 2, 4 or 8 bytes. Outcome: Value, or Refused where the guest's tables map nothing there."""

    gpa: int
    size: int = 8


class Store(NamedTuple):
    """A store of 1, 2, 4 or 8 bytes. Outcome: Done, or Refused."""

    gpa: int
    value: int
    size: int = 8


# --- Done by the host between two entries ----------------------------------------------------------------------------


class Reenter(NamedTuple):
    """The vCPU leaves guest mode and enters again: the moment at which an update may happen. Outcome: Done."""


class SaveRestore(NamedTuple):
    """Migration as KVM does it: a new vCPU in the same memory, its MSRs read from the old one. Outcome: Done.

    Restoring an MSR is a write like any other: the wall clock's structure is stored again, requests are made again.
    """


class Reset(NamedTuple):
    """INIT to this vCPU, which then goes on where it was. Outcome: Done."""


class Memory(NamedTuple):
    """The host looks at guest memory. Outcome: Content."""

    gpa: int
    size: int


Operation = Rdmsr | Wrmsr | Cpuid | Load | Store | Reenter | SaveRestore | Reset | Memory

# --- Outcomes --------------------------------------------------------------------------------------------------------


class Done(NamedTuple):
    """It took place."""


class Value(NamedTuple):
    """What was read, unsigned."""

    value: int


class Leaf(NamedTuple):
    eax: int
    ebx: int
    ecx: int
    edx: int


class Refused(NamedTuple):
    """The instruction raised an exception instead: its vector and error code."""

    vector: int
    error: int


class Content(NamedTuple):
    data: bytes


Outcome = Done | Value | Leaf | Refused | Content


class Conditions(NamedTuple):
    """The vCPU thread's books around a sequence: what bounds the amounts in it.

    Run delay in nanoseconds; `arrivals` counts how often the thread was given a CPU. Where arrivals are equal, the
    thread was not switched out, so every update of the sequence published the same run delay. `boot_vcpu`: it began on
    the VM's first vCPU, and not after an earlier SaveRestore. KVM decides by that vCPU's choice of system-time MSR, the
    old or the new one, whether clocks may be called stable.
    """

    run_delay_before_ns: int
    run_delay_after_ns: int
    arrivals_before: int
    arrivals_after: int
    boot_vcpu: bool
