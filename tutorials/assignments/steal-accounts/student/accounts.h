// What the accounts offer. It is given; you write accounts.c.

#ifndef ACCOUNTS_H
#define ACCOUNTS_H

#include "steal.h"

typedef const volatile struct kvm_steal_time steal_area; // the host writes it: every load must really happen

// Registers this vCPU's own area, and returns it. Each vCPU calls it once, on itself, before all else.
steal_area *accounts_start(uint32_t cpu);

// The steal time of this vCPU so far, in nanoseconds. It is called on the vCPU itself, with its own number, and keeps
// what it returns in the books.
uint64_t accounts_read(uint32_t cpu);

// The sum of what all vCPUs have read last. It is called on vCPU 0, when all have read.
uint64_t accounts_total(uint32_t ncpus);

#endif
