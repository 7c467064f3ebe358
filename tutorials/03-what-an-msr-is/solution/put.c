// Lesson 3: EDX holds the upper half, EAX the lower one.

#include "guest.h"

static void put_msr(uint32_t msr, uint64_t value)
{
    __asm__ volatile("wrmsr" : : "c"(msr), "a"((uint32_t)value), "d"((uint32_t)(value >> 32)) : "memory");
}

int main(void)
{
    const uint64_t entry = 0xFFFFFFFF81000000; // where Linux has its code; a 64-bit kernel tells the CPU so in this MSR
    put_msr(MSR_LSTAR, entry);
    const uint64_t kept = rdmsr(MSR_LSTAR);
    put_hex(kept);
    put_text(kept == entry ? ": all 64 bits are there\n" : ": the upper half is lost\n");
    return kept == entry ? EXIT_PASS : EXIT_FAIL;
}
