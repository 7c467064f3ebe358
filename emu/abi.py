"""Every number a guest may rely on: the one place where they are written down.

The guests' C header is generated from this module (`emu abi-header`), so a guest and the emulator cannot disagree.
Three kinds of numbers live here: the paravirtual interface of KVM, the x86 architecture as far as the emulator
speaks of it, and this machine's own conventions (ports, memory map). Names keep the spelling of the public headers,
so that a reader can search for them.

Sources: KVM numbers from Linux `arch/x86/include/uapi/asm/kvm_para.h` and `Documentation/virt/kvm/x86/{msr,cpuid}.rst`;
architecture from the AMD64 Architecture Programmer's Manual, volume 2, and the Intel SDM, volume 3.

In Linux: arch/x86/include/uapi/asm/kvm_para.h.
"""

# --- KVM's paravirtual interface -------------------------------------------------------------------------------------

KVM_CPUID_SIGNATURE = 0x40000000
KVM_CPUID_FEATURES = 0x40000001
KVM_SIGNATURE = b"KVMKVMKVM\0\0\0"

KVM_FEATURE_CLOCKSOURCE = 0
KVM_FEATURE_NOP_IO_DELAY = 1
KVM_FEATURE_CLOCKSOURCE2 = 3
KVM_FEATURE_ASYNC_PF = 4
KVM_FEATURE_STEAL_TIME = 5
KVM_FEATURE_PV_EOI = 6
KVM_FEATURE_PV_UNHALT = 7
KVM_FEATURE_PV_TLB_FLUSH = 9
KVM_FEATURE_ASYNC_PF_VMEXIT = 10
KVM_FEATURE_PV_SEND_IPI = 11
KVM_FEATURE_POLL_CONTROL = 12
KVM_FEATURE_PV_SCHED_YIELD = 13
KVM_FEATURE_ASYNC_PF_INT = 14
KVM_FEATURE_MIGRATION_CONTROL = 17
KVM_FEATURE_CLOCKSOURCE_STABLE_BIT = 24

MSR_KVM_WALL_CLOCK = 0x11
MSR_KVM_SYSTEM_TIME = 0x12
MSR_KVM_WALL_CLOCK_NEW = 0x4B564D00
MSR_KVM_SYSTEM_TIME_NEW = 0x4B564D01
MSR_KVM_ASYNC_PF_EN = 0x4B564D02
MSR_KVM_STEAL_TIME = 0x4B564D03
MSR_KVM_PV_EOI_EN = 0x4B564D04
MSR_KVM_POLL_CONTROL = 0x4B564D05
MSR_KVM_ASYNC_PF_INT = 0x4B564D06
MSR_KVM_ASYNC_PF_ACK = 0x4B564D07
MSR_KVM_MIGRATION_CONTROL = 0x4B564D08

KVM_MSR_ENABLED = 1
KVM_STEAL_ALIGNMENT_BITS = 5
KVM_STEAL_RESERVED_MASK = 0x3E  # bits 1 to 5: an unaligned address and a reserved bit are the same error
KVM_STEAL_ADDRESS_MASK = 0xFFFFFFFFFFFFFFC0

# struct kvm_steal_time: u64 steal; u32 version; u32 flags; u8 preempted; u8 u8_pad[3]; u32 pad[11]
KVM_STEAL_TIME_SIZE = 64
KVM_STEAL_TIME_STEAL = 0
KVM_STEAL_TIME_VERSION = 8
KVM_STEAL_TIME_FLAGS = 12
KVM_STEAL_TIME_PREEMPTED = 16

KVM_VCPU_PREEMPTED = 1
KVM_VCPU_FLUSH_TLB = 2

KVM_ENOSYS = 1000
KVM_EPERM = 1
KVM_EINVAL = 22

KVM_HC_VAPIC_POLL_IRQ = 1
KVM_HC_KICK_CPU = 5
KVM_HC_SEND_IPI = 10
KVM_HC_SCHED_YIELD = 11

