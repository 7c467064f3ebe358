#include "clock.h"

steal_area *clock_start(uint32_t cpu)
{
    wrmsr(MSR_KVM_STEAL_TIME, (uintptr_t)&steal_areas[cpu] | KVM_MSR_ENABLED);
    return &steal_areas[cpu];
}

uint64_t clock_read(steal_area *area)
{
    uint32_t version;
    uint64_t steal;
    do {
        version = area->version;
        barrier();
        steal = area->steal;
        barrier();
    } while (version & 1 || version != area->version);
    return steal;
}

void clock_stop(void)
{
}
