"""Delivering exceptions and interrupts through the guest's own IDT, and what happens when that itself fails.

VMRUN delivers any vector on its way in (EVENTINJ): the engine reads the gate, switches stack and privilege, pushes the
frame. What is left to the host is what SVM leaves to it: the error code, the rule for INT n from a lower privilege,
and the escalation from a fault during delivery to #DF, and from there to a shutdown.

In Linux: svm_inject_exception() in arch/x86/kvm/svm/svm.c and kvm_multiple_exception() in arch/x86/kvm/x86.c.
"""

from emu import abi, exits, state
from emu.vcpu import vmcb
from emu.vcpu.engine import Engine
from emu.vcpu.exit_codes import EngineError
from emu.vcpu.paging import Paging, read_linear, translate
from emu.vcpu.vcpu import Vcpu

_CONTRIBUTORY = frozenset((abi.DE_VECTOR, abi.TS_VECTOR, abi.NP_VECTOR, abi.SS_VECTOR, abi.GP_VECTOR))
_SELECTOR_ERRORS = _CONTRIBUTORY - {abi.DE_VECTOR}
# After these the instruction is run again (faults); all other vectors return behind it.
_FAULTS = frozenset(range(32)) - {abi.DB_VECTOR, 2, abi.BP_VECTOR, abi.OF_VECTOR, abi.DF_VECTOR, 18}
_ERROR_IN_IDT, _ERROR_EXTERNAL = 2, 1
_GATE_TASK, _GATE_WIDE = 5, 8
_MASK32 = 0xFFFFFFFF

# What there is instead of a delivery: a triple fault, or a page of the host's that is missing on the way. The event is
# then taken back, and comes again: by the instruction being executed anew, or from whoever sent it.
Undelivered = exits.Shutdown | exits.NestedFault | None


def deliver_fault(vcpu: Vcpu, vector: int, error: int | None, address: int | None) -> Undelivered:
    """Deliver an exception that the instruction at RIP raised. A Shutdown where even #DF could not be delivered."""
    return _deliver(vcpu, vector, error, address, vcpu.rip, exception=True)


def deliver_interrupt(vcpu: Vcpu, vector: int) -> Undelivered:
    """Deliver an external interrupt; the caller has made sure that the vCPU is interruptible."""
    return _deliver(vcpu, vector, None, None, vcpu.rip)


def deliver_software_interrupt(vcpu: Vcpu, exit_: exits.SoftwareInterrupt) -> Undelivered:
    """INT n, INT3 or INTO: #GP where the gate is not for this privilege level, else through the gate."""
    paging = vcpu.paging()
    if paging.cr0 & abi.CR0_PE:
        gate = _gate(vcpu, paging, exit_.vector)
        if gate is None or vcpu.engine.hidden().cpl > gate[5] >> 5 & 3:
            return _deliver(vcpu, abi.GP_VECTOR, exit_.vector << 3 | _ERROR_IN_IDT, None, exit_.rip, exception=True)
    return _deliver(vcpu, exit_.vector, None, None, exit_.rip + exit_.length, software_rip=exit_.rip)


def _gate(vcpu: Vcpu, paging: Paging, vector: int) -> bytes | None:
    idtr = vcpu.engine.idtr()
    size = 16 if paging.long else 8
    if (vector + 1) * size - 1 > idtr.limit:
        return None
    gate = read_linear(vcpu.ram, paging, idtr.base + vector * size, size)
    return gate if len(gate) == size else None


