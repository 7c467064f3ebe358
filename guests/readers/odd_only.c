// emu run readers/odd_only
// Wrong: waits until the version is even, and never looks whether it has moved.

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
    } while (version & 1);
    return steal;
}

READER_MAIN
