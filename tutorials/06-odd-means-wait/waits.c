// Lesson 6: a reader that takes what is there in the middle of an update. Let it wait, then run: emu explore waits.c

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
