// emu run conformance/msr
// Every paravirtual MSR: the values it takes, what it reads back, and what a refusal leaves alone.
//
// The registers of a feature that CPUID does not offer are left alone. Addresses point into this program's own memory,
// past the end of RAM, above the physical addresses, and nowhere at all.

#include "conform.h"

#define PAST_RAM 0x100000000000ull // below MAXPHYADDR of few machines, and in no machine's RAM
#define NOT_CANONICAL 0x8000000000000000ull
#define ANY_FEATURE 64 // no bit to ask for: the MSR must not exist

static uint8_t ram[256] __attribute__((aligned(256)));

enum base { PLAIN, IN_RAM };
enum outcome { TAKEN, REFUSED, REFUSED_K1, READS_ZERO };

struct row {
    uint32_t msr;
    uint8_t feature;
    uint8_t base; // IN_RAM: the address of `ram` is added to the value
    uint64_t value;
    uint8_t outcome;
    const char *what;
};

static const struct row rows[] = {
    {MSR_KVM_WALL_CLOCK, 0, IN_RAM, 0, TAKEN, "wall clock, an address"},
    {MSR_KVM_WALL_CLOCK, 0, PLAIN, ~0ull, TAKEN, "wall clock, all bits"},
    {MSR_KVM_WALL_CLOCK_NEW, 3, IN_RAM, 1, TAKEN, "wall clock, an odd address"},
    {MSR_KVM_WALL_CLOCK_NEW, 3, PLAIN, PAST_RAM, TAKEN, "wall clock, past RAM"},
    {MSR_KVM_WALL_CLOCK_NEW, 3, PLAIN, 0, TAKEN, "wall clock, zero"},

    {MSR_KVM_SYSTEM_TIME, 0, IN_RAM, 64 | 1, TAKEN, "system time, an address"},
    {MSR_KVM_SYSTEM_TIME, 0, PLAIN, 0, TAKEN, "system time, zero"},
    {MSR_KVM_SYSTEM_TIME_NEW, 3, IN_RAM, 66 | 1, TAKEN, "system time, aligned to 2"},
    {MSR_KVM_SYSTEM_TIME_NEW, 3, PLAIN, PAST_RAM | 1, TAKEN, "system time, past RAM"},
    {MSR_KVM_SYSTEM_TIME_NEW, 3, PLAIN, NOT_CANONICAL | 1, TAKEN, "system time, not canonical"},
    {MSR_KVM_SYSTEM_TIME_NEW, 3, PLAIN, 0, TAKEN, "system time, off"},

    {MSR_KVM_ASYNC_PF_EN, 4, IN_RAM, 128, TAKEN, "async PF, off with an address"},
    {MSR_KVM_ASYNC_PF_EN, 4, IN_RAM, 128 | KVM_ASYNC_PF_ENABLED, TAKEN, "async PF, enabled without the interrupt"},
    {MSR_KVM_ASYNC_PF_EN, 14, IN_RAM, 128 | KVM_ASYNC_PF_ENABLED | KVM_ASYNC_PF_DELIVERY_AS_INT, TAKEN, "async PF, on"},
    {MSR_KVM_ASYNC_PF_EN, 4, IN_RAM, 128 | 0x10, REFUSED, "async PF, bit 4"},
    {MSR_KVM_ASYNC_PF_EN, 4, IN_RAM, 128 | 0x20, REFUSED, "async PF, bit 5"},
    {MSR_KVM_ASYNC_PF_EN, 4, PLAIN, PAST_RAM, TAKEN, "async PF, off past RAM"},
    {MSR_KVM_ASYNC_PF_EN, 14, PLAIN, PAST_RAM | 9, REFUSED_K1, "async PF, on past RAM"},
    {MSR_KVM_ASYNC_PF_EN, 4, PLAIN, 0, TAKEN, "async PF, zero"},

    {MSR_KVM_STEAL_TIME, 5, IN_RAM, KVM_MSR_ENABLED, TAKEN, "steal time, on"},
    {MSR_KVM_STEAL_TIME, 5, IN_RAM, 64 | KVM_MSR_ENABLED, TAKEN, "steal time, moved"},
    {MSR_KVM_STEAL_TIME, 5, IN_RAM, 0x02, REFUSED, "steal time, bit 1"},
    {MSR_KVM_STEAL_TIME, 5, IN_RAM, 0x05, REFUSED, "steal time, bit 2"},
    {MSR_KVM_STEAL_TIME, 5, IN_RAM, 0x08, REFUSED, "steal time, bit 3"},
    {MSR_KVM_STEAL_TIME, 5, IN_RAM, 0x11, REFUSED, "steal time, bit 4"},
    {MSR_KVM_STEAL_TIME, 5, IN_RAM, 0x20, REFUSED, "steal time, bit 5"},
    {MSR_KVM_STEAL_TIME, 5, PLAIN, ~0ull, REFUSED, "steal time, all bits"},
    {MSR_KVM_STEAL_TIME, 5, PLAIN, PAST_RAM | 1, TAKEN, "steal time, past RAM"},
    {MSR_KVM_STEAL_TIME, 5, PLAIN, NOT_CANONICAL | 1, TAKEN, "steal time, not canonical"},
    {MSR_KVM_STEAL_TIME, 5, PLAIN, ~0x3Eull, TAKEN, "steal time, every bit that may be set"},
    {MSR_KVM_STEAL_TIME, 5, PLAIN, 0x40, TAKEN, "steal time, off with an address"},
    {MSR_KVM_STEAL_TIME, 5, PLAIN, 0, TAKEN, "steal time, zero"},

    {MSR_KVM_PV_EOI_EN, 6, IN_RAM, KVM_MSR_ENABLED, TAKEN, "PV EOI, on"},
    {MSR_KVM_PV_EOI_EN, 6, IN_RAM, 4 | KVM_MSR_ENABLED, TAKEN, "PV EOI, moved by 4"},
    {MSR_KVM_PV_EOI_EN, 6, IN_RAM, 2, REFUSED, "PV EOI, bit 1"},
    {MSR_KVM_PV_EOI_EN, 6, IN_RAM, 3, REFUSED, "PV EOI, bit 1, on"},
    {MSR_KVM_PV_EOI_EN, 6, PLAIN, PAST_RAM | 1, REFUSED, "PV EOI, on past RAM"},
    {MSR_KVM_PV_EOI_EN, 6, PLAIN, PAST_RAM, TAKEN, "PV EOI, off past RAM"},
    {MSR_KVM_PV_EOI_EN, 6, PLAIN, 0, TAKEN, "PV EOI, zero"},

    {MSR_KVM_POLL_CONTROL, 12, PLAIN, 0, TAKEN, "poll control, 0"},
    {MSR_KVM_POLL_CONTROL, 12, PLAIN, 2, REFUSED, "poll control, bit 1"},
    {MSR_KVM_POLL_CONTROL, 12, PLAIN, 1ull << 32, REFUSED, "poll control, bit 32"},
    {MSR_KVM_POLL_CONTROL, 12, PLAIN, 1, TAKEN, "poll control, 1"},

    {MSR_KVM_ASYNC_PF_INT, 14, PLAIN, 0xFF, TAKEN, "async PF vector, 255"},
    {MSR_KVM_ASYNC_PF_INT, 14, PLAIN, 0x100, REFUSED, "async PF vector, 256"},
    {MSR_KVM_ASYNC_PF_INT, 14, PLAIN, 1ull << 63, REFUSED, "async PF vector, bit 63"},
    {MSR_KVM_ASYNC_PF_INT, 14, PLAIN, 0, TAKEN, "async PF vector, 0"},
    {MSR_KVM_ASYNC_PF_ACK, 14, PLAIN, ~0ull, READS_ZERO, "async PF acknowledgement, all bits"},
    {MSR_KVM_ASYNC_PF_ACK, 14, PLAIN, 0, READS_ZERO, "async PF acknowledgement, zero"},

    {MSR_KVM_MIGRATION_CONTROL, 17, PLAIN, 0, TAKEN, "migration control, 0"},
    {MSR_KVM_MIGRATION_CONTROL, 17, PLAIN, 2, REFUSED, "migration control, bit 1"},
    {MSR_KVM_MIGRATION_CONTROL, 17, PLAIN, 1, TAKEN, "migration control, 1"},

    {MSR_KVM_MIGRATION_CONTROL + 1, ANY_FEATURE, PLAIN, 0, REFUSED, "the number after the family"},
    {MSR_KVM_WALL_CLOCK_NEW - 1, ANY_FEATURE, PLAIN, 0, REFUSED, "the number before the family"},
    {MSR_KVM_WALL_CLOCK_NEW + 0xFF, ANY_FEATURE, PLAIN, 0, REFUSED, "the last number of the range"},
};

