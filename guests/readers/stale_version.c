// emu run readers/stale_version
// Wrong: its retry never reads the first version again, so that after one update it never ends.

#include "reader.h"

static uint64_t reader(shared_area *area)
{
    const uint32_t version = area->version & ~1u;
    uint64_t steal;
    do {
        barrier();
        steal = area->steal;
        barrier();
    } while (version != area->version);
    return steal;
}

READER_MAIN
