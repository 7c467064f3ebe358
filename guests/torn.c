// emu run torn --task busy --quantum 10us --host-model other-cpu --steal-store halves
// A reader that checks no version loads values that are half old and half new.
//
// This program puts each of its readings between two readings of the retry loop: steal only grows, so a sound value
// lies between them. One that does not was torn.
//
// torn32.c is the same program as 32-bit code, where one 64-bit load becomes two.

#include "steal.h"

#define ROUNDS 300000
#define ENOUGH_UPDATES 400

// One nanosecond short of a carry into the upper half: only a carry shows that two halves do not belong together.
#define SEED 0xFFFFFFFFull

// Not inlined, so that a tool can name the read by this symbol.
__attribute__((noinline)) uint64_t torn_read(const volatile struct kvm_steal_time *area)
{
    return area->steal;
}

// Puts the value back before the next carry. Upper half first: an update in between then adds to a small number.
static void reseed(struct kvm_steal_time *area)
{
    volatile uint32_t *half = (volatile uint32_t *)&area->steal;
    half[1] = (uint32_t)(SEED >> 32);
    half[0] = (uint32_t)SEED;
}

// Rounds of one length could march in step with the host's quantum: every update would fall on the same instruction.
static uint32_t wait_a_little(uint32_t random)
{
    random ^= random << 13;
    random ^= random >> 17;
    random ^= random << 5;
    for (uint32_t i = random & 15; i; i--)
        barrier();
    return random;
}

int main(uint32_t cpu, uint32_t ncpus)
{
    struct kvm_steal_time *area = &steal_areas[cpu];
    const volatile struct kvm_steal_time *shared = area;
    uint32_t rounds = 0, torn = 0, inside = 0, random = cpu + 1;
    uint64_t example = 0;
    (void)ncpus;

    if (!steal_offered(cpu))
        return EXIT_NO_FEATURE;
    reseed(area);
    steal_register(area);

    for (; rounds < ROUNDS && shared->version < 2 * ENOUGH_UPDATES; rounds++) {
        const struct steal_reading before = steal_read(area);
        const uint32_t version = shared->version;
        const uint64_t value = torn_read(area);
        const bool same_version = shared->version == version;
        const struct steal_reading after = steal_read(area);

        if (version & 1 && same_version)
            inside++; // loaded in the middle of an update, while no value was valid
        if (value < before.steal || value > after.steal) {
            torn++;
            example = value;
        }
        if (after.steal >> 32)
            reseed(area);
        random = wait_a_little(random);
    }

    line_begin(cpu);
    put_dec(rounds);
    put_text(" unchecked reads, ");
    put_dec(torn);
    put_text(" torn, ");
    put_dec(inside);
    put_text(" inside an update; version ");
    put_dec(shared->version);
    if (torn) {
        put_text("; for example ");
        put_hex(example);
    }
    put_char('\n');

    // What the numbers can mean depends on the host model, and that shows in whether a read ever fell inside an update.
    if (sizeof(void *) == 4)
        put_text("        32-bit code: two loads per value, an update may fall between them under every host model");
    else if (inside)
        put_text("        reads fell inside an update: a host that stores steal in halves tears even this 64-bit load");
    else
        put_text("        no read fell inside an update: under host model kvm a 64-bit load cannot tear, so 0 proves nothing");
    line_end();
    return EXIT_PASS;
}
