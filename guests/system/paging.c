/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/* 4-level paging: page sizes, rights, accessed and dirty bits, error codes, CR2, INVLPG, global
 * pages. Smaller things that share its set-up are here too. */
#include "guests/lib/guest.h"

#define AREA   UINT64_C(0x4000000000) /* a part of the address space of our own */
#define P_     X86_PTE_P
#define W_     X86_PTE_W
#define U_     X86_PTE_U
#define NX_    X86_PTE_NX
#define RET    0xC3
#define ptr(a) ((void *)(uintptr_t)(a))

static volatile uint64_t *at(uint64_t linear)
{
    return ptr(linear);
}

static uint64_t physical_page(void)
{
    uint8_t *p = guest_page();
    p[0] = RET;
    return (uintptr_t)p;
}

static void test_sizes(void)
{
    uint64_t page = physical_page();
    guest_map(AREA, page, P_ | W_, 0);
    *at(AREA + 0x123 * 8) = 0x1122334455667788;
    CHECK_EQ(*at(page + 0x123 * 8), 0x1122334455667788);

    guest_map(AREA + 0x40000000, 0x2000000, P_ | W_, 1);
    *at(AREA + 0x40000000 + 0x1FFFF8) = 42;
    CHECK_EQ(*at(0x2000000 + 0x1FFFF8), 42);
    *at(0x2000000) = 43;
    CHECK_EQ(*at(AREA + 0x40000000), 43);

    if (!(cpuid(0x80000001, 0).d >> 26 & 1)) {
        CHECK_EQ(guest_try(guest_load8, ptr(AREA)), NO_FAULT);
        return; /* no 1 GiB pages */
    }
    guest_map(AREA + 0x80000000, 0, P_ | W_, 2);
    CHECK_EQ(*at(AREA + 0x80000000 + 0x2000000), 43);
    *at(AREA + 0x80000000 + 0x2345678) = 44;
    CHECK_EQ(*at(0x2345678), 44);
}

static void test_accessed_dirty(void)
{
    uint64_t bits = X86_PTE_A | X86_PTE_D;
    uint64_t *e = guest_map(AREA + 0x1000, physical_page(), P_ | W_, 0);
    CHECK_EQ(*e & bits, 0);
    guest_load8(ptr(AREA + 0x1000));
    CHECK_EQ(*e & bits, X86_PTE_A);
    guest_store8(ptr(AREA + 0x1000));
    CHECK_EQ(*e & bits, bits);
    CHECK(*guest_entry(AREA, 1) & X86_PTE_A);
    CHECK(*guest_entry(AREA, 3) & X86_PTE_A);
    /* cleared by software: set again after INVLPG */
    *e &= ~bits;
    invlpg(ptr(AREA + 0x1000));
    guest_store8(ptr(AREA + 0x1000));
    CHECK_EQ(*e & bits, bits);
    /* a large page has them in its own entry */
    e = guest_map(AREA + 0x40200000, 0x2200000, P_ | W_, 1);
    guest_store8(ptr(AREA + 0x40200000 + 0x5000));
    CHECK_EQ(*e & bits, bits);
    /* a store that faults sets nothing */
    e = guest_map(AREA + 0x2000, physical_page(), P_, 0);
    CHECK_EQ(guest_try(guest_store8, ptr(AREA + 0x2000)), X86_PF);
    CHECK_EQ(*e & X86_PTE_D, 0);
}

/* Rights by entry, CPL and kind of access; error code of the #PF, or -1. CR0.WP is set. */
static const struct {
    uint64_t flags;
    bool user;
    void (*access)(void *);
    int error;
} rights[] = {
    {P_, false, guest_load8, -1},
    {P_, false, guest_store8, X86_PF_P | X86_PF_W},
    {P_, false, guest_call, -1},
    {P_ | W_, false, guest_store8, -1},
    {P_ | NX_, false, guest_load8, -1},
    {P_ | NX_, false, guest_call, X86_PF_P | X86_PF_I},
    {P_ | U_, false, guest_load8, -1},
    {P_ | U_, false, guest_store8, X86_PF_P | X86_PF_W},
    {0, false, guest_load8, 0},
    {0, false, guest_store8, X86_PF_W},
    {0, false, guest_call, X86_PF_I},
    {P_ | W_, true, guest_load8, X86_PF_P | X86_PF_U},
    {P_ | W_, true, guest_store8, X86_PF_P | X86_PF_U | X86_PF_W},
    {P_ | W_, true, guest_call, X86_PF_P | X86_PF_U | X86_PF_I},
    {P_ | U_, true, guest_load8, -1},
    {P_ | U_, true, guest_call, -1},
    {P_ | U_, true, guest_store8, X86_PF_P | X86_PF_U | X86_PF_W},
    {P_ | U_ | W_, true, guest_store8, -1},
    {P_ | U_ | W_ | NX_, true, guest_call, X86_PF_P | X86_PF_U | X86_PF_I},
    {0, true, guest_load8, X86_PF_U},
    {0, true, guest_store8, X86_PF_U | X86_PF_W},
    {W_ | U_, true, guest_call, X86_PF_U | X86_PF_I},
};

