"""The virtual machine control block: what a hypervisor on an AMD processor tells VMRUN about one guest.

A vCPU *is* this block plus the registers that VMRUN leaves alone. Offsets, exit codes and intercept bits are those of
the AMD64 Architecture Programmer's Manual, volume 2, appendices B and C.

In Linux: struct vmcb_control_area and struct vmcb_save_area in arch/x86/include/asm/svm.h.
"""

import struct

from emu import abi
from emu.state import SEGMENTS, Segment, Table

MASK64 = 2**64 - 1
SIZE = 0x1000
SAVE = 0x400  # the save area starts here; offsets below are within the whole block
SAVE_END = 0x700

# --- control area ----------------------------------------------------------------------------------------------------
INTERCEPT_CR_READ = 0x000
INTERCEPT_CR_WRITE = 0x002
INTERCEPT_DR_READ = 0x004
INTERCEPT_DR_WRITE = 0x006
INTERCEPT_EXCEPTIONS = 0x008
INTERCEPT_MISC = 0x00C
IOPM_BASE = 0x040
MSRPM_BASE = 0x048
ASID = 0x058
INT_CTL = 0x060
EXITINFO2 = 0x080
NESTED_CTL = 0x090
EVENTINJ = 0x0A8
NESTED_CR3 = 0x0B0

V_IRQ = 1 << 8
EVENTINJ_VALID = 1 << 31
NESTED_ENABLED = 1 << 0

# --- exit codes ------------------------------------------------------------------------------------------------------
EXIT_CR_READ = 0x000
EXIT_CR_WRITE = 0x010
EXIT_DR_READ = 0x020
EXIT_DR_WRITE = 0x030
EXIT_EXCEPTION = 0x040
EXIT_VINTR = 0x064
EXIT_TR_WRITE = 0x06D
EXIT_RDTSC = 0x06E
EXIT_RDPMC = 0x06F
EXIT_CPUID = 0x072
EXIT_SWINT = 0x075
EXIT_PAUSE = 0x077
EXIT_HLT = 0x078
EXIT_INVLPGA = 0x07A
EXIT_MSR = 0x07C
EXIT_SHUTDOWN = 0x07F
EXIT_VMRUN = 0x080
EXIT_VMMCALL = 0x081
EXIT_VMLOAD = 0x082
EXIT_VMSAVE = 0x083
EXIT_STGI = 0x084
EXIT_CLGI = 0x085
EXIT_SKINIT = 0x086
EXIT_RDTSCP = 0x087
EXIT_ICEBP = 0x088
EXIT_MONITOR = 0x08A
EXIT_MWAIT = 0x08B
EXIT_XSETBV = 0x08D
EXIT_NPF = 0x400

MISC_FIRST = 0x060  # bit n of INTERCEPT_MISC stops exit code MISC_FIRST + n

# --- save area -------------------------------------------------------------------------------------------------------
_SEGMENT_OFFSETS = dict(zip(SEGMENTS, (0x400, 0x410, 0x420, 0x430, 0x440, 0x450, 0x470, 0x490), strict=True))
GDTR = 0x460
IDTR = 0x480
EFER = 0x4D0
CR4, CR3, CR0, DR7, DR6, RFLAGS, RIP = 0x548, 0x550, 0x558, 0x560, 0x568, 0x570, 0x578
RSP = 0x5D8
RAX = 0x5F8
STAR = 0x600
LSTAR, CSTAR, SFMASK, KERNEL_GS_BASE, SYSENTER_CS, SYSENTER_ESP, SYSENTER_EIP, CR2 = range(0x608, 0x648, 8)

_SEGMENT = struct.Struct("<HHIQ")
_QUAD = struct.Struct("<Q")
_WORD = struct.Struct("<I")
_HALF = struct.Struct("<H")


def intercept_bits(*exit_codes: int) -> int:
    """The value of INTERCEPT_MISC that stops each of these exit codes (MISC_FIRST and above)."""
    return sum(1 << (code - MISC_FIRST) for code in exit_codes)


def attributes_of_flags(flags: int) -> int:
    """A descriptor's high word (as QEMU keeps it) in the packed 12-bit form."""
    return flags >> 8 & 0xFF | flags >> 12 & 0xF00


