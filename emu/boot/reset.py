"""The state that INIT leaves a vCPU in: real mode, at the reset vector or where a start-up message says.

INIT spares the FPU and the SSE registers, and those MSRs that are no part of a CPU's mode.

Source: Intel SDM volume 3, chapter "Processor management and initialization", the table of states after INIT.

In Linux: kvm_vcpu_reset() in arch/x86/kvm/x86.c and kvm_vcpu_deliver_sipi_vector() there.
"""

from emu import abi, state
from emu.state import CpuState, Segment, Table

RESET_SELECTOR, RESET_BASE, RESET_IP = 0xF000, 0xFFFF0000, 0xFFF0


def state_after_init(
    before: CpuState, selector: int = RESET_SELECTOR, base: int = RESET_BASE, rip: int = RESET_IP
) -> CpuState:
    """`before`, initialized, with CS as given: its selector, its hidden base, and IP. EDX tells the CPU's family."""
    data = state.real_mode_segment(0)
    code = Segment(selector, state.REAL_MODE_CODE, 0xFFFF, base)
    others = (*(data,) * 4, Segment(0, state.LDT, 0xFFFF, 0), Segment(0, state.BUSY_TSS, 0xFFFF, 0))
    general = dict.fromkeys(state.GENERAL, 0) | {"rdx": abi.CPUID_FAMILY_MODEL}
    return before._replace(
        general=tuple(general.values()),
        rip=rip,
        rflags=abi.RFLAGS_FIXED,
        segments=(data, code, *others),
        gdtr=Table(0xFFFF, 0),
        idtr=Table(0xFFFF, 0),
        cr0=abi.CR0_ET,
        cr2=0,
        cr3=0,
        cr4=0,
        debug=state.DEBUG_RESET,
        msrs=tuple((msr, 0 if msr == abi.MSR_EFER else value) for msr, value in before.msrs),
        shadow=False,
        trap=False,
    )
