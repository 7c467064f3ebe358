// Lesson 1: the signature is read from EBX, ECX and EDX, in this order.

#include "guest.h"

static void put_signature(const char *text)
{
    for (int i = 0; i < 12; i++)
        put_char(text[i] ? text[i] : '.');
}

int main(void)
{
    if (!(cpuid(1).ecx & CPUID_1_ECX_HYPERVISOR)) {
        put_text("no hypervisor\n");
        return EXIT_FAIL;
    }
    const struct cpuid leaf = cpuid(KVM_CPUID_SIGNATURE);
    const uint32_t registers[3] = {leaf.ebx, leaf.ecx, leaf.edx};
    const bool kvm = memcmp(registers, KVM_SIGNATURE, 12) == 0;
    put_signature((const char *)registers);
    put_text(kvm ? ": this is KVM\n" : ": this is not KVM\n");
    return kvm ? EXIT_PASS : EXIT_FAIL;
}
