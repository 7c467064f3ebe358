// What every C guest needs: the instructions that C has no words for, and a console.
//
// There is no C library and no operating system below: a guest is the only program on its machine, at CPL 0. The start
// code calls `int main(uint32_t cpu, uint32_t ncpus)` on every vCPU, with its number and how many there are; a guest
// that needs neither may write `int main(void)`. All of this works in 64-bit and in 32-bit code.

#ifndef GUEST_H
#define GUEST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "abi.h"

#define EXIT_PASS 0
#define EXIT_FAIL 1
#define EXIT_NO_FEATURE 3 // the machine does not offer what this guest is about

// --- Instructions ---

static inline void outb(uint16_t port, uint8_t value)
{
    __asm__ volatile("out %1, %0" : : "a"(value), "Nd"(port) : "memory");
}

static inline uint8_t inb(uint16_t port)
{
    uint8_t value;
    __asm__ volatile("in %0, %1" : "=a"(value) : "Nd"(port) : "memory");
    return value;
}

struct cpuid {
    uint32_t eax, ebx, ecx, edx;
};

static inline struct cpuid cpuid(uint32_t leaf)
{
    struct cpuid r;
    __asm__ volatile("cpuid" : "=a"(r.eax), "=b"(r.ebx), "=c"(r.ecx), "=d"(r.edx) : "a"(leaf), "c"(0));
    return r;
}

// An MSR that does not exist, or a value that it refuses, raises #GP: see trap.h for a guest that survives it.
static inline uint64_t rdmsr(uint32_t msr)
{
    uint32_t low, high;
    __asm__ volatile("rdmsr" : "=a"(low), "=d"(high) : "c"(msr) : "memory");
    return (uint64_t)high << 32 | low;
}

static inline void wrmsr(uint32_t msr, uint64_t value)
{
    __asm__ volatile("wrmsr" : : "c"(msr), "a"((uint32_t)value), "d"((uint32_t)(value >> 32)) : "memory");
}

static inline uint64_t rdtsc(void)
{
    uint32_t low, high;
    __asm__ volatile("rdtsc" : "=a"(low), "=d"(high));
    return (uint64_t)high << 32 | low;
}

static inline void cli(void)
{
    __asm__ volatile("cli" : : : "memory");
}

static inline void sti(void)
{
    __asm__ volatile("sti" : : : "memory");
}

// STI opens the door for interrupts one instruction late: none can slip in between it and the HLT, and be slept through.
static inline void sti_hlt(void)
{
    __asm__ volatile("sti\n\thlt" : : : "memory");
}

// The compiler must neither keep memory in registers across this point nor move loads and stores over it. The CPU
// itself needs no instruction here: x86 makes loads visible in program order.
static inline void barrier(void)
{
    __asm__ volatile("" : : : "memory");
}

// --- Memory: in runtime.c, as C knows them ---

void *memset(void *to, int byte, size_t size);
void *memcpy(void *restrict to, const void *restrict from, size_t size);
void *memmove(void *to, const void *from, size_t size);
int memcmp(const void *one, const void *other, size_t size);
size_t strlen(const char *text);

// --- Locks ---

static inline void lock(uint32_t *word)
{
    while (__atomic_exchange_n(word, 1, __ATOMIC_ACQUIRE))
        ;
}

static inline void unlock(uint32_t *word)
{
    __atomic_store_n(word, 0, __ATOMIC_RELEASE);
}

// --- Console ---

static inline void put_char(char c)
{
    outb(PORT_CONSOLE, (uint8_t)c);
}

static inline void put_text(const char *text)
{
    while (*text)
        put_char(*text++);
}

// Divides *number by ten and returns the remainder. C would call a library for this in 32-bit code, so the two
// halves are divided one after the other, as on paper: the upper half's remainder goes in front of the lower half.
static inline uint32_t next_digit(uint64_t *number)
{
    uint32_t high = (uint32_t)(*number >> 32), low = (uint32_t)*number, rest = high % 10;
    __asm__("div %2" : "+a"(low), "+d"(rest) : "r"((uint32_t)10) : "cc");
    *number = (uint64_t)(high / 10) << 32 | low;
    return rest;
}

static inline void put_dec(uint64_t number)
{
    char digits[20]; // 2^64 - 1 has twenty
    int n = 0;
    do
        digits[n++] = (char)('0' + next_digit(&number));
    while (number);
    while (n)
        put_char(digits[--n]);
}

// A number that may differ from host to host: an amount of time, or what follows from one. Whoever compares two outputs
// leaves out what stands in these brackets.
static inline void put_amount(uint64_t number)
{
    put_char('<');
    put_dec(number);
    put_char('>');
}

static inline void put_hex(uint64_t number)
{
    int shift = 60;
    put_text("0x");
    while (shift && !(number >> shift))
        shift -= 4;
    for (; shift >= 0; shift -= 4)
        put_char("0123456789abcdef"[number >> shift & 15]);
}

// Where several vCPUs print, each holds the console for a whole line, so that no line is torn by another.
static uint32_t console_lock __attribute__((unused));

static inline void line_begin(uint32_t cpu)
{
    lock(&console_lock);
    put_text("vcpu");
    put_dec(cpu);
    put_text(": ");
}

static inline void line_end(void)
{
    put_char('\n');
    unlock(&console_lock);
}

#endif
