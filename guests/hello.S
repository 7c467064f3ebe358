// emu run hello
// The smallest guest: one vCPU prints a line and ends the run.
//
// It writes to the console byte by byte and returns 0, which becomes the run's exit status.

#include "abi.h"

.intel_syntax noprefix

.section .text
.globl main
main:                               // EDI = this vCPU's number
    test edi, edi
    jnz done                        // the first vCPU speaks for all

    lea rsi, [rip + text]
next:
    mov al, [rsi]
    test al, al
    jz done
    out PORT_CONSOLE, al            // an exit: the machine sees port and byte, and the guest goes on
    inc rsi
    jmp next

done:
    xor eax, eax
    ret

.section .rodata
text:
    .asciz "hello from the guest\n"
