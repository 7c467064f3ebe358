"""A kernel as a user brings it: linked for the upper half, with page tables of its own and no header of ours."""

import subprocess
from pathlib import Path

from emu import abi
from emu.compiler import Compiler

_BOOT = """
.intel_syntax noprefix
.section .boot, "ax"
.globl _start
_start:
    lea rax, [directories]
    or rax, 3
    mov [top], rax
    mov [top + 511 * 8], rax
    lea rbx, [middle]
    or rbx, 3
    mov [directories], rbx
    mov [directories + 510 * 8], rbx
    xor ecx, ecx
1:  mov rax, rcx
    shl rax, 21
    or rax, 0x83
    mov [middle + rcx * 8], rax
    inc ecx
    cmp ecx, 512
    jne 1b
    lea rax, [top]
    mov cr3, rax
    movabs rsp, offset stack_top
    mov ecx, LATE
3:  dec ecx
    jnz 3b
    movabs rax, offset kernel_main
    call rax
    out 0xf4, al
2:  hlt
    jmp 2b
.section .bootdata, "aw"
.balign 4096
top: .skip 4096
directories: .skip 4096
middle: .skip 4096
.globl late
late: .skip 8
.section .bss
.balign 16
.skip 8192
.globl stack_top
stack_top:
"""
_KERNEL = """
#include <stdint.h>
#define UPPER 0xffffffff80000000ull
struct area { uint64_t steal; uint32_t version, flags, pad[12]; };
static volatile struct area area __attribute__((aligned(64)));
uint64_t total;
extern volatile uint64_t late; // on a page that nothing has been stored to since the page tables were made
static inline void wrmsr(uint32_t msr, uint64_t value)
{
    __asm__ volatile("wrmsr" ::"c"(msr), "a"((uint32_t)value), "d"((uint32_t)(value >> 32)));
}
static inline void mark(uint8_t number, uint64_t value)
{
#ifdef MARKS
    __asm__ volatile("outsb" : "+S"((const uint8_t *){&number}) : "b"(&area), "a"(value), "d"(PORT_MARK) : "memory");
#endif
}
static int offered(void)
{
    uint32_t a = 0x40000001, b, c = 0, d;
    __asm__ volatile("cpuid" : "+a"(a), "=b"(b), "+c"(c), "=d"(d));
    return a >> 5 & 1;
}
__attribute__((noinline)) uint64_t steal_clock(void)
{
    uint32_t version;
    uint64_t steal;
    do {
        version = area.version;
        __asm__ volatile("" ::: "memory");
        steal = area.steal;
        __asm__ volatile("" ::: "memory");
    } while (version & 1 CHECK);
    return steal;
}
int kernel_main(void)
{
    if (!offered())
        return 0;
    wrmsr(0x4b564d03, ((uint64_t)&area - UPPER) | 1);
    for (int i = 0; i < 2; i++)
    {
        mark(MARK_BEGIN, 0);
        late = total = steal_clock();
        mark(MARK_END, total);
    }
    return 0;
}
"""
_SCRIPT = """
ENTRY(_start)
PHDRS { boot PT_LOAD FLAGS(7); text PT_LOAD FLAGS(5); data PT_LOAD FLAGS(6); }
SECTIONS
{
    . = 0x100000;
    .boot : { *(.boot) } :boot
    .bootdata : { *(.bootdata) } :boot
    . = 0xffffffff80000000 + PLACE;
    .text : AT(PLACE) { *(.text .text.*) *(.rodata .rodata.*) } :text
    . = ALIGN(4096);
    .data : AT(ADDR(.data) - 0xffffffff80000000) { *(.data .data.*) } :data
    .bss : AT(ADDR(.bss) - 0xffffffff80000000) { *(.bss .bss.*) } :data
    /DISCARD/ : { *(.comment) *(.note*) *(.eh_frame*) }
}
"""
_FLAGS = (
    *("-g", "-gdwarf-4", "-O2", "-ffreestanding", "-fno-pic", "-fno-pie", "-mcmodel=kernel", "-mno-red-zone"),
    *("-mgeneral-regs-only", "-fno-stack-protector", "-fcf-protection=none", "-fno-sanitize=all"),
    *("-fno-asynchronous-unwind-tables", "-nostdlib", "-static", "-no-pie", "-Wl,--build-id=none"),
    *("-Wl,-z,noexecstack", "-Wl,-z,max-page-size=4096"),
)
UPPER = 0xFFFF_FFFF_8000_0000


def build(compiler: Compiler, folder: Path, *, checks: bool = True, marks: bool = False, big: bool = False) -> Path:
    """The kernel's ELF. One that `checks` looks at version again after it has loaded steal; one with `marks` says where
    a read begins and ends, and calls its area by the address that it has in the upper half. A `big` one lies at 16 MiB,
    and takes some ten million instructions to start up."""
    name = ("good" if checks else "bad") + ("-marked" if marks else "") + ("-big" if big else "")
    place, late = ("0x1000000", 5_000_000) if big else ("0x200000", 1)
    texts = {
        "boot.S": _BOOT.replace("LATE", str(late)),
        f"{name}.c": _KERNEL.replace(" CHECK", " || version != area.version" if checks else ""),
        "kernel.ld": _SCRIPT.replace("PLACE", place),
    }
    for file, text in texts.items():
        (folder / file).write_text(text, encoding="utf-8")
    words = (*compiler.command, *compiler.targets[64], *_FLAGS, "-Wl,-T,kernel.ld", "boot.S", f"{name}.c")
    numbers = {"PORT_MARK": abi.PORT_MARK, "MARK_BEGIN": abi.MARK_BEGIN, "MARK_END": abi.MARK_END}
    words = (*words, *(f"-D{one}={number}" for one, number in numbers.items()), *(["-DMARKS"] if marks else []))
    subprocess.run((*words, "-o", f"{name}.elf"), cwd=folder, check=True, capture_output=True)
    return folder / f"{name}.elf"
