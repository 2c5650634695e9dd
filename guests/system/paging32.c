/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/* 32-bit paging with 4 KiB and 4 MiB pages, PAE paging with 2 MiB pages and NX, and the ways
 * between them and no paging. */
#include "guests/lib/guest.h"

#define ptr(a) ((void *)(uintptr_t)(a))
#define AREA   0x80000000u /* linear, not identity-mapped */

enum { P_ = 1, W_ = 2, U_ = 4, PS_ = 0x80, A_ = 0x20, D_ = 0x40 };

static volatile uint32_t directory[1024] __attribute__((aligned(4096)));
static volatile uint32_t table[1024] __attribute__((aligned(4096)));
static volatile uint64_t pdpt[4] __attribute__((aligned(4096)));
static volatile uint64_t pae_directory[4][512] __attribute__((aligned(4096)));
static volatile uint64_t pae_table[512] __attribute__((aligned(4096)));
static volatile uint8_t pages[4][4096] __attribute__((aligned(4096)));

static uint32_t page(unsigned int n)
{
    pages[n][0] = 0xC3;
    return (uint32_t)(uintptr_t)pages[n];
}

static void paging_on(volatile void *root, reg_t cr4)
{
    write_cr4((read_cr4() & (reg_t) ~(X86_CR4_PAE | X86_CR4_PSE)) | cr4);
    write_cr3((uintptr_t)root);
    write_cr0(read_cr0() | X86_CR0_PG | X86_CR0_WP);
}

static void paging_off(void)
{
    write_cr0(read_cr0() & (reg_t)~X86_CR0_PG);
}

static volatile uint32_t *at(uint32_t linear)
{
    return ptr(linear);
}

/* --- 32-bit --- */

/* The first 256 MiB identity-mapped with 4 MiB pages, AREA through a page table. */
static void set_up_32(void)
{
    for (uint32_t n = 0; n < 64; n++)
        directory[n] = n << 22 | P_ | W_ | U_ | PS_;
    directory[AREA >> 22] = (uint32_t)(uintptr_t)table | P_ | W_ | U_;
}

static void check_rights(void (*set)(unsigned int index, uint32_t physical, uint32_t flags))
{
    static const struct {
        uint32_t flags;
        bool user;
        void (*access)(void *);
        int error;
    } cases[] = {
        {P_, false, guest_load8, -1},       {P_, false, guest_store8, 3},
        {P_ | W_, false, guest_store8, -1}, {0, false, guest_load8, 0},
        {0, false, guest_store8, 2},        {P_ | W_, true, guest_load8, 5},
        {P_ | U_, true, guest_load8, -1},   {P_ | U_, true, guest_call, -1},
        {P_ | U_, true, guest_store8, 7},   {P_ | U_ | W_, true, guest_store8, -1},
        {0, true, guest_load8, 4},          {0, true, guest_store8, 6},
    };
    for (unsigned int n = 0; n < sizeof(cases) / sizeof(cases[0]); n++) {
        set(1, page(1), cases[n].flags);
        void *p = ptr(AREA + 0x1000);
        int vector =
            cases[n].user ? guest_try_user(cases[n].access, p) : guest_try(cases[n].access, p);
        CHECK_EQ(vector, cases[n].error < 0 ? NO_FAULT : X86_PF);
        if (vector == X86_PF) {
            CHECK_EQ(guest_fault.error, cases[n].error);
            CHECK_EQ(guest_fault.cr2, AREA + 0x1000);
        }
    }
}

static void set_32(unsigned int index, uint32_t physical, uint32_t flags)
{
    table[index] = physical | flags;
    invlpg(ptr(AREA + index * 4096));
}

static void test_32_bit(void)
{
    set_up_32();
    set_32(0, page(0), P_ | W_);
    paging_on(directory, X86_CR4_PSE);
    *at(AREA + 8) = 0x12345678;
    CHECK_EQ(*at(page(0) + 8), 0x12345678);
    CHECK_EQ(table[0] & (A_ | D_), A_ | D_);
    CHECK(directory[AREA >> 22] & A_);
    CHECK_EQ(directory[0] & A_, A_); /* our own code */
    check_rights(set_32);
    paging_off();
}

static void test_4_mib_pages(void)
{
    set_up_32();
    directory[(AREA >> 22) + 1] = 0x02000000 | P_ | W_ | PS_;
    paging_on(directory, X86_CR4_PSE);
    *at(AREA + 0x400000 + 0x3FFFFC) = 7;
    CHECK_EQ(*at(0x023FFFFC), 7);
    CHECK_EQ(directory[(AREA >> 22) + 1] & (A_ | D_), A_ | D_);
    /* PSE-36's reserved bit 21 */
    directory[(AREA >> 22) + 2] = 0x00200000 | P_ | W_ | PS_;
    flush_tlb();
    CHECK_EQ(guest_try(guest_load8, ptr(AREA + 0x800000)), X86_PF);
    CHECK_EQ(guest_fault.error, 9);
    paging_off();
}

