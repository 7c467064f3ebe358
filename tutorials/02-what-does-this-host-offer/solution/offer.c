// Lesson 2, solved: the bit in CPUID decides.

#include "steal.h"

int main(uint32_t cpu, uint32_t ncpus)
{
    (void)ncpus;
    const bool offered = kvm_has(KVM_FEATURE_STEAL_TIME);
    if (!offered) {
        put_text("no steal time here\n");
        return EXIT_PASS;
    }
    steal_register(&steal_areas[cpu]);
    put_text("registered\n");
    return EXIT_PASS;
}
