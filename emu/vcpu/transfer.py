"""Between a `CpuState` and the engine: the VMCB, the register buffers, and the few MSRs the engine keeps itself.

In Linux: kvm_arch_vcpu_ioctl_set_sregs() and __get_sregs() in arch/x86/kvm/x86.c.
"""

from emu import abi, state
from emu.vcpu import vmcb
from emu.vcpu.engine import Engine
from emu.vcpu.special_moves import DR6, DR7

_GENERAL = tuple([name.upper() for name in state.GENERAL])
_IN_ENGINE = (abi.MSR_EFER, abi.MSR_STAR, abi.MSR_KERNEL_GS_BASE)


def kept_msrs(new: state.CpuState) -> dict[int, int]:
    """The MSRs of `new` that the engine does not keep."""
    msrs = dict(new.msrs)
    for msr in _IN_ENGINE:
        del msrs[msr]
    return msrs


def put(engine: Engine, new: state.CpuState) -> None:
    """Describe `new` in the VMCB and the buffers, ready for VMRUN."""
    block, general, fpu = engine.vmcb, engine.general, engine.fpu
    block.set_segments(new.segments)
    block.set_table(vmcb.GDTR, new.gdtr)
    block.set_table(vmcb.IDTR, new.idtr)
    for offset, value in ((vmcb.CR0, new.cr0), (vmcb.CR2, new.cr2), (vmcb.CR3, new.cr3), (vmcb.CR4, new.cr4)):
        block.set_quad(offset, value)
    if new.cr0 & abi.CR0_PG:
        engine.note_tables(new.cr3)
    # The guest's debug registers never reach the engine.
    block.set_quad(vmcb.DR6, state.DEBUG_RESET[DR6])
    block.set_quad(vmcb.DR7, state.DEBUG_RESET[DR7])
    msrs = dict(new.msrs)
    block.set_quad(vmcb.EFER, msrs[abi.MSR_EFER])
    block.set_quad(vmcb.STAR, msrs[abi.MSR_STAR])
    block.set_quad(vmcb.KERNEL_GS_BASE, msrs[abi.MSR_KERNEL_GS_BASE])
    for name, value in zip(state.GENERAL, new.general, strict=True):
        general[name.upper()] = value
    general["RIP"], general["RFLAGS"] = new.rip, new.rflags
    for number, value in enumerate(new.xmm):
        fpu.set_wide(f"XMM{number}", value)
    for number, value in enumerate(new.st):
        fpu.set_wide(f"FP{number}", value)
    fpu["FPCW"], fpu["FPSW"], fpu["FPTAG"], fpu["MXCSR"] = new.fpcw, new.fpsw, new.fptag, new.mxcsr


def get(
    engine: Engine, rip: int, msrs: dict[int, int], debug: tuple[int, ...], *, shadow: bool, trap: bool
) -> state.CpuState:
    """The state that the engine has just been made to write out (`Engine.capture`), with what the vCPU keeps itself."""
    block, fpu = engine.vmcb, engine.fpu
    general, rflags = general_registers(engine)
    every_msr = {
        **msrs,
        abi.MSR_EFER: block.quad(vmcb.EFER) & ~abi.EFER_SVME,
        abi.MSR_STAR: block.quad(vmcb.STAR),
        abi.MSR_KERNEL_GS_BASE: block.quad(vmcb.KERNEL_GS_BASE),
    }
    return state.CpuState(
        general=general,
        rip=rip,
        rflags=rflags,
        segments=tuple(block.segment(name) for name in state.SEGMENTS),
        gdtr=block.table(vmcb.GDTR),
        idtr=block.table(vmcb.IDTR),
        cr0=block.quad(vmcb.CR0),
        cr2=block.quad(vmcb.CR2),
        cr3=block.quad(vmcb.CR3),
        cr4=block.quad(vmcb.CR4),
        debug=debug,
        msrs=tuple(sorted(every_msr.items())),
        xmm=tuple(fpu.wide(f"XMM{number}") for number in range(16)),
        st=tuple(fpu.wide(f"FP{number}") for number in range(8)),
        fpcw=fpu["FPCW"],
        fpsw=fpu["FPSW"],
        fptag=fpu["FPTAG"],
        mxcsr=fpu["MXCSR"],
        shadow=shadow,
        trap=trap,
    )


def general_registers(engine: Engine) -> tuple[tuple[int, ...], int]:
    """The general registers, in the order of state.GENERAL, and RFLAGS, as they have been read last."""
    general = engine.general
    return tuple([general[name] for name in _GENERAL]), general["RFLAGS"]
