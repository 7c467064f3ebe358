#include "accounts.h"

static uint64_t books[MAX_VCPUS];

steal_area *accounts_start(uint32_t cpu)
{
    steal_register(&steal_areas[cpu]);
    return &steal_areas[cpu];
}

uint64_t accounts_read(uint32_t cpu)
{
    steal_area *area = &steal_areas[cpu];
    uint32_t version;
    uint64_t steal;
    do {
        version = area->version;
        barrier();
        steal = area->steal;
        barrier();
    } while (version & 1 || version != area->version);
    books[cpu] = steal;
    return steal;
}

uint64_t accounts_total(uint32_t ncpus)
{
    uint64_t total = 0;
    for (uint32_t cpu = 1; cpu < ncpus; cpu++)
        total += books[cpu];
    return total;
}
