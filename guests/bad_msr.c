// emu run bad_msr
// Writes every kind of illegal value to the steal-time MSR and survives each #GP.
//
// MSRs that do not exist are tried as well. Each refusal must leave the value that was there before.

#include "steal.h"
#include "trap.h"

static uint32_t wrong;

static void verdict(bool good)
{
    put_text(good ? "  PASS\n" : "  FAIL\n");
    wrong += !good;
}

// Writes value and says whether that went as it should; the MSR must hold the new value or the old one, exactly.
static void expect(uint64_t value, bool accepted)
{
    uint64_t before = 0, after = 0;
    bool good = rdmsr_safe(MSR_KVM_STEAL_TIME, &before);
    const bool done = wrmsr_safe(MSR_KVM_STEAL_TIME, value);
    good = rdmsr_safe(MSR_KVM_STEAL_TIME, &after) && good;

    put_text("wrmsr ");
    put_hex(value);
    put_text(done ? ": accepted" : ": #GP");
    put_text(after == (done ? value : before) ? ", value right" : ", value wrong");
    verdict(good && done == accepted && after == (accepted ? value : before));
}

static void expect_no_such_msr(uint32_t msr)
{
    uint64_t unused;
    const bool readable = rdmsr_safe(msr, &unused), writable = wrmsr_safe(msr, 0);

    put_text("msr ");
    put_hex(msr);
    put_text(readable ? ": rdmsr accepted" : ": rdmsr #GP");
    put_text(writable ? ", wrmsr accepted" : ", wrmsr #GP");
    verdict(!readable && !writable);
}

int main(uint32_t cpu, uint32_t ncpus)
{
    const uint64_t area = (uintptr_t)&steal_areas[cpu], enabled = area | KVM_MSR_ENABLED;
    (void)ncpus;

    if (!steal_offered(cpu))
        return EXIT_NO_FEATURE;
    if (cpu != 0)
        return EXIT_PASS;
    trap_init();

    put_text("legal: an aligned address, with and without the enable bit\n");
    expect(area, true);
    expect(enabled, true);

    put_text("each reserved bit, alone, with the address, with the enable bit\n");
    for (uint64_t bit = 2; bit <= KVM_STEAL_RESERVED_MASK; bit <<= 1) {
        expect(bit, false);
        expect(area | bit, false);
        expect(enabled | bit, false);
    }

    put_text("several reserved bits at once\n");
    expect(enabled | KVM_STEAL_RESERVED_MASK, false);
    expect(area | KVM_STEAL_RESERVED_MASK, false);
    expect(KVM_STEAL_RESERVED_MASK, false);
    expect(~0ull, false);

    put_text("the registration is still the last legal one; then it ends\n");
    expect(enabled, true);
    expect(0, true);

    put_text("numbers beside KVM's\n");
    expect_no_such_msr(MSR_KVM_MIGRATION_CONTROL + 1);
    expect_no_such_msr(MSR_KVM_WALL_CLOCK_NEW - 1);
    expect_no_such_msr(MSR_KVM_WALL_CLOCK_NEW + 0xFF);
    expect_no_such_msr(0xFFFFFFFF);

    put_text(wrong ? "FAIL\n" : "PASS\n");
    return wrong ? EXIT_FAIL : EXIT_PASS;
}
