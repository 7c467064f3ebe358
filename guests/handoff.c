// emu run handoff --vcpus 2 --task busy
// Two vCPUs hand a lock to each other: who finds it taken sleeps, and is kicked when it is free.
//
// A vCPU says that it waits, and then looks at the lock once more before it sleeps: whoever frees it in between has seen
// that somebody waits, and kicks. handoff_lost.c leaves that second look away.
//
// In Linux: kvm_wait() and kvm_kick_cpu() in arch/x86/kernel/kvm.c, pv_wait_head_or_lock() in
// kernel/locking/qspinlock_paravirt.h.

#include "steal.h"

#ifndef LOOKS_AGAIN
#define LOOKS_AGAIN 1
#endif
#define ROUNDS 1

static uint32_t taken, waits[2], counter, finished;

static bool try_lock(void)
{
    return !__atomic_exchange_n(&taken, 1, __ATOMIC_ACQUIRE);
}

static void kick(uint32_t cpu)
{
    uint64_t result = KVM_HC_KICK_CPU;
    __asm__ volatile("vmcall" : "+a"(result) : "b"(0ull), "c"((uint64_t)cpu) : "memory");
}

static void acquire(uint32_t cpu)
{
    while (!try_lock()) {
        __atomic_store_n(&waits[cpu], 1, __ATOMIC_SEQ_CST);
        if (LOOKS_AGAIN && try_lock()) {
            __atomic_store_n(&waits[cpu], 0, __ATOMIC_RELAXED);
            return;
        }
        __asm__ volatile("hlt" : : : "memory"); // a kick wakes it; one that came before makes it go on at once
    }
}

static void release(uint32_t cpu)
{
    __atomic_store_n(&taken, 0, __ATOMIC_SEQ_CST);
    if (__atomic_exchange_n(&waits[!cpu], 0, __ATOMIC_SEQ_CST))
        kick(!cpu);
}

int main(uint32_t cpu, uint32_t ncpus)
{
    if (ncpus != 2) {
        put_text("this program is about two vCPUs: --vcpus 2\n");
        return EXIT_FAIL;
    }
    if (!kvm_has(KVM_FEATURE_PV_UNHALT))
        return EXIT_NO_FEATURE;
    for (int i = 0; i < ROUNDS; i++) {
        acquire(cpu);
        counter++;
        release(cpu);
    }
    if (__atomic_add_fetch(&finished, 1, __ATOMIC_ACQ_REL) < ncpus)
        return EXIT_PASS;
    return counter == ROUNDS * ncpus ? EXIT_PASS : EXIT_FAIL;
}
