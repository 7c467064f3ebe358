// emu run readers/no_enable
// Wrong: writes the address without the enable bit, so that nothing is ever published.

#include "reader.h"

static uint64_t reader(shared_area *area)
{
    uint32_t version;
    uint64_t steal;
    do {
        version = area->version;
        barrier();
        steal = area->steal;
        barrier();
    } while (version & 1 || version != area->version);
    return steal;
}

int main(uint32_t cpu, uint32_t ncpus)
{
    (void)ncpus;
    if (!steal_offered(cpu))
        return EXIT_NO_FEATURE;
    wrmsr(MSR_KVM_STEAL_TIME, (uintptr_t)&steal_areas[cpu]);
    marked_read(&steal_areas[cpu]);
    return EXIT_PASS;
}
