// emu run register
// Registers one steal-time area, reads the MSR back, and shows what the host has put there.

#include "steal.h"

static void show(const char *name, uint64_t value)
{
    put_text("  ");
    put_text(name);
    put_char(' ');
    put_dec(value);
    put_char('\n');
}

int main(uint32_t cpu, uint32_t ncpus)
{
    const volatile struct kvm_steal_time *area = &steal_areas[cpu];
    (void)ncpus;

    if (!steal_offered(cpu))
        return EXIT_NO_FEATURE;
    if (cpu != 0)
        return EXIT_PASS;

    put_text("msr before: ");
    put_hex(rdmsr(MSR_KVM_STEAL_TIME));
    steal_register(&steal_areas[cpu]);

    // The area's address, and bit 0: the MSR returns what was written, all 64 bits of it.
    const uint64_t msr = rdmsr(MSR_KVM_STEAL_TIME);
    put_text("\nmsr after:  ");
    put_hex(msr);

    // Most hosts fill the area before the instruction after WRMSR; none has promised to. Version 0 means: not yet.
    put_text("\narea:\n");
    show("steal", area->steal);
    show("version", area->version);
    show("flags", area->flags);
    show("preempted", area->preempted);
    return msr == ((uintptr_t)area | KVM_MSR_ENABLED) ? EXIT_PASS : EXIT_FAIL;
}
