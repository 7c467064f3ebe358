"""A violation told as a story: what the guest did, what the host stored, and why the end is wrong.

It is made by going through the schedule once more, so that each line tells what happened and not what was planned.
"""

from collections.abc import Callable

from emu import abi, trace
from emu.boot.image import Image
from emu.code.disassembly import LONGEST, disassemble
from emu.code.places import places
from emu.code.symbols import Symbols
from emu.explore.runner import watched
from emu.explore.search import Counterexample
from emu.history.edits import Interrupt, Preempt, SetAnswer, SetMemory, SetMsr, TakeAway, told
from emu.history.history import History
from emu.machine import Machine
from emu.trace import Event
from emu.vcpu.watch import Access, Watch

MOST_LINES = 18
_FIELDS = {
    abi.KVM_STEAL_TIME_STEAL: "steal",
    abi.KVM_STEAL_TIME_STEAL + 4: "steal, upper half",
    abi.KVM_STEAL_TIME_VERSION: "version",
    abi.KVM_STEAL_TIME_FLAGS: "flags",
    abi.KVM_STEAL_TIME_PREEMPTED: "preempted",
}
_STORES = {
    "odd": "version = {value}: an update begins",
    "steal": "steal = {value:#x}",
    "steal-low": "steal, lower half = {value:#x}",
    "steal-high": "steal, upper half = {value:#x}",
    "even": "version = {value}: the update is done",
    "burst": "version = {value}: that many updates at once",
    "preempted": "preempted = {value}",
}


def story(history: History, found: Counterexample) -> list[str]:
    """The schedule that led to `found`, in a screen of lines at most, the reason last; `history` has its edits."""
    lines: list[tuple[str, str, str]] = []
    points = [point for point in found.way.points if point < found.position] or [found.position]
    for number, point in enumerate(points):
        history.go(point)
        following = points[number + 1] if number + 1 < len(points) else found.position
        if any(edit.position == point for edit in history.edits):
            lines += _host(history, point)
        if following > point:
            lines += _guest(history, following)
    shown = _shortened(_merged(lines))
    who, where = (max((len(line[column]) for line in shown), default=0) for column in (0, 1))
    lines_told = [f"{a:{who}}  {b:{where}}  {c}".rstrip() for a, b, c in shown]
    return [*lines_told, f"=> {found.violation.why}"]


def _host(history: History, point: int) -> list[tuple[str, str, str]]:
    """What the host did at this position."""
    found = []
    for _, event in history.between(point, point, of_edits=True):
        found += _stores(event)
    for edit in history.edits:
        if edit.position == point and isinstance(edit.change, SetMemory):
            found += _set(history.machine, edit.change)
        if edit.position == point and isinstance(edit.change, SetMsr | SetAnswer | Interrupt):
            found.append(("host", "does", told(edit.change)))
        if edit.position == point and isinstance(edit.change, TakeAway):
            found.append(("host", "runs others", f"for {edit.change.ns:,} ns"))
        if edit.position == point and isinstance(edit.change, Preempt):
            found.append(("host", "switches", f"to {edit.change.who}"))
    return found


def _set(machine: Machine, change: SetMemory) -> list[tuple[str, str, str]]:
    """Bytes that somebody stores, in the words of the area where they fall into it."""
    value = int.from_bytes(change.data, "little")
    for package in machine.packages:
        if package.steal is not None and package.steal.enabled:
            offset = change.gpa - package.steal.area_gpa
            if 0 <= offset < abi.KVM_STEAL_TIME_SIZE:
                return [("host", "stores", _field(offset, len(change.data), value))]
    return [("host", "stores", f"{change.data.hex(' ')} at {change.gpa:#x}")]


