// Sleep for a while: HLT, and a timer that ends it. The local APIC's timer in its TSC-deadline mode, in 64-bit code.
//
// In Linux: arch/x86/kernel/apic/apic.c, lapic_next_deadline(); arch/x86/kernel/process.c, default_idle().

#ifndef TIMER_H
#define TIMER_H

#include "apic.h"
#include "trap.h"

#define TIMER_VECTOR 0x40

static volatile uint32_t woken[MAX_VCPUS];

struct interrupt_frame;

__attribute__((interrupt)) static void timer(struct interrupt_frame *frame)
{
    (void)frame;
    woken[rdmsr(APIC_ID)]++;
    apic_eoi();
}

static inline bool timer_offered(uint32_t cpu)
{
    const uint32_t needed = CPUID_1_ECX_X2APIC | CPUID_1_ECX_TSC_DEADLINE;
    if ((cpuid(1).ecx & needed) == needed)
        return true;
    if (cpu == 0)
        put_text("this machine offers no x2APIC with a TSC deadline timer (CPUID leaf 1, ECX bits 21 and 24)\n");
    return false;
}

static inline void timer_init(void)
{
    trap_set(TIMER_VECTOR, (void (*)(void))timer);
    trap_init();
    x2apic_on();
    wrmsr(APIC_LVTT, APIC_LVT_TIMER_TSCDEADLINE | TIMER_VECTOR);
}

// For so many ticks of the time-stamp counter, at least.
static inline void sleep(uint32_t cpu, uint64_t ticks)
{
    const uint32_t before = woken[cpu];
    wrmsr(MSR_IA32_TSC_DEADLINE, rdtsc() + ticks);
    while (woken[cpu] == before) { // interrupts are off while this looks: the timer cannot slip by
        sti_hlt();
        cli();
    }
}

#endif
