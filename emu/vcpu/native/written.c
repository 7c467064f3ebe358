// Which pages a guest has stored to, for whoever must know what differs and would have to compare all of memory.
//
// In Linux: KVM's dirty log, mark_page_dirty_in_slot() in virt/kvm/kvm_main.c.

#include <stdint.h>

struct written {
    uint8_t *map;    // of each page, whether it is in `pages`
    uint32_t *pages; // room for all of them
    uint64_t size;   // of RAM, in pages
    uint64_t count;
};

unsigned emu_written_size(void) { return sizeof(struct written); }

void emu_written(void *engine, int kind, uint64_t address, int size, int64_t value, struct written *written)
{
    (void)engine, (void)kind, (void)value;
    for (uint64_t page = address >> 12; page <= (address + size - 1) >> 12; page++) {
        if (page >= written->size || written->map[page])
            continue;
        written->map[page] = 1;
        written->pages[written->count++] = (uint32_t)page;
    }
}
