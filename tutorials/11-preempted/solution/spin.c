// Lesson 11: who waits for a lock looks whether its owner runs at all. emu run spin.c --vcpus 2

#include "steal.h"

#define ROUNDS 400000 // of two instructions, each of which takes 1 ns here

static uint32_t taken, spins;

static void give_turn_to(uint32_t cpu)
{
    uint64_t result = KVM_HC_SCHED_YIELD;
    __asm__ volatile("vmcall" : "+a"(result) : "b"((uint64_t)cpu) : "memory");
}

static bool is_preempted(uint32_t cpu)
{
    const volatile struct kvm_steal_time *area = &steal_areas[cpu];
    return area->preempted & KVM_VCPU_PREEMPTED;
}

static void acquire(uint32_t owner)
{
    while (__atomic_exchange_n(&taken, 1, __ATOMIC_ACQUIRE)) {
        spins++;
        if (is_preempted(owner))
            give_turn_to(owner);
    }
}

int main(uint32_t cpu, uint32_t ncpus)
{
    (void)ncpus;
    if (!kvm_has(KVM_FEATURE_PV_SCHED_YIELD))
        return EXIT_NO_FEATURE;
    steal_register(&steal_areas[cpu]);
    if (cpu == 0) { // it is first, takes the lock, and works with it for longer than one turn
        __atomic_store_n(&taken, 1, __ATOMIC_SEQ_CST);
        uint64_t left = ROUNDS;
        __asm__ volatile("2: dec %0; jnz 2b" : "+r"(left));
        unlock(&taken);
        return EXIT_PASS;
    }
    acquire(0);
    put_text("spun ");
    put_dec(spins);
    put_text(spins < 100 ? " times: the owner got the turns\n" : " times, for an owner that did not run\n");
    return spins < 100 ? EXIT_PASS : EXIT_FAIL;
}
