"""SYSCALL: the engine only steps over it, so the change of privilege is made here, by a VMRUN into the kernel.

In Linux: em_syscall() in arch/x86/kvm/emulate.c.
"""

from emu import abi, state
from emu.vcpu import vmcb
from emu.vcpu.engine import Engine

_SELECTOR_MASK = 0xFFFC  # STAR's selector of the kernel, without the privilege level it cannot have


def enter_kernel(engine: Engine, return_rip: int, msrs: dict[int, int]) -> bool:
    """Bring the guest to its entry point for system calls; whether TF survived, so that a trap is owed there."""
    engine.capture()
    block, general = engine.vmcb, engine.general
    hidden = engine.hidden()
    star = block.quad(vmcb.STAR)
    general["RCX"] = return_rip
    if hidden.lma:
        general["R11"] = general["RFLAGS"]
        mask = msrs.get(abi.MSR_SYSCALL_MASK, 0)
        target = msrs.get(abi.MSR_LSTAR if hidden.long else abi.MSR_CSTAR, 0)
        code = state.CODE64
    else:
        mask = abi.RFLAGS_IF | abi.RFLAGS_VM
        target = star & 0xFFFFFFFF
        code = state.CODE32
    flags = general["RFLAGS"] & ~(mask | abi.RFLAGS_RF) | abi.RFLAGS_FIXED
    general["RFLAGS"] = flags
    general["RIP"] = target
    selector = star >> 32 & _SELECTOR_MASK
    block.set_segment("cs", state.flat_segment(selector, code))
    block.set_segment("ss", state.flat_segment(selector + 8 & 0xFFFF, state.DATA32))
    engine.vmrun(0)
    return bool(flags & abi.RFLAGS_TF)