static void test_rights(void)
{
    uint64_t page = physical_page();
    for (unsigned int n = 0; n < sizeof(rights) / sizeof(rights[0]); n++) {
        void *p = ptr(AREA + 0x3000);
        guest_map(AREA + 0x3000, page, rights[n].flags, 0);
        *(uint8_t *)ptr(page) = RET;
        int vector =
            rights[n].user ? guest_try_user(rights[n].access, p) : guest_try(rights[n].access, p);
        if (vector != (rights[n].error < 0 ? NO_FAULT : X86_PF))
            guest_print("case %u: vector %d\n", n, vector);
        CHECK_EQ(vector, rights[n].error < 0 ? NO_FAULT : X86_PF);
        if (vector != X86_PF)
            continue;
        CHECK_EQ(guest_fault.error, (uint64_t)rights[n].error);
        CHECK_EQ(guest_fault.cr2, AREA + 0x3000);
    }
}

static void test_upper_levels(void)
{
    uint64_t *pde = guest_entry(AREA, 1);
    guest_map(AREA + 0x4000, physical_page(), P_ | W_ | U_, 0);
    uint64_t old = *pde;
    *pde = old & ~(W_ | U_);
    flush_tlb();
    CHECK_EQ(guest_try(guest_store8, ptr(AREA + 0x4000)), X86_PF);
    CHECK_EQ(guest_try_user(guest_load8, ptr(AREA + 0x4000)), X86_PF);
    CHECK_EQ(guest_try(guest_load8, ptr(AREA + 0x4000)), NO_FAULT);
    *pde = old | NX_;
    flush_tlb();
    CHECK_EQ(guest_try(guest_call, ptr(AREA + 0x4000)), X86_PF);
    *pde = old;
    flush_tlb();
    CHECK_EQ(guest_try(guest_store8, ptr(AREA + 0x4000)), NO_FAULT);
    CHECK_EQ(guest_try_user(guest_call, ptr(AREA + 0x4000)), NO_FAULT);
}

static void test_write_protect(void)
{
    guest_map(AREA + 0x5000, physical_page(), P_ | U_, 0);
    write_cr0(read_cr0() & ~X86_CR0_WP);
    int kernel = guest_try(guest_store8, ptr(AREA + 0x5000));
    int user = guest_try_user(guest_store8, ptr(AREA + 0x5000));
    write_cr0(read_cr0() | X86_CR0_WP);
    CHECK_EQ(kernel, NO_FAULT);
    CHECK_EQ(user, X86_PF);
    CHECK_EQ(guest_try(guest_store8, ptr(AREA + 0x5000)), X86_PF);
}

static void test_reserved(void)
{
    unsigned int bits = cpuid(0x80000008, 0).a & 0xFF;
    if (bits < 52) {
        guest_map(AREA + 0x6000, physical_page() | UINT64_C(1) << 51, P_ | W_, 0);
        CHECK_EQ(guest_try(guest_load8, ptr(AREA + 0x6000)), X86_PF);
        CHECK_EQ(guest_fault.error, X86_PF_P | X86_PF_R);
        CHECK_EQ(guest_try_user(guest_store8, ptr(AREA + 0x6000)), X86_PF);
        CHECK_EQ(guest_fault.error, X86_PF_P | X86_PF_R | X86_PF_W | X86_PF_U);
    }
    /* NX without EFER.NXE */
    guest_map(AREA + 0x6000, physical_page(), P_ | W_ | NX_, 0);
    wrmsr(MSR_EFER, rdmsr(MSR_EFER) & ~X86_EFER_NXE);
    int vector = guest_try(guest_load8, ptr(AREA + 0x6000));
    wrmsr(MSR_EFER, rdmsr(MSR_EFER) | X86_EFER_NXE);
    CHECK_EQ(vector, X86_PF);
    CHECK_EQ(guest_fault.error, X86_PF_P | X86_PF_R);
    CHECK_EQ(guest_try(guest_load8, ptr(AREA + 0x6000)), NO_FAULT);
    /* a 2 MiB page that is not aligned */
    guest_map(AREA + 0x40400000, 0x2400000 | 0x4000, P_ | W_, 1);
    CHECK_EQ(guest_try(guest_load8, ptr(AREA + 0x40400000)), X86_PF);
    CHECK_EQ(guest_fault.error, X86_PF_P | X86_PF_R);
    /* PS in a PML4 entry */
    uint64_t *e = guest_entry(AREA + (UINT64_C(1) << 39), 3);
    *e = (uintptr_t)guest_page() | P_ | W_ | X86_PTE_PS;
    CHECK_EQ(guest_try(guest_load8, ptr(AREA + (UINT64_C(1) << 39))), X86_PF);
    CHECK_EQ(guest_fault.error, X86_PF_P | X86_PF_R);
    *e = 0;
}

