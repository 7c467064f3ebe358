"""What a vCPU is while it stands still: registers, segments, MSRs. Frozen, comparable, complete.

Two equal states run on identically over equal RAM. Segment attributes are in the packed 12-bit form of a VMCB
(descriptor bits 40-47 and 52-55), because that is what entry and exit exchange.

In Linux: struct kvm_regs and struct kvm_sregs in arch/x86/include/uapi/asm/kvm.h.
"""

from typing import NamedTuple

GENERAL = ("rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", *(f"r{n}" for n in range(8, 16)))
SEGMENTS = ("es", "cs", "ss", "ds", "fs", "gs", "ldtr", "tr")


class Segment(NamedTuple):
    """A segment register with its hidden part: selector, packed attributes, byte limit, linear base."""

    selector: int
    attributes: int
    limit: int
    base: int


# Attributes in the packed form: type and S in bits 0-4, DPL 5-6, P 7, AVL 8, L 9, D/B 10, G 11.
ATTRIBUTE_LONG = 1 << 9
ATTRIBUTE_BIG = 1 << 10
CODE64 = 0xA9B
CODE32 = 0xC9B
CODE16 = 0x09B
DATA32 = 0xC93
DATA16 = 0x093
REAL_MODE_CODE = 0x09B
BUSY_TSS = 0x08B
LDT = 0x082


def flat_segment(selector: int, attributes: int) -> Segment:
    """Base 0, limit 4 GiB."""
    return Segment(selector, attributes, 0xFFFFFFFF, 0)


def real_mode_segment(selector: int, attributes: int = DATA16) -> Segment:
    """The hidden part that loading `selector` in real mode gives."""
    return Segment(selector, attributes, 0xFFFF, selector << 4)


class Table(NamedTuple):
    """GDTR or IDTR: byte limit and linear base."""

    limit: int
    base: int


class CpuState(NamedTuple):
    """All of a vCPU that instructions can see or depend on.

    `general` follows GENERAL, `segments` follows SEGMENTS, `debug` is DR0-3, DR6, DR7, `msrs` are pairs (number, value)
    of the MSRs the CPU itself owns, sorted; `xmm` are 128-bit and `st` 80-bit integers; `shadow` is the one-instruction
    interrupt shadow of STI and MOV SS; `trap` says that the last instruction still owes its single-step #DB.
    """

    general: tuple[int, ...]
    rip: int
    rflags: int
    segments: tuple[Segment, ...]
    gdtr: Table
    idtr: Table
    cr0: int
    cr2: int
    cr3: int
    cr4: int
    debug: tuple[int, ...]
    msrs: tuple[tuple[int, int], ...]
    xmm: tuple[int, ...]
    st: tuple[int, ...]
    fpcw: int
    fpsw: int
    fptag: int
    mxcsr: int
    shadow: bool = False
    trap: bool = False


DEBUG_RESET = (0, 0, 0, 0, 0xFFFF0FF0, 0x400)
