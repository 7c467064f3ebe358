// The program around your clock. It is given: it is replaced when your work is judged.

#include "clock.h"

#define READS 2

int main(uint32_t cpu, uint32_t ncpus)
{
    (void)ncpus;
    if (!steal_offered(cpu))
        return EXIT_NO_FEATURE;

    steal_area *area = clock_start(cpu);
    for (int i = 0; i < READS; i++) {
        // The marks tell the judge where a read begins, and what it has returned.
        STEAL_MARK_BEGIN(area);
        const uint64_t steal = clock_read(area);
        STEAL_MARK_END(area, steal);
    }
    clock_stop();
    return EXIT_PASS;
}
