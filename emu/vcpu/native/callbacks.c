// What happens too often for a call into Python: blocks that a guest begins, accesses to what is shared, stores, ports.
//
// Everything stands in one `struct run`, which emu/vcpu/native/__init__.py declares again, field by field; the layouts
// are compared when this is loaded. Nothing here decides anything: it counts, keeps, and plays out a list.
//
// In Linux: kernel/kcov.c is this for coverage.

#include "play.h"

#include <string.h>

uint32_t emu_plan(const uint8_t *data, uint32_t size, uint32_t kinds, struct play *plays, uint32_t *told);

#define MAX_READS 256
#define VERSION 8 // in struct kvm_steal_time
#define MAX_CURRENT 16

struct reading { // a read that has ended
    uint64_t value;
    uint64_t area;
    uint8_t legal;  // whether the value was current at some moment of it
    uint8_t known;  // whether that could be told
    uint16_t count; // of `current`
    uint32_t access; // accesses before its end
    uint64_t current[MAX_CURRENT];
};

struct run {
    // The engine.
    void *engine, *context;
    int (*start)(void *, uint64_t, uint64_t, uint64_t, uint64_t);
    int (*stop)(void *);
    int (*restore)(void *, void *);
    int (*get)(void *, int, void *);
    int (*control)(void *, int, ...);
    const uint64_t *counter; // instructions of this run, the one under way included
    uint64_t rip, insns;
    // Memory: what it was, what it is, and which pages of it were stored to.
    uint8_t *ram;
    const uint8_t *clean;
    uint64_t ram_size;
    uint8_t *dirty_map;
    uint32_t *dirty;
    uint32_t dirty_count, dirty_max;
    // Pages in which the guest has page tables of its own: the engine stores there too, and no callback hears of it.
    const uint32_t *tables;
    uint32_t table_count;
    int32_t flush; // to forget what was translated by them, for `control`
    // The area, and what the host stores to it.
    uint64_t area, area_size;
    uint64_t alias; // another address by which the guest may call the area
    const struct play *plays;
    uint32_t play_count, next_play;
    uint32_t accesses; // instructions that have touched the area
    uint32_t phase;    // of the host: 0 at rest, 1 an update has begun, 2 and a part of it has been stored since
    uint32_t version;  // at the last access
    uint32_t wide;
    uint64_t last_access, last_play; // the counter at these
    // What the host has published.
    uint64_t current, begin_current;
    uint32_t has_current, begin_has_current;
    // Reads between two marks.
    uint32_t in_read, read_count;
    uint64_t read_area;
    uint32_t legal_count, legal_many;
    uint64_t legal[MAX_CURRENT];
    struct reading reads[MAX_READS];
    // What the guest did.
    uint32_t wrote, wrote_offset, wrote_size, wild;
    uint64_t wild_at;
    uint32_t ended, exit_code, printed, odd_port;
    uint32_t port_console, port_uart, port_exit, port_mark, mark_begin, mark_end;
    int32_t rax, rbx, rcx;
    int32_t result, result_high; // registers of a read declared from outside; no second one: 0
    uint32_t pad0;
    // Where it may store besides: up to 16 ranges.
    uint32_t owned_count, pad;
    uint64_t owned[32];
    // Coverage: counters of edges; those that were ever seen; and the blocks, address << 16 | size, by a hash.
    uint8_t *map, *seen;
    uint32_t map_mask, previous;
    uint64_t *blocks;
    uint32_t blocks_mask, edge_count, block_count;
    int32_t error;        // the engine's, of the last execution
    uint8_t passes[256];  // by exit code: whether it says that all is well
};

unsigned emu_run_size(void) { return sizeof(struct run); }
unsigned emu_reading_size(void) { return sizeof(struct reading); }
unsigned emu_play_size(void) { return sizeof(struct play); }

void emu_block(void *engine, uint64_t address, uint32_t size, struct run *run)
{
    (void)engine;
    const uint32_t place = (uint32_t)(address ^ address >> 4 ^ address << 9) & run->map_mask;
    uint8_t *const counter = &run->map[(place ^ run->previous) & run->map_mask];
    if (*counter != 255)
        ++*counter;
    if (!run->seen[counter - run->map]) {
        run->seen[counter - run->map] = 1;
        run->edge_count++;
        const uint64_t block = address << 16 | (size & 0xffff);
        uint32_t at = place;
        while (run->blocks[at & run->blocks_mask] && run->blocks[at & run->blocks_mask] != block)
            at++;
        if (!run->blocks[at & run->blocks_mask] && run->block_count < run->blocks_mask / 2) {
            run->blocks[at & run->blocks_mask] = block;
            run->block_count++;
        }
    }
    run->previous = place >> 1;
}

