// emu run readers/no_check
// Wrong: looks at no version at all.

#include "reader.h"

static uint64_t reader(shared_area *area)
{
    return area->steal;
}

READER_MAIN
