// emu run conformance/paging
// What a page table entry allows, to whom, and what a page fault says.
//
// The guest makes page tables of its own: everything where it stands, and one test page at TEST. Each row of the table
// gives that page an entry, tries one access, and compares the exception, its error code, CR2, and the accessed and
// dirty bits with what the architecture says. Accesses of user code are made at CPL 3, which comes back by an undefined
// instruction: the one way that no host has to emulate.

#include "conform.h"

#define TEST 0x40000000ull
#define CR2_UNTOUCHED 0x1234ull
#define NOT_CANONICAL 0x8000000000000000ull
#define NO_FAULT 0xFFFFFFFFu
#define RESERVED_BIT (1ull << 51) // of a physical address wider than any CPU here has

#define P PTE_PRESENT
#define W PTE_WRITABLE
#define U PTE_USER
#define NX PTE_NX
// The error code of a page fault: the page was present, the access a write, by a user, with a reserved bit set, a fetch.
#define EP 1u
#define EW 2u
#define EU 4u
#define ER 8u
#define EI 16u

static uint64_t top[512] __attribute__((aligned(4096))), directories[512] __attribute__((aligned(4096)));
static uint64_t low[512] __attribute__((aligned(4096))), middle[512] __attribute__((aligned(4096)));
static uint64_t last[512] __attribute__((aligned(4096)));
static uint8_t frame[4096] __attribute__((aligned(4096)));
static uint8_t kernel_stack[4096] __attribute__((aligned(16))), user_stack[4096] __attribute__((aligned(16)));

// --- Trying something, and living on ---

// Calls act(address); the vector of the exception that it raised, or NO_FAULT. In caught_error is the error code.
uint32_t attempt(void (*act)(uint64_t), uint64_t address);
extern uint64_t caught_error;
void read_it(uint64_t), write_it(uint64_t), fetch_it(uint64_t), read_by_stack(uint64_t);
void user_read(uint64_t), user_write(uint64_t), user_fetch(uint64_t);
void catch_ss(void), catch_gp(void), catch_pf(void), catch_return(void);
void *user_stack_top = user_stack + sizeof user_stack; // asm's names for them

__asm__(".intel_syntax noprefix\n"
        ".pushsection .text, \"ax\"\n"
        "attempt:\n"
        "    push rbx\n push rbp\n push r12\n push r13\n push r14\n push r15\n"
        "    mov [rip + attempt_rsp], rsp\n"
        "    mov rax, rdi\n mov rdi, rsi\n"
        "    call rax\n"
        "    mov eax, 0xffffffff\n"
        "attempt_over:\n"
        "    mov rsp, [rip + attempt_rsp]\n"
        "    mov ecx, 0x10\n mov ss, ecx\n mov ds, ecx\n mov es, ecx\n"
        "    pop r15\n pop r14\n pop r13\n pop r12\n pop rbp\n pop rbx\n"
        "    ret\n"
        // Whatever was interrupted is given up: no IRET, the stack is taken back to where the attempt began.
        "catch_ss:     mov eax, 12\n jmp caught\n"
        "catch_gp:     mov eax, 13\n jmp caught\n"
        "catch_pf:     mov eax, 14\n"
        "caught:       pop rdx\n mov [rip + caught_error], rdx\n jmp attempt_over\n"
        "catch_return: mov eax, 0xffffffff\n jmp attempt_over\n"
        "read_it:      mov al, [rdi + 8]\n ret\n"
        "write_it:     mov byte ptr [rdi + 8], 1\n ret\n"
        "fetch_it:     call rdi\n ret\n"
        "read_by_stack: mov rbp, rdi\n mov al, [rbp + 8]\n ret\n"
        "user_read:    lea rcx, [rip + at_user_read]\n jmp to_user\n"
        "user_write:   lea rcx, [rip + at_user_write]\n jmp to_user\n"
        "user_fetch:   mov rcx, rdi\n"
        "to_user:      push 0x23\n push [rip + user_stack_top]\n push 2\n push 0x2b\n push rcx\n iretq\n"
        "at_user_read: mov al, [rdi + 8]\n ud2\n"
        "at_user_write: mov byte ptr [rdi + 8], 1\n ud2\n"
        ".popsection\n"
        ".pushsection .bss\n"
        ".balign 8\n"
        "attempt_rsp: .skip 8\n"
        "caught_error: .skip 8\n"
        ".popsection\n");

