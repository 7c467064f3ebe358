"""What one says to /dev/kvm: request numbers, capabilities, exit reasons, and the layouts of what is exchanged.

None of this is visible to a guest; the guest's numbers are in emu.abi. Names keep the header's spelling.

Sources: include/uapi/linux/kvm.h and arch/x86/include/uapi/asm/kvm.h; the request encoding is include/uapi/asm-generic/
ioctl.h. Layouts were compared with a C compiler's `sizeof` and `offsetof`.

In Linux: include/uapi/linux/kvm.h.
"""

import struct

_KVMIO = 0xAE
_WRITE, _READ = 1 << 30, 2 << 30  # seen from user space: what it hands over, what it gets back


def _request(number: int, size: int = 0, direction: int = 0) -> int:
    return direction | size << 16 | _KVMIO << 8 | number


# --- Layouts: all little-endian, as an x86 host has them -------------------------------------------------------------

MEMORY_REGION = struct.Struct("<IIQQQ")  # slot, flags, guest_phys_addr, memory_size, userspace_addr
ENABLE_CAP = struct.Struct("<II4Q64x")  # cap, flags, args
REGS = struct.Struct("<18Q")  # rax rbx rcx rdx rsi rdi rsp rbp r8..r15 rip rflags
SEGMENT = struct.Struct("<QIH10B")  # base limit selector type present dpl db s l g avl unusable, one byte of padding
TABLE = struct.Struct("<QH6x")  # base limit
CONTROL = struct.Struct("<7Q")  # cr0 cr2 cr3 cr4 cr8 efer apic_base
SREGS_SIZE = 312
SREGS_TABLES = 8 * SEGMENT.size  # after cs ds es fs gs ss tr ldt: gdt, then idt
SREGS_CONTROL = SREGS_TABLES + 2 * TABLE.size
FXSAVE = struct.Struct("<2HBxH2Q2I128s256s96x")  # fcw fsw ftw fop rip rdp mxcsr mxcsr_mask st xmm
XSAVE_HEADER = struct.Struct("<Q56x")  # xstate_bv: which parts are given; the others are as after power-up
XSAVE_X87_AND_SSE = 3
XSAVE_SIZE = 4096
MSR_FILTER_RANGE = struct.Struct("<IIIxxxxQ")  # flags, nmsrs, base, address of a bitmap: 0 denies
MSR_FILTER_SIZE = 392  # flags, 4 bytes of padding, 16 ranges
MSR_FILTER_RANGES = 8
MSR_FILTER_READ_WRITE = 3
DEBUGREGS = struct.Struct("<6Q80x")  # db0-3, dr6, dr7
VCPU_EVENTS_SIZE = 64
VCPU_EVENTS_SHADOW = 11  # interrupt.shadow
VCPU_EVENTS_FLAGS = 20
VCPU_EVENTS_LATCHED_INIT = 27  # smi.latched_init
MSRS_HEADER = struct.Struct("<II")
MSR_ENTRY = struct.Struct("<IIQ")
CPUID_HEADER = struct.Struct("<II")
CPUID_ENTRY = struct.Struct("<7I12x")  # function index flags eax ebx ecx edx
CPUID_ENTRIES = 256
LAPIC_SIZE = 1024
SIGNAL_MASK = struct.Struct("<IQ")  # len, sigset: the kernel's set has 64 bits, whatever the C library's has

# struct kvm_run, the page shared with the kernel
RUN_IMMEDIATE_EXIT = 1
RUN_EXIT_REASON = 8
RUN_EXIT = 32  # the union that tells more about the exit
RUN_IO = struct.Struct("<BBHIQ")  # direction size port count data_offset
RUN_IO_OUT = 1
RUN_MMIO = struct.Struct("<Q8sIB")  # phys_addr data len is_write
RUN_MMIO_DATA = RUN_EXIT + 8
RUN_MSR = struct.Struct("<B7xIIQ")  # error reason index data
RUN_MSR_ERROR = RUN_EXIT
RUN_MSR_DATA = RUN_EXIT + 16
RUN_INTERNAL = struct.Struct("<IIQB15s")  # suberror ndata flags insn_size insn_bytes
RUN_INTERNAL_HAS_BYTES = 1

# --- Requests to /dev/kvm itself -------------------------------------------------------------------------------------

KVM_API_VERSION = 12
KVM_GET_API_VERSION = _request(0x00)
KVM_CREATE_VM = _request(0x01)
KVM_CHECK_EXTENSION = _request(0x03)
KVM_GET_VCPU_MMAP_SIZE = _request(0x04)
KVM_GET_SUPPORTED_CPUID = _request(0x05, CPUID_HEADER.size, _READ | _WRITE)

# --- Requests to a VM ------------------------------------------------------------------------------------------------

