// emu run readers/low_byte
// Wrong: compares the low 8 bits of the version, which are the same again after 128 updates.

#include "reader.h"

static uint64_t reader(shared_area *area)
{
    uint8_t version;
    uint64_t steal;
    do {
        version = (uint8_t)area->version;
        barrier();
        steal = area->steal;
        barrier();
    } while (version & 1 || version != (uint8_t)area->version);
    return steal;
}

READER_MAIN
