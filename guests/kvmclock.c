// emu run kvmclock --vcpus 2 --task busy
// kvmclock tells how much time has passed, and steal how much of it others had the CPU.
//
// Each vCPU computes for a while and then prints its own `top` line: what it could use, and what was stolen. No vCPU
// may ever read an earlier time than another one has read before it: they compare under a lock.

#include "pvclock.h"

#define ROUNDS 3
#define STEPS 60000

static uint32_t order_lock;
static uint64_t latest;
static uint32_t backwards;

static uint64_t now(uint32_t cpu)
{
    lock(&order_lock);
    const uint64_t ns = pvclock_read(&pvclock_areas[cpu]);
    if (ns < latest)
        backwards++;
    latest = ns;
    unlock(&order_lock);
    return ns;
}

int main(uint32_t cpu, uint32_t ncpus)
{
    struct kvm_steal_time *area = &steal_areas[cpu];
    (void)ncpus;

    if (!steal_offered(cpu))
        return EXIT_NO_FEATURE;
    if (!kvm_has(KVM_FEATURE_CLOCKSOURCE2)) {
        if (cpu == 0)
            put_text("this machine offers no kvmclock\n");
        return EXIT_NO_FEATURE;
    }
    pvclock_register(&pvclock_areas[cpu]);
    steal_register(area);

    for (int round = 0; round < ROUNDS; round++) {
        const uint64_t begun = now(cpu), stolen_before = steal_read(area).steal;
        for (volatile uint32_t i = 0; i < STEPS; i++)
            ;
        const uint64_t passed = now(cpu) - begun, stolen = steal_read(area).steal - stolen_before;
        line_begin(cpu);
        put_dec(passed);
        put_text(" ns passed, ");
        put_dec(stolen);
        put_text(" stolen");
        line_end();
    }

    line_begin(cpu);
    put_text(backwards ? "the clock ran backwards: FAIL" : "the clock never ran backwards: PASS");
    line_end();
    return backwards ? EXIT_FAIL : EXIT_PASS;
}
