"""MOV to and from the control and debug registers that are watched, and CLTS.

CR0, CR3 and CR4 because the engine accepts any value there; CR8 because the local APIC is not the engine's; the debug
registers because the engine has one set for all vCPUs, so a guest's own are kept by its vCPU and have no effect.

In Linux: cr_interception() and dr_interception() in arch/x86/kvm/svm/svm.c.
"""

from emu import abi, exits, state
from emu.exits import Exit
from emu.vcpu import decode
from emu.vcpu.engine import Engine, Hidden

DR6, DR7 = 4, 5  # places in CpuState.debug
_MASK32 = 0xFFFFFFFF
# The bits of CR0 that exist; others below bit 32 are ignored, and ET is always 1.
_CR0_KEPT = (
    *(abi.CR0_PE, abi.CR0_MP, abi.CR0_EM, abi.CR0_TS, abi.CR0_NE, abi.CR0_WP, abi.CR0_AM),
    *(abi.CR0_NW, abi.CR0_CD, abi.CR0_PG),
)
_CR0_BITS = sum(_CR0_KEPT)
# What CPUID offers, the guest may switch on; every other bit of CR4 raises #GP.
_CR4_ALLOWED = abi.CR4_TSD | abi.CR4_DE | abi.CR4_PSE | abi.CR4_PAE | abi.CR4_PGE | abi.CR4_OSFXSR | abi.CR4_OSXMMEXCPT


def perform(engine: Engine, found: decode.Instruction, rip: int, debug: list[int]) -> Exit | None:
    """Do what `found` at `rip` says; `debug` are the guest's DR0-3, DR6, DR7. None where it is done."""
    if found.opcode == decode.CLTS:
        engine.control.read()
        engine.set_control("CR0", engine.control["CR0"] & ~abi.CR0_TS)
        return None
    number = found.operand >> 3 & 7 | (found.rex & 4) << 1
    register = found.operand & 7 | (found.rex & 1) << 3
    name = state.GENERAL[register].upper()
    if found.opcode == decode.MOV_FROM_CR:
        return exits.TprRead(rip, found.length, register)
    value = engine.read_register(name)
    if not engine.hidden().long:
        value &= _MASK32
    if found.opcode == decode.MOV_TO_CR:
        if number == 8:
            return exits.TprWrite(rip, found.length, value)
        return _write_control(engine, number, value, rip)
    if number in (4, 5) and engine.control["CR4"] & abi.CR4_DE:
        return exits.Fault(rip, abi.UD_VECTOR, None, None)
    place = number if number < 4 else DR6 if number in (4, 6) else DR7
    if found.opcode == decode.MOV_FROM_DR:
        engine.write_register(name, debug[place])
    elif place >= DR6 and value >> 32:
        return exits.Fault(rip, abi.GP_VECTOR, 0, None)
    else:
        debug[place] = value | state.DEBUG_RESET[place] if place >= DR6 else value
    return None


def _write_control(engine: Engine, number: int, value: int, rip: int) -> Exit | None:
    hidden = engine.hidden()
    if number == 0:
        engine.control.read()
        bad = not _cr0_allowed(engine, hidden, value)
        value = value & _CR0_BITS | abi.CR0_ET
    elif number == 3:
        bad = value >> abi.MAXPHYADDR != 0
    else:
        leaves_pae = not value & abi.CR4_PAE and hidden.lma
        bad = value & ~_CR4_ALLOWED != 0 or leaves_pae
    if bad:
        return exits.Fault(rip, abi.GP_VECTOR, 0, None)
    engine.set_control(f"CR{number}", value)
    return None


def _cr0_allowed(engine: Engine, hidden: Hidden, value: int) -> bool:
    """The combinations that exist, and the one way into long mode. `engine.control` holds the registers of now."""
    if value >> 32:
        return False
    if (value & abi.CR0_PG and not value & abi.CR0_PE) or (value & abi.CR0_NW and not value & abi.CR0_CD):
        return False
    if not value & abi.CR0_PG:
        return not hidden.long  # 64-bit code leaves long mode by way of compatibility mode
    if engine.control["CR0"] & abi.CR0_PG or not engine.msr(abi.MSR_EFER) & abi.EFER_LME:
        return True
    code = engine.segments()[state.SEGMENTS.index("cs")]
    return bool(engine.control["CR4"] & abi.CR4_PAE) and not code.attributes & state.ATTRIBUTE_LONG
