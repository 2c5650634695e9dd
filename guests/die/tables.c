/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * Page tables that point at themselves, beyond RAM, and at devices: faults or all ones, and the
 * machine goes on.
 *
 * run: seed=@ => lives
 */
#include "guests/lib/guest.h"

#define L      UINT64_C(0x8000000000) /* a PML4 entry of its own */
#define ptr(a) ((void *)(uintptr_t)(a))

enum { RW = X86_PTE_P | X86_PTE_W | X86_PTE_U };

static volatile uint64_t *at(uint64_t linear)
{
    return ptr(linear);
}

static void test_recursive(void)
{
    /* the classic: a PML4 entry that maps the tables themselves */
    guest_pml4[511] = (uintptr_t)guest_pml4 | RW;
    flush_tlb();
    CHECK_EQ(*at(0xFFFFFFFFFFFFFFF8), guest_pml4[511]);
    CHECK_EQ(*at(0xFFFFFFFFFFFFF000), guest_pml4[0]);
    /* a mapping that is made through itself */
    *at(0xFFFFFFFFFFFFF000 + 8 * 300) = guest_pml4[0];
    CHECK_EQ(guest_try(guest_load8, ptr(0xFFFF960000100000)), NO_FAULT);
    guest_pml4[511] = 0;
    flush_tlb();
    /* every level the same page */
    uint64_t *page = guest_page();
    for (unsigned int n = 0; n < 512; n++)
        page[n] = (uintptr_t)page | RW;
    guest_pml4[400] = (uintptr_t)page | RW;
    for (int n = 0; n < 1000; n++) {
        uint64_t a = 0xFFFFC80000000000 | (guest_random() & 0x7FFFFFFFF8);
        CHECK((*at(a) & ~UINT64_C(0xFFF)) == (uintptr_t)page);
    }
    /* and one that destroys itself by its own dirty bit and store */
    *at(0xFFFFC80000000000) = 0;
    guest_pml4[400] = 0;
    flush_tlb();
}

static void test_beyond(void)
{
    static const uint64_t where[] = {0xD0000000, 0xFFFFF000, UINT64_C(0x3FFFFFF000)};
    for (unsigned int n = 0; n < sizeof(where) / sizeof(where[0]); n++) {
        for (unsigned int level = 1; level <= 3; level++) {
            guest_map(L + 0x40000000, (uintptr_t)guest_page(), RW, 0);
            uint64_t *e = guest_entry(L + 0x40000000, level);
            uint64_t old = *e;
            *e = where[n] | RW;
            flush_tlb();
            /* nobody answers there: all ones, with reserved bits set */
            CHECK_EQ(guest_try(guest_load8, ptr(L + 0x40000000)), X86_PF);
            CHECK_EQ(guest_try_user(guest_store8, ptr(L + 0x40000000)), X86_PF);
            *e = old;
            flush_tlb();
        }
        guest_map(L, where[n], RW, 0);
        CHECK_EQ(*at(L + 0x100), ~UINT64_C(0));
        *at(L + 0x100) = 5;
        CHECK_EQ(*at(L + 0x100), ~UINT64_C(0));
    }
}

static void test_devices(void)
{
    static const uint64_t where[] = {LODGE_MMIO_APIC, LODGE_MMIO_IO_APIC, LODGE_MMIO_ECAM};
    for (unsigned int n = 0; n < sizeof(where) / sizeof(where[0]); n++) {
        guest_map(L + 0x80000000, (uintptr_t)guest_page(), RW, 0);
        uint64_t *e = guest_entry(L + 0x80000000, 1);
        uint64_t old = *e;
        *e = where[n] | RW;
        flush_tlb();
        CHECK_EQ(guest_try(guest_load8, ptr(L + 0x80000000)), X86_PF);
        *e = old;
        flush_tlb();
    }
}

/* Random entries at every level under one PML4 slot. */
static void test_random(void)
{
    unsigned int mark = guest_page_mark();
    for (int round = 0; round < 3000; round++) {
        guest_page_release(mark);
        uint64_t a = L + 0x8000000000 + (guest_random() & 0x3FFFFFF8);
        guest_map(a & ~UINT64_C(0xFFF), guest_random() & 0x000FFFFFFFFFF000, guest_random(), 0);
        (void)guest_try(guest_load8, ptr(a));
        (void)guest_try_user(guest_load8, ptr(a));
        if (round % 50 == 0)
            *guest_entry(a, round % 3 == 0 ? 1u : 0u) = guest_random();
        flush_tlb();
        (void)guest_try(guest_load8, ptr(a));
        guest_pml4[(L + 0x8000000000) >> 39 & 511] = 0;
        flush_tlb();
    }
}

int main(void)
{
    GUEST_RUN(test_recursive);
    GUEST_RUN(test_beyond);
    GUEST_RUN(test_devices);
    GUEST_RUN(test_random);
    return guest_done();
}
