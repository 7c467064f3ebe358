"""What the stepper shows, as lines of a given size: code, registers, area, host, timeline.

A line may begin with a mark: CURRENT is where the vCPU stands, CHANGED what the last step has changed. So everything is
there without colour as well.
"""

from emu import abi
from emu.code.disassembly import LONGEST, Line, disassemble, leading_up
from emu.explain.step import bits_of
from emu.machine import Machine
from emu.state import GENERAL
from emu.view import standing
from emu.view.courses import EXIT, ODD, RUNS, UPDATE, WAITS, Courses
from emu.view.session import Session

CURRENT, CHANGED = "▶", "*"
_FLAGS = ((0, "CF"), (6, "ZF"), (7, "SF"), (9, "IF"), (11, "OF"))
_LEGEND = f"{RUNS} runs  {WAITS} waits  {UPDATE} update  {ODD} odd  {EXIT} exit"
_LABEL = 6  # columns for the name of a lane
_FUNCTION_MAX = 1 << 14


def title(session: Session, name: str) -> str:
    """One line: the run, the position, the time."""
    machine = session.machine
    state = f"over: {machine.reason}" if session.history.ended else f"vcpu{standing.acting(machine)}"
    count = len(session.history.edits)
    edits = f", {count} edit{'s' if count > 1 else ''}" if count else ""
    return f"emu step {name}   position {session.history.position:,}   {machine.now_ns:,} ns   {state}{edits}"


