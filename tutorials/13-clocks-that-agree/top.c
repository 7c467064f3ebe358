// Lesson 13: a `top` line in two units at once. Mend its clock, then run: emu run top.c --task busy --tsc-khz 2500000

#include "pvclock.h"
#include "timer.h"

#define SLEEP_NS 1900000
#define SLEEP_TICKS (SLEEP_NS / 2 * 5) // of a TSC that runs at 2.5 GHz

static uint64_t now(uint32_t cpu)
{
    (void)cpu;
    return rdtsc();
}

static void put_part(uint64_t part, uint64_t whole, const char *name)
{
    put_dec((1000 * part / whole + 5) / 10); // percent, rounded
    put_text(name);
}

int main(uint32_t cpu, uint32_t ncpus)
{
    (void)ncpus;
    const struct kvm_steal_time *area = &steal_areas[cpu];
    pvclock_register(&pvclock_areas[cpu]);
    steal_register(area);
    timer_init();

    uint64_t begun = now(cpu), stolen = steal_read(area).steal;
    const uint64_t all_begun = begun, all_stolen = stolen;
    for (volatile uint32_t i = 0; i < 400000; i++)
        ;
    const uint64_t used = now(cpu) - begun - (steal_read(area).steal - stolen);

    begun = now(cpu), stolen = steal_read(area).steal;
    sleep(cpu, SLEEP_TICKS);
    const uint64_t idle = now(cpu) - begun - (steal_read(area).steal - stolen);

    const uint64_t steal = steal_read(area).steal - all_stolen, elapsed = now(cpu) - all_begun;
    put_part(used, elapsed, " us, ");
    put_part(idle, elapsed, " id, ");
    put_part(steal, elapsed, " st; asleep for ");
    put_dec(idle);
    const bool right = idle > SLEEP_NS - 1000 && idle < SLEEP_NS + 1000;
    put_text(right ? " ns, as it should be\n" : " ns, but the timer was set to 1900000\n");
    return right ? EXIT_PASS : EXIT_FAIL;
}
