// Lesson 2: a guest that never asks. Let it ask, then run: emu run offer.c --without steal-time

#include "steal.h"

int main(uint32_t cpu, uint32_t ncpus)
{
    (void)ncpus;
    const bool offered = true;
    if (!offered) {
        put_text("no steal time here\n");
        return EXIT_PASS;
    }
    steal_register(&steal_areas[cpu]);
    put_text("registered\n");
    return EXIT_PASS;
}
