"""What to tell of a triple fault: what faulted, where, the code around it, the registers, and what came before.

In Linux: show_regs() in arch/x86/kernel/dumpstack_64.c and dump_vmcb() in arch/x86/kvm/svm/svm.c.
"""

from emu import abi
from emu.code.disassembly import disassemble
from emu.code.symbols import Symbols
from emu.exits import Exit
from emu.machine import Machine
from emu.state import ATTRIBUTE_BIG, ATTRIBUTE_LONG, GENERAL, SEGMENTS

_NAMES = {
    abi.DE_VECTOR: "#DE, divide error",
    abi.DB_VECTOR: "#DB, debug",
    abi.BP_VECTOR: "#BP, breakpoint",
    abi.UD_VECTOR: "#UD, invalid opcode",
    abi.DF_VECTOR: "#DF, double fault",
    abi.TS_VECTOR: "#TS, invalid TSS",
    abi.NP_VECTOR: "#NP, segment not present",
    abi.SS_VECTOR: "#SS, stack fault",
    abi.GP_VECTOR: "#GP, general protection",
    abi.PF_VECTOR: "#PF, page fault",
    abi.AC_VECTOR: "#AC, alignment check",
}
_AFTER = 4


def diagnose(machine: Machine) -> list[str]:
    """Lines about the shutdown that ended `machine`'s run; empty where none did."""
    if machine.shutdown is None:
        return []
    number, shutdown = machine.shutdown
    vcpu = machine.packages[number].vcpu
    state = vcpu.state()
    code_segment = state.segments[SEGMENTS.index("cs")]
    bits = 64 if code_segment.attributes & ATTRIBUTE_LONG else 32 if code_segment.attributes & ATTRIBUTE_BIG else 16
    linear = shutdown.rip if bits == 64 else code_segment.base + shutdown.rip & 0xFFFFFFFF
    symbols = Symbols.of(machine.image.source)
    what = _NAMES.get(shutdown.vector, f"vector {shutdown.vector}")
    error = "" if shutdown.error is None else f", error code {shutdown.error:#x}"
    address = "" if shutdown.address is None else f", address {shutdown.address:#x}"
    why = (
        "no IDT has been loaded (its limit is 0)"
        if state.idtr.limit == 0
        else "neither its handler nor that of #DF could be entered"
    )
    return [
        f"triple fault on vcpu{number}: {what}{error}{address}",
        f"  at {_place(linear, symbols)}; {why}",
        "",
        *_code(vcpu.read_linear(linear, 16 * _AFTER), linear, bits, symbols),
        "",
        *_registers(dict(zip(GENERAL, state.general, strict=True)) | {"rip": state.rip, "rflags": state.rflags}),
        f"  cr0 {state.cr0:#x}  cr2 {state.cr2:#x}  cr3 {state.cr3:#x}  cr4 {state.cr4:#x}"
        f"  idt {state.idtr.base:#x}+{state.idtr.limit:#x}",
        "",
        "the last exits, latest at the bottom:",
        *(f"  vcpu{who}  {_told(exit_, symbols)}" for who, exit_ in machine.last_exits),
    ]


def _place(address: int, symbols: Symbols) -> str:
    name = symbols.name(address)
    return f"{address:#x} <{name}>" if name else f"{address:#x}"


def _code(code: bytes, address: int, bits: int, symbols: Symbols) -> list[str]:
    found = disassemble(code, address, bits, _AFTER)
    if not found:
        return ["  (the code there cannot be read)"]
    return [
        f"{'>' if line.address == address else ' '} {line.address:#10x}  {line.code.hex(' '):<24}  {line.text}"
        for line in found
    ]


def _registers(registers: dict[str, int]) -> list[str]:
    cells = [f"{name:>6} {value:016x}" for name, value in registers.items()]
    return ["".join(f"{cell:<26}" for cell in cells[row : row + 3]).rstrip() for row in range(0, len(cells), 3)]


def _told(exit_: Exit, symbols: Symbols) -> str:
    fields = exit_._asdict()
    rip = fields.pop("rip", None)
    fields.pop("length", None)
    detail = ", ".join(
        f"{name} {value:#x}" if isinstance(value, int) else f"{name} {value}" for name, value in fields.items()
    )
    place = f" at {_place(rip, symbols)}" if rip is not None else ""
    return f"{type(exit_).__name__}{place}{': ' if detail else ''}{detail}"
