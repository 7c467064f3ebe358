// Lesson 15: a bill for stolen time. Mend it, then run: emu fuzz guest bill.c --host hostile --engine sweep

#include "reader.h"

static uint64_t reader(shared_area *area)
{
    uint32_t version;
    uint64_t steal;
    do {
        version = area->version;
        barrier();
        steal = area->steal;
        barrier();
    } while (version & 1 || version != area->version);
    return steal;
}

int main(uint32_t cpu, uint32_t ncpus)
{
    (void)ncpus;
    if (!steal_offered(cpu))
        return EXIT_NO_FEATURE;
    steal_register(&steal_areas[cpu]);
    uint64_t last = reader(&steal_areas[cpu]);
    uint64_t most = last;
    uint64_t bill = 0;
    for (int look = 0; look < 3; look++) {
        uint64_t now = reader(&steal_areas[cpu]);
        if (now > most)
            most = now;
        if (now < last)
            now = last; // a clock does not go back
        bill += now - last;
        last = now;
        if (bill > most)
            return EXIT_FAIL; // more than the host ever said
    }
    return EXIT_PASS;
}
