// Lesson 3: an MSR has 64 bits, and WRMSR takes them from two registers. Mend it, then run: emu run put.c

#include "guest.h"

static void put_msr(uint32_t msr, uint64_t value)
{
    __asm__ volatile("wrmsr" : : "c"(msr), "a"((uint32_t)value), "d"(0) : "memory");
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
