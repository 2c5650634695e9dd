/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * Looks for memory that is not its own: every way to address an operand, at every address where an
 * engine's shortcuts might go wrong: beside RAM, at the ends of the address space and of its
 * halves, where sums wrap, and at addresses that share low bits with a page that was just used.
 * None of them is mapped, so each access has to fault, with the right address, and nothing may
 * change. With SIGSEGV of the host's Lodge would end in another way.
 *
 * run: kernel => lives memory=16M seconds=20
 * run: user => lives memory=16M seconds=20
 */
#include "guests/die/die.h"

enum {
    RW = X86_PTE_P | X86_PTE_W | X86_PTE_U,
    CANARY = 0xA5,
    BYTE = 2,  /* at the page's last byte it stays inside, or begins below */
    STACK = 1, /* by RSP: not in the kernel's ring, where its exceptions need a stack */
};
#define AREA UINT64_C(0x4000000000)
#define HOT                                                                                        \
    (AREA + 0x0FFFF000) /* index 0xFFFF of a table by bits 12 to 27; the next page has 0           \
                         */

/* The address is in RDI. What it is when the access comes must be that, whatever is added on the
 * way. */
#define FORM(name, text)                                                                           \
    void form_##name(void *p);                                                                     \
    __asm__(".text\nform_" #name ":\n" text "\nret\n")

FORM(load8, "mov (%rdi), %al");
FORM(load16, "mov (%rdi), %ax");
FORM(load32, "mov (%rdi), %eax");
FORM(load64, "mov (%rdi), %r10");
FORM(store8, "mov %ah, (%rdi)");
FORM(store16, "mov %cx, (%rdi)");
FORM(store32, "mov %r11d, (%rdi)");
FORM(store64, "mov %rcx, (%rdi)");
FORM(disp8, "lea 0x70(%rdi), %rax\n mov -0x70(%rax), %cl");
FORM(disp32, "lea -0x12345678(%rdi), %r10\n add %r11, 0x12345678(%r10)");
FORM(index1, "mov $0x8000000000000000, %rcx\n lea (%rdi, %rcx), %rax\n addl $1, (%rax, %rcx)");
FORM(index8, "mov $-8, %r11\n lea 64(%rdi), %r14\n xor %eax, (%r14, %r11, 8)");
FORM(index_only, "mov %rdi, %rax\n shr $1, %rax\n and $1, %edi\n mov 0(%rdi, %rax, 2), %ecx");
FORM(rbp_base, "mov %rdi, %rbp\n mov (%rbp), %rax");
FORM(r13_base, "mov %rdi, %r13\n lock incq (%r13)");
FORM(r12_base, "mov %rdi, %r12\n mov %rcx, (%r12)");
FORM(r15_base, "mov %rdi, %r15\n notq (%r15)");
FORM(lock_add, "lock addl $1, (%rdi)");
FORM(xchg, "xchg %r14, (%rdi)");
FORM(xadd, "lock xadd %rax, (%rdi)");
FORM(cmpxchg, "lock cmpxchg %rcx, (%rdi)");
FORM(cmpxchg8b, "lock cmpxchg8b (%rdi)");
FORM(cmpxchg16b, "lock cmpxchg16b (%rdi)");
FORM(bit, "lea -0x1000(%rdi), %rax\n mov $0x8000, %ecx\n bts %rcx, (%rax)");
FORM(bit_back, "lea 0x10000000(%rdi), %rax\n mov $-0x80000000, %rcx\n lock btc %rcx, (%rax)");
FORM(bit_far, "mov $0x7ffffffffffffff8, %rcx\n mov $0xfffffffffffffff, %rax\n sub %rax, %rdi\n"
              "btr %rcx, 0(%rdi)");
FORM(push_mem, "push (%rdi)");
FORM(pop_mem, "push %rax\n pop (%rdi)");
FORM(call_mem, "call *(%rdi)");
FORM(jmp_mem, "jmp *(%rdi)");
FORM(lods, "mov %rdi, %rsi\n lodsq");
FORM(stos, "mov $3, %ecx\n rep stosq");
FORM(stos_down, "std\n mov $3, %ecx\n rep stosb");
FORM(movs, "mov %rdi, %rsi\n movsb");
FORM(scas, "mov $5, %ecx\n repne scasb");
FORM(cmps, "mov %rdi, %rsi\n cmpsb");
FORM(xlat, "mov %rdi, %rbx\n xor %eax, %eax\n xlatb");
FORM(movups, "movups (%rdi), %xmm0");
FORM(store_movups, "movups %xmm1, (%rdi)");
FORM(movaps, "movaps (%rdi), %xmm9");
FORM(store_movaps, "movaps %xmm9, (%rdi)");
FORM(paddd, "paddd (%rdi), %xmm0");
FORM(ymm, "vmovups (%rdi), %ymm0");
FORM(store_ymm, "vmovups %ymm0, (%rdi)");
FORM(ymm_aligned, "vmovaps (%rdi), %ymm8");
FORM(store_ymm_aligned, "vmovaps %ymm8, (%rdi)");
FORM(ymm_nt, "vmovntps %ymm8, (%rdi)");
FORM(masked, "vpcmpeqd %ymm1, %ymm1, %ymm1\n vpmaskmovd %ymm0, %ymm1, (%rdi)");
FORM(maskmov, "pcmpeqd %xmm1, %xmm1\n maskmovdqu %xmm1, %xmm0");
FORM(gather, "vpcmpeqd %ymm1, %ymm1, %ymm1\n vpxor %ymm2, %ymm2, %ymm2\n"
             "vpgatherdd %ymm1, (%rdi, %ymm2, 4), %ymm0");
FORM(x87, "fninit\n fldt (%rdi)");
FORM(fxsave, "fxsave64 (%rdi)");
FORM(fnstenv, "fnstenv (%rdi)");
FORM(movbe, "movbe %rax, (%rdi)");
FORM(mulx, "mulx (%rdi), %rax, %rcx");
FORM(rsp_push, "lea 8(%rdi), %rsp\n push %rax");
FORM(rsp_pop, "mov %rdi, %rsp\n pop %rax");
FORM(rsp_call, "lea 8(%rdi), %rsp\n call form_load8");
FORM(rsp_ret, "mov %rdi, %rsp");
FORM(leave, "mov %rdi, %rbp\n leave");
FORM(enter, "lea 8(%rdi), %rsp\n enter $8, $0");

struct form {
    const char *name;
    void (*run)(void *p);
    unsigned int flags;
};
#define ROW(name, flags)                                                                           \
    {                                                                                              \
#name, form_##name, flags                                                                  \
    }
static const struct form forms[] = {
    ROW(load8, BYTE),     ROW(load16, 0),
    ROW(load32, 0),       ROW(load64, 0),
    ROW(store8, BYTE),    ROW(store16, 0),
    ROW(store32, 0),      ROW(store64, 0),
    ROW(disp8, BYTE),     ROW(disp32, 0),
    ROW(index1, 0),       ROW(index8, 0),
    ROW(index_only, 0),   ROW(rbp_base, 0),
    ROW(r13_base, 0),     ROW(r12_base, 0),
    ROW(r15_base, 0),     ROW(lock_add, 0),
    ROW(xchg, 0),         ROW(xadd, 0),
    ROW(cmpxchg, 0),      ROW(cmpxchg8b, 0),
    ROW(cmpxchg16b, 0),   ROW(bit, 0),
    ROW(bit_back, 0),     ROW(bit_far, BYTE),
    ROW(push_mem, 0),     ROW(pop_mem, 0),
    ROW(call_mem, 0),     ROW(jmp_mem, 0),
    ROW(lods, 0),         ROW(stos, 0),
    ROW(stos_down, BYTE), ROW(movs, BYTE),
    ROW(scas, BYTE),      ROW(cmps, BYTE),
    ROW(xlat, BYTE),      ROW(movups, 0),
    ROW(store_movups, 0), ROW(movaps, 0),
    ROW(store_movaps, 0), ROW(paddd, 0),
    ROW(ymm, 0),          ROW(store_ymm, 0),
    ROW(ymm_aligned, 0),  ROW(store_ymm_aligned, 0),
    ROW(ymm_nt, 0),       ROW(masked, 0),
    ROW(maskmov, BYTE),   ROW(gather, 0),
    ROW(x87, 0),          ROW(fxsave, 0),
    ROW(fnstenv, 0),      ROW(movbe, 0),
    ROW(mulx, 0),         ROW(rsp_push, STACK),
    ROW(rsp_pop, STACK),  ROW(rsp_call, STACK),
    ROW(rsp_ret, STACK),  ROW(leave, STACK),
    ROW(enter, STACK),
};

static bool as_user;
static uint64_t tried;
static volatile uint8_t *hot;

static int attempt(const struct form *f, uint64_t address)
{
    tried++;
    return as_user ? guest_try_user(f->run, ptr(address)) : guest_try(f->run, ptr(address));
}

/* Mapped are the first 4 GiB and the hot page. */
static bool is_mapped(uint64_t a)
{
    return a < UINT64_C(0x100000000) || (a & ~UINT64_C(0xFFF)) == HOT;
}

/* A fault at the address, or behind it where the operand goes on there. */
static void must_fault(const struct form *f, uint64_t address)
{
    int vector = attempt(f, address);
    bool general = vector == X86_GP || vector == X86_SS || vector == X86_AC;
    bool page = vector == X86_PF && guest_fault.cr2 - address + 16 < 512 + 16;
    if (general || page)
        return;
    guest_print("FAIL %s at %lx: vector %d, cr2 %lx\n", f->name, address, vector, guest_fault.cr2);
    guest_exit(9);
}

/* The hot page is in every table that there is, for reading and for writing. */
static void warm_up(const struct form *f)
{
    if (!(f->flags & STACK) && f->run != form_call_mem && f->run != form_jmp_mem)
        (void)attempt(f, HOT + 0x100);
    for (unsigned int n = 0; n < 0x1000; n++)
        hot[n] = CANARY;
}

static void check_canaries(const struct form *f)
{
    for (unsigned int n = 0; n < 0x1000; n++) {
        if (hot[n] != CANARY) {
            guest_print("FAIL %s changed the page at %x\n", f->name, n);
            guest_exit(9);
        }
    }
}

static const unsigned int offsets[] = {0, 8, 0x7F8, 0xFC0, 0xFE0, 0xFF0, 0xFF8, 0xFFF};

static void try_page(const struct form *f, uint64_t page)
{
    for (unsigned int n = 0; n < sizeof(offsets) / sizeof(offsets[0]); n++) {
        uint64_t a = page + offsets[n];
        if (!is_mapped(a) && !is_mapped(a - 0x10)) /* strings that go down */
            must_fault(f, a);
    }
}

static void try_form(const struct form *f)
{
    static const uint64_t edges[] = {
        0,
        UINT64_C(1) << 46,
        UINT64_C(1) << 47,
        UINT64_C(1) << 48,
        UINT64_C(1) << 62,
        UINT64_C(1) << 63,
        -(UINT64_C(1) << 47),
        -(UINT64_C(1) << 48),
        -(UINT64_C(1) << 31),
        UINT64_C(0x100000000),
    };
    warm_up(f);
    for (unsigned int bit = 12; bit < 64; bit++) {
        try_page(f, HOT ^ UINT64_C(1) << bit);
        try_page(f, HOT + (UINT64_C(1) << bit));
        try_page(f, HOT - (UINT64_C(1) << bit));
    }
    for (unsigned int n = 0; n < sizeof(edges) / sizeof(edges[0]); n++) {
        try_page(f, edges[n]);
        try_page(f, edges[n] - 0x1000);
        try_page(f, edges[n] + 0x1000);
    }
    if (!(f->flags & BYTE))
        must_fault(f, HOT + 0xFFF);
    check_canaries(f);
    /* and with the hot page gone from under the tables: indexes that were in use */
    uint64_t *entry = guest_entry(HOT, 0), kept = *entry;
    *entry = 0;
    invlpg(ptr(HOT));
    must_fault(f, HOT + 0x100);
    must_fault(f, HOT + 0xFFF);
    must_fault(f, HOT ^ UINT64_C(0xC000000000));
    *entry = kept;
    check_canaries(f);
}

static void try_all(void)
{
    write_cr4(read_cr4() | X86_CR4_OSFXSR | X86_CR4_OSXMMEXCPT | X86_CR4_OSXSAVE);
    __asm__ volatile("xsetbv" : : "a"(7), "d"(0), "c"(0));
    hot = ptr(HOT);
    guest_map(HOT, (uintptr_t)guest_page(), RW, 0);
    for (unsigned int n = 0; n < sizeof(forms) / sizeof(forms[0]); n++)
        if (as_user || !(forms[n].flags & STACK))
            try_form(&forms[n]);
    DIE_UNLESS(tried > 20000);
}

static void kernel(void)
{
    try_all();
}

static void user(void)
{
    as_user = true;
    try_all();
}

static const struct die_mode modes[] = {{"kernel", kernel}, {"user", user}};

DIE_MAIN(modes)
