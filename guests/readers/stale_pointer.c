// emu run readers/stale_pointer
// Wrong: registers another area, and goes on to read the first one.

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
    steal_register(&steal_areas[0]);
    marked_read(&steal_areas[0]);
    steal_register(&steal_areas[1]);
    marked_read(&steal_areas[0]);
    return EXIT_PASS;
}
