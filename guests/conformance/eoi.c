// emu run conformance/eoi
// Paravirtual EOI: when the host sets the bit, and what clearing or not clearing it does.
//
// The bit is an offer, and a host may leave it away: where it was not set, the APIC must be told as ever. Either way the
// interrupt is over afterwards, and the next one comes.

#include "conform.h"

#define VECTOR 0x41
#define OTHER 0x31

static uint32_t mailbox __attribute__((aligned(4)));
static volatile uint32_t came, offered, taken_back, other_came;
static volatile enum { CLEARS, WRITES, EXITS_FIRST } manner;

struct interrupt_frame;

static bool bit_cleared(void)
{
    bool was;
    __asm__ volatile("lock btr dword ptr %0, 0\n\tsetc %1" : "+m"(mailbox), "=r"(was) : : "cc", "memory");
    return was;
}

__attribute__((interrupt)) static void handler(struct interrupt_frame *frame)
{
    (void)frame;
    came++;
    const volatile uint32_t *const shared = &mailbox;
    const bool set = *shared & KVM_PV_EOI_ENABLED;
    offered += set;
    if (manner == EXITS_FIRST) {
        wrmsr(APIC_SELF_IPI, OTHER); // an exit, and now another interrupt waits for this one's end
        taken_back += set && !(*shared & KVM_PV_EOI_ENABLED);
    }
    if (manner == WRITES || !bit_cleared())
        apic_eoi();
}

__attribute__((interrupt)) static void other(struct interrupt_frame *frame)
{
    (void)frame;
    other_came++;
    if (!bit_cleared())
        apic_eoi();
}

static void let_in(void)
{
    sti();
    for (int i = 0; i < 8; i++)
        outb(PORT_UART_LSR, 0);
    cli();
}

static void round_of(const char *what, uint32_t times)
{
    came = offered = 0;
    for (uint32_t i = 0; i < times; i++) {
        wrmsr(APIC_SELF_IPI, VECTOR);
        let_in();
    }
    judge_equal(what, came, times);
    judge_equal("afterwards nothing is in service", rdmsr(APIC_ISR + 2), 0);
    judge_equal("afterwards the bit is clear", mailbox & KVM_PV_EOI_ENABLED, 0);
}

int main(uint32_t cpu, uint32_t ncpus)
{
    (void)ncpus;
    if (cpu)
        return EXIT_PASS;
    if (!kvm_has(KVM_FEATURE_PV_EOI) || !(cpuid(1).ecx & CPUID_1_ECX_X2APIC)) {
        put_text("this machine offers no paravirtual EOI, or no x2APIC\n");
        return EXIT_NO_FEATURE;
    }
    trap_set(VECTOR, (void (*)(void))handler);
    trap_set(OTHER, (void (*)(void))other);
    trap_init();
    x2apic_on();

    round_of("without it: each interrupt is ended at the APIC", 3);
    judge_equal("without it: the bit is never set", offered, 0);

    mailbox = 0xFFFFFFFE;
    wrmsr(MSR_KVM_PV_EOI_EN, (uintptr_t)&mailbox | KVM_MSR_ENABLED);
    round_of("the bit is cleared: the next one comes", 5);
    judge_equal("the other three bytes belong to the guest", mailbox >> 8, 0xFFFFFF);

    manner = WRITES;
    round_of("the APIC is written to nevertheless: the next one comes", 5);

    manner = EXITS_FIRST;
    other_came = 0;
    round_of("another is waiting meanwhile: it comes", 5);
    judge_equal("the one that waited came each time", other_came, 5);
    judge_equal("the offer is taken back where another waits", taken_back, offered);

    manner = CLEARS;
    wrmsr(MSR_KVM_PV_EOI_EN, 0);
    mailbox = 0;
    round_of("switched off: each interrupt is ended at the APIC", 3);
    judge_equal("switched off: the bit is never set", offered, 0);
    return verdict("eoi");
}
