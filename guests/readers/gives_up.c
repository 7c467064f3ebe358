// emu run readers/gives_up
// Wrong: after two tries it returns what it has.

#include "reader.h"

static uint64_t reader(shared_area *area)
{
    uint32_t version;
    uint64_t steal;
    int tries = 2;
    do {
        version = area->version;
        barrier();
        steal = area->steal;
        barrier();
    } while ((version & 1 || version != area->version) && --tries);
    return steal;
}

READER_MAIN
