// What a steal clock offers. It is given; you write clock.c, or clock.S.

#ifndef CLOCK_H
#define CLOCK_H

#include "steal.h"

typedef const volatile struct kvm_steal_time steal_area; // the host writes it: every load must really happen

// Registers an area of this vCPU with the host, and returns it. It is called once, before all else.
steal_area *clock_start(uint32_t cpu);

// The steal time that this vCPU has suffered so far, in nanoseconds, read from the area that clock_start() returned.
uint64_t clock_read(steal_area *area);

// The host must not write the area any more after this.
void clock_stop(void);

#endif
