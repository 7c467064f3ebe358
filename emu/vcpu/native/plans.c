// emu/fuzz/records.py and emu/fuzz/plan.py in C, name by name: from an input to the stores of the host.
//
// The Python says what an input means; a test holds this to it. In Linux: record_steal_time() in arch/x86/kvm/x86.c.

#include "play.h"

#include <string.h>

#define MOST_RECORDS 64
#define MOST_PLAYS 2048
#define STEAL 0
#define VERSION 8
#define PREEMPTED 16
#define AREA 64
#define FIRST_EVENT 224 // from there on it is nothing that the host stores in the area

enum kind { UPDATE, STEP, BURST, HALVES, TO_BORDER, WRAP, SET_PREEMPTED, PAD, BACK, FLIP, STUCK, ZERO, RAW };

static const uint32_t versions[8] = {2, 0, 0xFC, 0xFE, 0xFFFE, 0x7FFFFFFE, 0xFFFFFFFC, 0xFFFFFFFE};
static const uint64_t steals[8] = {
    0, 1, 0xFFFFFFFF, 0x100000000, 0x1FFFFFFFF, 0x7FFFFFFFFFFFFFFF, 0x8000000000000000, 0xFFFFFF0000000000,
};
static const uint64_t borders[4] = {UINT64_C(1) << 31, UINT64_C(1) << 32, UINT64_C(1) << 33, UINT64_C(1) << 63};
static const uint32_t bursts[4] = {127, 128, 255, 256};
static const uint32_t wraps[2] = {0xFE, 0xFFFE};

struct host {
    struct play *plays;
    uint32_t count;
    uint64_t at;
    int grows;
    uint64_t steal;
    uint32_t version;
    struct play waiting[4];
    uint32_t waits, next;
};

static void put(struct host *host, struct play play)
{
    play.at = (uint32_t)host->at;
    host->plays[host->count++] = play;
}

static void store(struct host *host, int offset, int size, uint64_t value, int flags)
{
    put(host, (struct play){0, (uint16_t)offset, (uint8_t)size, (uint8_t)flags, value, flags & EVEN ? host->steal : 0});
}

static void next(struct host *host)
{
    put(host, host->waiting[host->next++]);
}

static void finish(struct host *host)
{
    while (host->next < host->waits)
        next(host);
}

static uint64_t added(uint64_t steal, uint64_t delta)
{
    return steal + delta < steal ? ~UINT64_C(0) : steal + delta;
}

static uint64_t grown(const struct host *host, uint32_t argument)
{
    const uint64_t delta = argument >> 1;
    return added(host->steal, argument & 1 ? delta << 32 | delta : delta);
}

static void begin(struct host *host, uint64_t steal, int halves)
{
    uint32_t n = 0;
    host->waiting[n++] = (struct play){0, VERSION, 4, ODD, (uint32_t)(host->version + 1), 0};
    if (halves) {
        host->waiting[n++] = (struct play){0, STEAL, 4, 0, steal & 0xFFFFFFFF, 0};
        host->waiting[n++] = (struct play){0, STEAL + 4, 4, 0, steal >> 32, 0};
    } else {
        host->waiting[n++] = (struct play){0, STEAL, 8, 0, steal, 0};
    }
    host->version += 2;
    host->steal = steal;
    host->waiting[n++] = (struct play){0, VERSION, 4, EVEN, host->version, steal};
    host->waits = n;
    host->next = 0;
}

static void update(struct host *host, uint64_t steal, uint32_t times)
{
    finish(host);
    host->version += 2 * times;
    host->steal = steal;
    store(host, STEAL, 8, steal, 0);
    store(host, VERSION, 4, host->version, EVEN);
}