# struct pvclock_wall_clock: u32 version; u32 sec; u32 nsec
PVCLOCK_WALL_CLOCK_SIZE = 12
PVCLOCK_WALL_CLOCK_VERSION = 0
PVCLOCK_WALL_CLOCK_SEC = 4
PVCLOCK_WALL_CLOCK_NSEC = 8

# struct pvclock_vcpu_time_info: u32 version; u32 pad0; u64 tsc_timestamp; u64 system_time; u32 tsc_to_system_mul;
# s8 tsc_shift; u8 flags; u8 pad[2]
PVCLOCK_VCPU_TIME_INFO_SIZE = 32
PVCLOCK_VERSION = 0
PVCLOCK_PAD0 = 4
PVCLOCK_TSC_TIMESTAMP = 8
PVCLOCK_SYSTEM_TIME = 16
PVCLOCK_TSC_TO_SYSTEM_MUL = 24
PVCLOCK_TSC_SHIFT = 28
PVCLOCK_FLAGS = 29
PVCLOCK_TSC_STABLE_BIT = 1
PVCLOCK_GUEST_STOPPED = 2

# struct kvm_vcpu_pv_apf_data: u32 flags; u32 token; u8 pad[56]. In 2011 `flags` was called `reason`, `token` was pad.
KVM_ASYNC_PF_ENABLED = 1 << 0
KVM_ASYNC_PF_SEND_ALWAYS = 1 << 1
KVM_ASYNC_PF_DELIVERY_AS_PF_VMEXIT = 1 << 2
KVM_ASYNC_PF_DELIVERY_AS_INT = 1 << 3
KVM_ASYNC_PF_RESERVED_MASK = 0x30
KVM_ASYNC_PF_ADDRESS_MASK = 0xFFFFFFFFFFFFFFC0
KVM_ASYNC_PF_VEC_MASK = 0xFF
KVM_ASYNC_PF_ACK_BIT = 1
KVM_APF_SIZE = 64
KVM_APF_FLAGS = 0
KVM_APF_TOKEN = 4
KVM_APF_WAKE_ALL = 0xFFFFFFFF  # the token that stands for every page at once
KVM_PV_REASON_PAGE_NOT_PRESENT = 1
KVM_PV_REASON_PAGE_READY = 2

KVM_PV_EOI_ALIGNMENT = 4
KVM_PV_EOI_ENABLED = 1
KVM_PV_EOI_DISABLED = 0

KVM_POLL_CONTROL_ENABLED = 1
KVM_MIGRATION_READY = 1

# --- This machine: ports ---------------------------------------------------------------------------------------------

PORT_CONSOLE = 0xE9
PORT_UART = 0x3F8
UART_TX = 0  # the 16550's registers, as offsets from PORT_UART; names as in include/uapi/linux/serial_reg.h
UART_IER = 1
UART_IIR = 2
UART_LCR = 3
UART_LSR = 5
UART_REGISTERS = 8
UART_LCR_DLAB = 0x80  # offsets 0 and 1 are the baud rate's divisor while this is set
UART_IIR_NO_INT = 1
PORT_UART_LSR = 0x3FD
UART_LSR_IDLE = 0x60  # transmitter and holding register empty: a guest that polls may always send
PORT_EXIT = 0xF4
PORT_MARK = 0xE0  # 1: a read of the area in RBX begins; 2: it ended with the value in RAX
MARK_BEGIN = 1
MARK_END = 2
PORTS = 0x10000

# --- This machine: memory map ----------------------------------------------------------------------------------------
# A guest owns all of its RAM. What the machine lays out for a protected or long mode guest before entry stands in
# [RESERVED_GPA, GUEST_GPA) and at the top of RAM; a guest that brings its own tables may reuse it. Page 0 is RAM like
# any other, but the machine's page tables leave it unmapped: in long mode a null pointer faults.