def _deliver(
    vcpu: Vcpu,
    vector: int,
    error: int | None,
    address: int | None,
    return_rip: int,
    *,
    exception: bool = False,
    software_rip: int | None = None,
) -> Undelivered:
    """Deliver `vector`, or what comes of failing to.

    `exception` and `software_rip` (an INT n, and where it stands) tell what kind of event it is; neither means an
    external interrupt.
    """
    engine = vcpu.prepare_delivery()
    block, general = engine.vmcb, engine.general
    flags = general["RFLAGS"]
    first = (return_rip if software_rip is None else software_rip, vector, error, address)
    cr2, trap = block.quad(vmcb.CR2), exception and vector == abi.DB_VECTOR
    while True:
        if address is not None:
            block.set_quad(vmcb.CR2, address)
        general["RIP"] = return_rip
        # RF in the pushed flags keeps an instruction breakpoint from firing twice when a fault returns to it.
        general["RFLAGS"] = flags | abi.RFLAGS_RF if exception and vector in _FAULTS else flags
        if not _enter_handler(engine, vector):
            gpa = block.quad(vmcb.EXITINFO2)
            block.set_quad(vmcb.CR2, cr2)
            general["RIP"], general["RFLAGS"] = first[0], flags
            engine.vmrun(0)
            vcpu.not_delivered(first[0], trap=trap)
            return exits.NestedFault(first[0], gpa, "write", True)
        if engine.entered():
            failed = _push_error(vcpu, engine, vector, error)
            if failed is None:
                vcpu.delivered()
                return None
            second, second_error, second_address = failed
        else:
            second, second_error, second_address = _second_fault(engine, software_rip is not None)
        if software_rip is not None:
            return_rip, software_rip = software_rip, None
        general["RIP"] = return_rip
        if vector == abi.DF_VECTOR:
            general["RFLAGS"] = flags
            engine.vmrun(0)
            vcpu.delivered(return_rip)
            return exits.Shutdown(*first)
        if (
            vector in _CONTRIBUTORY
            and second in _CONTRIBUTORY
            or (vector == abi.PF_VECTOR and (second in _CONTRIBUTORY or second == abi.PF_VECTOR))
        ):
            vector, error, address = abi.DF_VECTOR, 0, second_address
        else:
            vector, error, address = second, second_error, second_address
        exception = True


def _enter_handler(engine: Engine, vector: int) -> bool:
    """Try to; False where a page that the host has taken away is needed for it, whose address EXITINFO2 tells."""
    opened = False
    engine.vmrun(0, inject=vmcb.EVENTINJ_VALID | vector)
    while engine.exit_code == vmcb.EXIT_NPF and not engine.entered():
        if opened or engine.vmcb.quad(vmcb.EXITINFO2) & ~(abi.PAGE_SIZE - 1) != engine.nested.window:
            break
        # A stack or a table in the APIC's registers: nobody answers there, and what is pushed is lost.
        engine.let_through({})
        opened = True
        engine.vmrun(0, inject=vmcb.EVENTINJ_VALID | vector)
    found = engine.exit_code != vmcb.EXIT_NPF or engine.entered()
    if opened:
        engine.stop_at_window()
    return found


def _second_fault(engine: Engine, software: bool) -> tuple[int, int | None, int | None]:
    """The exception raised while delivering another one, in the architecture's terms."""
    vector = engine.exit_code - vmcb.EXIT_EXCEPTION
    if not 0 <= vector < 32:
        raise EngineError(f"delivery ended with exit {engine.exit_code:#x}")
    error = engine.hidden().error if vector in vmcb.WITH_ERROR_CODE else None
    if error is not None and vector in _SELECTOR_ERRORS:
        if error & _ERROR_IN_IDT and engine.hidden().lma:
            error = error >> 4 << 3 | _ERROR_IN_IDT  # the engine counts gates of 16 bytes as two
        if not software:
            error |= _ERROR_EXTERNAL
    return vector, error, engine.vmcb.quad(vmcb.EXITINFO2) if vector == abi.PF_VECTOR else None


def _push_error(
    vcpu: Vcpu, engine: Engine, vector: int, error: int | None
) -> tuple[int, int | None, int | None] | None:
    """Push the error code below the frame just built; what failed, where it cannot be."""
    if error is None or vector not in vmcb.WITH_ERROR_CODE:
        return None
    hidden = engine.hidden()
    paging = engine.paging(hidden)
    if not paging.cr0 & abi.CR0_PE:
        return None  # real mode has no error codes
    rsp = engine.read_register("RSP")
    if hidden.lma:
        size, linear, new = 8, rsp - 8 & vmcb.MASK64, rsp - 8
    else:
        gate = _gate(vcpu, paging, vector)
        size = 4 if gate is None or gate[5] & _GATE_WIDE or gate[5] & 15 == _GATE_TASK else 2
        stack = engine.segments()[state.SEGMENTS.index("ss")]
        mask = _MASK32 if stack.attributes & state.ATTRIBUTE_BIG else 0xFFFF
        new = rsp & ~mask | rsp - size & mask
        linear = stack.base + (rsp - size & mask) & _MASK32
    data = (error & (1 << 8 * size) - 1).to_bytes(size, "little")
    for at, byte in enumerate(data):
        gpa = translate(vcpu.ram, paging, linear + at)
        if gpa is None:
            return abi.PF_VECTOR, 2, linear + at
        if vcpu.ram.holds(gpa, 1):
            vcpu.ram.write(gpa, bytes((byte,)))
    engine.write_register("RSP", new)
    return None
