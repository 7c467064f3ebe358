// Surviving exceptions: an interrupt table, and MSR accesses that report #GP instead of dying of it.
//
// A guest enters without an interrupt table, so that its first exception ends the run with a diagnosis. trap_init()
// fills one vector; all others stay empty and still end the run. 64-bit code only; trap.S holds the assembly part.

#ifndef TRAP_H
#define TRAP_H

#include "guest.h"

// One gate: where to go for a vector. The address is split in three, as the 80286 left it.
struct gate {
    uint16_t offset_low, selector;
    uint8_t ist, type;
    uint16_t offset_mid;
    uint32_t offset_high, reserved;
};

#define GATE_INTERRUPT 0x8E // present, CPL 0, 64-bit interrupt gate: enters with interrupts off

struct table_register {
    uint16_t limit;
    uint64_t base;
} __attribute__((packed));

static struct gate idt[VECTORS] __attribute__((aligned(16)));

static inline void trap_set(uint8_t vector, void (*handler)(void))
{
    const uint64_t address = (uint64_t)handler;
    idt[vector] = (struct gate){
        .offset_low = (uint16_t)address,
        .offset_mid = (uint16_t)(address >> 16),
        .offset_high = (uint32_t)(address >> 32),
        .selector = SELECTOR_CODE64,
        .type = GATE_INTERRUPT,
    };
}

// In trap.S: #GP on one of the two instructions there makes its function return false; any other ends the run.
void general_protection(void);
bool wrmsr_safe(uint32_t msr, uint64_t value);
bool rdmsr_safe(uint32_t msr, uint64_t *value);

// Every vCPU that wants to survive calls this for itself; the table is one and the same for all.
static inline void trap_init(void)
{
    const struct table_register idtr = {sizeof idt - 1, (uint64_t)idt};
    trap_set(GP_VECTOR, general_protection);
    __asm__ volatile("lidt %0" : : "m"(idtr));
}

#endif
