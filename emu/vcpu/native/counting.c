// Instructions counted by blocks, for runs that are too long to be counted one by one.
//
// The engine tells of each block when it makes it (emu_made), so its count of instructions is known before it begins
// (emu_begun). A block that would go beyond the budget is not begun: there the run is stopped, and what is left of the
// budget is counted one by one (emu_stepped), as short runs are altogether. The layout of `struct counting` is declared
// again in emu/vcpu/blocks.py.
//
// In Linux: kernel/events/core.c overflows a counter early, and single steps from there, in record-and-replay tools.

#include "counting.h"

#define MANY INT32_MAX // blocks of these bytes were made with several counts

struct made { // the beginning of the engine's uc_tb
    uint64_t address;
    uint16_t insns, size;
};

enum { BY_OTHERS, BY_BLOCKS, IN_BLOCK, ONE_BY_ONE };
enum { NOT, AT_BUDGET, AT_UNKNOWN, AT_AGAIN, AT_PORT };

unsigned emu_counting_size(void) { return sizeof(struct counting); }

// The upper 16 bits of a canonical address are all like bit 47.
static uint64_t key_of(uint64_t address, uint32_t size) { return address ^ (uint64_t)size << 48; }

uint64_t emu_address_of(const struct block *block) { return block->key ^ (uint64_t)block->size << 48; }

static struct block *first(struct counting *counting, uint64_t address)
{
    return &counting->blocks[(address ^ address >> 16) & (BLOCKS - 1)];
}

// Where this block stands, or is to stand.
static struct block *find(struct counting *counting, uint64_t address, uint32_t size)
{
    struct block *block = first(counting, address);
    while (block->insns && block->key != key_of(address, size))
        block = block == &counting->blocks[BLOCKS - 1] ? counting->blocks : block + 1;
    return block;
}

static void stop(struct counting *counting, uint32_t why)
{
    counting->stopped = why;
    counting->stop(counting->engine);
}

// What is rare, so that `emu_begun` needs no stack.
__attribute__((noinline)) void emu_begun_late(uint64_t address, uint32_t size, struct counting *counting)
{
    if (counting->mode == IN_BLOCK) {
        // What was made before does not call emu_stepped.
        if (!counting->fresh)
            stop(counting, AT_UNKNOWN);
        counting->fresh = 0;
    } else if (counting->mode == BY_BLOCKS && !counting->stopped) {
        struct block *const block = find(counting, address, size);
        if (block->insns && block->cost <= counting->left) {
            counting->left -= block->insns;
            counting->last = (uint32_t)(block - counting->blocks);
            return;
        }
        counting->next = (uint32_t)(block - counting->blocks);
        stop(counting, block->insns && block->cost != MANY ? AT_BUDGET : AT_UNKNOWN);
    }
}

void emu_begun(void *engine, uint64_t address, uint32_t size, struct counting *counting)
{
    (void)engine;
    struct block *const block = first(counting, address);
    const int64_t left = counting->left - block->cost;
    // Between runs `left` is 0 or less, so that only `emu_begun_late` decides; an empty place has no key.
    if ((block->key == key_of(address, size)) & (left >= 0)) {
        counting->left = left;
        counting->last = (uint32_t)(block - counting->blocks);
        if (!(++block->calls & counting->warm) && emu_inline(__builtin_return_address(0), address, counting->last, counting))
            emu_check(counting); // this once: it has been overwritten
    } else {
        emu_begun_late(address, size, counting);
    }
}

void emu_made(void *engine, const struct made *made, const struct made *before, struct counting *counting)
{
    (void)engine, (void)before;
    const int counts = counting->mode == BY_BLOCKS || counting->mode == IN_BLOCK;
    if (!counts && !counting->count)
        return;
    struct block *const block = find(counting, made->address, made->size);
    if (block->insns) {
        if (block->insns != made->insns)
            block->cost = MANY;
    } else if (counts && counting->count < BLOCKS / 2) {
        counting->count++;
        block->key = key_of(made->address, made->size);
        block->size = made->size;
        block->insns = block->cost = made->insns;
        block->calls = 0;
    }
    if (!counts)
        return;
    counting->fresh = 1;
    if (made->insns != 1 || counting->last == NO_BLOCK || (counting->mode == IN_BLOCK && !counting->stepped))
        return;
    const struct block *const last = &counting->blocks[counting->last];
    if (made->address - emu_address_of(last) < last->size) {
        counting->again = made->address;
        stop(counting, AT_AGAIN);
    }
}

void emu_stepped(void *engine, uint64_t address, uint32_t size, struct counting *counting)
{
    (void)engine, (void)address, (void)size;
    if (counting->mode >= IN_BLOCK && ++counting->stepped > counting->steps)
        stop(counting, AT_BUDGET);
}

// In mid-block a request to stop is not heard before the end of the block. So the instruction is given up before it has
// done anything: the engine leaves a block by a long jump when it must, as it does for an MSR that is intercepted.
static void give_up(struct counting *counting)
{
    struct { uint32_t number, pad; uint64_t value; } msr = {0x4b564d00, 0, 0};
    counting->stopped = AT_PORT;
    counting->get(counting->engine, counting->number_of_rcx, &counting->rcx);
    counting->get(counting->engine, counting->number_of_msr, &msr);
}

uint32_t emu_counted_in(void *engine, uint32_t port, int size, struct counting *counting)
{
    if (counting->mode == BY_BLOCKS)
        give_up(counting);
    return counting->on_in(engine, port, size, 0);
}

void emu_counted_out(void *engine, uint32_t port, int size, uint32_t value, struct counting *counting)
{
    if (counting->mode == BY_BLOCKS)
        give_up(counting);
    counting->on_out(engine, port, size, value, 0);
}
