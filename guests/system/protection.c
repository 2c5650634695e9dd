/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/* SMEP, SMAP with STAC and CLAC, UMIP: what they keep the kernel and its users from. */
#include "guests/lib/guest.h"

#define AREA   UINT64_C(0x4000000000)
#define ptr(a) ((void *)(uintptr_t)(a))

static uint32_t leaf7_b, leaf7_c;
static uint64_t page; /* user page at AREA, supervisor page at AREA + 0x1000 */

static void set_kernel_pages(bool user)
{
    /* with SMEP the kernel's own code must not be the user's: our first 4 MiB */
    for (uint64_t a = 0; a < 0x400000; a += 0x200000) {
        uint64_t *e = guest_entry(a, 1);
        *e = user ? *e | X86_PTE_U : *e & ~X86_PTE_U;
    }
    flush_tlb();
}

static void test_smep(void)
{
    if (!(leaf7_b >> 7 & 1)) {
        guest_skip("not offered");
        return;
    }
    CHECK_EQ(guest_try(guest_call, ptr(AREA)), NO_FAULT);
    set_kernel_pages(false);
    write_cr4(read_cr4() | X86_CR4_SMEP);
    int call = guest_try(guest_call, ptr(AREA));
    reg_t error = guest_fault.error;
    int load = guest_try(guest_load8, ptr(AREA));
    int own = guest_try(guest_call, ptr(AREA + 0x1000));
    write_cr4(read_cr4() & ~X86_CR4_SMEP);
    set_kernel_pages(true);
    CHECK_EQ(call, X86_PF);
    CHECK_EQ(error, X86_PF_P | X86_PF_I);
    CHECK_EQ(load, NO_FAULT);
    CHECK_EQ(own, NO_FAULT);
    CHECK_EQ(guest_try(guest_call, ptr(AREA)), NO_FAULT);
}

static void stac_load_clac(void *p)
{
    __asm__ volatile("stac; movb (%0), %%al; clac" : : "r"(p) : "rax", "memory");
}

static void test_smap(void)
{
    if (!(leaf7_b >> 20 & 1)) {
        guest_skip("not offered");
        return;
    }
    set_kernel_pages(false);
    write_cr4(read_cr4() | X86_CR4_SMAP);
    int load = guest_try(guest_load8, ptr(AREA));
    reg_t error = guest_fault.error;
    int store = guest_try(guest_store8, ptr(AREA));
    int with_ac = guest_try(stac_load_clac, ptr(AREA));
    int after = guest_try(guest_load8, ptr(AREA));
    int own = guest_try(guest_load8, ptr(AREA + 0x1000));
    int fetch = guest_try(guest_call, ptr(AREA)); /* SMAP is about data */
    write_cr4(read_cr4() & ~X86_CR4_SMAP);
    set_kernel_pages(true);
    CHECK_EQ(load, X86_PF);
    CHECK_EQ(error, X86_PF_P);
    CHECK_EQ(store, X86_PF);
    CHECK_EQ(with_ac, NO_FAULT);
    CHECK_EQ(after, X86_PF);
    CHECK_EQ(own, NO_FAULT);
    CHECK_EQ(fetch, NO_FAULT);
    CHECK_EQ(guest_try(guest_load8, ptr(AREA)), NO_FAULT);
}

static void clac(void *p)
{
    (void)p;
    __asm__ volatile("clac");
}

static void sgdt(void *p)
{
    __asm__ volatile("sgdt (%0)" : : "r"(p) : "memory");
}

static void sidt(void *p)
{
    __asm__ volatile("sidt (%0)" : : "r"(p) : "memory");
}

static void sldt(void *p)
{
    (void)p;
    __asm__ volatile("sldt %%eax" : : : "eax");
}

static void str(void *p)
{
    (void)p;
    __asm__ volatile("str %%eax" : : : "eax");
}

static void smsw(void *p)
{
    (void)p;
    __asm__ volatile("smsw %%eax" : : : "eax");
}

static void test_umip(void)
{
    static void (*const all[])(void *) = {sgdt, sidt, sldt, str, smsw};
    static uint8_t buffer[16];
    for (unsigned int n = 0; n < 5; n++)
        CHECK_EQ(guest_try_user(all[n], buffer), NO_FAULT);
    CHECK_EQ(guest_try_user(clac, NULL), X86_UD);
    if (!(leaf7_c >> 2 & 1)) {
        guest_skip("UMIP not offered");
        return;
    }
    write_cr4(read_cr4() | X86_CR4_UMIP);
    for (unsigned int n = 0; n < 5; n++) {
        CHECK_EQ(guest_try_user(all[n], buffer), X86_GP);
        CHECK_EQ(guest_try(all[n], buffer), NO_FAULT);
    }
    write_cr4(read_cr4() & ~X86_CR4_UMIP);
}

static void store_misaligned(void *p)
{
    *(volatile uint32_t *)((uint8_t *)p + 1) = 0xC3C3C3C3;
}

static void user_ac(void *p)
{
    write_flags(read_flags() | X86_FLAG_AC);
    store_misaligned(p);
}

static void user_ac_aligned(void *p)
{
    write_flags(read_flags() | X86_FLAG_AC);
    *(volatile uint32_t *)p = 0xC3C3C3C3;
    write_flags(read_flags() & ~X86_FLAG_AC);
}

static void test_alignment_check(void)
{
    CHECK_EQ(guest_try_user(user_ac, ptr(AREA)), NO_FAULT); /* CR0.AM is clear */
    write_cr0(read_cr0() | X86_CR0_AM);
    int kernel = guest_try(user_ac, ptr(AREA));
    int user = guest_try_user(user_ac, ptr(AREA));
    reg_t error = guest_fault.error;
    int aligned = guest_try_user(user_ac_aligned, ptr(AREA));
    write_cr0(read_cr0() & ~X86_CR0_AM);
    CHECK_EQ(kernel, NO_FAULT);
    CHECK_EQ(user, X86_AC);
    CHECK_EQ(error, 0);
    CHECK_EQ(aligned, NO_FAULT);
}

int main(void)
{
    leaf7_b = cpuid(0, 0).a >= 7 ? cpuid(7, 0).b : 0;
    leaf7_c = cpuid(0, 0).a >= 7 ? cpuid(7, 0).c : 0;
    page = (uintptr_t)guest_page();
    *(uint8_t *)ptr(page) = 0xC3;
    guest_map(AREA, page, X86_PTE_P | X86_PTE_W | X86_PTE_U, 0);
    guest_map(AREA + 0x1000, page, X86_PTE_P | X86_PTE_W, 0);
    GUEST_RUN(test_smep);
    GUEST_RUN(test_smap);
    GUEST_RUN(test_umip);
    GUEST_RUN(test_alignment_check);
    return guest_done();
}
