#include "accounts.h"

static uint64_t books[MAX_VCPUS];

steal_area *accounts_start(uint32_t cpu)
{
    // TODO: register steal_areas[cpu], of steal.h
    return &steal_areas[cpu];
}

uint64_t accounts_read(uint32_t cpu)
{
    // TODO: read this vCPU's steal, and enter it in the books
    return books[cpu];
}

uint64_t accounts_total(uint32_t ncpus)
{
    // TODO: the sum
    return 0;
}