def with_dpl(attributes: int, dpl: int) -> int:
    """The same attributes at another privilege level."""
    return attributes & ~(3 << 5) | dpl << 5


# The task register of a running CPU is always busy; the engine keeps it without that bit, and ends the whole process
# when a change of privilege in 32-bit code finds it set.
TSS_BUSY = 1 << 1
TSS_AVAILABLE = 0x81  # present, a system segment, a TSS of 16 bits; wide ones have one bit more
ATTRIBUTE_TSS_WIDE = 1 << 3
ATTRIBUTE_UPPER = 0xF60  # DPL, AVL, L, D/B, G: nothing to do with it


_CR_WRITES = 1 << 0 | 1 << 3 | 1 << 4 | 1 << 8


class Vmcb:
    """A view of one block in host memory; every accessor reads or writes that memory directly."""

    def __init__(self, memory: memoryview) -> None:
        self.memory = memory

    def quad(self, offset: int) -> int:
        value: int = _QUAD.unpack_from(self.memory, offset)[0]
        return value

    def set_quad(self, offset: int, value: int) -> None:
        _QUAD.pack_into(self.memory, offset, value)

    def set_word(self, offset: int, value: int) -> None:
        _WORD.pack_into(self.memory, offset, value)

    def segment(self, name: str) -> Segment:
        selector, attributes, limit, base = _SEGMENT.unpack_from(self.memory, _SEGMENT_OFFSETS[name])
        return Segment(selector, attributes | TSS_BUSY if name == "tr" else attributes, limit, base)

    def set_segment(self, name: str, segment: Segment) -> None:
        if name == "tr":
            attributes = segment.attributes & ~TSS_BUSY
            if attributes & ~(ATTRIBUTE_TSS_WIDE | ATTRIBUTE_UPPER) != TSS_AVAILABLE:
                # What is no TSS would end the whole process when it is needed; one without content raises #TS.
                segment, attributes = segment._replace(limit=0), TSS_AVAILABLE | ATTRIBUTE_TSS_WIDE
            segment = segment._replace(attributes=attributes)
        _SEGMENT.pack_into(self.memory, _SEGMENT_OFFSETS[name], *segment)

    def set_segments(self, segments: tuple[Segment, ...]) -> None:
        for name, segment in zip(SEGMENTS, segments, strict=True):
            self.set_segment(name, segment)

    def table(self, offset: int) -> Table:
        _, _, limit, base = _SEGMENT.unpack_from(self.memory, offset)
        return Table(limit, base)

    def set_table(self, offset: int, table: Table) -> None:
        _SEGMENT.pack_into(self.memory, offset, 0, 0, *table)

    def set_intercepts(self, misc: int, iopm: int, msrpm: int) -> None:
        """Everything that must stop: what cannot be left to the guest's own code, or would show or harm the host.

        CR0, CR3 and CR4 writes are looked at because the engine accepts everything there: reserved bits, with which a
        guest could aim its page walk at the host's own window, and modes that no processor has; CR8 because the local
        APIC is ours; debug registers because the engine's breakpoints are one set for all vCPUs.
        """
        struct.pack_into(
            "<HHHHIQ",
            self.memory,
            INTERCEPT_CR_READ,
            1 << 8,
            _CR_WRITES,
            0xFFFF,
            0xFFFF,
            0xFFFFFFFF,
            misc,
        )
        self.set_quad(IOPM_BASE, iopm)
        self.set_quad(MSRPM_BASE, msrpm)
        self.set_word(ASID, 1)

    def free_cr0(self, free: bool) -> None:
        """Whether the next VMRUN leaves writes of CR0 to the guest."""
        _HALF.pack_into(self.memory, INTERCEPT_CR_WRITE, _CR_WRITES & ~int(free))

    def set_events(self, inject: int, int_ctl: int) -> None:
        """What VMRUN delivers on its way into the guest (EVENTINJ), and whether a virtual interrupt is pending."""
        self.set_word(EVENTINJ, inject)
        self.set_word(INT_CTL, int_ctl)


WITH_ERROR_CODE = frozenset(
    (abi.DF_VECTOR, abi.TS_VECTOR, abi.NP_VECTOR, abi.SS_VECTOR, abi.GP_VECTOR, abi.PF_VECTOR, abi.AC_VECTOR)
)
