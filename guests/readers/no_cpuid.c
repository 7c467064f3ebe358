// emu run readers/no_cpuid
// Wrong: never asks CPUID, and dies of #GP where steal time is not offered.

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
    steal_register(&steal_areas[cpu]);
    marked_read(&steal_areas[cpu]);
    return EXIT_PASS;
}
