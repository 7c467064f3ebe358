// Lesson 8, solved: what was stolen is not its own.

#include "steal.h"

#define ROUNDS 400000 // of two instructions, each of which takes 1 ns here

int main(uint32_t cpu, uint32_t ncpus)
{
    (void)ncpus;
    steal_register(&steal_areas[cpu]);
    const uint64_t stolen_before = steal_read(&steal_areas[cpu]).steal, begun = rdtsc();

    uint64_t left = ROUNDS;
    __asm__ volatile("2: dec %0; jnz 2b" : "+r"(left));

    const uint64_t elapsed = rdtsc() - begun, stolen = steal_read(&steal_areas[cpu]).steal - stolen_before;
    const uint64_t own = elapsed - stolen;
    put_text("elapsed ");
    put_dec(elapsed);
    put_text(" ns, stolen ");
    put_dec(stolen);
    put_text(" ns, own ");
    put_dec(own);
    const bool right = own >= 2 * ROUNDS && own < 2 * ROUNDS + 1000;
    put_text(right ? " ns: so long does the work take\n" : " ns: the work takes 800,000 ns\n");
    return right ? EXIT_PASS : EXIT_FAIL;
}
