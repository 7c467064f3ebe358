// emu run conformance/clock
// kvmclock and the wall clock: what the host writes, when, and that time only goes forward.
//
// Amounts are judged by what must hold between them, never literally: nobody knows how long a host takes.

#include "conform.h"
#include "pvclock.h"

#define READS 2000
#define SETTLE 64 // exits after which whoever updates at an entry has done so

static struct pvclock_vcpu_time_info clocks[3] __attribute__((aligned(32)));
static struct pvclock_wall_clock wall __attribute__((aligned(4)));
static volatile uint32_t after_wall = 0xC0FFEE;

static void settle(void)
{
    for (int i = 0; i < SETTLE; i++)
        outb(PORT_UART_LSR, 0);
}

static bool untouched(const volatile struct pvclock_vcpu_time_info *area)
{
    return !area->version && !area->tsc_timestamp && !area->system_time && !area->tsc_to_system_mul && !area->flags;
}

static void contents(const volatile struct pvclock_vcpu_time_info *area)
{
    judge("version is even and not 0", area->version && area->version % 2 == 0, area->version, 2);
    judge("multiplier is not 0", area->tsc_to_system_mul != 0, area->tsc_to_system_mul, 1);
    judge("shift is sane", area->tsc_shift > -32 && area->tsc_shift < 32, (uint64_t)area->tsc_shift, 0);
    judge("TSC timestamp is not ahead of the TSC", area->tsc_timestamp <= rdtsc(), area->tsc_timestamp, rdtsc());
    judge_equal("padding before the timestamp is written as 0", area->pad0, 0);
    judge_equal("padding at the end is written as 0", area->pad[0] | area->pad[1], 0);
    const bool may_be_stable = kvm_has(KVM_FEATURE_CLOCKSOURCE_STABLE_BIT);
    judge("flags: stable where that is offered, and no others", !(area->flags & ~(may_be_stable ? 1u : 0u)), area->flags,
          may_be_stable);
}

static void forward(void)
{
    uint64_t before = pvclock_read(&clocks[0]), backwards = 0;
    const uint64_t begun = before, tsc = rdtsc();
    for (int i = 0; i < READS; i++) {
        const uint64_t now = pvclock_read(&clocks[0]);
        backwards += now < before;
        before = now;
    }
    judge_equal("time runs backwards never", backwards, 0);
    judge("time passes where TSC does", before > begun && rdtsc() > tsc, before, begun);
}

static void moved(void)
{
    const uint64_t before = pvclock_read(&clocks[0]);
    pvclock_register(&clocks[1]);
    settle();
    judge("a moved area is filled at once", !untouched(&clocks[1]), clocks[1].version, 2);
    judge("time goes on in it", pvclock_read(&clocks[1]) >= before, pvclock_read(&clocks[1]), before);

    const uint32_t version = clocks[1].version;
    wrmsr(MSR_KVM_SYSTEM_TIME_NEW, 0);
    clocks[1].version = 0x1000;
    settle();
    judge_equal("after it is switched off the area is left alone", clocks[1].version, 0x1000);
    pvclock_register(&clocks[1]);
    settle();
    judge("on again: the version found there goes on", clocks[1].version >= 0x1002 && clocks[1].version % 2 == 0,
          clocks[1].version, 0x1002);
    judge("and was even before", version % 2 == 0, version, 0);

    clocks[2].version = 7;
    pvclock_register(&clocks[2]);
    settle();
    judge("an odd version found there becomes even", clocks[2].version > 7 && clocks[2].version % 2 == 0,
          clocks[2].version, 10);
    wrmsr(MSR_KVM_SYSTEM_TIME_NEW, 0);
}

static void wall_clock(void)
{
    volatile struct pvclock_wall_clock *shared = &wall;
    for (uint32_t i = 1; i <= 3; i++) {
        wrmsr(MSR_KVM_WALL_CLOCK_NEW, (uintptr_t)&wall);
        judge_equal("wall clock: each write is one update", shared->version, 2 * i);
        judge("wall clock: nanoseconds below a second", shared->nsec < 1000000000, shared->nsec, 0);
        judge_equal("wall clock: reads back", rdmsr(MSR_KVM_WALL_CLOCK_NEW), (uintptr_t)&wall);
    }
    const struct pvclock_wall_clock before = wall;
    shared->version = 5;
    wrmsr(MSR_KVM_WALL_CLOCK_NEW, (uintptr_t)&wall);
    judge_equal("wall clock: an odd version becomes even", shared->version, 8);
    const bool apart = shared->sec > before.sec ? shared->sec - before.sec < 2 : before.sec - shared->sec < 2;
    judge("wall clock: the moment at which the machine was 0, so it stays", apart, shared->sec, before.sec);
    shared->version = 20;
    settle();
    judge_equal("wall clock: only a write updates it", shared->version, 20);
    wrmsr(MSR_KVM_WALL_CLOCK_NEW, 0);
    judge_equal("wall clock: address 0 is no address", shared->version, 20);
    judge_equal("wall clock: twelve bytes, no more", after_wall, 0xC0FFEE);
}

int main(uint32_t cpu, uint32_t ncpus)
{
    (void)ncpus;
    if (cpu)
        return EXIT_PASS;
    if (!kvm_has(KVM_FEATURE_CLOCKSOURCE2)) {
        put_text("this machine offers no kvmclock\n");
        return EXIT_NO_FEATURE;
    }
    judge("nothing is written before it is asked for", untouched(&clocks[0]), clocks[0].version, 0);
    clocks[0].pad0 = ~0u;
    clocks[0].pad[0] = clocks[0].pad[1] = 0xFF;
    pvclock_register(&clocks[0]);
    settle();
    contents(&clocks[0]);
    forward();
    moved();
    wall_clock();
    return verdict("clock");
}