static void store(struct run *run, const struct play *play)
{
    memcpy(run->ram + run->area + play->offset, &play->value, play->size);
    run->phase = play->flags & EVEN ? 0 : play->flags & ODD ? 1 : run->phase ? 2 : 0;
    if (play->flags & ODD)
        run->has_current = 0;
    if (play->flags & EVEN) {
        run->has_current = 1;
        run->current = play->steal;
        if (run->in_read) {
            if (run->legal_count < MAX_CURRENT)
                run->legal[run->legal_count++] = play->steal;
            else
                run->legal_many = 1;
        }
    }
}

// What an access finds the host at is worth as much as an edge: which field, the phase, how many updates since the last.
static void met(struct run *run, uint64_t address)
{
    uint32_t version, steps = 0;
    memcpy(&version, run->ram + run->area + VERSION, 4);
    for (uint32_t updates = (version - run->version) >> 1; updates; updates >>= 1)
        steps++;
    run->version = version;
    const uint64_t offset = address - run->area;
    const uint32_t field = offset < 12 ? (uint32_t)offset >> 2 : 3;
    const uint32_t place = run->map_mask - (field << 6 | run->phase << 4 | (steps < 15 ? steps : 15));
    if (run->map[place] != 255)
        ++run->map[place];
}

void emu_access(void *engine, int kind, uint64_t address, int size, int64_t value, struct run *run)
{
    (void)kind, (void)size, (void)value, (void)engine;
    if (*run->counter == run->last_access)
        return; // one instruction, one moment
    run->last_access = *run->counter;
    run->accesses++;
    while (run->next_play < run->play_count && run->plays[run->next_play].at <= run->accesses) {
        store(run, &run->plays[run->next_play++]);
        run->last_play = run->last_access;
    }
    met(run, address);
}

static int inside(uint64_t address, int size, uint64_t first, uint64_t bytes)
{
    return address < first + bytes && address + size > first;
}

void emu_store(void *engine, int kind, uint64_t address, int size, int64_t value, struct run *run)
{
    (void)kind, (void)value, (void)engine;
    for (uint64_t page = address >> 12; page <= (address + size - 1) >> 12; page++) {
        if (page << 12 >= run->ram_size || run->dirty_map[page])
            continue;
        run->dirty_map[page] = 1;
        if (run->dirty_count < run->dirty_max)
            run->dirty[run->dirty_count++] = (uint32_t)page;
    }
    if (inside(address, size, run->area, run->area_size)) {
        if (!run->wrote && inside(address, size, run->area, 16)) {
            run->wrote = 1;
            run->wrote_offset = address > run->area ? (uint32_t)(address - run->area) : 0;
            run->wrote_size = (uint32_t)size;
        }
        return;
    }
    for (uint32_t i = 0; i < run->owned_count; i++)
        if (address >= run->owned[2 * i] && address + size <= run->owned[2 * i + 1])
            return;
    if (!run->wild) {
        run->wild = 1;
        run->wild_at = address;
    }
}

static uint64_t reg(struct run *run, int number)
{
    uint64_t value = 0;
    run->get(run->engine, number, &value);
    return run->wide ? value : value & 0xffffffff;
}

static void read_begins(struct run *run, uint64_t area)
{
    run->in_read = 1;
    run->read_area = area;
    run->legal_many = 0;
    run->legal_count = 0;
    if (run->has_current)
        run->legal[run->legal_count++] = run->current;
}

static void read_ends(struct run *run, uint64_t value)
{
    if (!run->in_read)
        return;
    run->in_read = 0;
    if (run->read_count >= MAX_READS)
        return;
    struct reading *const read = &run->reads[run->read_count++];
    read->value = value;
    read->area = run->read_area;
    read->legal = 0;
    read->known = !run->legal_many;
    read->access = run->accesses;
    read->count = (uint16_t)run->legal_count;
    for (uint32_t i = 0; i < run->legal_count; i++) {
        read->current[i] = run->legal[i];
        read->legal |= run->legal[i] == read->value;
    }
}

static uint64_t named(const struct run *run, uint64_t area)
{
    return area == run->alias ? run->area : area;
}

