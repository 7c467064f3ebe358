// What a compiler calls without being asked: `char buffer[1000] = {0}` may become a call of memset, and in 32-bit code
// the division of two 64-bit numbers always is a call.
//
// Linked into every guest, which keeps only what it uses. All functions are weak: a guest may bring its own. The string
// functions are one instruction each, for a loop in C could be recognised as memset and become a call to itself.
//
// In Linux: arch/x86/boot/string.c and arch/x86/lib/string_32.c.

#include <stddef.h>
#include <stdint.h>

#define WEAK __attribute__((weak))

void *memset(void *to, int byte, size_t size);
void *memcpy(void *restrict to, const void *restrict from, size_t size);
void *memmove(void *to, const void *from, size_t size);
int memcmp(const void *one, const void *other, size_t size);
size_t strlen(const char *text);

WEAK void *memset(void *to, int byte, size_t size)
{
    void *at = to;
    __asm__ volatile("rep stosb" : "+D"(at), "+c"(size) : "a"(byte) : "memory");
    return to;
}

WEAK void *memcpy(void *restrict to, const void *restrict from, size_t size)
{
    void *at = to;
    __asm__ volatile("rep movsb" : "+D"(at), "+S"(from), "+c"(size) : : "memory");
    return to;
}

WEAK void *memmove(void *to, const void *from, size_t size)
{
    // Upwards is safe unless `to` lies inside the source: then its end would be overwritten before it is read.
    if ((uintptr_t)to - (uintptr_t)from >= size) {
        void *at = to;
        __asm__ volatile("rep movsb" : "+D"(at), "+S"(from), "+c"(size) : : "memory");
        return to;
    }
    char *last = (char *)to + size - 1;
    const char *last_from = (const char *)from + size - 1;
    __asm__ volatile("std\n\trep movsb\n\tcld" : "+D"(last), "+S"(last_from), "+c"(size) : : "memory", "cc");
    return to;
}

WEAK int memcmp(const void *one, const void *other, size_t size)
{
    const unsigned char *a = one, *b = other;
    if (!size)
        return 0;
    __asm__ volatile("repe cmpsb" : "+S"(a), "+D"(b), "+c"(size) : : "memory", "cc");
    return a[-1] - b[-1]; // both stand behind the first pair that differs, or behind the last one
}

WEAK size_t strlen(const char *text)
{
    const char *end = text;
    size_t left = SIZE_MAX;
    __asm__ volatile("repne scasb" : "+D"(end), "+c"(left) : "a"(0) : "memory", "cc");
    return (size_t)(end - text) - 1;
}

#ifdef __i386__

// --- 64-bit division in 32-bit code; the names are those of libgcc ---

uint64_t __udivmoddi4(uint64_t number, uint64_t divisor, uint64_t *rest);
int64_t __divmoddi4(int64_t number, int64_t divisor, int64_t *rest);
uint64_t __udivdi3(uint64_t number, uint64_t divisor);
uint64_t __umoddi3(uint64_t number, uint64_t divisor);
int64_t __divdi3(int64_t number, int64_t divisor);
int64_t __moddi3(int64_t number, int64_t divisor);

static uint64_t divide(uint64_t number, uint64_t divisor, uint64_t *rest)
{
    const uint32_t high = (uint32_t)(divisor >> 32);
    if (!high) {
        // As on paper, with digits of 32 bits: what the upper half leaves goes in front of the lower half. A divisor
        // of zero raises #DE here, as it should.
        const uint32_t small = (uint32_t)divisor;
        uint32_t upper = (uint32_t)(number >> 32), lower = (uint32_t)number, left = 0;
        __asm__ volatile("div %2" : "+a"(upper), "+d"(left) : "r"(small) : "cc");
        __asm__ volatile("div %2" : "+a"(lower), "+d"(left) : "r"(small) : "cc");
        *rest = left;
        return (uint64_t)upper << 32 | lower;
    }
    // The quotient has less than 32 bits: one subtraction for each, from the highest that there can be.
    uint32_t quotient = 0;
    int shift = __builtin_clz(high);
    divisor <<= shift;
    for (; shift >= 0; shift--) {
        quotient <<= 1;
        if (number >= divisor) {
            number -= divisor;
            quotient |= 1;
        }
        divisor >>= 1;
    }
    *rest = number;
    return quotient;
}

static uint64_t magnitude(int64_t number)
{
    return number < 0 ? -(uint64_t)number : (uint64_t)number;
}

// C rounds towards zero, so the rest has the sign of the number.
static int64_t divide_signed(int64_t number, int64_t divisor, int64_t *rest)
{
    uint64_t left;
    const uint64_t quotient = divide(magnitude(number), magnitude(divisor), &left);
    *rest = (int64_t)(number < 0 ? -left : left);
    return (int64_t)((number < 0) != (divisor < 0) ? -quotient : quotient);
}

WEAK uint64_t __udivmoddi4(uint64_t number, uint64_t divisor, uint64_t *rest)
{
    return divide(number, divisor, rest);
}

WEAK int64_t __divmoddi4(int64_t number, int64_t divisor, int64_t *rest)
{
    return divide_signed(number, divisor, rest);
}

WEAK uint64_t __udivdi3(uint64_t number, uint64_t divisor)
{
    uint64_t rest;
    return divide(number, divisor, &rest);
}

WEAK uint64_t __umoddi3(uint64_t number, uint64_t divisor)
{
    uint64_t rest;
    divide(number, divisor, &rest);
    return rest;
}

WEAK int64_t __divdi3(int64_t number, int64_t divisor)
{
    int64_t rest;
    return divide_signed(number, divisor, &rest);
}

WEAK int64_t __moddi3(int64_t number, int64_t divisor)
{
    int64_t rest;
    divide_signed(number, divisor, &rest);
    return rest;
}

#endif
