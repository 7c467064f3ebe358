// emu run shutdown --vcpus 2 --task busy
// Disables its steal clock, reuses the memory, and checks that the host no longer writes to it.
//
// This is what a kernel does before it gives memory away. Any byte that still changes was written by a host that did
// not listen.

#include "steal.h"

#define STEPS 200000
#define PATTERN 0xA5

static volatile uint32_t result[MAX_VCPUS];

static void compute(uint32_t cpu)
{
    uint32_t x = cpu + 1;
    for (int i = 0; i < STEPS; i++) {
        x ^= x << 13;
        x ^= x >> 17;
        x ^= x << 5;
    }
    result[cpu] = x;
}

int main(uint32_t cpu, uint32_t ncpus)
{
    volatile uint8_t *memory = (volatile uint8_t *)&steal_areas[cpu];
    uint32_t changed = 0;
    (void)ncpus;

    if (!steal_offered(cpu))
        return EXIT_NO_FEATURE;
    steal_register(&steal_areas[cpu]);
    compute(cpu);
    const struct steal_reading last = steal_read(&steal_areas[cpu]);

    steal_unregister();
    for (int i = 0; i < KVM_STEAL_TIME_SIZE; i++)
        memory[i] = PATTERN;
    compute(cpu);
    for (int i = 0; i < KVM_STEAL_TIME_SIZE; i++)
        changed += memory[i] != PATTERN;

    line_begin(cpu);
    put_text("steal ");
    put_dec(last.steal);
    put_text(" ns, version ");
    put_dec(last.version);
    put_text("; disabled; bytes changed since: ");
    put_dec(changed);
    put_text(changed ? ": FAIL" : ": PASS");
    line_end();
    return changed ? EXIT_FAIL : EXIT_PASS;
}