static void mark(struct run *run, uint32_t number)
{
    if (number == run->mark_begin)
        read_begins(run, named(run, reg(run, run->rbx)));
    else if (number == run->mark_end)
        read_ends(run, run->wide ? reg(run, run->rax) : reg(run, run->rcx) << 32 | reg(run, run->rax));
}

// A read that the guest does not mark: at its first instruction, and at one by which it returns.
void emu_read_begins(void *engine, uint64_t address, uint32_t size, struct run *run)
{
    (void)engine, (void)address, (void)size;
    read_begins(run, run->area);
}

void emu_read_ends(void *engine, uint64_t address, uint32_t size, struct run *run)
{
    (void)engine, (void)address, (void)size;
    const uint64_t value = reg(run, run->result);
    read_ends(run, run->result_high ? reg(run, run->result_high) << 32 | (value & 0xffffffff) : value);
}

void emu_out(void *engine, uint32_t port, int size, uint32_t value, struct run *run)
{
    (void)engine;
    if (port == run->port_mark) {
        mark(run, value & 0xff);
    } else if (port == run->port_exit) {
        run->ended = 1;
        run->exit_code = value & 0xff;
        run->stop(run->engine);
    } else if (port == run->port_console || port == run->port_uart) {
        run->printed += size;
    } else {
        run->odd_port = 1;
        run->stop(run->engine);
    }
}

uint32_t emu_in(void *engine, uint32_t port, int size, struct run *run)
{
    (void)engine, (void)port, (void)size;
    run->odd_port = 1;
    run->stop(run->engine);
    return 0xffffffff;
}

// Back to the beginning, and from there to the end, or for `insns` instructions; the engine's error.
int emu_execute(struct run *run)
{
    for (uint32_t i = 0; i < run->dirty_count; i++) {
        const uint64_t at = (uint64_t)run->dirty[i] << 12;
        memcpy(run->ram + at, run->clean + at, 4096);
        run->dirty_map[run->dirty[i]] = 0;
    }
    run->dirty_count = 0;
    for (uint32_t i = 0; i < run->table_count; i++) {
        const uint64_t at = (uint64_t)run->tables[i] << 12;
        if (memcmp(run->ram + at, run->clean + at, 4096))
            memcpy(run->ram + at, run->clean + at, 4096);
    }
    if (run->area_size)
        for (uint64_t page = run->area >> 12; page <= (run->area + run->area_size - 1) >> 12; page++)
            memcpy(run->ram + (page << 12), run->clean + (page << 12), 4096);
    run->next_play = run->accesses = run->in_read = run->read_count = 0;
    run->wrote = run->wild = run->ended = run->exit_code = run->printed = run->odd_port = 0;
    run->last_access = run->last_play = 0;
    run->previous = 0;
    run->current = run->begin_current;
    run->has_current = run->begin_has_current;
    while (run->next_play < run->play_count && run->plays[run->next_play].at == 0)
        store(run, &run->plays[run->next_play++]);
    run->phase = 0;
    if (run->area_size)
        memcpy(&run->version, run->ram + run->area + VERSION, 4);
    run->restore(run->engine, run->context);
    if (run->table_count)
        run->control(run->engine, run->flush);
    return run->start(run->engine, run->rip, ~UINT64_C(0), 0, run->insns);
}

// Whether a run may have gone wrong; whoever asks looks closer then. `current` and `forward` say what is asked of reads.
int emu_suspicious(const struct run *run, int current, int forward)
{
    if (run->wrote || run->wild)
        return 1;
    for (uint32_t i = 0; i < run->read_count; i++) {
        const struct reading *const read = &run->reads[i];
        if (read->area != run->area || (current && read->known && !read->legal))
            return 1;
        if (forward && i && read->value < read[-1].value)
            return 1;
    }
    return 0;
}

// One execution of what `data` means to a host (plans.c); whether it passes and nothing about it is to be looked at more
// closely. `told` is as emu_plan tells; `judged`: 1, reads are to be current; 2, they never go back, whatever the host
// does.
int emu_passes(
    struct run *run, const uint8_t *data, uint32_t size, uint32_t kinds, struct play *plays, uint32_t *told,
    uint32_t judged)
{
    run->play_count = emu_plan(data, size, kinds, plays, told);
    run->error = emu_execute(run);
    return run->ended && run->passes[run->exit_code] && !emu_suspicious(run, judged & 1, told[0] || judged & 2);
}
