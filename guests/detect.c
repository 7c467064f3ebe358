// emu run detect
// What CPUID says about the hypervisor: is there one, whose is it, and what does it offer?
//
// No MSR is touched.

#include "steal.h"

static const struct {
    unsigned bit;
    const char *name;
} features[] = {
    {KVM_FEATURE_CLOCKSOURCE, "clocksource"},
    {KVM_FEATURE_NOP_IO_DELAY, "nop_io_delay"},
    {KVM_FEATURE_CLOCKSOURCE2, "clocksource2"},
    {KVM_FEATURE_ASYNC_PF, "async_pf"},
    {KVM_FEATURE_STEAL_TIME, "steal_time"},
    {KVM_FEATURE_PV_EOI, "pv_eoi"},
    {KVM_FEATURE_PV_UNHALT, "pv_unhalt"},
    {KVM_FEATURE_PV_TLB_FLUSH, "pv_tlb_flush"},
    {KVM_FEATURE_ASYNC_PF_VMEXIT, "async_pf_vmexit"},
    {KVM_FEATURE_PV_SEND_IPI, "pv_send_ipi"},
    {KVM_FEATURE_POLL_CONTROL, "poll_control"},
    {KVM_FEATURE_PV_SCHED_YIELD, "pv_sched_yield"},
    {KVM_FEATURE_ASYNC_PF_INT, "async_pf_int"},
    {KVM_FEATURE_MIGRATION_CONTROL, "migration_control"},
    {KVM_FEATURE_CLOCKSOURCE_STABLE_BIT, "clocksource_stable"},
};

// Four characters of the signature stand in one register, the first in its lowest byte.
static void put_register(uint32_t value)
{
    for (int i = 0; i < 4; i++, value >>= 8)
        if (value & 0xFF)
            put_char((char)(value & 0xFF));
}

int main(uint32_t cpu, uint32_t ncpus)
{
    (void)ncpus;
    if (cpu != 0)
        return EXIT_PASS;

    if (!(cpuid(1).ecx & CPUID_1_ECX_HYPERVISOR)) {
        put_text("hypervisor: none (CPUID leaf 1, ECX bit 31 is clear)\n");
        return EXIT_NO_FEATURE;
    }

    const struct cpuid signature = cpuid(KVM_CPUID_SIGNATURE);
    put_text("hypervisor: ");
    put_register(signature.ebx);
    put_register(signature.ecx);
    put_register(signature.edx);
    put_text("\nmax leaf: ");
    put_hex(signature.eax);
    put_char('\n');
    if (!kvm_present()) {
        put_text("this is not KVM: its features are not KVM's\n");
        return EXIT_NO_FEATURE;
    }

    const uint32_t offered = cpuid(KVM_CPUID_FEATURES).eax;
    put_text("features: ");
    put_hex(offered);
    put_char('\n');
    for (unsigned i = 0; i < sizeof features / sizeof *features; i++)
        if (offered >> features[i].bit & 1) {
            put_text("  bit ");
            put_dec(features[i].bit);
            put_text(": ");
            put_text(features[i].name);
            put_char('\n');
        }
    return EXIT_PASS;
}
