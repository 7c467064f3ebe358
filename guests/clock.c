// emu run clock --vcpus 2 --task busy
// The steal clock, printed as it moves: each vCPU computes and watches its own area.
//
// It looks between two pieces of work: whenever the host has taken the CPU away and given it back, the area holds a new
// version and a larger steal.

#include "steal.h"

#define PIECES 2000
#define STEPS_PER_PIECE 100
#define LINES 10 // a long run stays readable; the last line comes in any case
#define FINAL_TRIES 3

static volatile uint32_t result[MAX_VCPUS];

static void compute(uint32_t cpu)
{
    uint32_t x = result[cpu] + 1;
    for (int i = 0; i < STEPS_PER_PIECE; i++) {
        x ^= x << 13;
        x ^= x >> 17;
        x ^= x << 5;
    }
    result[cpu] = x;
}

static void print(uint32_t cpu, const char *title, struct steal_reading now)
{
    line_begin(cpu);
    put_text(title);
    put_dec(now.steal);
    put_text(" ns, version ");
    put_dec(now.version);
    line_end();
}

int main(uint32_t cpu, uint32_t ncpus)
{
    struct kvm_steal_time *area = &steal_areas[cpu];
    struct steal_reading shown = {0, 0};
    int lines = 0;
    (void)ncpus;

    if (!steal_offered(cpu))
        return EXIT_NO_FEATURE;
    steal_register(area);

    for (int i = 0; i < PIECES; i++) {
        compute(cpu);
        const struct steal_reading now = steal_read(area);
        if (now.version != shown.version && lines < LINES) {
            print(cpu, "steal ", now);
            shown = now;
            lines++;
        }
    }

    // Printing takes time as well, and the host may use it: the line printed last should be the truth. On real KVM
    // every byte printed brings an update, so this does not go on until nothing moves.
    for (int tries = 0; tries < FINAL_TRIES; tries++) {
        shown = steal_read(area);
        print(cpu, "final steal ", shown);
        if (steal_read(area).version == shown.version)
            break;
    }
    return EXIT_PASS;
}