PAGE_SIZE = 0x1000
LARGE_PAGE_SIZE = 0x200000
RESERVED_GPA = 0x1000
GDT_GPA = 0x1000
TSS_GPA = 0x2000
TSS_STRIDE = 0x80
PAGE_TABLES_GPA = 0x10000
PAGE_TABLES_END_GPA = 0x80000
GUEST_GPA = 0x100000
REAL_MODE_GPA = 0x7C00
STACK_SIZE = 0x4000  # per vCPU, from the top of RAM downwards, an unmapped guard page below each
MAX_VCPUS = 64
MIN_RAM = 0x400000
MAX_RAM = 0xC0000000

SELECTOR_CODE64 = 0x08
SELECTOR_DATA = 0x10
SELECTOR_USER_CODE32 = 0x18 | 3
SELECTOR_USER_DATA = 0x20 | 3
SELECTOR_USER_CODE64 = 0x28 | 3
SELECTOR_CODE32 = 0x30
SELECTOR_TSS = 0x40
TSS_DESCRIPTOR_SIZE = 16
TSS_LIMIT = 0x67
TSS_RSP0 = 4
TSS_IST1 = 36
TSS_IO_BITMAP = 102

# --- x86: control registers, flags, vectors --------------------------------------------------------------------------

CR0_PE = 1 << 0
CR0_MP = 1 << 1
CR0_EM = 1 << 2
CR0_TS = 1 << 3
CR0_ET = 1 << 4
CR0_NE = 1 << 5
CR0_WP = 1 << 16
CR0_AM = 1 << 18
CR0_NW = 1 << 29
CR0_CD = 1 << 30
CR0_PG = 1 << 31
CR4_TSD = 1 << 2
CR4_DE = 1 << 3
CR4_PSE = 1 << 4
CR4_PAE = 1 << 5
CR4_PGE = 1 << 7
CR4_OSFXSR = 1 << 9
CR4_OSXMMEXCPT = 1 << 10
EFER_SCE = 1 << 0
EFER_LME = 1 << 8
EFER_LMA = 1 << 10
EFER_NXE = 1 << 11
EFER_SVME = 1 << 12
MAXPHYADDR = 40

RFLAGS_CF = 1 << 0
RFLAGS_FIXED = 1 << 1
RFLAGS_PF = 1 << 2
RFLAGS_AF = 1 << 4
RFLAGS_TF = 1 << 8
RFLAGS_IF = 1 << 9
RFLAGS_DF = 1 << 10
RFLAGS_OF = 1 << 11
RFLAGS_IOPL = 3 << 12
RFLAGS_NT = 1 << 14
RFLAGS_RF = 1 << 16
RFLAGS_VM = 1 << 17
RFLAGS_ARITHMETIC = 0x8D5  # CF, PF, AF, ZF, SF, OF

PTE_PRESENT = 1 << 0
PTE_WRITABLE = 1 << 1
PTE_USER = 1 << 2
PTE_ACCESSED = 1 << 5
PTE_DIRTY = 1 << 6
PTE_LARGE = 1 << 7
PTE_NX = 1 << 63

DE_VECTOR = 0
DB_VECTOR = 1
NMI_VECTOR = 2
BP_VECTOR = 3
OF_VECTOR = 4
UD_VECTOR = 6
DF_VECTOR = 8
TS_VECTOR = 10
NP_VECTOR = 11
SS_VECTOR = 12
GP_VECTOR = 13
PF_VECTOR = 14
AC_VECTOR = 17
VECTORS = 256

# --- x86: MSRs that exist besides KVM's ------------------------------------------------------------------------------

