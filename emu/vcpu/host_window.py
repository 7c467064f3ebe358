"""The host's own memory beside the guest's: the stub that enters guests, the VMCB, permission maps, a scratch guest.

A few pages above every address that a guest can name. The scratch guest is the host's own: two instructions or three,
run to be rid of an interrupt that nobody wants any more, and to measure the engine at start.

In Linux: svm_hardware_setup() and init_vmcb() in arch/x86/kvm/svm/svm.c.
"""

import mmap

from emu import abi, state
from emu.ram import anonymous
from emu.vcpu import vmcb
from emu.vcpu.registers import Batch

# Page tables may not set bits from MAXPHYADDR up, and CR3 is checked by us.
WINDOW = 1 << 45
WINDOW_SIZE = 0x10000
STUB = bytes.fromhex("0f01da0f01d8")  # vmload rax; vmrun rax
STUB_INSNS = 2
VMCB, HSAVE, IOPM, MSRPM, OPEN_MSRPM = 0x1000, 0x3000, 0x4000, 0x8000, 0xA000
HOST_CR4 = abi.CR4_PAE | abi.CR4_OSFXSR | abi.CR4_OSXMMEXCPT
_SCRATCH = 0xC000
_SCRATCH_LANDING, _SCRATCH_GDT, _SCRATCH_IDT, _SCRATCH_STACK = 0x60, 0x80, 0x100, 0x800
# The host's own little programs, each with its place: `wait` takes an interrupt that nobody wants any more, the others
# are for calibration.
_SCRATCH_PROGRAMS = {"wait": 0x00, "count": 0x20, "verify": 0x40, "flags": 0x50, "spin": 0x58}
_SCRATCH_CODE = {
    "wait": bytes.fromhex("f4"),  # hlt
    "count": bytes.fromhex("9090f4"),  # nop; nop; hlt
    "verify": bytes.fromhex("fb8ed8f4"),  # sti; mov ds, eax; hlt
    "flags": bytes.fromhex("01c08ed8f4"),  # add eax, eax; mov ds, eax; hlt
    "spin": bytes.fromhex("ebfe"),  # jmp to itself
}


def allocate() -> mmap.mmap:
    """The window's memory, with the stub, the closed MSR permission map and the scratch guest in place."""
    window = anonymous(WINDOW_SIZE)
    window[: len(STUB)] = STUB
    window[MSRPM:OPEN_MSRPM] = b"\xff" * (OPEN_MSRPM - MSRPM)
    _lay_out_scratch(window)
    return window


def program(name: str) -> int:
    """The address of one of the scratch guest's programs."""
    return WINDOW + _SCRATCH + _SCRATCH_PROGRAMS[name]


def _lay_out_scratch(window: mmap.mmap) -> None:
    for name, code in _SCRATCH_CODE.items():
        at = _SCRATCH + _SCRATCH_PROGRAMS[name]
        window[at : at + len(code)] = code
    window[_SCRATCH + _SCRATCH_LANDING] = 0xF4
    landing = WINDOW + _SCRATCH + _SCRATCH_LANDING
    gate = landing & 0xFFFF | abi.SELECTOR_CODE64 << 16 | 0x8E << 40 | (landing >> 16 & 0xFFFF) << 48
    window[_SCRATCH + _SCRATCH_IDT : _SCRATCH + _SCRATCH_IDT + 16] = (gate | landing >> 32 << 64).to_bytes(16, "little")
    descriptors = (0, 0xAF9B000000FFFF, 0xCF93000000FFFF)
    window[_SCRATCH + _SCRATCH_GDT : _SCRATCH + _SCRATCH_GDT + 24] = b"".join(
        descriptor.to_bytes(8, "little") for descriptor in descriptors
    )


def describe_scratch(name: str, block: vmcb.Vmcb, general: Batch) -> None:
    """Describe the scratch guest, about to run program `name`, in the VMCB and the register buffer."""
    base = WINDOW + _SCRATCH
    data = state.flat_segment(abi.SELECTOR_DATA, state.DATA32)
    code = state.flat_segment(abi.SELECTOR_CODE64, state.CODE64)
    block.set_segments(
        (data, code, data, data, data, data, state.Segment(0, state.LDT, 0, 0), state.Segment(0, state.BUSY_TSS, 0, 0))
    )
    block.set_table(vmcb.GDTR, state.Table(23, base + _SCRATCH_GDT))
    block.set_table(vmcb.IDTR, state.Table(15, base + _SCRATCH_IDT))
    # Long mode without paging: what the engine itself runs hosts in.
    block.set_quad(vmcb.EFER, abi.EFER_LME | abi.EFER_LMA)
    block.set_quad(vmcb.CR0, abi.CR0_PE | abi.CR0_ET)
    block.set_quad(vmcb.CR3, 0)
    block.set_quad(vmcb.CR4, HOST_CR4)
    general["RIP"], general["RSP"] = program(name), base + _SCRATCH_STACK
    general["RFLAGS"] = abi.RFLAGS_FIXED | (abi.RFLAGS_IF if name == "wait" else 0)
