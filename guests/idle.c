// emu run idle --task busy
// Sleeping is not stolen time; waiting for the CPU after waking up is.
//
// The vCPU sleeps with HLT until the timer wakes it, again and again. While it sleeps it wants no CPU, and the host
// counts that as idle. From the wake-up to its next turn it wants one, and that is steal.

#include "steal.h"
#include "timer.h"

#define WAKEUPS 5

// Of the time-stamp counter: 1.93 ms at 1 GHz. No multiple of the host's usual quantum: the vCPU wakes up in the middle
// of a competitor's turn, and has to wait for its end.
#define SLEEP_TICKS 1930000

int main(uint32_t cpu, uint32_t ncpus)
{
    (void)ncpus;
    if (!steal_offered(cpu) || !timer_offered(cpu))
        return EXIT_NO_FEATURE;
    steal_register(&steal_areas[cpu]);
    timer_init();

    struct steal_reading before = steal_read(&steal_areas[cpu]);
    for (int i = 1; i <= WAKEUPS; i++) {
        const uint64_t start = rdtsc();
        sleep(cpu, SLEEP_TICKS);
        const uint64_t away = rdtsc() - start;
        const struct steal_reading now = steal_read(&steal_areas[cpu]);
        line_begin(cpu);
        put_text("wake-up ");
        put_dec((uint64_t)i);
        put_text(" after ");
        put_dec(away);
        put_text(" ticks: asleep ");
        put_dec(SLEEP_TICKS);
        put_text(" (idle), waiting ");
        put_dec(now.steal - before.steal);
        put_text(" ns (steal)");
        line_end();
        before = now;
    }
    return EXIT_PASS;
}
