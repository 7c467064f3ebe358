// emu run readers/halves
// Wrong: two 32-bit loads and no loop, which may be halves of two values.

#include "reader.h"

static uint64_t reader(shared_area *area)
{
    const volatile uint32_t *half = (const volatile uint32_t *)&area->steal;
    const uint32_t low = half[0];
    barrier();
    return (uint64_t)half[1] << 32 | low;
}

READER_MAIN