MSR_IA32_TSC = 0x10
MSR_IA32_APICBASE = 0x1B
MSR_IA32_SYSENTER_CS = 0x174
MSR_IA32_SYSENTER_ESP = 0x175
MSR_IA32_SYSENTER_EIP = 0x176
MSR_IA32_CR_PAT = 0x277
MSR_IA32_TSC_DEADLINE = 0x6E0
MSR_EFER = 0xC0000080
MSR_STAR = 0xC0000081
MSR_LSTAR = 0xC0000082
MSR_CSTAR = 0xC0000083
MSR_SYSCALL_MASK = 0xC0000084
MSR_FS_BASE = 0xC0000100
MSR_GS_BASE = 0xC0000101
MSR_KERNEL_GS_BASE = 0xC0000102
MSR_TSC_AUX = 0xC0000103

APICBASE_BSP = 1 << 8
APICBASE_X2APIC = 1 << 10
APICBASE_ENABLE = 1 << 11
APICBASE_ADDRESS_MASK = (1 << MAXPHYADDR) - PAGE_SIZE
APIC_DEFAULT_PHYS_BASE = 0xFEE00000

X2APIC_MSR = 0x800
X2APIC_MSR_LAST = 0x8FF
APIC_ID = 0x802
APIC_LVR = 0x803
APIC_TASKPRI = 0x808
APIC_ARBPRI = 0x809  # xAPIC alone
APIC_PROCPRI = 0x80A
APIC_EOI = 0x80B
APIC_LDR = 0x80D
APIC_DFR = 0x80E  # xAPIC alone
APIC_SPIV = 0x80F
APIC_ISR = 0x810
APIC_TMR = 0x818
APIC_IRR = 0x820
APIC_ESR = 0x828
APIC_ICR = 0x830
APIC_ICR2 = 0x831  # xAPIC alone: the upper half of the ICR, which is one register of 64 bits in x2APIC mode
APIC_LVTT = 0x832
APIC_LVTTHMR = 0x833
APIC_LVTPC = 0x834
APIC_LVT0 = 0x835
APIC_LVT1 = 0x836
APIC_LVTERR = 0x837
APIC_TMICT = 0x838
APIC_TMCCT = 0x839
APIC_TDCR = 0x83E
APIC_SELF_IPI = 0x83F
APIC_VERSION_VALUE = 0x50014
APIC_SPIV_ENABLED = 1 << 8
APIC_SPIV_FOCUS_DISABLED = 1 << 9
APIC_VECTOR_MASK = 0xFF
APIC_TPRI_MASK = 0xFF
APIC_PRIORITY_CLASS = 0xF0  # the upper half of a vector: what priorities are compared by
APIC_FIRST_VECTOR = 16  # vectors below are the processor's own exceptions: illegal for an interrupt
APIC_ESR_SENDILL = 1 << 5
APIC_ESR_RECVILL = 1 << 6
APIC_ESR_ILLREGA = 1 << 7
APIC_LVT_DELIVERY_MODE = 7 << 8
APIC_LVT_SEND_PENDING = 1 << 12
APIC_LVT_POLARITY = 1 << 13
APIC_LVT_REMOTE_IRR = 1 << 14
APIC_LVT_LEVEL_TRIGGER = 1 << 15
APIC_LVT_MASKED = 1 << 16
APIC_LVT_TIMER_MODE = 3 << 17
APIC_LVT_TIMER_ONESHOT = 0 << 17
APIC_LVT_TIMER_PERIODIC = 1 << 17
APIC_LVT_TIMER_TSCDEADLINE = 2 << 17
APIC_TDR_MASK = 0xB
APIC_TMICT_MASK = 0xFFFFFFFF
APIC_MODE_MASK = 7 << 8
APIC_DM_FIXED = 0 << 8
APIC_DM_LOWEST = 1 << 8
APIC_DM_SMI = 2 << 8
APIC_DM_REMRD = 3 << 8
APIC_DM_NMI = 4 << 8
APIC_DM_INIT = 5 << 8
APIC_DM_STARTUP = 6 << 8
APIC_DM_EXTINT = 7 << 8
APIC_DEST_LOGICAL = 1 << 11
APIC_ICR_BUSY = 1 << 12
APIC_INT_ASSERT = 1 << 14
APIC_INT_LEVELTRIG = 1 << 15
APIC_SHORT_MASK = 3 << 18
APIC_DEST_NOSHORT = 0 << 18
APIC_DEST_SELF = 1 << 18
APIC_DEST_ALLINC = 2 << 18
APIC_DEST_ALLBUT = 3 << 18
APIC_ICR_BITS = 0xCDFFF  # of the lower half; the rest is reserved
APIC_ICR2_DEST = 0xFF000000
APIC_ID_MASK = 0xFF000000  # where an xAPIC keeps its ID; its logical ID stands at the same place in the LDR
APIC_ID_SHIFT = 24
APIC_DFR_FLAT = 0xFFFFFFFF
APIC_DFR_CLUSTER = 0x0FFFFFFF
APIC_BROADCAST = 0xFF
X2APIC_BROADCAST = 0xFFFFFFFF
APIC_MMIO_SIZE = 0x1000
APIC_MMIO_STRIDE = 16  # register n of x2APIC mode, MSR X2APIC_MSR + n, stands at this multiple of n in the window
APIC_TIMER_HZ = 1_000_000_000  # the timer's input clock before its divider

