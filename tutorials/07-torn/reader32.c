// Lesson 7: a reader that can be torn. Mend the last line of its loop, then run: emu explore reader32.c

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
