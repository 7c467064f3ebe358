"""MOV to and from the control and debug registers that are watched.

CR3 and CR4 because the engine accepts reserved bits there; CR8 because the local APIC is not the engine's; the debug
registers because the engine has one set for all vCPUs, so a guest's own are kept by its vCPU and have no effect.

In Linux: cr_interception() and dr_interception() in arch/x86/kvm/svm/svm.c.
"""

from emu import abi, exits, state
from emu.exits import Exit
from emu.vcpu import decode
from emu.vcpu.engine import Engine

DR6, DR7 = 4, 5  # places in CpuState.debug
_MASK32 = 0xFFFFFFFF
# What CPUID offers, the guest may switch on; every other bit of CR4 raises #GP.
_CR4_ALLOWED = abi.CR4_TSD | abi.CR4_DE | abi.CR4_PSE | abi.CR4_PAE | abi.CR4_PGE | abi.CR4_OSFXSR | abi.CR4_OSXMMEXCPT


def perform(engine: Engine, found: decode.Instruction, rip: int, debug: list[int]) -> Exit | None:
    """Do what `found` at `rip` says; `debug` are the guest's DR0-3, DR6, DR7. None where it is done."""
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
    if number == 3:
        bad = value >> abi.MAXPHYADDR
    else:
        leaves_pae = not value & abi.CR4_PAE and engine.hidden().lma
        bad = value & ~_CR4_ALLOWED or leaves_pae
    if bad:
        return exits.Fault(rip, abi.GP_VECTOR, 0, None)
    engine.set_control(f"CR{number}", value)
    return None
