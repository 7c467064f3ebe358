// emu run readers/change_only
// Wrong: looks whether the version has moved, and never whether it is odd.

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
    } while (version != area->version);
    return steal;
}

READER_MAIN
