/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/* PCID and INVPCID, on levels that offer them; else that they fault as they must. */
#include "guests/lib/guest.h"

#define AREA   UINT64_C(0x4000000000)
#define ptr(a) ((void *)(uintptr_t)(a))

static uint64_t a, b;

static uint64_t value(void)
{
    return *(volatile uint64_t *)ptr(AREA + 8);
}

static void set_pcide(void *p)
{
    (void)p;
    write_cr4(read_cr4() | X86_CR4_PCIDE);
}

static void invpcid(void *type)
{
    static const uint64_t descriptor[2] = {0, AREA};
    __asm__ volatile("invpcid %0, %1" : : "m"(descriptor), "r"(type) : "memory");
}

static void test_pcid(void)
{
    if (!(cpuid(1, 0).c >> 17 & 1)) {
        CHECK_EQ(guest_try(set_pcide, NULL), X86_GP);
        guest_skip("not offered");
        return;
    }
    uint64_t cr3 = read_cr3();
    write_cr3(cr3 | 1);
    CHECK_EQ(guest_try(set_pcide, NULL), X86_GP); /* CR3[11:0] must be 0 */
    write_cr3(cr3);
    CHECK_EQ(guest_try(set_pcide, NULL), NO_FAULT);
    write_cr3(cr3 | 5);
    CHECK_EQ(read_cr3(), cr3 | 5);
    guest_map(AREA, a, X86_PTE_P | X86_PTE_W, 0);
    CHECK_EQ(value(), 1);
    *guest_entry(AREA, 0) = b | X86_PTE_P | X86_PTE_W;
    write_cr3(cr3 | 5 | X86_CR3_NOFLUSH); /* may keep the old one */
    CHECK(value() == 1 || value() == 2);
    CHECK_EQ(read_cr3(), cr3 | 5); /* bit 63 is not kept */
    write_cr3(cr3 | 5);
    CHECK_EQ(value(), 2);
    write_cr3(cr3);
    write_cr4(read_cr4() & ~X86_CR4_PCIDE);
}

static void test_invpcid(void)
{
    if (!(cpuid(7, 0).b >> 10 & 1)) {
        CHECK_EQ(guest_try(invpcid, ptr(2)), X86_UD);
        guest_skip("not offered");
        return;
    }
    for (uint64_t type = 0; type < 4; type++) {
        guest_map(AREA, a, X86_PTE_P | X86_PTE_W, 0);
        CHECK_EQ(value(), 1);
        *guest_entry(AREA, 0) = b | X86_PTE_P | X86_PTE_W;
        CHECK_EQ(guest_try(invpcid, ptr(type)), NO_FAULT);
        CHECK_EQ(value(), 2);
    }
    CHECK_EQ(guest_try(invpcid, ptr(4)), X86_GP);
    CHECK_EQ(guest_try_user(invpcid, ptr(0)), X86_GP);
}

int main(void)
{
    a = (uintptr_t)guest_page();
    b = (uintptr_t)guest_page();
    ((uint64_t *)ptr(a))[1] = 1;
    ((uint64_t *)ptr(b))[1] = 2;
    GUEST_RUN(test_pcid);
    GUEST_RUN(test_invpcid);
    return guest_done();
}
