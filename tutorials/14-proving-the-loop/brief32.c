// Lesson 14: a reader that saves three bytes. Mend it, then run: emu explore brief32.c --burst 128

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
