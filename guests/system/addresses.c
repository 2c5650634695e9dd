/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/* Looks for memory that is not its own: every kind of access at every address that is the edge of
 * something (page, top of RAM, halves, 2^64, what differs only in bits that a hash of addresses may
 * leave out), in rings 0 and 3, before and after neighbours of the same hash were used. Each access
 * gives what the page tables say, or the fault that is due. */
#include "guests/lib/guest.h"

#define ptr(a) ((void *)(uintptr_t)(a))
#define RIGHTS (X86_PTE_P | X86_PTE_W | X86_PTE_U)

enum { ACCESSES = 12 };

/* --- one access of each kind, at rdi; as functions, so that they are translated once --- */

#define ACCESS(name, text) __asm__(".pushsection .text\n" #name ":\n\t" text "\n\tret\n.popsection"); \
    extern void name(void *)
ACCESS(load1, "movzbl (%rdi), %eax");
ACCESS(load2, "movzwl (%rdi), %eax");
ACCESS(load4, "mov -0x7fffffff(%rdi), %eax"); /* called with that much more */
ACCESS(load8, "xor %ecx, %ecx\n\tmov (%rdi, %rcx, 8), %rax");
ACCESS(load16, "movups (%rdi), %xmm0\n\tmovq %xmm0, %rax");
ACCESS(load16a, "movaps (%rdi), %xmm0\n\tmovq %xmm0, %rax");
ACCESS(load32, "vmovups (%rdi), %ymm0\n\tmovq %xmm0, %rax");
ACCESS(load32a, "vmovaps (%rdi), %ymm0\n\tmovq %xmm0, %rax");
ACCESS(modify8, "lock; addq $0, (%rdi)");
ACCESS(modify16, "mov %rbx, %r8\n\txor %eax, %eax\n\txor %edx, %edx\n\txor %ebx, %ebx\n\txor %ecx, %ecx\n\t"
                 "cmpxchg16b (%rdi)\n\tmov %r8, %rbx");
ACCESS(bit8, "mov $0x80000000, %ecx\n\tbt %rcx, (%rdi)");
ACCESS(push8, "mov %rsp, %rcx\n\tlea 8(%rdi), %rsp\n\tpushq $0\n\tmov %rcx, %rsp");

static const struct access {
    void (*fn)(void *);
    uint8_t size, align;
    bool writes, stack;
    int64_t offset; /* what fn adds to its argument */
} accesses[ACCESSES] = {
    {load1, 1, 1, false, false, 0},
    {load2, 2, 1, false, false, 0},
    {load4, 4, 1, false, false, -0x7FFFFFFF},
    {load8, 8, 1, false, false, 0},
    {load16, 16, 1, false, false, 0},
    {load16a, 16, 16, false, false, 0},
    {load32, 32, 1, false, false, 0},
    {load32a, 32, 32, false, false, 0},
    {modify8, 8, 1, true, false, 0},
    {modify16, 16, 16, true, false, 0},
    {bit8, 8, 1, false, false, 0x10000000},
    {push8, 8, 1, true, true, 0},
};

static bool is_canonical(uint64_t a)
{
    return (uint64_t)((int64_t)(a << 16) >> 16) == a;
}

/* Present to ring 3, as the page tables say. */
static bool is_present(uint64_t a)
{
    const uint64_t *table = guest_pml4;
    for (unsigned int level = 3;; level--) {
        uint64_t entry = table[a >> (12 + 9 * level) & 511];
        if (!(entry & X86_PTE_P))
            return false;
        if (level == 0 || entry & X86_PTE_PS)
            return true;
        table = ptr(entry & 0xFFFFFFFFFF000);
    }
}

static int expected(const struct access *x, uint64_t a)
{
    uint64_t last = a + x->size - 1;
    if (!is_canonical(a) || !is_canonical(last))
        return x->stack ? X86_SS : X86_GP;
    if (a & (x->align - 1u))
        return X86_GP;
    return is_present(a) && is_present(last) ? NO_FAULT : X86_PF;
}

static unsigned int checked;

static void check_one(const struct access *x, uint64_t a)
{
    void *argument = ptr(a - (uint64_t)x->offset);
    int vector = expected(x, a);
    if (x->fn == push8 && a > UINT64_MAX - 8)
        return; /* the stack pointer wraps: fine, but not to be told here */
    /* in ring 0 a fault with a bad stack pointer is a double fault */
    for (unsigned int user = x->stack; user < 2; user++) {
        int got = user ? guest_try_user(x->fn, argument) : guest_try(x->fn, argument);
        checked++;
        if (got == vector)
            continue;
        guest_print("access %u at %lx, ring %u: ", (unsigned int)(x - accesses), (unsigned long)a,
                    user * 3);
        CHECK_EQ((uint64_t)(int64_t)got, (uint64_t)(int64_t)vector);
    }
}

static void check_at(uint64_t a)
{
    for (unsigned int n = 0; n < ACCESSES; n++)
        check_one(&accesses[n], a);
}

