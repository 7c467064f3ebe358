"""The numbered promises of the specification that sequences can judge, each with the sequences that would break it.

The document is tutorials/steal-time.md; a test compares the sentences. What is expected of a sequence is what the model
says of it, so a promise is kept where a judge does the same.

In Linux: Documentation/virt/kvm/x86/msr.rst is the document that these make precise.
"""

from typing import NamedTuple

from emu.conform.text import parse_sequence
from emu.conform.verdict import Bench

_REGISTERED = "wrmsr STEAL_TIME 0x200001; reenter; "


class Promise(NamedTuple):
    """A promise by its number in the document, its sentence, and sequences as text."""

    number: str
    sentence: str
    sequences: tuple[str, ...]


class Row(NamedTuple):
    """What became of a promise: `kept` (with the numbers of known differences), `broken`, or `-`: not asked."""

    promise: Promise
    emulator: str
    kvm: str

    @property
    def agree(self) -> bool:
        """Whether the judges do the same."""
        return BROKEN not in (self.emulator, self.kvm)


KEPT, BROKEN, ABSENT = "kept", "broken", "-"


def rows(bench: Bench, *, kvm: bool) -> list[Row]:
    """Judge every promise, the emulator by its devices and by its engine."""
    made = []
    for promise in PROMISES:
        broken: set[str] = set()
        known: set[str] = set()
        for text in promise.sequences:
            verdict = bench.judge(parse_sequence(text), engine=True)
            broken |= {"KVM" if one.judge == "KVM" else "emulator" for one in verdict.disagreements}
            known |= set(verdict.known)
        real = ABSENT
        if kvm:
            real = BROKEN if "KVM" in broken else ", ".join((KEPT, *sorted(known)))
        made.append(Row(promise, BROKEN if "emulator" in broken else KEPT, real))
    return made


PROMISES = (
    Promise(
        "ST-1",
        "The MSR reads back the last value accepted, all 64 bits of it",
        (
            "rdmsr STEAL_TIME",
            "wrmsr STEAL_TIME 0x200001; rdmsr STEAL_TIME",
            "wrmsr STEAL_TIME 0xffffffffffffffc1; rdmsr STEAL_TIME",
            "wrmsr STEAL_TIME 0x200000; rdmsr STEAL_TIME",
        ),
    ),
    Promise(
        "ST-2",
        "A value with any of bits 1 to 5 set raises #GP(0) and changes nothing",
        tuple(
            f"{_REGISTERED}wrmsr STEAL_TIME {value}; rdmsr STEAL_TIME; reenter"
            for value in ("0x200003", "0x200005", "0x200009", "0x200011", "0x200021", "0x20003e", "0x2", "0x20")
        ),
    ),
    Promise(
        "ST-3",
        "The area may be anywhere in RAM",
        ("wrmsr STEAL_TIME 0x1; reenter", "wrmsr STEAL_TIME 0x7fffc1; reenter", "wrmsr STEAL_TIME 0x200041; reenter"),
    ),
    Promise(
        "ST-4",
        "An address outside RAM is accepted and never written",
        (
            "wrmsr STEAL_TIME 0x800001; rdmsr STEAL_TIME; reenter",
            "wrmsr STEAL_TIME 0x8000000000200001; rdmsr STEAL_TIME; reenter",
            "wrmsr STEAL_TIME 0x800001; reenter; wrmsr STEAL_TIME 0x200001; reenter",
        ),
    ),
    Promise(
        "ST-7",
        "The version rises by 2, steps over an odd value, and wraps at 32 bits",
        tuple(
            f"store 0x200008 {before} 4; {_REGISTERED}load 0x200008 4"
            for before in ("0x0", "0x1", "0x3", "0xfffffffd", "0xfffffffe", "0xffffffff")
        ),
    ),
    Promise(
        "ST-8",
        "Steal is added to what the guest left there, and wraps at 64 bits",
        (
            f"store 0x200000 0x10000000000 8; {_REGISTERED}load 0x200000 8",
            f"store 0x200000 0xffffffffffffffff 8; {_REGISTERED}load 0x200000 8",
        ),
    ),
    Promise(
        "ST-9",
        "An update brings the run delay that no update has brought before",
        ("reenter; reenter; " + _REGISTERED + "reenter; load 0x200000 8",),
    ),
    Promise(
        "ST-10",
        "Flags and padding are never written",
        (
            "store 0x20000c 0xdeadbeef 4; store 0x200011 0xa5 1; store 0x200014 0xa5a5a5a5a5a5a5a5 8; "
            f"store 0x200038 0xa5a5a5a5a5a5a5a5 8; {_REGISTERED}memory 0x200000 64",
        ),
    ),
    Promise(
        "ST-12",
        "Three things ask for an update, and it is served before the vCPU's next instruction",
        ("wrmsr STEAL_TIME 0x200001; load 0x200008 4", _REGISTERED + "load 0x200008 4"),
    ),
    Promise(
        "ST-17",
        "An update clears the preempted byte, whatever stands there",
        tuple(f"store 0x200010 {byte} 1; {_REGISTERED}load 0x200010 1" for byte in ("1", "2", "3", "0xff", "0xfd")),
    ),
    Promise(
        "ST-19",
        "A value with bit 0 clear ends the updates at once",
        tuple(
            f"{_REGISTERED}wrmsr STEAL_TIME {value}; store 0x200000 0 8; store 0x200008 0 8; reenter; reenter"
            for value in ("0x200000", "0x40", "0")
        ),
    ),
    Promise(
        "ST-20",
        "Time waited while disabled comes with the first update after the next registration",
        (_REGISTERED + "wrmsr STEAL_TIME 0; reenter; reenter; wrmsr STEAL_TIME 0x200001; reenter",),
    ),
    Promise(
        "ST-21",
        "After a move the old area is frozen and the new one starts from its own content",
        (_REGISTERED + "store 0x200040 5 8; wrmsr STEAL_TIME 0x200041; store 0x200008 0 8; reenter; reenter",),
    ),
    Promise(
        "ST-23",
        "Reset clears the MSR and keeps what has been delivered",
        (_REGISTERED + "reset; rdmsr STEAL_TIME; reenter; wrmsr STEAL_TIME 0x200041; reenter",),
    ),
    Promise(
        "CP-1",
        "The hypervisor announces itself as KVM",
        ("cpuid 0x40000000", "cpuid 0x40000000 1"),
    ),
    Promise(
        "CP-2",
        "A feature bit is set exactly where its device is attached",
        ("cpuid 0x40000001", "cpuid 0x40000001 1"),
    ),
    Promise(
        "CP-4",
        "An MSR that nobody owns raises #GP(0) on read and write",
        tuple(f"rdmsr {msr}; wrmsr {msr} 0; rdmsr STEAL_TIME" for msr in ("0x4b564d09", "0x4b564d80", "0x4b564dff")),
    ),
)
