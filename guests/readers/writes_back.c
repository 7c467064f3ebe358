// emu run readers/writes_back
// Wrong: sets steal to zero after each read, in an area that is the host's to write.

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
    volatile struct kvm_steal_time *area = &steal_areas[cpu];
    steal_register(&steal_areas[cpu]);
    marked_read(area);
    area->steal = 0;
    marked_read(area);
    return EXIT_PASS;
}
