// emu run readers/no_zeroing
// Wrong: registers an area that is not zero, and the host adds to what it finds.

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
    static struct kvm_steal_time recycled = {.steal = 1000, .version = 7};
    steal_register(&recycled);
    marked_read(&recycled);
    return EXIT_PASS;
}
