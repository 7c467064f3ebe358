// What every guest of guests/readers/ wraps around its own way to read an area: find it offered, register, read twice.
//
// The marks say where a read begins and what it returned, so that `emu explore` can judge it.

#ifndef READER_H
#define READER_H

#include "steal.h"

#define READS 2

typedef const volatile struct kvm_steal_time shared_area; // the host writes it: every load must really happen

static uint64_t reader(shared_area *area);

static inline void marked_read(shared_area *area)
{
    STEAL_MARK_BEGIN(area);
    const uint64_t value = reader(area);
    STEAL_MARK_END(area, value);
}

#define READER_MAIN                              \
    int main(uint32_t cpu, uint32_t ncpus)       \
    {                                            \
        (void)ncpus;                             \
        if (!steal_offered(cpu))                 \
            return EXIT_NO_FEATURE;              \
        steal_register(&steal_areas[cpu]);       \
        for (int i = 0; i < READS; i++)          \
            marked_read(&steal_areas[cpu]);      \
        return EXIT_PASS;                        \
    }

#endif
