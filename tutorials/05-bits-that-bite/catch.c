// Lesson 5: a guest that dies of a reserved bit. Let it live, then run: emu run catch.c

#include "steal.h"
#include "trap.h"

int main(uint32_t cpu, uint32_t ncpus)
{
    (void)ncpus;
    const uint64_t area = (uintptr_t)&steal_areas[cpu];
    bool taken = true;
    wrmsr(MSR_KVM_STEAL_TIME, area | KVM_MSR_ENABLED | 2);
    put_text(taken ? "the host took it\n" : "the host refused, and we live\n");
    return taken ? EXIT_FAIL : EXIT_PASS;
}
