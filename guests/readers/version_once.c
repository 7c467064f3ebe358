// emu run readers/version_once
// Wrong: reads the version once, and compares it with itself, as a compiler would without volatile.

#include "reader.h"

static uint64_t reader(shared_area *area)
{
    const uint32_t version = area->version;
    uint64_t steal;
    do {
        barrier();
        steal = area->steal;
        barrier();
    } while (version & 1);
    return steal;
}

READER_MAIN
