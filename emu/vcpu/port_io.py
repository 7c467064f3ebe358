"""IN, OUT and INS where the engine leaves them to the host: permission, result, and the store of a string.

The engine stops behind an IN or OUT, and before an INS. It asks nobody for permission in guest mode, so an instruction
that was not allowed is undone here.

In Linux: emulator_io_permited() in arch/x86/kvm/emulate.c.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from emu import abi, state
from emu.vcpu import decode
from emu.vcpu.paging import Paging, read_linear, write_linear

if TYPE_CHECKING:
    from emu.vcpu.engine import Engine

REGISTERS = ("RAX", "RCX", "RSI", "RDI")


class PortRequest(NamedTuple):
    """What the IN or OUT hook saw. `rip` is the instruction's, `value` None for IN.

    `before` are the registers that IN and OUT may change, with their values before it. INS stops before it has done
    anything: `string` then is the instruction, for the host to do.
    """

    rip: int
    port: int
    size: int
    value: int | None
    before: tuple[tuple[str, int], ...]
    string: decode.Instruction | None = None


def seen(engine: "Engine", port: int, size: int, value: int | None) -> PortRequest:
    """What the hook of an IN or OUT sees, while the instruction is under way."""
    before = engine.port_registers
    before.read()
    return PortRequest(before["RIP"], port, size, value, tuple((name, before[name]) for name in REGISTERS))


def look(engine: "Engine", port: int, size: int) -> PortRequest:
    """The same for an IN, and whether it is an INS."""
    request = seen(engine, port, size, None)
    hidden = engine.hidden()
    paging = engine.paging(hidden)
    linear = request.rip if hidden.long else hidden.cs_base + request.rip & 0xFFFFFFFF
    found = decode.decode(read_linear(engine.ram, paging, linear, decode.MAX_LENGTH), hidden.long)
    string = found is not None and found.opcode in (decode.STRING_IN, decode.STRING_IN_WIDE)
    return request._replace(string=found) if string else request


def allowed(engine: "Engine", paging_of: Callable[[], Paging], request: PortRequest) -> bool:
    """IOPL, and below it the I/O bitmap of the TSS. `paging_of` is asked where the bitmap must be read."""
    cpl = engine.hidden().cpl
    if cpl == 0:  # in real mode too
        return True
    flags = engine.read_register("RFLAGS")
    if not flags & abi.RFLAGS_VM and cpl <= (flags & abi.RFLAGS_IOPL) >> 12:
        return True
    paging = paging_of()
    tss = engine.segments()[state.SEGMENTS.index("tr")]
    if tss.limit < abi.TSS_LIMIT:
        return False
    bitmap = int.from_bytes(read_linear(engine.ram, paging, tss.base + abi.TSS_IO_BITMAP, 2), "little")
    at = bitmap + request.port // 8
    if at + 1 > tss.limit:
        return False
    bits = int.from_bytes(read_linear(engine.ram, paging, tss.base + at, 2).ljust(2, b"\xff"), "little")
    return not bits >> request.port % 8 & ((1 << request.size) - 1)


def take_back(engine: "Engine", request: PortRequest) -> None:
    """The instruction must not have happened: its registers go back."""
    for name, value in request.before:
        engine.write_register(name, value)


def put_result(engine: "Engine", request: PortRequest, value: int) -> None:
    """IN: the low bytes of `value` into AL, AX or EAX."""
    size = request.size
    value &= (1 << 8 * size) - 1
    rax = dict(request.before)["RAX"]
    engine.write_register("RAX", value if size == 4 else rax >> 8 * size << 8 * size | value)


def store_string(engine: "Engine", paging: Paging, request: PortRequest, value: int) -> bool:
    """One iteration of INS: the store, RDI, and RCX with REP. Whether RIP moves on; a REP looks at RCX once more."""
    assert request.string is not None
    prefixes, size = request.string.prefixes, request.size
    hidden, segments = engine.hidden(), engine.segments()
    narrow = decode.ADDRESS_SIZE in prefixes
    if hidden.long:
        bits, base = 32 if narrow else 64, 0
    else:
        big = bool(segments[state.SEGMENTS.index("cs")].attributes & state.ATTRIBUTE_BIG)
        bits, base = 32 if big != narrow else 16, segments[state.SEGMENTS.index("es")].base
    mask = (1 << bits) - 1
    registers = dict(request.before)
    rdi = registers["RDI"]
    linear = base + (rdi & mask)
    if not hidden.long:
        linear &= 0xFFFFFFFF
    data = (value & (1 << 8 * size) - 1).to_bytes(size, "little")
    write_linear(engine.ram, paging, linear, data)
    down = engine.read_register("RFLAGS") & abi.RFLAGS_DF
    engine.write_register("RDI", _moved(rdi, -size if down else size, bits))
    if not (decode.REP in prefixes or decode.REPNE in prefixes):
        return True
    engine.write_register("RCX", _moved(registers["RCX"], -1, bits))
    return False


def _moved(register: int, by: int, bits: int) -> int:
    """A register after a change in address size `bits`: 32 bits clear the upper half, 16 bits keep the rest."""
    moved = register + by & (1 << bits) - 1
    return register & ~0xFFFF | moved if bits == 16 else moved
