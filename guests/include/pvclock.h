// The guest's side of kvmclock: from a TSC to nanoseconds, by what the host tells about both.
//
// In Linux: arch/x86/kernel/pvclock.c, __pvclock_clocksource_read() and pvclock_read_wallclock().

#ifndef PVCLOCK_H
#define PVCLOCK_H

#include "steal.h"

struct pvclock_vcpu_time_info {
    uint32_t version;
    uint32_t pad0;
    uint64_t tsc_timestamp;
    uint64_t system_time;
    uint32_t tsc_to_system_mul;
    int8_t tsc_shift;
    uint8_t flags;
    uint8_t pad[2];
};
_Static_assert(sizeof(struct pvclock_vcpu_time_info) == PVCLOCK_VCPU_TIME_INFO_SIZE, "as the host writes it");

struct pvclock_wall_clock {
    uint32_t version;
    uint32_t sec;
    uint32_t nsec;
};

// One structure per vCPU: 32 bytes, aligned so that none crosses a page.
static struct pvclock_vcpu_time_info pvclock_areas[MAX_VCPUS] __attribute__((aligned(32), unused));

static inline void pvclock_register(const struct pvclock_vcpu_time_info *area)
{
    wrmsr(MSR_KVM_SYSTEM_TIME_NEW, (uintptr_t)area | KVM_MSR_ENABLED);
}

#ifdef __x86_64__
// Nanoseconds since the machine began. The version works as that of steal time does: odd while the host writes.
static inline uint64_t pvclock_read(const volatile struct pvclock_vcpu_time_info *shared)
{
    uint32_t version;
    uint64_t ns;
    do {
        version = shared->version;
        barrier();
        uint64_t delta = rdtsc() - shared->tsc_timestamp;
        const int shift = shared->tsc_shift;
        delta = shift >= 0 ? delta << shift : delta >> -shift;
        ns = shared->system_time + (uint64_t)((unsigned __int128)delta * shared->tsc_to_system_mul >> 32);
        barrier();
    } while (version & 1 || version != shared->version);
    return ns;
}
#endif

#endif
