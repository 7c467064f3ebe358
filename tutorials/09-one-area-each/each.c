// Lesson 9: two vCPUs, and one area for both. Give each its own, then run: emu run each.c --vcpus 2 --task busy

#include "steal.h"

int main(uint32_t cpu, uint32_t ncpus)
{
    (void)ncpus;
    steal_register(&steal_areas[0]);
    for (volatile int i = 0; i < 200000; i++)
        ;
    const volatile struct kvm_steal_time *own = &steal_areas[cpu];
    put_text(own->version ? "its own area was written\n" : "nobody wrote into its own area\n");
    return own->version ? EXIT_PASS : EXIT_FAIL;
}
