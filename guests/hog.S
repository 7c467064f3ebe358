// emu run hog --vcpus 2 --time-limit 100ms
// Computes for ever: two vCPUs share one pCPU, and each is kept waiting half of the time.
//
// It never leaves the CPU by itself: no I/O, no HLT. Only the host's scheduler can take it off. It registers no area,
// so it never learns how long it waited; the host's books, in the summary, show it as stolen all the same.

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