// --- The table ---

struct row {
    uint64_t entry;
    void (*act)(uint64_t);
    bool write_protect; // CR0.WP
    uint32_t vector, error;
    uint64_t used; // the accessed and dirty bits afterwards
    const char *what;
};

#define A PTE_ACCESSED
#define D PTE_DIRTY
#define FINE NO_FAULT, 0
#define FAULT(error) PF_VECTOR, error

static const struct row rows[] = {
    {0, read_it, true, FAULT(0), 0, "absent: read"},
    {0, write_it, true, FAULT(EW), 0, "absent: write"},
    {0, fetch_it, true, FAULT(EI), 0, "absent: fetch"},
    {0, user_read, true, FAULT(EU), 0, "absent: user read"},
    {0, user_write, true, FAULT(EU | EW), 0, "absent: user write"},
    {0, user_fetch, true, FAULT(EU | EI), 0, "absent: user fetch"},
    {W | U | NX, read_it, true, FAULT(0), 0, "absent with all other bits: read"},

    {P, read_it, true, FINE, A, "read-only: read"},
    {P, write_it, true, FAULT(EP | EW), 0, "read-only: write"},
    {P, write_it, false, FINE, A | D, "read-only without WP: write"},
    {P, fetch_it, true, FINE, A, "read-only: fetch"},
    {P, user_read, true, FAULT(EP | EU), 0, "supervisor's: user read"},
    {P, user_write, false, FAULT(EP | EU | EW), 0, "supervisor's without WP: user write"},
    {P, user_fetch, true, FAULT(EP | EU | EI), 0, "supervisor's: user fetch"},

    {P | W, read_it, true, FINE, A, "writable: read"},
    {P | W, write_it, true, FINE, A | D, "writable: write"},
    {P | W, user_read, true, FAULT(EP | EU), 0, "supervisor's, writable: user read"},
    {P | W, user_write, true, FAULT(EP | EU | EW), 0, "supervisor's, writable: user write"},

    {P | U, user_read, true, FINE, A, "user's, read-only: user read"},
    {P | U, user_write, true, FAULT(EP | EU | EW), 0, "user's, read-only: user write"},
    {P | U, user_write, false, FAULT(EP | EU | EW), 0, "user's, read-only without WP: user write"},
    {P | U, write_it, true, FAULT(EP | EW), 0, "user's, read-only: write"},
    {P | U, write_it, false, FINE, A | D, "user's, read-only without WP: write"},
    {P | U, user_fetch, true, FINE, A, "user's: user fetch"},
    {P | W | U, user_write, true, FINE, A | D, "user's, writable: user write"},
    {P | W | U, write_it, true, FINE, A | D, "user's, writable: write"},

    {P | NX, read_it, true, FINE, A, "no-execute: read"},
    {P | NX, fetch_it, true, FAULT(EP | EI), 0, "no-execute: fetch"},
    {P | W | U | NX, user_fetch, true, FAULT(EP | EU | EI), 0, "no-execute: user fetch"},
    {P | W | U | NX, user_write, true, FINE, A | D, "no-execute: user write"},

    {P | W | U | RESERVED_BIT, read_it, true, FAULT(EP | ER), 0, "reserved bit: read"},
    {P | W | U | RESERVED_BIT, write_it, true, FAULT(EP | ER | EW), 0, "reserved bit: write"},
    {P | W | U | RESERVED_BIT, user_read, true, FAULT(EP | ER | EU), 0, "reserved bit: user read"},
};

static inline uint64_t read_cr0(void)
{
    uint64_t value;
    __asm__ volatile("mov %0, cr0" : "=r"(value));
    return value;
}

static inline void write_cr0(uint64_t value)
{
    __asm__ volatile("mov cr0, %0" : : "r"(value) : "memory");
}