def code(session: Session, width: int, height: int) -> list[str]:
    """Source lines and instructions around the one that comes next."""
    machine = session.machine
    vcpu = machine.packages[standing.acting(machine)].vcpu
    at, bits = vcpu.pc(), bits_of(vcpu.state())
    symbol = session.symbols.at(at)
    before: list[Line] = []
    if symbol is not None and 0 < at - symbol.address <= _FUNCTION_MAX:
        data = vcpu.read_linear(symbol.address, at - symbol.address)
        before = leading_up(data, symbol.address, at, bits, height)
    ahead = disassemble(vcpu.read_linear(at, LONGEST * height), at, bits, height)
    found = [*before, *ahead]
    names = session.places([one.address for one in found])
    rows: list[str] = []
    current, shown = 0, ""
    for one in found:
        line = names[one.address].line
        if line != shown:
            text = standing.text_of(line, session.lines)
            rows.append(f"  {line.rpartition('/')[2]}  {text}" if line else f"  {names[one.address].symbol}")
            shown = line
        if one.address == at:
            current = len(rows)
        rows.append(f"{CURRENT if one.address == at else ' '}   {one.address:x}  {one.text}")
    first = max(0, min(current - height // 2, len(rows) - height))
    return [row[:width] for row in rows[first : first + height]]


def registers(machine: Machine, before: dict[str, int], width: int) -> list[str]:
    """The registers that are not 0, and flags; what differs from `before` is marked."""
    now = values(machine)
    narrow = bits_of(machine.packages[standing.acting(machine)].vcpu.state()) < 64
    cells = []
    for name, value in now.items():
        if name == "rflags" or (narrow and name[1:].isdecimal()):
            continue
        mark = CHANGED if before and before.get(name) != value else " "
        if not value and mark == " ":
            continue  # the small screen is for what is not zero
        shown = (f"e{name[1:]}", value & 0xFFFFFFFF) if narrow else (name, value)
        cells.append(f"{mark}{shown[0]:<3} {shown[1]:x}")
    flags = " ".join(f"{name}={now['rflags'] >> bit & 1}" for bit, name in _FLAGS)
    mark = CHANGED if before and (before.get("rflags", 0) ^ now["rflags"]) & 0x8C1 else " "
    column = max(width // 2, 1)
    rows = [
        cells[at].ljust(column)[:column] + (cells[at + 1] if at + 1 < len(cells) else "")
        for at in range(0, len(cells), 2)
    ]
    return [row[:width] for row in (*rows, f"{mark}{flags}")]


def values(machine: Machine) -> dict[str, int]:
    """The registers of the vCPU whose turn it is, by name."""
    state = machine.packages[standing.acting(machine)].vcpu.state()
    return {**dict(zip(GENERAL, state.general, strict=True)), "rip": state.rip, "rflags": state.rflags}


def area(machine: Machine, width: int) -> list[str]:
    """MSR and area of each vCPU, decoded in words; first of the one whose turn it is."""
    rows = []
    for package in sorted(machine.packages, key=lambda one: one.number != standing.acting(machine)):
        steal = package.steal
        if steal is None:
            rows.append(f"vcpu{package.number}: steal time is not offered")
            continue
        rows.append(f"vcpu{package.number} MSR {abi.MSR_KVM_STEAL_TIME:x} = {steal.msr_value:x}")
        found = standing.area_in(machine, package)
        if found is None:
            rows.append("  not enabled: nothing is written")
            continue
        rows.append(f"  steal {found.steal:,} ns")
        state = "ODD, the host is writing" if found.version & 1 else "even, at rest"
        rows.append(f"  version {found.version}: {state}")
        if found.preempted & abi.KVM_VCPU_PREEMPTED:
            rows.append("  preempted")
    return [row[:width] for row in rows]


def msrs(machine: Machine, width: int) -> list[str]:
    """KVM's MSRs of the vCPU whose turn it is; those that are 0 come last, by name alone."""
    number = standing.acting(machine)
    found = standing.paravirtual(machine.packages[number])
    names = [(name.partition(" ")[0].removeprefix("MSR_KVM_"), value) for name, value in found]
    rows = [f"vcpu{number}: MSRs of KVM", *(f"  {name:<20} {value:x}" for name, value in names if value)]
    if silent := [name for name, value in names if not value]:
        rows.append("  zero:")
        rows += [f"    {name}" for name in silent]
    return [row[:width] for row in rows]


def memory(machine: Machine, address: int, height: int) -> list[str]:
    """Bytes of memory from an address on, 8 to a line."""
    return standing.dump(machine, address, 8 * max(height, 1))[:height]


def host(session: Session, width: int) -> list[str]:
    """Who runs and who waits."""
    rows: list[str] = []
    for line in session.say("host"):
        state = line.partition(";")[0]
        rows += [state] if len(state) <= width else state.replace(", since", ",\n  since").split("\n")
    return [row[:width] for row in rows]


def timeline(courses: Courses, machine: Machine, column_ns: int, width: int, most: int) -> list[str]:
    """Lanes around the cursor, which stands under the last line's mark; in `most` rows.

    Where there are more lanes, those of the vCPU whose turn it is come first.
    """
    now_ns = machine.now_ns
    first, columns = _window(now_ns, column_ns, width)
    lanes = courses.lanes(first, column_ns, columns)
    if len(lanes) >= most:
        names = [lane.name for lane in lanes]
        at = names.index(f"vcpu{standing.acting(machine)}")
        lanes = [*lanes[at:], *lanes[:at]][: most - 1]
    rows = [f"{lane.name:<{_LABEL}} {lane.marks}" for lane in lanes]
    cursor = min((now_ns - first) // column_ns, columns - 1)
    left = _LEGEND if cursor > len(_LEGEND) else ""
    right = f"↑ one column {column_ns:,} ns" + ("" if left else f"   {_LEGEND}")
    rows.append(f"{'':<{_LABEL}} {left:<{cursor}}{right}"[:width])
    return rows


def time_at(x: int, now_ns: int, column_ns: int, width: int) -> int:
    """The time that column `x` of such a timeline stands for."""
    return _window(now_ns, column_ns, width)[0] + max(x - _LABEL - 1, 0) * column_ns


def _window(now_ns: int, column_ns: int, width: int) -> tuple[int, int]:
    """The time of the first column, and how many there are."""
    columns = max(width - _LABEL - 1, 8)
    first = max(0, now_ns - columns // 2 * column_ns)
    return first - first % column_ns, columns