/* Around an edge, byte by byte where operands begin or end. */
static void check_around(uint64_t edge)
{
    static const int16_t offset[] = {-64, -33, -32, -31, -16, -15, -8, -7, -4, -2, -1,
                                     0,   1,   8,   16,  31,  32,  0x7C0};
    for (unsigned int n = 0; n < sizeof(offset) / sizeof(offset[0]); n++)
        check_at(edge + (uint64_t)(int64_t)offset[n]);
}

static void test_edges(void)
{
    static const uint64_t edge[] = {0,
                                    0x1000,
                                    0x100000000,
                                    0x7FFFFFFF000,
                                    UINT64_C(1) << 46,
                                    UINT64_C(1) << 47,
                                    -(UINT64_C(1) << 47),
                                    UINT64_C(1) << 63,
                                    UINT64_C(3) << 62,
                                    UINT64_C(1) << 62,
                                    -UINT64_C(0x80000000),
                                    -UINT64_C(0x1000)};
    for (unsigned int round = 0; round < 2; round++)
        for (unsigned int n = 0; n < sizeof(edge) / sizeof(edge[0]); n++)
            check_around(edge[n]);
}

/* The same with pages at both ends of the halves, of what a table may have index 0 and 0xFFFF for. */
static void test_edges_with_pages(void)
{
    const uint64_t at[] = {0x7FFFFFFFF000, 0xFFFF800000000000, 0xFFFFFFFFFFFFF000, 0xFFFFFFFF0000000,
                           0x10000000000,  0x1000FFFF000};
    for (unsigned int n = 0; n < sizeof(at) / sizeof(at[0]); n++)
        if (is_canonical(at[n]))
            guest_map(at[n], (uintptr_t)guest_page(), RIGHTS, 0);
    for (unsigned int n = 0; n < sizeof(at) / sizeof(at[0]); n++) {
        check_around(at[n]);
        check_around(at[n] + 0x1000);
    }
    test_edges();
}

/* Pages whose addresses differ in one bit above 27, of which one is there: the others are not, and
 * contents do not mix. Low page numbers too, that a rotated check may take for others. */
static void test_aliases(void)
{
    static const uint64_t low[] = {0, 0x1000, 0xF000, 0x10000, 0x11000, 0x1F000, 0x20000, 0xFFFF000};
    for (unsigned int n = 0; n < sizeof(low) / sizeof(low[0]); n++) {
        uint64_t base = 0x300000000000 + low[n];
        uint64_t *page = guest_page();
        page[0] = 0x1234567800000000 | n;
        guest_map(base, (uintptr_t)page, RIGHTS, 0);
        for (unsigned int bit = 28; bit < 64; bit++) {
            uint64_t other = base ^ UINT64_C(1) << bit;
            unsigned int mark = guest_page_mark();
            CHECK_EQ(*(volatile uint64_t *)ptr(base), page[0]); /* is the last that was used */
            check_at(other);
            CHECK_EQ(*(volatile uint64_t *)ptr(base), page[0]);
            if (!is_canonical(other) || is_present(other))
                continue;
            uint64_t *second = guest_page();
            second[0] = ~page[0];
            uint64_t *entry = guest_map(other, (uintptr_t)second, RIGHTS, 0);
            CHECK_EQ(*(volatile uint64_t *)ptr(other), second[0]);
            CHECK_EQ(*(volatile uint64_t *)ptr(base), page[0]);
            *entry = 0;
            invlpg(ptr(other));
            check_at(other);
            if (bit >= 39) /* its tables are of the pool as well */
                *guest_entry(other, 3) = 0;
            else if (bit >= 30)
                *guest_entry(other, 2) = 0;
            flush_tlb();
            if (bit >= 30)
                guest_page_release(mark);
        }
    }
}

/* The lowest pages after a neighbour of the same hash has come and gone: what is there, and no more. */
static void test_low_pages_after_neighbours(void)
{
    for (uint64_t a = 0x10000; a < 0x40000; a += 0x1000) {
        volatile uint64_t *low = ptr(a), *neighbour = ptr(a | UINT64_C(1) << 40);
        uint64_t v, *page = guest_page();
        low[0] = a;
        page[0] = 1;
        guest_map(a | UINT64_C(1) << 40, (uintptr_t)page, RIGHTS, 0);
        for (unsigned int round = 0; round < 2; round++) {
            CHECK_EQ(neighbour[0], 1);
            flush_tlb();
            __asm__ volatile("vmovaps (%1), %%ymm0; vmovq %%xmm0, %0" : "=r"(v) : "r"(low) : "memory");
            CHECK_EQ(v, a);
            flush_tlb();
            __asm__ volatile("movaps (%1), %%xmm0; movq %%xmm0, %0" : "=r"(v) : "r"(low) : "memory");
            CHECK_EQ(v, a);
        }
    }
}

int main(void)
{
    write_cr4(read_cr4() | X86_CR4_OSFXSR | X86_CR4_OSXSAVE);
    __asm__ volatile("xsetbv" : : "c"(0), "a"(7), "d"(0));
    GUEST_RUN(test_edges);
    GUEST_RUN(test_edges_with_pages);
    GUEST_RUN(test_aliases);
    GUEST_RUN(test_low_pages_after_neighbours);
    guest_print("%u accesses\n", checked);
    return guest_done();
}