static void try_row(const struct row *row)
{
    const uint64_t value = row->value + (row->base == IN_RAM ? (uintptr_t)ram : 0);
    uint64_t before = 0, after = 0;

    if (row->feature == ANY_FEATURE) {
        judge_equal(row->what, rdmsr_safe(row->msr, &before) + wrmsr_safe(row->msr, value), 0);
        return;
    }
    if (!kvm_has(row->feature))
        return;
    judge_equal(row->what, rdmsr_safe(row->msr, &before), true);
    judge_equal(row->what, wrmsr_safe(row->msr, value), row->outcome == TAKEN || row->outcome == READS_ZERO);
    rdmsr_safe(row->msr, &after);
    if (row->outcome == REFUSED_K1) // real KVM remembers this one, although it raises #GP: its known defect K1
        judge(row->what, after == before || after == value, after, before);
    else
        judge_equal(row->what, after, row->outcome == TAKEN ? value : row->outcome == REFUSED ? before : 0);
}

int main(uint32_t cpu, uint32_t ncpus)
{
    (void)ncpus;
    if (cpu)
        return EXIT_PASS;
    trap_init();
    for (unsigned i = 0; i < sizeof rows / sizeof rows[0]; i++)
        try_row(&rows[i]);
    return verdict("msr");
}
