"""One step of a run, explained: the instruction and what it did, or what the host did instead.

A step is made with hooks on the areas that are registered, and the registers are compared before and after.
"""

from typing import NamedTuple

from emu import abi
from emu.code.disassembly import LONGEST, disassemble
from emu.code.places import places
from emu.explain.effect import effect
from emu.explain.events import sentence
from emu.history.history import History
from emu.machine import Machine
from emu.state import ATTRIBUTE_BIG, ATTRIBUTE_LONG, GENERAL, SEGMENTS, CpuState
from emu.trace import Event
from emu.vcpu.watch import Access, Watch

_FIELDS = {
    abi.KVM_STEAL_TIME_STEAL: "steal",
    abi.KVM_STEAL_TIME_VERSION: "version",
    abi.KVM_STEAL_TIME_FLAGS: "flags",
    abi.KVM_STEAL_TIME_PREEMPTED: "preempted",
}


class Change(NamedTuple):
    """A register that is another one than before."""

    register: str
    before: int
    after: int


class Step(NamedTuple):
    """What happened between two positions.

    `who` is the vCPU that executed `text` at `address`, in `line` and `symbol`, or None where only the host acted.
    `sentences` tell it, `changed` are the registers of that vCPU, `events` what a trace says of it; `accessed` tells
    whether the guest touched an area.
    """

    position: int
    who: int | None
    address: int
    symbol: str
    line: str
    text: str
    sentences: tuple[str, ...]
    changed: tuple[Change, ...]
    events: tuple[Event, ...] = ()
    accessed: bool = False


def take(history: History, heard: list[Event] | None = None) -> Step:
    """Make one step forward, and explain it. At the end of the run nothing happens.

    `heard` is what the trace of the history is appended to, where all that lies ahead is new to it. Else the step is
    gone over once more for its events, which takes longer.
    """
    machine = history.machine
    package = machine.acting or machine.packages[0]
    vcpu = package.vcpu
    address, before, insns = vcpu.pc(), vcpu.state(), machine.instructions
    text = instruction(machine, package.number)
    accesses: list[tuple[Access, int]] = []
    ranges = _areas(machine)

    def accessed(access: Access) -> None:
        accesses.append((access, machine.ram.load(access.gpa, access.size)))

    watch = Watch(machine.engine, reads=ranges, writes=ranges, accessed=accessed) if ranges else None
    try:
        history.step()
    finally:
        if watch is not None:
            watch.close()
    if heard is None:
        events = [event for _, event in history.between(history.position, history.position)]
    else:
        events = list(heard)
        heard.clear()
    told = [sentence(machine, event) for event in events]
    executed = machine.instructions > insns
    after = vcpu.state() if executed else before
    changed = _changed(before, after)
    place = places(machine.image.source, [address])[0]
    own = [_area(machine, access, value) for access, value in accesses]
    if executed and not any(told) and not own:
        own = [effect(text, before, after)]
    sentences = tuple([one for one in (*own, *told) if one])
    who = package.number if executed or accesses else None
    shown = text if executed else ""
    found = (tuple(events), bool(accesses))
    return Step(history.position, who, address, place.symbol, place.line, shown, sentences, changed, *found)


def instruction(machine: Machine, vcpu: int) -> str:
    """The instruction that this vCPU is about to execute."""
    one = machine.packages[vcpu].vcpu
    code = one.read_linear(one.pc(), LONGEST)
    found = disassemble(code, one.pc(), bits_of(one.state()), 1)
    return found[0].text if found else ""


def bits_of(state: CpuState) -> int:
    """How code is to be read: 16, 32 or 64 bits."""
    attributes = state.segments[SEGMENTS.index("cs")].attributes
    return 64 if attributes & ATTRIBUTE_LONG else 32 if attributes & ATTRIBUTE_BIG else 16


def _areas(machine: Machine) -> list[tuple[int, int]]:
    found = []
    for package in machine.packages:
        if package.steal is not None and package.steal.enabled:
            gpa = package.steal.area_gpa
            found.append((gpa, gpa + abi.KVM_STEAL_TIME_SIZE - 1))
    return found


def _area(machine: Machine, access: Access, found: int) -> str:
    """An access of the guest to an area, in words."""
    for package in machine.packages:
        steal = package.steal
        offset = access.gpa - steal.area_gpa if steal is not None and steal.enabled else -1
        if 0 <= offset < abi.KVM_STEAL_TIME_SIZE:
            name = _FIELDS.get(offset, f"byte {offset}")
            value = access.value if access.write else found
            if access.write:
                return f"writes {name} = {value:#x} into the area of vcpu{package.number}, which is the host's to write"
            if name == "version":
                meaning = "odd, the host is inside an update" if value & 1 else "even, no update is under way"
                return f"reads version = {value}: {meaning}"
            half = " (its lower half)" if name == "steal" and access.size == 4 else ""
            if offset == abi.KVM_STEAL_TIME_STEAL + 4 and access.size == 4:
                name, half = "steal", " (its upper half)"
            return f"reads {name}{half} = {value:,}"
    return ""


def _changed(before: CpuState, after: CpuState) -> tuple[Change, ...]:
    pairs = [
        Change(name, old, new)
        for name, old, new in zip(GENERAL, before.general, after.general, strict=True)
        if old != new
    ]
    if before.rflags != after.rflags:
        pairs.append(Change("rflags", before.rflags, after.rflags))
    return tuple(pairs)
