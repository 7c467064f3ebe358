#include "abi.h"

.intel_syntax noprefix

.section .text.main, "ax"
.globl main
main:
    push rbx                        // CPUID writes it, and the caller keeps it
    mov eax, 1
    xor ecx, ecx
    cpuid
    test ecx, CPUID_1_ECX_HYPERVISOR
    jz missing

    mov eax, KVM_CPUID_SIGNATURE
    cpuid
    cmp ebx, 0x4b4d564b             // "KVMK"
    jne missing
    cmp eax, KVM_CPUID_FEATURES
    jb missing

    mov eax, KVM_CPUID_FEATURES
    cpuid
    bt eax, KVM_FEATURE_STEAL_TIME
    jnc missing

    call survive
    mov edi, MSR_KVM_STEAL_TIME
    lea rsi, [rip + area + KVM_MSR_ENABLED + 2]
    call wrmsr_safe                 // bit 1 is reserved
    test al, al
    jnz failed

    mov ecx, MSR_KVM_STEAL_TIME
    lea rax, [rip + area]
    mov rdx, rax
    shr rdx, 32
    or eax, KVM_MSR_ENABLED
    wrmsr

waiting:
    cmp dword ptr [rip + area + KVM_STEAL_TIME_VERSION], 0
    je waiting

    xor eax, eax
    pop rbx
    ret

failed:
    mov eax, 1
    pop rbx
    ret

missing:
    mov eax, 3
    pop rbx
    ret

.section .bss.area, "aw", @nobits
.balign KVM_STEAL_TIME_SIZE
area:
    .skip KVM_STEAL_TIME_SIZE
