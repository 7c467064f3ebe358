// The first instructions of every 32-bit guest: as start.S, for 32-bit code.
//
// All vCPUs enter at _start in flat protected mode without paging: EDI = this vCPU's number, ESI = how many there are,
// ESP = a stack of its own. A 32-bit C function takes its arguments from the stack, the first one nearest.

#include "abi.h"

.intel_syntax noprefix

.section .text.start, "ax"
.globl _start
_start:
    mov ebx, esi                    // main keeps EBX, as every C function does
    push esi
    push edi
    call main

    lock or [status], eax           // any vCPU's failure is the run's failure
    mov eax, 1
    lock xadd [finished], eax
    inc eax
    cmp eax, ebx
    jne park                        // others still run: only the last one may end it

    mov eax, [status]
    out PORT_EXIT, al               // the run ends inside this instruction

park:
    cli
    hlt
    jmp park

.section .bss.start, "aw", @nobits
.balign 4
status:
    .skip 4
finished:
    .skip 4
