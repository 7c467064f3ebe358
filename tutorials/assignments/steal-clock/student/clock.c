#include "clock.h"

steal_area *clock_start(uint32_t cpu)
{
    // TODO: register steal_areas[cpu], of steal.h, with MSR_KVM_STEAL_TIME
    return &steal_areas[cpu];
}

uint64_t clock_read(steal_area *area)
{
    // TODO: read steal, and be sure that no update came between
    return area->steal;
}

void clock_stop(void)
{
    // TODO: tell the host that it must not write the area any more
}
