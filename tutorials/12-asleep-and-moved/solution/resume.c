// Lesson 12: what was stolen before is carried over; it is read when nobody writes any more.
// emu run resume.c --task busy

#include "steal.h"

#define NAPS 2

static uint64_t carried; // what was stolen before the area was last registered

static uint64_t steal_clock(uint32_t cpu)
{
    return carried + steal_read(&steal_areas[cpu]).steal;
}

static bool look(uint32_t cpu)
{
    static uint64_t latest;
    const uint64_t now = steal_clock(cpu);
    const bool forward = now >= latest;
    latest = now;
    put_text(" steal clock ");
    put_dec(now);
    put_text(" ns\n");
    return forward;
}

static void work(void)
{
    for (volatile uint32_t i = 0; i < 100000; i++)
        ;
}

// Sleep ends the registration, so that the host writes into no memory that a later kernel uses for something else.
static void suspend(uint32_t cpu)
{
    steal_unregister();
    carried = steal_clock(cpu);
}

static void resume(uint32_t cpu)
{
    memset(&steal_areas[cpu], 0, sizeof steal_areas[cpu]);
    steal_register(&steal_areas[cpu]);
}

int main(uint32_t cpu, uint32_t ncpus)
{
    (void)ncpus;
    bool forward = true;
    steal_register(&steal_areas[cpu]);
    for (int nap = 0; nap < NAPS; nap++) {
        work();
        put_text("before:");
        forward &= look(cpu);
        suspend(cpu);
        resume(cpu);
        put_text("after: ");
        forward &= look(cpu);
    }
    put_text(forward ? "it never ran backwards\n" : "it ran backwards\n");
    return forward ? EXIT_PASS : EXIT_FAIL;
}