KVM_CREATE_VCPU = _request(0x41)
KVM_SET_USER_MEMORY_REGION = _request(0x46, MEMORY_REGION.size, _WRITE)
KVM_SET_TSS_ADDR = _request(0x47)
KVM_X86_SET_MSR_FILTER = _request(0xC6, MSR_FILTER_SIZE, _WRITE)
KVM_ENABLE_CAP = _request(0xA3, ENABLE_CAP.size, _WRITE)  # to a VM or to a vCPU

# --- Requests to a vCPU ----------------------------------------------------------------------------------------------

KVM_RUN = _request(0x80)
KVM_GET_REGS = _request(0x81, REGS.size, _READ)
KVM_SET_REGS = _request(0x82, REGS.size, _WRITE)
KVM_GET_SREGS = _request(0x83, SREGS_SIZE, _READ)
KVM_SET_SREGS = _request(0x84, SREGS_SIZE, _WRITE)
KVM_GET_MSRS = _request(0x88, MSRS_HEADER.size, _READ | _WRITE)
KVM_SET_MSRS = _request(0x89, MSRS_HEADER.size, _WRITE)
KVM_SET_SIGNAL_MASK = _request(0x8B, 4, _WRITE)
KVM_GET_LAPIC = _request(0x8E, LAPIC_SIZE, _READ)
KVM_SET_CPUID2 = _request(0x90, CPUID_HEADER.size, _WRITE)
KVM_GET_MP_STATE = _request(0x98, 4, _READ)
KVM_SET_MP_STATE = _request(0x99, 4, _WRITE)
KVM_GET_VCPU_EVENTS = _request(0x9F, VCPU_EVENTS_SIZE, _READ)
KVM_SET_VCPU_EVENTS = _request(0xA0, VCPU_EVENTS_SIZE, _WRITE)
KVM_SET_DEBUGREGS = _request(0xA2, DEBUGREGS.size, _WRITE)
KVM_SET_XSAVE = _request(0xA5, XSAVE_SIZE, _WRITE)

# --- Capabilities ----------------------------------------------------------------------------------------------------

KVM_CAP_SPLIT_IRQCHIP = 121
KVM_CAP_IMMEDIATE_EXIT = 136
KVM_CAP_X86_USER_SPACE_MSR = 188
KVM_CAP_X86_MSR_FILTER = 189
KVM_CAP_ENFORCE_PV_FEATURE_CPUID = 190

# --- Exit reasons ----------------------------------------------------------------------------------------------------

KVM_EXIT_IO = 2
KVM_EXIT_HLT = 5
KVM_EXIT_MMIO = 6
KVM_EXIT_SHUTDOWN = 8
KVM_EXIT_FAIL_ENTRY = 9
KVM_EXIT_INTERNAL_ERROR = 17
KVM_EXIT_SYSTEM_EVENT = 24
KVM_EXIT_X86_RDMSR = 29
KVM_EXIT_X86_WRMSR = 30
EXIT_NAMES = {
    KVM_EXIT_IO: "KVM_EXIT_IO",
    KVM_EXIT_HLT: "KVM_EXIT_HLT",
    KVM_EXIT_MMIO: "KVM_EXIT_MMIO",
    KVM_EXIT_SHUTDOWN: "KVM_EXIT_SHUTDOWN",
    KVM_EXIT_FAIL_ENTRY: "KVM_EXIT_FAIL_ENTRY",
    KVM_EXIT_INTERNAL_ERROR: "KVM_EXIT_INTERNAL_ERROR",
    KVM_EXIT_SYSTEM_EVENT: "KVM_EXIT_SYSTEM_EVENT",
    KVM_EXIT_X86_RDMSR: "KVM_EXIT_X86_RDMSR",
    KVM_EXIT_X86_WRMSR: "KVM_EXIT_X86_WRMSR",
}

KVM_INTERNAL_ERROR_EMULATION = 1

# --- Other values ----------------------------------------------------------------------------------------------------

KVM_MSR_EXIT_REASON_FILTER = 4
KVM_MP_STATE_RUNNABLE = 0
KVM_MP_STATE_UNINITIALIZED = 1
KVM_MP_STATE_INIT_RECEIVED = 2
KVM_MP_STATE_HALTED = 3
KVM_VCPUEVENT_VALID_SHADOW = 4
KVM_VCPUEVENT_VALID_SMM = 8
SPLIT_IRQCHIP_PINS = 24  # of an I/O APIC that user space would provide: this machine has none, KVM wants a number

# The register page that KVM_GET_LAPIC returns: each 32-bit register on a 16-byte line, at its xAPIC offset.
LAPIC_LVTT = 0x320
LAPIC_TMCCT = 0x390
