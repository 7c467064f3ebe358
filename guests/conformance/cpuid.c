// emu run conformance/cpuid
// What CPUID says about the hypervisor; each feature is there if it is offered, and only then.

#include "conform.h"

#define LEAF_SIGNATURE 0x40000000
#define LEAF_FEATURES 0x40000001

struct feature {
    uint8_t bit;
    uint32_t msr;
    const char *what;
};

static const struct feature features[] = {
    {KVM_FEATURE_CLOCKSOURCE, MSR_KVM_WALL_CLOCK, "old wall clock"},
    {KVM_FEATURE_CLOCKSOURCE, MSR_KVM_SYSTEM_TIME, "old system time"},
    {KVM_FEATURE_CLOCKSOURCE2, MSR_KVM_WALL_CLOCK_NEW, "wall clock"},
    {KVM_FEATURE_CLOCKSOURCE2, MSR_KVM_SYSTEM_TIME_NEW, "system time"},
    {KVM_FEATURE_ASYNC_PF, MSR_KVM_ASYNC_PF_EN, "async page fault"},
    {KVM_FEATURE_STEAL_TIME, MSR_KVM_STEAL_TIME, "steal time"},
    {KVM_FEATURE_PV_EOI, MSR_KVM_PV_EOI_EN, "PV EOI"},
    {KVM_FEATURE_POLL_CONTROL, MSR_KVM_POLL_CONTROL, "poll control"},
    {KVM_FEATURE_ASYNC_PF_INT, MSR_KVM_ASYNC_PF_INT, "async page fault vector"},
    {KVM_FEATURE_ASYNC_PF_INT, MSR_KVM_ASYNC_PF_ACK, "async page fault acknowledgement"},
    {KVM_FEATURE_MIGRATION_CONTROL, MSR_KVM_MIGRATION_CONTROL, "migration control"},
};

static bool same(struct cpuid a, struct cpuid b)
{
    return a.eax == b.eax && a.ebx == b.ebx && a.ecx == b.ecx && a.edx == b.edx;
}

int main(uint32_t cpu, uint32_t ncpus)
{
    (void)ncpus;
    if (cpu)
        return EXIT_PASS;
    trap_init();

    judge_equal("leaf 1: ECX bit 31, a hypervisor is present", cpuid(1).ecx >> 31, 1);
    const struct cpuid signature = cpuid(LEAF_SIGNATURE);
    judge("the last leaf of the hypervisor's", signature.eax >= LEAF_FEATURES && signature.eax < 0x40000100,
          signature.eax, LEAF_FEATURES);
    judge_equal("signature: KVMK", signature.ebx, 0x4B4D564B);
    judge_equal("signature: VMKV", signature.ecx, 0x564B4D56);
    judge_equal("signature: M and zeros", signature.edx, 0x4D);

    const struct cpuid offered = cpuid(LEAF_FEATURES);
    judge_equal("features: EBX is reserved", offered.ebx, 0);
    judge_equal("features: ECX is reserved", offered.ecx, 0);
    judge_equal("features: twice the same", same(offered, cpuid(LEAF_FEATURES)), true);
    for (unsigned i = 0; i < sizeof features / sizeof features[0]; i++) {
        const struct feature *feature = &features[i];
        uint64_t value;
        judge_equal(feature->what, rdmsr_safe(feature->msr, &value), offered.eax >> feature->bit & 1);
    }
    judge("a feature that needs another has it: the vector of async page faults",
          !kvm_has(KVM_FEATURE_ASYNC_PF_INT) || kvm_has(KVM_FEATURE_ASYNC_PF), offered.eax, 0);

    const uint32_t last = cpuid(0).eax, extended = cpuid(0x80000000).eax;
    judge("leaf 0: the last basic leaf", last >= 1 && last < 0x100, last, 1);
    judge("leaf 0x80000000: the last extended leaf", extended >= 0x80000008 && extended < 0x80000100, extended, 0x80000008);
    judge("long mode is offered, since this runs in it", cpuid(0x80000001).edx >> 29 & 1, cpuid(0x80000001).edx, 1u << 29);
    const uint32_t widths = cpuid(0x80000008).eax;
    judge("physical addresses: 32 to 52 bits", (widths & 0xFF) >= 32 && (widths & 0xFF) <= 52, widths & 0xFF, 52);
    judge("linear addresses: 48 or 57 bits", (widths >> 8 & 0xFF) == 48 || (widths >> 8 & 0xFF) == 57, widths >> 8 & 0xFF, 48);
    judge_equal("leaf 1: the initial APIC ID", cpuid(1).ebx >> 24, cpu);
    return verdict("cpuid");
}
