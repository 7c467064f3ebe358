// The program around your accounts. It is given: it is replaced when your work is judged.
//
// Every vCPU works, then reads its own steal time; then vCPU 0 prints what each has read, and the sum.

#include "accounts.h"

#ifndef ROUNDS
#define ROUNDS 20000
#endif

static uint64_t told[MAX_VCPUS];
static uint32_t arrived;

static void print(const char *what, uint64_t number)
{
    put_text(what);
    put_text(" lost ");
    put_dec(number);
    put_text(" ns\n");
}

int main(uint32_t cpu, uint32_t ncpus)
{
    if (!steal_offered(cpu))
        return EXIT_NO_FEATURE;

    steal_area *area = accounts_start(cpu);
    for (volatile uint32_t i = 0; i < ROUNDS; i = i + 1)
        ;
    STEAL_MARK_BEGIN(area);
    const uint64_t steal = accounts_read(cpu);
    STEAL_MARK_END(area, steal);
    told[cpu] = steal;

    __atomic_fetch_add(&arrived, 1, __ATOMIC_ACQ_REL);
    if (cpu)
        return EXIT_PASS;
    while (__atomic_load_n(&arrived, __ATOMIC_ACQUIRE) < ncpus)
        ;
    for (uint32_t i = 0; i < ncpus; i++)
        print(i ? "vcpu1" : "vcpu0", told[i]);
    print("together", accounts_total(ncpus));
    return EXIT_PASS;
}