/* --- PAE --- */

static void set_pae(unsigned int index, uint32_t physical, uint32_t flags)
{
    pae_table[index] = physical | flags;
    invlpg(ptr(AREA + index * 4096));
}

static void set_up_pae(void)
{
    for (uint32_t n = 0; n < 4; n++)
        pdpt[n] = (uintptr_t)pae_directory[n] | P_;
    for (uint32_t n = 0; n < 128; n++)
        pae_directory[0][n] = (uint64_t)n << 21 | P_ | W_ | U_ | PS_;
    pae_directory[2][0] = (uintptr_t)pae_table | P_ | W_ | U_;
}

static void write_cr3_try(void *v)
{
    write_cr3((reg_t)v);
}

static void test_pae(void)
{
    set_up_pae();
    set_pae(0, page(0), P_ | W_);
    paging_on(pdpt, X86_CR4_PAE);
    *at(AREA + 8) = 0x87654321;
    CHECK_EQ(*at(page(0) + 8), 0x87654321);
    CHECK_EQ(pae_table[0] & (A_ | D_), A_ | D_);
    check_rights(set_pae);
    /* a 2 MiB page */
    pae_directory[2][1] = 0x02600000 | P_ | W_ | PS_;
    *at(AREA + 0x200000 + 0x1FFFFC) = 9;
    CHECK_EQ(*at(0x027FFFFC), 9);
    /* the PDPTEs are registers: a change counts from the next load of CR3 */
    pdpt[2] = 0;
    CHECK_EQ(*at(AREA + 8), 0x87654321);
    flush_tlb();
    CHECK_EQ(guest_try(guest_load8, ptr(AREA + 8)), X86_PF);
    CHECK_EQ(guest_fault.error, 0);
    pdpt[2] = (uintptr_t)pae_directory[2] | P_ | W_; /* W is reserved in a PDPTE */
    CHECK_EQ(guest_try(write_cr3_try, ptr(pdpt)), X86_GP);
    pdpt[2] = (uintptr_t)pae_directory[2] | P_;
    flush_tlb();
    CHECK_EQ(*at(AREA + 8), 0x87654321);
    paging_off();
}

static void test_pae_nx(void)
{
    if (!(cpuid(0x80000001, 0).d >> 20 & 1)) {
        guest_skip("NX not offered");
        return;
    }
    set_up_pae();
    pae_table[3] = page(3) | P_ | W_ | U_ | UINT64_C(1) << 63;
    paging_on(pdpt, X86_CR4_PAE);
    CHECK_EQ(guest_try(guest_load8, ptr(AREA + 0x3000)), X86_PF); /* reserved without NXE */
    CHECK_EQ(guest_fault.error, 9);
    wrmsr(MSR_EFER, rdmsr(MSR_EFER) | X86_EFER_NXE);
    CHECK_EQ(guest_try(guest_load8, ptr(AREA + 0x3000)), NO_FAULT);
    CHECK_EQ(guest_try(guest_call, ptr(AREA + 0x3000)), X86_PF);
    CHECK_EQ(guest_fault.error, 0x11);
    CHECK_EQ(guest_try_user(guest_call, ptr(AREA + 0x3000)), X86_PF);
    CHECK_EQ(guest_fault.error, 0x15);
    pae_table[3] = page(3) | P_ | W_ | U_;
    invlpg(ptr(AREA + 0x3000));
    CHECK_EQ(guest_try(guest_call, ptr(AREA + 0x3000)), NO_FAULT);
    wrmsr(MSR_EFER, 0);
    paging_off();
}

static void set_pg(void *p)
{
    (void)p;
    write_cr0((read_cr0() | X86_CR0_PG) & (reg_t)~X86_CR0_PE);
}

static void test_switches(void)
{
    set_up_32();
    set_up_pae();
    table[0] = page(0) | P_ | W_;
    pae_table[0] = page(1) | P_ | W_;
    *at(page(0) + 4) = 100;
    *at(page(1) + 4) = 200;
    for (int n = 0; n < 3; n++) {
        paging_on(directory, X86_CR4_PSE);
        CHECK_EQ(*at(AREA + 4), 100);
        paging_off();
        paging_on(pdpt, X86_CR4_PAE);
        CHECK_EQ(*at(AREA + 4), 200);
        paging_off();
    }
    CHECK_EQ(guest_try(set_pg, NULL), X86_GP);
}

int main(void)
{
    GUEST_RUN(test_32_bit);
    GUEST_RUN(test_4_mib_pages);
    GUEST_RUN(test_pae);
    GUEST_RUN(test_pae_nx);
    GUEST_RUN(test_switches);
    return guest_done();
}
