// Lesson 5, solved: a handler, and a write that may fail.

#include "steal.h"
#include "trap.h"

int main(uint32_t cpu, uint32_t ncpus)
{
    (void)ncpus;
    const uint64_t area = (uintptr_t)&steal_areas[cpu];
    trap_init();
    const bool taken = wrmsr_safe(MSR_KVM_STEAL_TIME, area | KVM_MSR_ENABLED | 2);
    put_text(taken ? "the host took it\n" : "the host refused, and we live\n");
    return taken ? EXIT_FAIL : EXIT_PASS;
}
