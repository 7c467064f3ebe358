// Counting at the place where a block begins, instead of a call for each.
//
// The engine has every block begin with a call of emu_begun and a call that looks for a request to stop. Where that has
// happened often, both are overwritten, in the engine's own translated code, by what they come to:
//
//         movabs rcx, counting
//         sub qword ptr [rcx + left], insns
//         js late
//         cmp dword ptr [rbp + request], 0       (rbp: the CPU)
//         jl late
//         mov dword ptr [rcx + last], number
//         jmp end
//   back: jmp end                                (the call that is under way returns to here)
//   late: mov rdi, rbp
//         mov edx, number
//         call [rcx + late]
//    end:
//
// Only code is overwritten that is known to the last byte: five instructions that load the four values this very call
// was given, call emu_begun and end where it returns to, and three that call for the same engine what every block so far
// has called there. Any other is left alone, and calls on. Nothing changes its place, and registers that a call may
// change are free there. The engine forgets this code as it forgets any of its own.
//
// Where the request stands is told by nobody. It is seen once for each engine, at start, in a block that stops itself;
// there only the first call is overwritten, by one of emu_probe.
//
// In Linux: arch/x86/kernel/alternative.c and static_call.c rewrite call sites in this way.

#include "counting.h"

#include <stddef.h>
#include <string.h>

#if defined(__x86_64__) && defined(__linux__)

#include <unistd.h>

enum { RCX = 1, RDX = 2, RSI = 6, RDI = 7 };

#define SHORTEST 24
#define LONGEST 64
#define NEAR 64 // bytes before the CPU's state, in which the request to stop stands

// The value that the instruction at `*code` loads into this register; `*code` is moved behind it. 0: it is another one.
static int loads(const uint8_t **code, int reg, uint64_t *value)
{
    const uint8_t *const at = *code;
    int32_t near;
    uint32_t low;
    if (at[0] == 0x48 && at[1] == (0xb8 | reg)) { // movabs reg, imm64
        memcpy(value, at + 2, 8);
        *code += 10;
    } else if (at[0] == 0x48 && at[1] == 0x8d && at[2] == (0x05 | reg << 3)) { // lea reg, [rip + disp32]
        memcpy(&near, at + 3, 4);
        *code += 7;
        *value = (uint64_t)(uintptr_t)*code + (uint64_t)(int64_t)near;
    } else if (at[0] == 0x48 && at[1] == 0xc7 && at[2] == (0xc0 | reg)) { // mov reg, simm32
        memcpy(&near, at + 3, 4);
        *code += 7;
        *value = (uint64_t)(int64_t)near;
    } else if (at[0] == (0xb8 | reg)) { // mov reg32, imm32
        memcpy(&low, at + 1, 4);
        *code += 5;
        *value = low;
    } else if (at[0] == 0x33 && at[1] == (0xc0 | reg << 3 | reg)) { // xor reg32, reg32
        *code += 2;
        *value = 0;
    } else {
        return 0;
    }
    return 1;
}

// What the instruction at `*code` calls, or 0.
static uint64_t calls(const uint8_t **code)
{
    const uint8_t *const at = *code;
    int32_t near;
    uint64_t far;
    if (at[0] == 0xe8) { // call rel32
        memcpy(&near, at + 1, 4);
        *code += 5;
        return (uint64_t)(uintptr_t)*code + (uint64_t)(int64_t)near;
    }
    if (at[0] == 0xff && at[1] == 0x15) { // call [rip + disp32]
        memcpy(&near, at + 2, 4);
        *code += 6;
        memcpy(&far, *code + near, 8);
        return far;
    }
    return 0;
}

// Where the instructions begin that end at `after` and call emu_begun with these values; NULL: they are not like that.
static uint8_t *site(uint8_t *after, uint64_t address, uint32_t size, const struct counting *counting)
{
    for (uint8_t *begin = after - SHORTEST; begin >= after - LONGEST; begin--) {
        const uint8_t *code = begin;
        uint64_t engine, block, bytes, user;
        if (loads(&code, RDI, &engine) && engine == (uint64_t)(uintptr_t)counting->engine &&
            loads(&code, RSI, &block) && block == address && loads(&code, RDX, &bytes) && bytes == size &&
            loads(&code, RCX, &user) && user == (uint64_t)(uintptr_t)counting &&
            calls(&code) == (uint64_t)(uintptr_t)emu_begun && code == after)
            return begin;
    }
    return NULL;
}

// Whether a request to stop is looked for at `*code`, which is moved behind that.
static int checks(const uint8_t **code, struct counting *counting)
{
    uint64_t engine, in_slot;
    if (!loads(code, RDI, &engine) || engine != (uint64_t)(uintptr_t)counting->engine)
        return 0;
    if (!loads(code, RSI, &in_slot) || in_slot)
        return 0;
    void (*const check)(void *, uint32_t) = (void (*)(void *, uint32_t))(uintptr_t)calls(code);
    if (!counting->check)
        counting->check = check;
    return check && check == counting->check;
}

_Static_assert(offsetof(struct counting, probe) < 128, "fields up to this one are reached by one byte");

static uint8_t *put(uint8_t *to, const void *what, size_t size) { return (uint8_t *)memcpy(to, what, size) + size; }

