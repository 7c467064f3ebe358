// emu run conformance/steal
// What an update does to an area and what it leaves alone, seen by the guest whose area it is.
//
// When an update comes is the host's affair, but each registration leads to one: at the next entry, or before the next
// instruction. So each case waits for it.

#include "conform.h"

#define PATIENCE 20000 // an exit each: whoever updates at entries has had as many chances

static struct kvm_steal_time areas[3] __attribute__((aligned(64)));

static void some_exits(unsigned n)
{
    while (n--)
        outb(PORT_UART_LSR, 0); // nothing listens: it costs an exit, and does nothing
}

// Registers the area with this content, and waits until the host has been there.
static bool updated(struct kvm_steal_time *area, uint32_t version)
{
    volatile struct kvm_steal_time *shared = area;
    shared->steal = 0;
    shared->version = version;
    steal_register(area);
    for (unsigned i = 0; i < PATIENCE && shared->version == version; i++)
        some_exits(1);
    judge("a registration leads to an update", shared->version != version, shared->version, version);
    return shared->version != version;
}

struct step {
    uint32_t before, after;
    const char *what;
};

static const struct step steps[] = {
    {0, 2, "version 0 becomes 2"},
    {2, 4, "version 2 becomes 4"},
    {1, 4, "an odd version is stepped over"},
    {3, 6, "version 3 becomes 6"},
    {0xFFFFFFFD, 0, "version 0xfffffffd wraps"},
    {0xFFFFFFFE, 0, "version 0xfffffffe wraps"},
    {0xFFFFFFFF, 2, "version 0xffffffff wraps"},
};

int main(uint32_t cpu, uint32_t ncpus)
{
    (void)ncpus;
    if (!steal_offered(cpu))
        return EXIT_NO_FEATURE;
    if (cpu)
        return EXIT_PASS;

    for (unsigned i = 0; i < sizeof steps / sizeof steps[0]; i++) {
        const struct step *step = &steps[i];
        if (!updated(&areas[0], step->before))
            continue;
        const uint32_t found = *(volatile uint32_t *)&areas[0].version;
        // More than one update may have come: then it is ahead by a multiple of two.
        judge(step->what, (found - step->after) % 2 == 0 && found - step->after < 1000, found, step->after);
    }

    memset(&areas[1], 0xA5, sizeof areas[1]);
    areas[1].preempted = 0xFF;
    if (updated(&areas[1], 8)) {
        volatile uint8_t *bytes = (volatile uint8_t *)&areas[1];
        uint32_t touched = 0;
        for (unsigned at = 12; at < sizeof areas[1]; at++)
            touched += at != 16 && bytes[at] != 0xA5;
        judge_equal("flags and padding are not written", touched, 0);
        judge_equal("the preempted byte is cleared", bytes[16], 0);
    }

    // The move: the old area is frozen.
    updated(&areas[0], 0);
    const struct kvm_steal_time old = areas[0];
    updated(&areas[2], 0);
    some_exits(200);
    judge_equal("after a move the old area's version is frozen", areas[0].version, old.version);
    judge_equal("after a move the old area's steal is frozen", areas[0].steal, old.steal);

    steal_unregister();
    const struct kvm_steal_time last = areas[2];
    some_exits(200);
    judge_equal("after the end the version is frozen", areas[2].version, last.version);
    judge_equal("after the end steal is frozen", areas[2].steal, last.steal);
    return verdict("steal");
}
