"""The state a vCPU enters its guest in, and the tables that state points at.

Three ways in: 64-bit long mode with identity paging, flat 32-bit protected mode without paging, 16-bit real mode.
For the first two the GDT, one TSS per vCPU and, in long mode, the page tables are laid out in the reserved region that
abi.py names. Data pages are NX: what a program marks executable is all that can be executed. Page 0 is not mapped, so
that a null pointer faults.

In Linux: startup_64 in arch/x86/kernel/head_64.S is what normally has to do this.
"""

import struct
from collections.abc import Iterable
from typing import NamedTuple

from emu import abi, state
from emu.faults import HostError
from emu.ram import Ram
from emu.state import CpuState, Segment, Table

LONG, PROTECTED, REAL = "long", "pm32", "real"
MODES = (LONG, PROTECTED, REAL)

_CODE64_DESCRIPTOR = 0xAF9B000000FFFF
_CODE32_DESCRIPTOR = 0xCF9B000000FFFF
_DATA_DESCRIPTOR = 0xCF93000000FFFF
_USER = 3 << 45
_TSS_PRESENT_BUSY = 0x8B << 40
_PAT_RESET = 0x0007040600070406
_FPU_CONTROL_RESET, _FPU_TAGS_EMPTY, _MXCSR_RESET = 0x37F, 0xFFFF, 0x1F80  # as FNINIT and power-up leave them
_NO_IO_BITMAP = abi.TSS_LIMIT + 1


class Rights(NamedTuple):
    """A page-aligned range of guest-physical memory and what a guest may do there."""

    gpa: int
    size: int
    writable: bool
    executable: bool


class Entry(NamedTuple):
    """Where and how all vCPUs start: `rip` relative to CS base 0, or to `code_segment` << 4 in real mode."""

    mode: str
    rip: int
    code_segment: int = 0


def stack_top(ram: Ram, vcpu: int) -> int:
    """The first address above the stack of a vCPU; its guard page is STACK_SIZE + PAGE_SIZE below."""
    return ram.size - vcpu * (abi.STACK_SIZE + abi.PAGE_SIZE)


def program_limit(ram: Ram, vcpus: int) -> int:
    """Where the stacks begin: a program must end at or below this address."""
    return stack_top(ram, vcpus)


def prepare(ram: Ram, entry: Entry, rights: Iterable[Rights], vcpus: int) -> None:
    """Lay out what the entry state of `vcpus` vCPUs points at. Raises HostError where RAM cannot hold it."""
    if entry.mode == REAL:
        return
    _lay_out_gdt(ram, vcpus)
    if entry.mode == LONG:
        _lay_out_page_tables(ram, list(rights), vcpus)


def initial_state(ram: Ram, entry: Entry, number: int, vcpus: int) -> CpuState:
    """The state in which vCPU `number` of `vcpus` stands before its first instruction."""
    general = dict.fromkeys(state.GENERAL, 0) | {"rdi": number, "rsi": vcpus}
    if entry.mode == REAL:
        data = state.real_mode_segment(0)
        segments = (
            data,
            state.real_mode_segment(entry.code_segment, state.CODE16 | 0x90),
            *(data,) * 4,
            Segment(0, state.LDT, 0xFFFF, 0),
            Segment(0, state.BUSY_TSS, 0xFFFF, 0),
        )
        general["rsp"] = abi.REAL_MODE_GPA
        tables = Table(0xFFFF, 0), Table(0x3FF, 0)
        control = abi.CR0_ET, 0, 0
        efer = 0
    else:
        long = entry.mode == LONG
        data = state.flat_segment(abi.SELECTOR_DATA, state.DATA32)
        code = (
            state.flat_segment(abi.SELECTOR_CODE64, state.CODE64)
            if long
            else state.flat_segment(abi.SELECTOR_CODE32, state.CODE32)
        )
        tss = abi.SELECTOR_TSS + number * abi.TSS_DESCRIPTOR_SIZE
        segments = (
            *(data, code, data, data, data, data),
            Segment(0, state.LDT, 0, 0),
            Segment(tss, state.BUSY_TSS, abi.TSS_LIMIT, abi.TSS_GPA + number * abi.TSS_STRIDE),
        )
        general["rsp"] = stack_top(ram, number)
        tables = Table(abi.SELECTOR_TSS + vcpus * abi.TSS_DESCRIPTOR_SIZE - 1, abi.GDT_GPA), Table(0, 0)
        cr0 = abi.CR0_PE | abi.CR0_ET | abi.CR0_NE | abi.CR0_WP
        sse = abi.CR4_OSFXSR | abi.CR4_OSXMMEXCPT
        control = (cr0 | abi.CR0_PG, abi.PAGE_TABLES_GPA, abi.CR4_PAE | abi.CR4_PGE | sse) if long else (cr0, 0, sse)
        efer = abi.EFER_LME | abi.EFER_LMA | abi.EFER_NXE | abi.EFER_SCE if long else 0
    return CpuState(
        general=tuple(general.values()),
        rip=entry.rip,
        rflags=abi.RFLAGS_FIXED,
        segments=segments,
        gdtr=tables[0],
        idtr=tables[1],
        cr0=control[0],
        cr2=0,
        cr3=control[1],
        cr4=control[2],
        debug=state.DEBUG_RESET,
        msrs=tuple(sorted(_msrs(efer, number).items())),
        xmm=(0,) * 16,
        st=(0,) * 8,
        fpcw=_FPU_CONTROL_RESET,
        fpsw=0,
        fptag=_FPU_TAGS_EMPTY,
        mxcsr=_MXCSR_RESET,
    )


