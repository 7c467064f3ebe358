// emu run readers/version_late
// Wrong: reads the first version after steal, so that nothing guards the load.

#include "reader.h"

static uint64_t reader(shared_area *area)
{
    uint32_t version;
    uint64_t steal;
    do {
        steal = area->steal;
        barrier();
        version = area->version;
        barrier();
    } while (version & 1 || version != area->version);
    return steal;
}

READER_MAIN