static void hostile(struct host *host, enum kind kind, uint32_t argument)
{
    if (kind == BACK) {
        host->grows = 0;
        update(host, host->steal - argument - 1, 1);
    } else if (kind == FLIP) {
        host->version ^= argument;
        store(host, VERSION, 4, host->version, host->version & 1 ? ODD : EVEN);
        host->grows = 0;
    } else if (kind == STUCK) {
        finish(host);
        store(host, VERSION, 4, host->version | 1, ODD);
        host->grows = 0;
    } else if (kind == ZERO) {
        finish(host);
        host->grows = host->grows && !host->steal;
        host->steal = host->version = 0;
        for (int offset = 0; offset < AREA; offset += 8)
            store(host, offset, 8, 0, EVEN);
    } else {
        const uint32_t offset = (argument >> 8) % AREA;
        store(host, (int)offset, 1, argument & 0xFF, 0);
        host->grows = host->grows && offset >= 12;
    }
}

static void act(struct host *host, enum kind kind, uint32_t argument)
{
    switch (kind) {
    case STEP:
    case HALVES:
        if (host->next == host->waits)
            begin(host, grown(host, argument), kind == HALVES);
        next(host);
        break;
    case UPDATE:
        update(host, grown(host, argument), 1);
        break;
    case BURST: {
        const uint64_t times = (argument & 0xFF) < 128 ? (argument & 0xFF) + 1 : bursts[argument % 4];
        update(host, added(host->steal, times * (argument >> 8)), (uint32_t)times);
        break;
    }
    case TO_BORDER: {
        const uint64_t border = borders[argument % 4];
        update(host, host->steal < border ? border : host->steal, 1);
        break;
    }
    case WRAP: {
        finish(host);
        const uint32_t wanted = wraps[argument % 2];
        update(host, grown(host, argument >> 8), ((wanted - host->version) & (wanted | 1)) / 2 + 1);
        break;
    }
    case SET_PREEMPTED:
        store(host, PREEMPTED, 1, argument & 0xFF, 0);
        break;
    case PAD:
        store(host, PREEMPTED + 1 + (int)((argument >> 8) % (AREA - PREEMPTED - 1)), 1, argument & 0xFF, 0);
        break;
    default:
        hostile(host, kind, argument);
    }
}

// Whether version is even after all of them.
static int rests(const struct host *host)
{
    int even = 1;
    for (uint32_t i = 0; i < host->count; i++) {
        const struct play *const play = &host->plays[i];
        if (play->offset <= VERSION && VERSION < play->offset + play->size)
            even = !(play->value >> 8 * (VERSION - play->offset) & 1);
    }
    return even;
}

// The stores that these bytes mean to a host that does `kinds` kinds of things (4: honest); how many there are.
// `plays` has room for MOST_PLAYS and 16. `told`: whether steal grows all the time, and whether the host rests.
uint32_t emu_plan(const uint8_t *data, uint32_t size, uint32_t kinds, struct play *plays, uint32_t *told)
{
    uint8_t header[2] = {size > 0 ? data[0] : 0, size > 1 ? data[1] : 0};
    if (kinds == 4)
        header[0] = header[1] = 0;
    struct host host = {.plays = plays, .grows = 1};
    host.version = versions[header[0] % 8];
    host.steal = steals[header[1] % 8];
    store(&host, STEAL, 8, host.steal, 0);
    store(&host, VERSION, 4, host.version, EVEN);
    for (uint32_t number = 0; number < MOST_RECORDS && 4 + 6 * number < size; number++) {
        uint8_t record[6] = {0};
        const uint32_t from = 4 + 6 * number;
        memcpy(record, data + from, size - from < 6 ? size - from : 6);
        const uint32_t gap = record[1] < 192 ? record[1] : record[1] - 192 < 20 ? 1u << (record[1] - 192) : 1u << 20;
        const uint32_t argument =
            record[2] | (uint32_t)record[3] << 8 | (uint32_t)record[4] << 16 | (uint32_t)record[5] << 24;
        host.at = host.at + gap > 0xFFFFFFFF ? 0xFFFFFFFF : host.at + gap;
        if (record[0] < FIRST_EVENT)
            act(&host, (enum kind)(record[0] % kinds), argument);
        if (host.count >= MOST_PLAYS)
            break;
    }
    while (host.next < host.waits) {
        host.at++;
        next(&host);
    }
    told[0] = (uint32_t)host.grows;
    told[1] = (uint32_t)rests(&host);
    return host.count;
}