static void test_invalidate(void)
{
    uint64_t a = physical_page(), b = physical_page();
    *at(a + 8) = 1;
    *at(b + 8) = 2;
    guest_map(AREA + 0x7000, a, P_ | W_, 0);
    CHECK_EQ(*at(AREA + 0x7008), 1);
    guest_map(AREA + 0x7000, b, P_ | W_, 0); /* with INVLPG */
    CHECK_EQ(*at(AREA + 0x7008), 2);
    *guest_entry(AREA + 0x7000, 0) = a | P_ | W_;
    flush_tlb();
    CHECK_EQ(*at(AREA + 0x7008), 1);
    /* global pages: gone at least when CR4.PGE changes */
    write_cr4(read_cr4() | X86_CR4_PGE);
    guest_map(AREA + 0x7000, a, P_ | W_ | X86_PTE_G, 0);
    CHECK_EQ(*at(AREA + 0x7008), 1);
    *guest_entry(AREA + 0x7000, 0) = b | P_ | W_ | X86_PTE_G;
    write_cr4(read_cr4() & ~X86_CR4_PGE);
    CHECK_EQ(*at(AREA + 0x7008), 2);
    write_cr4(read_cr4() | X86_CR4_PGE);
    *guest_entry(AREA + 0x7000, 0) = a | P_ | W_ | X86_PTE_G;
    invlpg(ptr(AREA + 0x7000)); /* takes global ones too */
    CHECK_EQ(*at(AREA + 0x7008), 1);
    /* INVLPG anywhere in a large page takes all of it */
    guest_map(AREA + 0x40600000, 0x2600000, P_ | W_, 1);
    *at(0x2600000 + 0x100008) = 3;
    *at(0x2800000 + 0x100008) = 4;
    CHECK_EQ(*at(AREA + 0x40600000 + 0x100008), 3);
    *guest_entry(AREA + 0x40600000, 1) = 0x2800000 | P_ | W_ | X86_PTE_PS;
    invlpg(ptr(AREA + 0x40600000));
    CHECK_EQ(*at(AREA + 0x40600000 + 0x100008), 4);
}

static void store_across(void *p)
{
    *(volatile uint64_t *)((uint8_t *)p - 3) = 0x0807060504030201;
}

static void test_page_crossing(void)
{
    uint64_t a = physical_page(), b = physical_page();
    guest_map(AREA + 0x8000, a, P_ | W_, 0);
    guest_map(AREA + 0x9000, b, P_ | W_, 0);
    store_across(ptr(AREA + 0x9000));
    CHECK_EQ(*(uint32_t *)ptr(a + 0xFFC) >> 8, 0x030201);
    CHECK_EQ(*(uint32_t *)ptr(b), 0x07060504);
    *at(a + 0xFF8) = 0;
    guest_map(AREA + 0x9000, b, 0, 0);
    CHECK_EQ(guest_try(store_across, ptr(AREA + 0x9000)), X86_PF);
    CHECK_EQ(guest_fault.cr2, AREA + 0x9000);
    CHECK_EQ(*at(a + 0xFF8), 0); /* nothing of it was stored */
}

/* Through the stack segment, but not with RSP: the exception needs that. */
static void load_by_rbp(void *p)
{
    __asm__ volatile("push %%rbp; mov %0, %%rbp; mov (%%rbp), %%rax; pop %%rbp"
                     :
                     : "r"(p)
                     : "rax", "memory");
}

static void test_canonical(void)
{
    CHECK_EQ(guest_try(guest_load8, ptr(0x0000800000000000)), X86_GP);
    CHECK_EQ(guest_fault.error, 0);
    CHECK_EQ(guest_try(guest_store8, ptr(0xFFFF7FFFFFFFFFFF)), X86_GP);
    CHECK_EQ(guest_try(guest_call, ptr(0x0000800000000000)), X86_GP);
    CHECK_EQ(guest_try(guest_load8, ptr(0xFFFF800000000000)), X86_PF);
    CHECK_EQ(guest_fault.cr2, 0xFFFF800000000000);
    CHECK_EQ(guest_try(load_by_rbp, ptr(0x0000800000000000)), X86_SS);
}

int main(void)
{
    GUEST_RUN(test_sizes);
    GUEST_RUN(test_accessed_dirty);
    GUEST_RUN(test_rights);
    GUEST_RUN(test_upper_levels);
    GUEST_RUN(test_write_protect);
    GUEST_RUN(test_reserved);
    GUEST_RUN(test_invalidate);
    GUEST_RUN(test_page_crossing);
    GUEST_RUN(test_canonical);
    return guest_done();
}
