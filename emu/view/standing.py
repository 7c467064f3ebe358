"""Where a run stands at a position of it: each vCPU, its code, its registers and its area, in lines or as data.

In Linux: show_regs() in arch/x86/kernel/process_64.c tells as much of a CPU.
"""

import contextlib
from collections.abc import Mapping
from typing import Any

from emu import abi
from emu.code.disassembly import LONGEST, disassemble
from emu.code.places import places
from emu.devices.steal_time import Area, decode
from emu.diagnosis.words import msr as named
from emu.faults import GuestFault
from emu.machine import Machine
from emu.package import Package
from emu.state import ATTRIBUTE_BIG, ATTRIBUTE_LONG, GENERAL, SEGMENTS

Lines = Mapping[str, Mapping[int, str]]
_AHEAD = 4  # instructions shown of the vCPU whose turn it is


def as_json(machine: Machine) -> dict[str, Any]:
    """The position, and of each vCPU what it is about to execute, its registers and its area."""
    return {
        "position": machine.position,
        "instructions": machine.instructions,
        "virtual_ns": machine.now_ns,
        "reason": machine.reason,
        "acting": None if machine.acting is None else machine.acting.number,
        "vcpus": [_vcpu(machine, number) for number in range(machine.config.vcpus)],
    }


def render(machine: Machine, lines: Lines) -> list[str]:
    """The same in lines; `lines` is the program's source."""
    acting = machine.acting
    found = [
        f"position {machine.position:,}: {machine.instructions:,} instructions, {machine.now_ns:,} ns of virtual time"
        + ("" if machine.reason is None else f"; the run is over ({machine.reason})")
    ]
    for number in range(machine.config.vcpus):
        of = _vcpu(machine, number)
        turn = acting is not None and acting.number == number
        found += ["", f"vcpu{number}{' (its turn)' if turn else ''} {of['doing']} {_named(of)}"]
        text = text_of(of["line"], lines)
        if text:
            found.append(f"  {of['line'].rpartition('/')[2]}  {text}")
        if turn:
            found += [f"  {'=>' if one == 0 else '  '} {text}" for one, text in enumerate(of["code"])]
            found += _registers(of["registers"])
        found.append(f"  {_area(of)}")
    return found


def area_of(machine: Machine, number: int) -> str:
    """The steal-time area of a vCPU, in words."""
    return _area(_vcpu(machine, number))


def acting(machine: Machine) -> int:
    """The vCPU whose turn it is."""
    return 0 if machine.acting is None else machine.acting.number


def area_in(machine: Machine, package: Package) -> Area | None:
    """What stands in a vCPU's steal-time area, or None where none is registered in RAM."""
    steal = package.steal
    if steal is None or not steal.enabled or not machine.ram.holds(steal.area_gpa, abi.KVM_STEAL_TIME_SIZE):
        return None
    return decode(machine.ram.read(steal.area_gpa, abi.KVM_STEAL_TIME_SIZE))


def paravirtual(package: Package) -> list[tuple[str, int]]:
    """The MSRs of KVM that this vCPU has: name and value of each, in the order of their numbers."""
    found = []
    for msr in package.msrs.numbers():
        if abi.MSR_KVM_WALL_CLOCK_NEW <= msr <= abi.MSR_KVM_MIGRATION_CONTROL:
            with contextlib.suppress(GuestFault):
                found.append((named(msr), package.msrs.rdmsr(msr)))
    return found


def dump(machine: Machine, address: int, size: int) -> list[str]:
    """`size` bytes from a linear address on, 8 to a line, as far as there is memory."""
    data = machine.packages[acting(machine)].vcpu.read_linear(address, size)
    rows = [data[at : at + 8] for at in range(0, len(data), 8)]
    found = [f"{address + 8 * at:8x}  {row.hex(' ')}" for at, row in enumerate(rows)]
    return found if len(data) == size else [*found, f"{address + len(data):8x}  no memory"]


def _vcpu(machine: Machine, number: int) -> dict[str, Any]:
    package = machine.packages[number]
    vcpu = package.vcpu
    state = vcpu.state()
    at = vcpu.pc()
    place = places(machine.image.source, [at])[0]
    code = state.segments[SEGMENTS.index("cs")].attributes
    bits = 64 if code & ATTRIBUTE_LONG else 32 if code & ATTRIBUTE_BIG else 16
    ahead = disassemble(vcpu.read_linear(at, LONGEST * _AHEAD), at, bits, _AHEAD)
    steal = package.steal
    read = area_in(machine, package)
    area = None if steal is None or read is None else {"gpa": steal.area_gpa, **read._asdict()}
    doing = "is about to execute"
    if package.exit is not None:
        doing = f"has left guest mode ({type(package.exit).__name__}) at"
    elif package.entity.run_state == "blocked":
        doing = "sleeps before"
    return {
        "id": number,
        "doing": doing,
        "address": at,
        "symbol": place.symbol,
        "line": place.line,
        "code": [f"{one.address:#x}  {one.text}" for one in ahead],
        "registers": {**dict(zip(GENERAL, state.general, strict=True)), "rip": state.rip, "rflags": state.rflags},
        "area": area,
    }


def _named(of: dict[str, Any]) -> str:
    return f"{of['address']:#x}" + (f" <{of['symbol']}>" if of["symbol"] else "")


def text_of(line: str, lines: Lines) -> str:
    """The text of `file:number`, or the empty string."""
    file, _, number = line.rpartition(":")
    return lines.get(file, {}).get(int(number), "").strip() if number.isdecimal() else ""


def _registers(registers: dict[str, int]) -> list[str]:
    cells = [f"{name:>6} {value:016x}" for name, value in registers.items()]
    return ["  " + "  ".join(cells[row : row + 3]) for row in range(0, len(cells), 3)]


def _area(of: dict[str, Any]) -> str:
    area = of["area"]
    if area is None:
        return "no steal-time area is registered"
    state = "an update is under way" if area["version"] % 2 else "at rest"
    off = "; preempted" if area["preempted"] & abi.KVM_VCPU_PREEMPTED else ""
    return f"area at {area['gpa']:#x}: steal {area['steal']:,} ns, version {area['version']} ({state}{off})"
