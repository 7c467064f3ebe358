// Lesson 4: a contract without a signature. Sign it, then run: emu run sign.c

#include "steal.h"

int main(uint32_t cpu, uint32_t ncpus)
{
    (void)ncpus;
    const volatile struct kvm_steal_time *area = &steal_areas[cpu];
    wrmsr(MSR_KVM_STEAL_TIME, (uintptr_t)area);
    (void)rdmsr(MSR_KVM_STEAL_TIME);
    put_text(area->version ? "the host has written\n" : "nobody has written\n");
    return area->version ? EXIT_PASS : EXIT_FAIL;
}
