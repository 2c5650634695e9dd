/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/* Jumps into nothing: unmapped addresses, memory that is not there, devices. Each is a fault that a
 * handler sees; the last one finds no handler and kills. */
#include "guests/lib/guest.h"

#define L      UINT64_C(0x4000000000)
#define ptr(a) ((void *)(uintptr_t)(a))

static void test_unmapped(void)
{
    CHECK_EQ(guest_try(guest_call, ptr(L)), X86_PF);
    CHECK_EQ(guest_try_user(guest_call, ptr(L)), X86_PF);
    CHECK_EQ(guest_try(guest_call, ptr(0x0000800000000000)), X86_GP);
    CHECK_EQ(guest_try(guest_call, ptr(0x00007FFFFFFFFFFF)), X86_PF);
}

static void test_not_memory(void)
{
    static const uint64_t where[] = {0xD0000000, LODGE_MMIO_IO_APIC, LODGE_MMIO_APIC,
                                     LODGE_MMIO_ECAM, 0xFFFFF000};
    for (unsigned int n = 0; n < sizeof(where) / sizeof(where[0]); n++) {
        guest_map(L + 0x200000, where[n], X86_PTE_P | X86_PTE_W, 0);
        CHECK(guest_try(guest_call, ptr(L + 0x200000)) != NO_FAULT);
    }
    guest_map(L + 0x201000, UINT64_C(1) << 38, X86_PTE_P | X86_PTE_W, 0);
    CHECK(guest_try(guest_call, ptr(L + 0x201000)) != NO_FAULT);
}

int main(void)
{
    GUEST_RUN(test_unmapped);
    GUEST_RUN(test_not_memory);
    if (guest_done())
        return 1;
    guest_print("triple fault follows\n");
    load_idt(NULL, 0);
    guest_call(ptr(0xD0000000));
    return 0;
}