static inline uint64_t read_cr2(void)
{
    uint64_t value;
    __asm__ volatile("mov %0, cr2" : "=r"(value));
    return value;
}

static inline void write_cr2(uint64_t value)
{
    __asm__ volatile("mov cr2, %0" : : "r"(value));
}

static void tables_init(void)
{
    top[0] = (uintptr_t)directories | P | W | U;
    directories[0] = (uintptr_t)low | P | W | U;
    directories[TEST >> 30] = (uintptr_t)middle | P | W | U;
    middle[0] = (uintptr_t)last | P | W | U;
    for (uint64_t i = 0; i < 512; i++)
        low[i] = i * LARGE_PAGE_SIZE | P | W | U | PTE_LARGE;
    __asm__ volatile("mov cr3, %0" : : "r"((uintptr_t)top) : "memory");
}

static void try_row(const struct row *row)
{
    frame[0] = row->act == user_fetch ? 0x0F : 0xC3; // UD2, or RET
    frame[1] = 0x0B;
    last[0] = (row->entry & P ? (uintptr_t)frame : 0) | row->entry;
    __asm__ volatile("invlpg [%0]" : : "r"(TEST) : "memory");
    const uint64_t cr0 = read_cr0();
    write_cr0(row->write_protect ? cr0 | CR0_WP : cr0 & ~(uint64_t)CR0_WP);
    write_cr2(CR2_UNTOUCHED);
    caught_error = 0;

    const uint32_t vector = attempt(row->act, TEST);
    const uint64_t cr2 = read_cr2(), entry = *(volatile uint64_t *)&last[0];
    write_cr0(cr0);
    judge_equal(row->what, vector, row->vector);
    judge_equal(row->what, caught_error, row->error);
    const bool fetch = row->act == fetch_it || row->act == user_fetch;
    judge_equal(row->what, cr2, row->vector == PF_VECTOR ? TEST + (fetch ? 0 : 8) : CR2_UNTOUCHED);
    judge_equal(row->what, entry & (A | D), row->used);
}

struct stray {
    void (*act)(uint64_t);
    uint32_t vector;
    const char *what;
};

static const struct stray strays[] = {
    {read_it, GP_VECTOR, "not canonical: read"},
    {write_it, GP_VECTOR, "not canonical: write"},
    {fetch_it, GP_VECTOR, "not canonical: fetch"},
    {read_by_stack, SS_VECTOR, "not canonical: read by the stack segment"},
    {user_read, GP_VECTOR, "not canonical: user read"},
};

int main(uint32_t cpu, uint32_t ncpus)
{
    (void)ncpus;
    if (cpu)
        return EXIT_PASS;
    tables_init();
    trap_set(SS_VECTOR, catch_ss);
    trap_set(GP_VECTOR, catch_gp);
    trap_set(PF_VECTOR, catch_pf);
    trap_set(UD_VECTOR, catch_return);
    const struct table_register idtr = {sizeof idt - 1, (uint64_t)idt};
    __asm__ volatile("lidt %0" : : "m"(idtr));
    const uint64_t stack = (uintptr_t)kernel_stack + sizeof kernel_stack;
    memcpy((void *)(uintptr_t)(TSS_GPA + TSS_RSP0), &stack, sizeof stack);

    const bool wide = (cpuid(0x80000008).eax & 0xFF) > 51; // then that bit is part of an address
    for (unsigned i = 0; i < sizeof rows / sizeof rows[0]; i++)
        if (wide && rows[i].entry & RESERVED_BIT)
            for (unsigned skipped = 0; skipped < 4; skipped++)
                judge(rows[i].what, true, 0, 0);
        else
            try_row(&rows[i]);
    for (unsigned i = 0; i < sizeof strays / sizeof strays[0]; i++) {
        caught_error = 0;
        judge_equal(strays[i].what, attempt(strays[i].act, NOT_CANONICAL), strays[i].vector);
        judge_equal(strays[i].what, caught_error, 0);
    }
    return verdict("paging");
}
