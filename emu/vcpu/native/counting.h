// What counting.c and call_sites.c share. Declared again, field by field, in emu/vcpu/blocks.py.

#include <stdint.h>

#define BLOCKS (1 << 16)
#define NO_BLOCK UINT32_MAX

struct block {
    uint64_t key;
    int32_t insns; // 0: nothing stands here
    int32_t cost;  // the same, or MANY
    uint32_t size;
    uint32_t calls; // of emu_begun
};

struct counting {
    // Instructions that call_sites.c has put into the engine's code use these.
    int64_t left;   // instructions that may still begin
    uint32_t last;  // number of the block begun last, or NO_BLOCK
    uint32_t fresh; // the block about to begin has been made just now
    void (*late)(const uint8_t *, uint64_t, uint32_t, struct counting *);
    void (*probe)(const uint8_t *, uint64_t, uint32_t, struct counting *);
    void *engine;
    int (*stop)(void *);
    int (*get)(void *, int, void *);
    uint32_t (*on_in)(void *, uint32_t, int, void *);
    void (*on_out)(void *, uint32_t, int, uint32_t, void *);
    struct block *blocks; // BLOCKS of them, at most half of them used
    uint64_t count;
    uint64_t stepped; // instructions begun one by one, and one more where that was too many
    uint64_t steps;   // so many may
    uint64_t again;   // where a block of one has been made of an instruction of the last one
    uint64_t rcx;     // before a port was used
    uint32_t mode;    // how instructions are counted
    uint32_t stopped; // why
    int32_t number_of_rcx, number_of_msr;
    // Of call_sites.c: what looks for a request to stop, where that stands in the CPU or 0, and the calls replaced.
    void (*check)(void *, uint32_t);
    int32_t request;
    uint32_t inlined;
    uint32_t warm; // a call is replaced when these bits of the number of calls are 0; ~0: never
    uint32_t next; // number of the block that is not begun, because it is longer than `left`
};

uint64_t emu_address_of(const struct block *block);
void emu_begun(void *engine, uint64_t address, uint32_t size, struct counting *counting);
void emu_begun_late(uint64_t address, uint32_t size, struct counting *counting);
int emu_inline(uint8_t *after, uint64_t address, uint32_t number, struct counting *counting);

// Leave the block, by a long jump, if that has been requested: what the engine does where a block begins.
static inline void emu_check(struct counting *counting) { counting->check(counting->engine, 0); }
