/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * Reads and writes all over the physical address space, most of it beyond RAM: all ones, nothing
 * stored, no harm.
 *
 * run: seed=1 => lives seconds=20
 * run: seed=2 => lives memory=3G seconds=20
 * run: seed=3 => lives memory=5G seconds=20
 */
#include "guests/lib/guest.h"

#define L      UINT64_C(0x10000000000) /* 1 TiB and up: 512 GiB as 2 MiB pages, made on demand */
#define ptr(a) ((void *)(uintptr_t)(a))

static unsigned int physical_bits;

static bool is_device(uint64_t physical)
{
    return physical >> 20 == LODGE_MMIO_APIC >> 20 || physical >> 20 == LODGE_MMIO_IO_APIC >> 20 ||
           physical >> 20 == LODGE_MMIO_ECAM >> 20;
}

/* One window, moved. */
static volatile uint8_t *window(uint64_t physical)
{
    guest_map(L, physical & ~UINT64_C(0xFFF), X86_PTE_P | X86_PTE_W | X86_PTE_U, 0);
    uint64_t next = (physical & ~UINT64_C(0xFFF)) + 0x1000;
    if (next >> physical_bits)
        next = 0xD0000000; /* beyond what an entry can say */
    guest_map(L + 0x1000, next, X86_PTE_P | X86_PTE_W | X86_PTE_U, 0);
    return ptr(L + (physical & 0xFFF));
}

static void touch(uint64_t physical)
{
    if (physical < 0x4000000 || is_device(physical) || is_device(physical + 8))
        return; /* ourselves; devices have guests of their own */
    volatile uint8_t *p = window(physical);
    uint64_t old = *(volatile uint64_t *)p;
    *(volatile uint64_t *)p = old;
    *(volatile uint8_t *)p = (uint8_t)old;
    *(volatile uint16_t *)p = (uint16_t)old;
    *(volatile uint32_t *)p = (uint32_t)old;
    __asm__ volatile("lock addq $0, %0" : "+m"(*(volatile uint64_t *)p) : : "cc");
    uint8_t block[64];
    for (unsigned int n = 0; n < 64; n++)
        block[n] = p[n];
    for (unsigned int n = 0; n < 64; n++)
        p[n] = block[n];
    void *from = ptr((uintptr_t)p), *to = ptr((uintptr_t)p);
    uint64_t count = 32;
    __asm__ volatile("rep movsb" : "+S"(from), "+D"(to), "+c"(count) : : "memory");
}

static void test_powers_of_two(void)
{
    for (unsigned int n = 26; n < physical_bits; n++) {
        touch(UINT64_C(1) << n);
        touch((UINT64_C(1) << n) - 4); /* across the edge */
        touch((UINT64_C(1) << n) - 8);
        touch((UINT64_C(1) << n) + 0x12345);
    }
    touch((UINT64_C(1) << physical_bits) - 8);
}

static void test_every_mebibyte(void)
{
    for (uint64_t a = 0x4000000; a < 0x140000000; a += 0x100000) {
        touch(a);
        touch(a - 4);
    }
}

static void test_random(void)
{
    for (int n = 0; n < 20000; n++)
        touch(guest_random() & ((UINT64_C(1) << physical_bits) - 1));
}

static void test_hole_reads_ones(void)
{
    volatile uint8_t *p = window(0xD0000000);
    *(volatile uint64_t *)p = 0;
    CHECK_EQ(*(volatile uint64_t *)p, ~UINT64_C(0));
    CHECK_EQ(p[1], 0xFF);
}

int main(void)
{
    physical_bits = cpuid(0x80000008, 0).a & 0xFF;
    GUEST_RUN(test_hole_reads_ones);
    GUEST_RUN(test_powers_of_two);
    GUEST_RUN(test_every_mebibyte);
    GUEST_RUN(test_random);
    return guest_done();
}
