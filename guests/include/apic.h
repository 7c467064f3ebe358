// The local APIC in x2APIC mode, as far as the guests need it: switched on, and acknowledged.
//
// In Linux: arch/x86/kernel/apic/apic.c, __x2apic_enable() and setup_local_APIC().

#ifndef APIC_H
#define APIC_H

#include "guest.h"

#define SPURIOUS_VECTOR 0xFF

// The architecture wants two steps: from off straight to x2APIC is a #GP.
static inline void x2apic_on(void)
{
    const uint64_t base = rdmsr(MSR_IA32_APICBASE) | APICBASE_ENABLE;
    wrmsr(MSR_IA32_APICBASE, base);
    wrmsr(MSR_IA32_APICBASE, base | APICBASE_X2APIC);
    wrmsr(APIC_SPIV, APIC_SPIV_ENABLED | SPURIOUS_VECTOR);
}

static inline void apic_eoi(void)
{
    wrmsr(APIC_EOI, 0);
}

#endif
