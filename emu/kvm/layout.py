"""A CpuState in KVM's words: which structure holds which register.

In Linux: struct kvm_regs, kvm_sregs, kvm_xsave and kvm_debugregs in arch/x86/include/uapi/asm/kvm.h.
"""

from emu import abi, state
from emu.kvm import ioctls
from emu.state import CpuState, Segment, Table

_REGS = ("rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rsp", "rbp", *(f"r{number}" for number in range(8, 16)))
_REGS_ORDER = tuple(state.GENERAL.index(name) for name in _REGS)
_SREGS = ("cs", "ds", "es", "fs", "gs", "ss", "tr", "ldtr")
_SREGS_ORDER = tuple(state.SEGMENTS.index(name) for name in _SREGS)
_ST_SLOT = 16
_ST_EMPTY = 3  # a tag of the full x87 tag word


def pack_regs(cpu: CpuState) -> bytes:
    """struct kvm_regs."""
    return ioctls.REGS.pack(*(cpu.general[index] for index in _REGS_ORDER), cpu.rip, cpu.rflags)


def pack_sregs(cpu: CpuState, apic_base: int) -> bytes:
    """struct kvm_sregs; `apic_base` is not part of a CpuState and is kept as the vCPU has it."""
    segments = b"".join(_segment(cpu.segments[index]) for index in _SREGS_ORDER)
    efer = dict(cpu.msrs).get(abi.MSR_EFER, 0)
    control = ioctls.CONTROL.pack(cpu.cr0, cpu.cr2, cpu.cr3, cpu.cr4, 0, efer, apic_base)
    return (segments + _table(cpu.gdtr) + _table(cpu.idtr) + control).ljust(ioctls.SREGS_SIZE, b"\0")


def pack_xsave(cpu: CpuState) -> bytes:
    """struct kvm_xsave. Its tag byte says of each x87 register only whether it is in use.

    The older struct kvm_fpu would not do: what it sets is lost where KVM believes the FPU to be untouched.
    """
    st = b"".join(value.to_bytes(_ST_SLOT, "little") for value in cpu.st)
    xmm = b"".join(value.to_bytes(_ST_SLOT, "little") for value in cpu.xmm)
    used = sum(1 << number for number in range(8) if cpu.fptag >> 2 * number & _ST_EMPTY != _ST_EMPTY)
    legacy = ioctls.FXSAVE.pack(cpu.fpcw, cpu.fpsw, used, 0, 0, 0, cpu.mxcsr, 0, st, xmm)
    return (legacy + ioctls.XSAVE_HEADER.pack(ioctls.XSAVE_X87_AND_SSE)).ljust(ioctls.XSAVE_SIZE, b"\0")


def pack_debugregs(cpu: CpuState) -> bytes:
    """struct kvm_debugregs."""
    return ioctls.DEBUGREGS.pack(*cpu.debug)


def pack_msrs(pairs: tuple[tuple[int, int], ...]) -> bytearray:
    """struct kvm_msrs of (number, value) pairs."""
    entries = b"".join(ioctls.MSR_ENTRY.pack(msr, 0, value) for msr, value in pairs)
    return bytearray(ioctls.MSRS_HEADER.pack(len(pairs), 0) + entries)


def general(regs: bytes | bytearray) -> dict[str, int]:
    """The registers of a struct kvm_regs by name, `rip` and `rflags` with them."""
    return dict(zip((*_REGS, "rip", "rflags"), ioctls.REGS.unpack(regs), strict=True))


def _segment(segment: Segment) -> bytes:
    # A VMCB's packed attributes: type 0-3, S 4, DPL 5-6, P 7, AVL 8, L 9, D/B 10, G 11.
    a = segment.attributes
    kind, s, dpl, present = a & 15, a >> 4 & 1, a >> 5 & 3, a >> 7 & 1
    avl, long, big, granular = a >> 8 & 1, a >> 9 & 1, a >> 10 & 1, a >> 11 & 1
    unusable = 1 - present
    fields = (kind, present, dpl, big, s, long, granular, avl, unusable, 0)
    return ioctls.SEGMENT.pack(segment.base, segment.limit, segment.selector, *fields)


def _table(table: Table) -> bytes:
    return ioctls.TABLE.pack(table.base, table.limit)
