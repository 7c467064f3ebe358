// emu run idle --task busy
//
// Sleeps with HLT until the timer wakes it, again and again. Sleeping is no steal: the vCPU wanted no CPU. Only the
// wait between the wake-up and the next turn counts.

#include "steal.h"
#include "trap.h"

#define TIMER_VECTOR 0x40
#define SPURIOUS_VECTOR 0xFF
#define WAKEUPS 5
#define SLEEP_TICKS 2000000 // of the time-stamp counter: 2 ms at 1 GHz

static volatile uint32_t woken[MAX_VCPUS];

struct interrupt_frame;

__attribute__((interrupt)) static void timer(struct interrupt_frame *frame)
{
    (void)frame;
    woken[rdmsr(APIC_ID)]++;
    wrmsr(APIC_EOI, 0);
}

static bool timer_offered(uint32_t cpu)
{
    const uint32_t needed = CPUID_1_ECX_X2APIC | CPUID_1_ECX_TSC_DEADLINE;
    if ((cpuid(1).ecx & needed) == needed)
        return true;
    if (cpu == 0)
        put_text("this machine offers no x2APIC with a TSC deadline timer (CPUID leaf 1, ECX bits 21 and 24)\n");
    return false;
}

// The local APIC wakes in two steps, as the architecture demands: on first, then into x2APIC mode.
static void timer_init(void)
{
    trap_set(TIMER_VECTOR, (void (*)(void))timer);
    trap_init();
    const uint64_t base = rdmsr(MSR_IA32_APICBASE) | APICBASE_ENABLE;
    wrmsr(MSR_IA32_APICBASE, base);
    wrmsr(MSR_IA32_APICBASE, base | APICBASE_X2APIC);
    wrmsr(APIC_SPIV, APIC_SPIV_ENABLED | SPURIOUS_VECTOR);
    wrmsr(APIC_LVTT, APIC_LVT_TIMER_TSCDEADLINE | TIMER_VECTOR);
}

static void sleep(uint32_t cpu)
{
    const uint32_t before = woken[cpu];
    wrmsr(MSR_IA32_TSC_DEADLINE, rdtsc() + SLEEP_TICKS);
    while (woken[cpu] == before) { // interrupts are off while this looks: the timer cannot slip by
        sti_hlt();
        cli();
    }
}

int main(uint32_t cpu, uint32_t ncpus)
{
    (void)ncpus;
    if (!steal_offered(cpu) || !timer_offered(cpu))
        return EXIT_NO_FEATURE;
    steal_register(&steal_areas[cpu]);
    timer_init();

    for (int i = 1; i <= WAKEUPS; i++) {
        const uint64_t start = rdtsc();
        sleep(cpu);
        const uint64_t slept = rdtsc() - start;
        const struct steal_reading now = steal_read(&steal_areas[cpu]);
        line_begin(cpu);
        put_text("wake-up ");
        put_dec((uint64_t)i);
        put_text(" after ");
        put_dec(slept);
        put_text(" ticks, steal ");
        put_dec(now.steal);
        put_text(" ns, version ");
        put_dec(now.version);
        line_end();
    }
    return EXIT_PASS;
}
