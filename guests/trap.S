// MSR accesses that may raise #GP, and the handler that turns the exception into an answer. See include/trap.h.

#include "abi.h"

.intel_syntax noprefix

.section .text.trap, "ax"

// bool wrmsr_safe(uint32_t msr, uint64_t value)
.globl wrmsr_safe
wrmsr_safe:
    mov ecx, edi
    mov eax, esi
    mov rdx, rsi
    shr rdx, 32
wrmsr_that_may_fault:
    wrmsr
    mov eax, 1
    ret

// bool rdmsr_safe(uint32_t msr, uint64_t *value)
.globl rdmsr_safe
rdmsr_safe:
    mov ecx, edi
rdmsr_that_may_fault:
    rdmsr
    mov [rsi], eax
    mov [rsi + 4], edx
    mov eax, 1
    ret

msr_refused:
    xor eax, eax
    ret

// The CPU has pushed SS, RSP, RFLAGS, CS, RIP and an error code; RIP stands on the instruction that faulted.
.globl general_protection
general_protection:
    cmp qword ptr [rsp + 8], offset wrmsr_that_may_fault
    je refuse
    cmp qword ptr [rsp + 8], offset rdmsr_that_may_fault
    je refuse

    // Not one of ours. Take the interrupt table away and let the instruction fault again: the run ends, and the
    // diagnosis shows the place.
    lidt [no_table]
    add rsp, 8
    iretq

refuse:
    mov qword ptr [rsp + 8], offset msr_refused
    add rsp, 8                      // the error code, which IRET does not expect
    iretq

.section .rodata.trap, "a"
no_table:
    .word 0
    .quad 0
