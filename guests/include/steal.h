// The guest's side of the steal-time interface: find KVM, register an area, read it.
//
// In Linux: arch/x86/kernel/kvm.c, kvm_register_steal_time() and kvm_steal_clock().

#ifndef STEAL_H
#define STEAL_H

#include "guest.h"

// One area per vCPU, each on a cache line of its own. Zero at the start, as the interface asks: the host adds to what
// it finds.
static struct kvm_steal_time steal_areas[MAX_VCPUS] __attribute__((unused));

// --- Is it there? CPUID must be asked before the MSR is touched: where the feature is missing, the MSR raises #GP. ---

static inline bool kvm_present(void)
{
    if (!(cpuid(1).ecx & CPUID_1_ECX_HYPERVISOR))
        return false;

    struct cpuid r = cpuid(KVM_CPUID_SIGNATURE);
    const uint32_t found[3] = {r.ebx, r.ecx, r.edx};
    const char *signature = (const char *)found;
    for (unsigned i = 0; i < sizeof found; i++)
        if (signature[i] != KVM_SIGNATURE[i])
            return false;
    return true;
}

static inline bool kvm_has(unsigned feature)
{
    return kvm_present() && cpuid(KVM_CPUID_FEATURES).eax >> feature & 1;
}

// True where this vCPU may use steal time. Otherwise vCPU 0 says so for all; return EXIT_NO_FEATURE then.
static inline bool steal_offered(uint32_t cpu)
{
    if (kvm_has(KVM_FEATURE_STEAL_TIME))
        return true;
    if (cpu == 0)
        put_text("this machine offers no KVM steal time (CPUID leaf KVM_CPUID_FEATURES, bit 5)\n");
    return false;
}

// --- Register ---

static inline void steal_register(const struct kvm_steal_time *area)
{
    wrmsr(MSR_KVM_STEAL_TIME, (uintptr_t)area | KVM_MSR_ENABLED);
}

static inline void steal_unregister(void)
{
    wrmsr(MSR_KVM_STEAL_TIME, 0);
}

// --- Read ---

struct steal_reading {
    uint64_t steal; // nanoseconds
    uint32_t version;
};

// The retry loop. The version is odd while the host is inside an update, and it moves with every update: two equal,
// even versions around the load prove that no update touched it.
static inline struct steal_reading steal_read(const struct kvm_steal_time *area)
{
    const volatile struct kvm_steal_time *shared = area; // the host writes it: every load must really happen
    struct steal_reading r;
    do {
        r.version = shared->version;
        barrier();
        r.steal = shared->steal;
        barrier();
    } while (r.version & 1 || r.version != shared->version);
    return r;
}

// --- Marks: tell the emulator where a read begins and what it returned ---
//
// The mark's number is written to PORT_MARK while RBX holds the area's address and, at the end, RAX the value (32-bit
// code: EAX its lower half and ECX its upper one): hence OUTS, which writes a byte from memory and leaves those alone. A
// mark costs an exit; it changes nothing in the guest.

static inline void steal_mark(uint8_t number, const volatile struct kvm_steal_time *area, uint64_t value)
{
    const uint8_t *byte = &number;
#ifdef __x86_64__
    __asm__ volatile("outsb" : "+S"(byte) : "d"(PORT_MARK), "b"(area), "a"(value) : "memory");
#else
    const uint32_t low = (uint32_t)value, high = (uint32_t)(value >> 32);
    __asm__ volatile("outsb" : "+S"(byte) : "d"(PORT_MARK), "b"(area), "a"(low), "c"(high) : "memory");
#endif
}

#define STEAL_MARK_BEGIN(area) steal_mark(MARK_BEGIN, (area), 0)
#define STEAL_MARK_END(area, value) steal_mark(MARK_END, (area), (value))

#endif
