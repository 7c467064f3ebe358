// The first instructions of every 64-bit guest: call main, gather the results, end the run.
//
// All vCPUs enter at _start in long mode: RDI = this vCPU's number, RSI = how many there are, RSP = a stack of its own.
// These are the first two argument registers of a C function, so `int main(uint32_t cpu, uint32_t ncpus)` just works.

#include "abi.h"

.intel_syntax noprefix

.section .text.start, "ax"
.globl _start
_start:
    mov ebx, esi                    // main keeps RBX, as every C function does
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
