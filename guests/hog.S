// emu run hog --vcpus 2 --time-limit 100ms
//
// Computes for ever and never leaves the CPU by itself: no I/O, no HLT. Only the host's scheduler can stop it, and
// while it waits for its next turn its steal time grows, though it never asks for it.

.intel_syntax noprefix

.section .text
.globl main
main:
    lea eax, [rdi + 1]              // another seed for each vCPU; zero would stay zero
again:
    mov edx, eax                    // xorshift: three shifts make the next pseudo-random number
    shl edx, 13
    xor eax, edx
    mov edx, eax
    shr edx, 17
    xor eax, edx
    mov edx, eax
    shl edx, 5
    xor eax, edx
    jmp again