# --- x86: CPUID ------------------------------------------------------------------------------------------------------

CPUID_VENDOR = 0
CPUID_FEATURES = 1
CPUID_EXTENDED = 0x80000000
CPUID_EXTENDED_FEATURES = 0x80000001
CPUID_BRAND = 0x80000002  # and the two after it
CPUID_POWER = 0x80000007
CPUID_ADDRESS_SIZES = 0x80000008
CPUID_VENDOR_NAME = b"AuthenticAMD"
CPUID_BRAND_NAME = b"emu teaching vCPU"
CPUID_FAMILY_MODEL = (
    0x00800F12  # family 17h, model 1, stepping 2: Linux boots on family 17h though the cache leaves are zero
)
CPUID_CLFLUSH_QUADWORDS = 8
LINEAR_ADDRESS_BITS = 48

CPUID_1_ECX_SSE3 = 1 << 0
CPUID_1_ECX_SSSE3 = 1 << 9
CPUID_1_ECX_CX16 = 1 << 13
CPUID_1_ECX_SSE41 = 1 << 19
CPUID_1_ECX_SSE42 = 1 << 20
CPUID_1_ECX_X2APIC = 1 << 21
CPUID_1_ECX_POPCNT = 1 << 23
CPUID_1_ECX_TSC_DEADLINE = 1 << 24
CPUID_1_ECX_HYPERVISOR = 1 << 31
CPUID_1_EDX_FPU = 1 << 0
CPUID_1_EDX_PSE = 1 << 3
CPUID_1_EDX_TSC = 1 << 4
CPUID_1_EDX_MSR = 1 << 5
CPUID_1_EDX_PAE = 1 << 6
CPUID_1_EDX_CX8 = 1 << 8
CPUID_1_EDX_APIC = 1 << 9
CPUID_1_EDX_PGE = 1 << 13
CPUID_1_EDX_CMOV = 1 << 15
CPUID_1_EDX_PAT = 1 << 16
CPUID_1_EDX_CLFSH = 1 << 19
CPUID_1_EDX_MMX = 1 << 23
CPUID_1_EDX_FXSR = 1 << 24
CPUID_1_EDX_SSE = 1 << 25
CPUID_1_EDX_SSE2 = 1 << 26
CPUID_80000001_ECX_LAHF = 1 << 0
CPUID_80000001_EDX_SYSCALL = 1 << 11
CPUID_80000001_EDX_NX = 1 << 20
CPUID_80000001_EDX_PDPE1GB = 1 << 26
CPUID_80000001_EDX_RDTSCP = 1 << 27
CPUID_80000001_EDX_LM = 1 << 29
CPUID_80000007_EDX_INVARIANT_TSC = 1 << 8
