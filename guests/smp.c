// emu run smp --vcpus 4 --task busy
// Each of several vCPUs has an area of its own and sees only what was stolen from itself.
//
// All count on one shared counter meanwhile; the last one to finish checks that no count was lost.

#include "steal.h"

#define COUNTS 200000

static uint64_t counter;
static uint32_t finished;

int main(uint32_t cpu, uint32_t ncpus)
{
    if (!steal_offered(cpu))
        return EXIT_NO_FEATURE;
    steal_register(&steal_areas[cpu]);

    for (int i = 0; i < COUNTS; i++)
        __atomic_fetch_add(&counter, 1, __ATOMIC_RELAXED); // a LOCK ADD: safe against the other vCPUs

    const struct steal_reading now = steal_read(&steal_areas[cpu]);
    line_begin(cpu);
    put_text("steal ");
    put_dec(now.steal);
    put_text(" ns, version ");
    put_dec(now.version);
    line_end();

    if (__atomic_add_fetch(&finished, 1, __ATOMIC_ACQ_REL) < ncpus)
        return EXIT_PASS;

    const bool right = counter == (uint64_t)COUNTS * ncpus;
    put_text("counted ");
    put_dec(counter);
    put_text(right ? ": PASS\n" : ": FAIL\n");
    return right ? EXIT_PASS : EXIT_FAIL;
}
