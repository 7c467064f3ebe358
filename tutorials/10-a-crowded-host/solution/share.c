// Lesson 10: work shared out by what each vCPU can really use: elapsed time less what was stolen.
// emu run share.c --vcpus 2 --pcpus 2 --pin 0=0 --pin 1=1 --task busy:pcpu=0

#include "steal.h"

#define PIECES 3000
#define ROUNDS 1000 // of two instructions, each of which takes 1 ns here
#define LATE 300000 // ns that one may be later than the other

static uint32_t arrived, percent[2];
static uint64_t done_at[2];

static void work(uint32_t pieces)
{
    for (uint32_t i = 0; i < pieces; i++) {
        uint64_t left = ROUNDS;
        __asm__ volatile("2: dec %0; jnz 2b" : "+r"(left));
    }
}

static void wait_for_both(uint32_t round)
{
    __atomic_add_fetch(&arrived, 1, __ATOMIC_SEQ_CST);
    while (__atomic_load_n(&arrived, __ATOMIC_SEQ_CST) < 2 * round)
        ;
}

int main(uint32_t cpu, uint32_t ncpus)
{
    (void)ncpus;
    steal_register(&steal_areas[cpu]);

    // First a trial: how much of the time does this vCPU run at all?
    const uint64_t begun = rdtsc(), stolen_before = steal_read(&steal_areas[cpu]).steal;
    work(500);
    const uint64_t elapsed = rdtsc() - begun, stolen = steal_read(&steal_areas[cpu]).steal - stolen_before;
    percent[cpu] = (uint32_t)(100 * (elapsed - stolen) / elapsed);
    wait_for_both(1);

    // Then the work itself, shared out by speed: it should be done on both at the same time.
    const uint32_t pieces = PIECES * percent[cpu] / (percent[0] + percent[1]);
    work(pieces);
    done_at[cpu] = rdtsc();
    line_begin(cpu);
    put_dec(percent[cpu]);
    put_text(" % speed, ");
    put_dec(pieces);
    put_text(" pieces");
    line_end();
    wait_for_both(2);
    if (cpu != 0)
        return EXIT_PASS;
    const int64_t late = (int64_t)(done_at[0] - done_at[1]);
    const bool together = late < LATE && late > -LATE;
    put_text(together ? "both are done at the same time\n" : "one of them waits for the other\n");
    return together ? EXIT_PASS : EXIT_FAIL;
}
