#include "abi.h"

.intel_syntax noprefix

.section .text.main, "ax"
.globl main
main:
    // TODO: is steal time offered? If it is not, return 3, and touch no MSR.

    // TODO: call survive, then try a value that the MSR must refuse: wrmsr_safe(EDI = MSR, RSI = value) returns AL = 0.

    // TODO: register `area`, wait until the host has updated it, and end the registration.

    mov eax, 1                      // the exit status: 0 if all went well
    ret

.section .bss.area, "aw", @nobits
.balign KVM_STEAL_TIME_SIZE
area:
    .skip KVM_STEAL_TIME_SIZE
