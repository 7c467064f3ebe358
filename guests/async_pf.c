// emu run async_pf --swap page:at=50us,in=200us,every=1ms
// A page that the host has taken away: the vCPU is told, and does something else until it is back.
//
// A guest that registers for asynchronous page faults gets a #PF that is none: no translation is missing, the host just
// cannot serve the page yet. CR2 holds a token, not an address. Some time later an interrupt brings the same token: the
// page is there, and whoever waits for it may go on. In the interface of 2011 both messages came as #PF, and a word in
// the shared area told which.
//
// In Linux: arch/x86/kernel/kvm.c, kvm_async_pf_task_wait_schedule() and sysvec_kvm_asyncpf_interrupt().

#include "apic.h"
#include "steal.h"
#include "trap.h"

#define READY_VECTOR 0x41
#define TOUCHES 3000
#define PAUSE_BETWEEN 200

struct kvm_async_pf {
    uint32_t flags, token;
    uint32_t pad[14];
};

static struct kvm_async_pf areas[MAX_VCPUS] __attribute__((aligned(64)));
_Static_assert(sizeof areas[0] == KVM_APF_SIZE, "the area is that of the interface");

// Not static, so that --swap can name it.
volatile uint8_t page[PAGE_SIZE] __attribute__((aligned(PAGE_SIZE)));

static volatile uint32_t told, back, other_work, other_faults;
// The tokens that were told to be back and that nobody has picked up yet; 0 is no token. While one page is waited for,
// another may be found missing, and they come back in any order.
#define PENDING 16
static volatile uint32_t ready[PENDING];
static volatile uint32_t all_awake; // how often all were told to be back at once
static volatile bool by_interrupt;

struct interrupt_frame;

static inline uint64_t read_cr2(void)
{
    uint64_t value;
    __asm__ volatile("mov %0, cr2" : "=r"(value));
    return value;
}

static void put_ready(uint32_t token)
{
    back++;
    if (token == KVM_APF_WAKE_ALL)
        all_awake++;
    for (unsigned i = 0; i < PENDING && token != KVM_APF_WAKE_ALL; i++)
        if (!ready[i]) {
            ready[i] = token;
            return;
        }
}

static bool take_ready(uint32_t token)
{
    for (unsigned i = 0; i < PENDING; i++)
        if (ready[i] == token) {
            ready[i] = 0;
            return true;
        }
    return false;
}

static volatile struct kvm_async_pf *area(void)
{
    return &areas[rdmsr(APIC_ID)];
}

// The work that need not wait for the page. Interrupts are on meanwhile: one of them will say that the page is back.
static void something_else_until(uint32_t token)
{
    const uint32_t before = all_awake;
    while (!take_ready(token) && all_awake == before) {
        sti();
        other_work++;
        cli();
    }
}

__attribute__((interrupt)) static void page_fault(struct interrupt_frame *frame, uint64_t error)
{
    (void)frame;
    (void)error;
    const uint32_t token = (uint32_t)read_cr2(); // before anything can fault again
    volatile struct kvm_async_pf *shared = area();
    const uint32_t reason = shared->flags;
    shared->flags = 0;

    if (reason == KVM_PV_REASON_PAGE_NOT_PRESENT) {
        told++;
        something_else_until(token);
    } else if (reason == KVM_PV_REASON_PAGE_READY) { // the form of 2011
        put_ready(token);
    } else {
        other_faults++; // a true page fault: this program makes none
        outb(PORT_EXIT, EXIT_FAIL);
    }
}

__attribute__((interrupt)) static void page_ready(struct interrupt_frame *frame)
{
    (void)frame;
    volatile struct kvm_async_pf *shared = area();
    put_ready(shared->token);
    shared->token = 0; // the slot is free, and the host may know it
    apic_eoi();
    wrmsr(MSR_KVM_ASYNC_PF_ACK, KVM_ASYNC_PF_ACK_BIT);
}

// At CPL 0 the guest is told only if it says that it can bear that anywhere.
static void async_pf_register(uint32_t cpu)
{
    uint64_t value = (uintptr_t)&areas[cpu] | KVM_ASYNC_PF_ENABLED | KVM_ASYNC_PF_SEND_ALWAYS;
    by_interrupt = kvm_has(KVM_FEATURE_ASYNC_PF_INT);
    if (by_interrupt) {
        wrmsr(MSR_KVM_ASYNC_PF_INT, READY_VECTOR);
        value |= KVM_ASYNC_PF_DELIVERY_AS_INT;
    }
    wrmsr(MSR_KVM_ASYNC_PF_EN, value);
}

int main(uint32_t cpu, uint32_t ncpus)
{
    (void)ncpus;
    if (cpu)
        return EXIT_PASS;
    trap_set(PF_VECTOR, (void (*)(void))page_fault);
    trap_set(READY_VECTOR, (void (*)(void))page_ready);
    trap_init();
    x2apic_on();
    if (kvm_has(KVM_FEATURE_ASYNC_PF))
        async_pf_register(cpu);
    else
        put_text("this machine offers no asynchronous page faults: where a page is away, this vCPU sleeps\n");

    sti();
    for (uint32_t touched = 0; touched < TOUCHES; touched++) {
        page[touched % PAGE_SIZE] = (uint8_t)touched; // here the page may be away
        for (uint32_t i = 0; i < PAUSE_BETWEEN; i++)
            barrier();
    }
    cli();

    bool whole = true;
    for (uint32_t at = TOUCHES - 256; at < TOUCHES; at++)
        whole = whole && page[at % PAGE_SIZE] == (uint8_t)at;

    line_begin(cpu);
    if (told) {
        put_text("told ");
        put_amount(told);
        put_text(" times that the page was away, and ");
        put_amount(back);
        put_text(by_interrupt ? " times by interrupt that it was back; " : " times by #PF that it was back; ");
        put_amount(other_work);
        put_text(" rounds of other work meanwhile");
    } else {
        put_text("was never told that a page was away");
    }
    line_end();
    return whole && told <= back ? EXIT_PASS : EXIT_FAIL;
}