def _guest(history: History, following: int) -> list[tuple[str, str, str]]:
    """What the guest does at this visible point, on the way to the next."""
    machine = history.machine
    begun, insns = history.position, machine.instructions
    accesses: list[tuple[Access, int]] = []

    def accessed(access: Access) -> None:
        accesses.append((access, machine.ram.load(access.gpa, access.size)))

    ranges = watched(machine)
    watch = Watch(machine.engine, reads=ranges, writes=ranges, accessed=accessed) if ranges else None
    try:
        # What comes first may be decisions of the host, which change whose turn it is.
        while machine.instructions == insns and history.position < following:
            who, where, steal = _place(machine)
            history.step()
    finally:
        if watch is not None:
            watch.close()
    events = [event for _, event in history.between(begun + 1, following, of_edits=False)]
    symbols = Symbols.of(machine.image.source)
    found = [_access(one, value, steal, machine.image, symbols) for one, value in accesses]
    found += [words for event in events if (words := _event(event))]
    stores = [line for event in events for line in _stores(event)]
    return [(who, where, "; ".join(found)), *stores] if found else stores


def _place(machine: Machine) -> tuple[str, str, int | None]:
    """Whose turn it is, the instruction that comes next, and where that vCPU's area is."""
    package = machine.acting or machine.packages[0]
    vcpu, steal = package.vcpu, package.steal
    at = vcpu.pc()
    code = disassemble(vcpu.read_linear(at, LONGEST), at, 64 if vcpu.wide else 32, 1)
    place = places(machine.image.source, [at])[0]
    where = place.line.rpartition("/")[2] or place.symbol or f"{at:#x}"
    gpa = steal.area_gpa if steal is not None and steal.enabled else None
    return f"vcpu{package.number}", f"{where}  {code[0].text if code else ''}", gpa


def _stores(event: Event) -> list[tuple[str, str, str]]:
    if (
        not isinstance(event, trace.Store)
        or event.area != "steal-time"
        or (event.step, event.value) == ("preempted", 0)
    ):
        return []
    return [("host", "stores", _STORES[event.step].format(value=event.value))]


def _access(access: Access, found: int, gpa: int | None, image: Image, symbols: Symbols) -> str:
    value = access.value if access.write else found
    if gpa is None or not 0 <= access.gpa - gpa < abi.KVM_STEAL_TIME_SIZE:
        name = symbols.name(image.linear_of(access.gpa)) or f"{access.gpa:#x}"
        return f"{'writes' if access.write else 'reads'} {name} = {value}"
    return f"{'writes' if access.write else 'reads'} {_field(access.gpa - gpa, access.size, value)}"


def _field(offset: int, size: int, value: int) -> str:
    """What of the area is there, and its value."""
    name = _FIELDS.get(offset, f"byte {offset} of the area")
    if size == 4 and name == "steal":
        name = "steal, lower half"
    return f"{name} = {value if name == 'version' else hex(value)}"


def _event(event: Event) -> str:
    teller = _TELLERS.get(type(event))
    return "" if teller is None else teller(event)


def _mark(event: object) -> str:
    assert isinstance(event, trace.Mark)
    return f"begins to read the area at {event.value:#x}" if event.mark == "begin" else f"has read {event.value:#x}"


def _msr(event: object) -> str:
    assert isinstance(event, trace.MsrWrite)
    if event.msr != abi.MSR_KVM_STEAL_TIME:
        return ""
    return f"writes {event.value:#x} to MSR_KVM_STEAL_TIME" + ("" if event.accepted else ", which is refused with #GP")


def _exit(event: object) -> str:
    assert isinstance(event, trace.ExitEvent)
    return {"Hlt": "sleeps", "Hypercall": "makes a hypercall"}.get(event.exit, "")


def _end(event: object) -> str:
    assert isinstance(event, trace.End)
    return f"the run ends ({event.reason})"


_TELLERS: dict[type, Callable[[object], str]] = {
    trace.Mark: _mark,
    trace.MsrWrite: _msr,
    trace.ExitEvent: _exit,
    trace.End: _end,
}


def _merged(lines: list[tuple[str, str, str]]) -> list[tuple[str, str, str]]:
    """Without what happens again and again in a row."""
    found: list[tuple[str, str, str]] = []
    for line in lines:
        if not found or found[-1] != line:
            found.append(line)
    return found


def _shortened(lines: list[tuple[str, str, str]]) -> list[tuple[str, str, str]]:
    if len(lines) <= MOST_LINES:
        return lines
    first = MOST_LINES // 3
    last = MOST_LINES - first - 1
    left = len(lines) - first - last
    return [*lines[:first], ("", "...", f"{left} more like these"), *lines[-last:]]