def _msrs(efer: int, number: int) -> dict[int, int]:
    zero = (
        *(abi.MSR_STAR, abi.MSR_LSTAR, abi.MSR_CSTAR, abi.MSR_SYSCALL_MASK, abi.MSR_KERNEL_GS_BASE),
        *(abi.MSR_IA32_SYSENTER_CS, abi.MSR_IA32_SYSENTER_ESP, abi.MSR_IA32_SYSENTER_EIP),
    )
    return {**dict.fromkeys(zero, 0), abi.MSR_EFER: efer, abi.MSR_TSC_AUX: number, abi.MSR_IA32_CR_PAT: _PAT_RESET}


def _lay_out_gdt(ram: Ram, vcpus: int) -> None:
    descriptors = {
        abi.SELECTOR_CODE64: _CODE64_DESCRIPTOR,
        abi.SELECTOR_DATA: _DATA_DESCRIPTOR,
        abi.SELECTOR_USER_CODE32: _CODE32_DESCRIPTOR | _USER,
        abi.SELECTOR_USER_DATA: _DATA_DESCRIPTOR | _USER,
        abi.SELECTOR_USER_CODE64: _CODE64_DESCRIPTOR | _USER,
        abi.SELECTOR_CODE32: _CODE32_DESCRIPTOR,
    }
    for selector, descriptor in descriptors.items():
        ram.store(abi.GDT_GPA + (selector & ~7), 8, descriptor)
    for number in range(vcpus):
        base = abi.TSS_GPA + number * abi.TSS_STRIDE
        low = abi.TSS_LIMIT | (base & 0xFFFFFF) << 16 | _TSS_PRESENT_BUSY | (base >> 24 & 0xFF) << 56
        at = abi.GDT_GPA + abi.SELECTOR_TSS + number * abi.TSS_DESCRIPTOR_SIZE
        ram.write(at, struct.pack("<QQ", low, base >> 32))
        ram.store(base + abi.TSS_RSP0, 8, stack_top(ram, number))
        ram.store(base + abi.TSS_IO_BITMAP, 2, _NO_IO_BITMAP)


def _lay_out_page_tables(ram: Ram, rights: list[Rights], vcpus: int) -> None:
    """Identity mapping of RAM: large NX pages, and small ones where a program, a guard or page 0 needs other rights."""
    guards = [stack_top(ram, number) - abi.STACK_SIZE - abi.PAGE_SIZE for number in range(vcpus)]
    unmapped = [0, *guards]  # page 0 as well: a null pointer must fault, whatever a program brings
    fine = {gpa // abi.LARGE_PAGE_SIZE for gpa in unmapped}
    for area in rights:
        fine.update(range(area.gpa // abi.LARGE_PAGE_SIZE, -(-(area.gpa + area.size) // abi.LARGE_PAGE_SIZE)))
    regions = -(-ram.size // abi.LARGE_PAGE_SIZE)
    if ram.size % abi.LARGE_PAGE_SIZE:
        fine.add(regions - 1)
    free = iter(range(abi.PAGE_TABLES_GPA, abi.PAGE_TABLES_END_GPA, abi.PAGE_SIZE))
    table = abi.PTE_PRESENT | abi.PTE_WRITABLE | abi.PTE_USER
    data = abi.PTE_PRESENT | abi.PTE_WRITABLE | abi.PTE_NX
    try:
        top, directory_pointers = next(free), next(free)
        directories = [next(free) for _ in range(-(-regions // 512))]
        ram.store(top, 8, directory_pointers | table)
        for index, directory in enumerate(directories):
            ram.store(directory_pointers + 8 * index, 8, directory | table)
        for region in range(regions):
            at = directories[region // 512] + 8 * (region % 512)
            if region not in fine:
                ram.store(at, 8, region * abi.LARGE_PAGE_SIZE | data | abi.PTE_LARGE)
                continue
            pages = next(free)
            ram.store(at, 8, pages | table)
            first = region * abi.LARGE_PAGE_SIZE
            count = min(abi.LARGE_PAGE_SIZE, ram.size - first) // abi.PAGE_SIZE
            entries = [first + page * abi.PAGE_SIZE | data for page in range(count)]
            for area in rights:
                for gpa in range(
                    max(area.gpa, first), min(area.gpa + area.size, first + abi.LARGE_PAGE_SIZE), abi.PAGE_SIZE
                ):
                    entry = gpa | abi.PTE_PRESENT
                    entry |= abi.PTE_WRITABLE if area.writable else 0
                    entries[(gpa - first) // abi.PAGE_SIZE] = entry if area.executable else entry | abi.PTE_NX
            for gpa in unmapped:
                if first <= gpa < first + abi.LARGE_PAGE_SIZE:
                    entries[(gpa - first) // abi.PAGE_SIZE] = 0
            ram.write(pages, struct.pack(f"<{count}Q", *entries))
    except StopIteration:
        raise HostError(
            "the program is spread over too much memory for the page tables that the reserved region can hold",
            remedy="link its segments closer together",
        ) from None