// mov rdi, rbp; mov edx, number; call [rcx + function]
static uint8_t *put_call(uint8_t *to, uint32_t number, size_t function)
{
    const uint8_t mov_rdi[] = {0x48, 0x89, 0xef}, mov_edx[] = {0xb8 | RDX}, call[] = {0xff, 0x50 | RCX, (uint8_t)function};
    to = put(put(to, mov_rdi, sizeof mov_rdi), mov_edx, sizeof mov_edx);
    return put(put(to, &number, 4), call, sizeof call);
}

// Whether the engine's code can be written to, as it can in Unicorn 2.1 on Linux: the kernel is asked to write there.
static int writable(uint8_t *code)
{
    int ends[2];
    if (pipe(ends))
        return 0;
    const int done = write(ends[1], code, 1) == 1 && read(ends[0], code, 1) == 1;
    close(ends[0]);
    close(ends[1]);
    return done;
}

int emu_inline(uint8_t *after, uint64_t address, uint32_t number, struct counting *counting)
{
    const struct block *const block = &counting->blocks[number];
    uint8_t *const begin = site(after, address, block->size, counting);
    const uint8_t *end = after;
    if (!begin || !checks(&end, counting) || counting->warm == UINT32_MAX)
        return 0;
    const int few = block->insns < 128;
    const uint64_t user = (uint64_t)(uintptr_t)counting;
    const uint8_t movabs[] = {0x48, 0xb8 | RCX};
    const uint8_t sub[] = {0x48, few ? 0x83 : 0x81, 0x68 | RCX, offsetof(struct counting, left)};
    const uint8_t js[] = {0x78, 0}, jl[] = {0x7c, 0}, jmp[] = {0xeb, 0};
    const uint8_t cmp[] = {0x83, 0x7d, (uint8_t)counting->request, 0};
    const uint8_t mov[] = {0xc7, 0x40 | RCX, offsetof(struct counting, last)};
    uint8_t code[2 * LONGEST], *to = code;
    memset(code, 0x90, sizeof code);
    to = put(put(to, movabs, sizeof movabs), &user, 8);
    if (!counting->request) {
        if (!writable(begin))
            return 0;
        put_call(to, number, offsetof(struct counting, probe));
        memcpy(begin, code, (size_t)(after - begin));
        return 0;
    }
    to = put(put(to, sub, sizeof sub), &block->insns, few ? 1 : 4);
    uint8_t *const js_to = to = put(to, js, sizeof js);
    uint8_t *const jl_to = to = put(put(to, cmp, sizeof cmp), jl, sizeof jl);
    to = put(put(to, mov, sizeof mov), &number, 4);
    uint8_t *const jmp_to = to = put(to, jmp, sizeof jmp);
    // The call that is under way returns to where it would have, and from there to the end.
    uint8_t *const back = code + (after - begin), *const late = back + sizeof jmp;
    put(back, jmp, sizeof jmp);
    const uint8_t *const over = put_call(late, number, offsetof(struct counting, late));
    if (to > back || over - code > end - begin)
        return 0;
    js_to[-1] = (uint8_t)(late - js_to);
    jl_to[-1] = (uint8_t)(late - jl_to);
    jmp_to[-1] = (uint8_t)(code + (end - begin) - jmp_to);
    late[-1] = (uint8_t)(code + (end - begin) - late);
    memcpy(begin, code, (size_t)(end - begin));
    counting->inlined++;
    return 1;
}

// The first block that is not begun shows where in the CPU the request to stop stands: at the one word that it changes.
void emu_probe(const uint8_t *cpu, uint64_t address, uint32_t number, struct counting *counting)
{
    (void)address;
    const struct block *const block = &counting->blocks[number];
    const uint32_t stopped = counting->stopped;
    int32_t before[NEAR / 4], now[NEAR / 4];
    int changed = 0, which = 0;
    memcpy(before, cpu - NEAR, NEAR);
    emu_begun_late(emu_address_of(block), block->size, counting);
    if (counting->stopped == stopped)
        return;
    memcpy(now, cpu - NEAR, NEAR);
    for (int i = 0; i < NEAR / 4; i++)
        if (now[i] != before[i])
            changed++, which = i;
    if (changed == 1 && before[which] >= 0 && now[which] < 0)
        counting->request = 4 * which - NEAR;
}

void emu_late(const uint8_t *cpu, uint64_t address, uint32_t number, struct counting *counting)
{
    (void)cpu, (void)address; // what stands in rsi is not for here
    const struct block *const block = &counting->blocks[number];
    counting->left += block->insns;
    emu_begun_late(emu_address_of(block), block->size, counting);
    emu_check(counting);
}

#else

int emu_inline(uint8_t *after, uint64_t address, uint32_t number, struct counting *counting)
{
    (void)after, (void)address, (void)number, (void)counting;
    return 0;
}

void emu_late(const uint8_t *cpu, uint64_t address, uint32_t number, struct counting *counting)
{
    (void)cpu, (void)address, (void)number, (void)counting;
}

void emu_probe(const uint8_t *cpu, uint64_t address, uint32_t number, struct counting *counting)
{
    (void)cpu, (void)address, (void)number, (void)counting;
}

#endif
