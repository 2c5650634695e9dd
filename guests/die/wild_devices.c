/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/* Reads and writes every register of the memory-mapped devices, in every size and misaligned. The
 * local APIC may be told to send us INIT on the way, or interrupts that nobody handles. */
#include "guests/lib/guest.h"

#define ptr(a) ((void *)(uintptr_t)(a))

static void access(uint64_t at, unsigned int size, bool write, uint64_t v)
{
    volatile void *p = ptr(at);
    if (size == 1 && write)
        *(volatile uint8_t *)p = (uint8_t)v;
    else if (size == 1)
        (void)*(volatile uint8_t *)p;
    else if (size == 2 && write)
        *(volatile uint16_t *)p = (uint16_t)v;
    else if (size == 2)
        (void)*(volatile uint16_t *)p;
    else if (size == 4 && write)
        *(volatile uint32_t *)p = (uint32_t)v;
    else if (size == 4)
        (void)*(volatile uint32_t *)p;
    else if (write)
        *(volatile uint64_t *)p = v;
    else
        (void)*(volatile uint64_t *)p;
}

static void ignore(struct guest_frame *f)
{
    (void)f;
}

/* Sending INIT or a start-up to ourselves is for the end. */
static bool is_final(uint64_t at, unsigned int size)
{
    return at < LODGE_MMIO_APIC + 0x310 && at + size > LODGE_MMIO_APIC + 0x300;
}

static void sweep(uint64_t base, uint64_t length, uint64_t step)
{
    for (uint64_t a = base; a < base + length; a += step) {
        for (unsigned int size = 1; size <= 8; size *= 2) {
            access(a, size, false, 0);
            if (is_final(a, size))
                continue;
            access(a, size, true, 0);
            access(a, size, true, ~UINT64_C(0));
            access(a, size, true, guest_random());
        }
    }
}

static void test_sweep(void)
{
    sweep(LODGE_MMIO_ECAM, 0x10000, 1);
    sweep(LODGE_MMIO_ECAM + 0x10000, 0xF0000, 0x3FC);
    sweep(LODGE_MMIO_IO_APIC, 0x1000, 1);
    sweep(LODGE_MMIO_APIC, 0x1000, 1);
}

static void test_io_apic_registers(void)
{
    for (uint32_t n = 0; n < 0x10000; n++) {
        access(LODGE_MMIO_IO_APIC, 4, true, guest_random());
        access(LODGE_MMIO_IO_APIC + 0x10, 4, n & 1, guest_random());
    }
}

static void test_config_space(void)
{
    for (uint32_t n = 0; n < 50000; n++) {
        uint32_t address = (uint32_t)guest_random() | 0x80000000;
        uint16_t port = (uint16_t)(0xCFC + (guest_random() & 3));
        __asm__ volatile("outl %0, %w1" : : "a"(address), "d"(0xCF8));
        if (n & 1)
            __asm__ volatile("outl %0, %w1" : : "a"((uint32_t)guest_random()), "d"(port));
        else
            __asm__ volatile("inl %w1, %0" : "=a"(address) : "d"(port));
    }
}

int main(void)
{
    for (unsigned int v = 32; v < 256; v++)
        guest_set_handler((uint8_t)v, v == VECTOR_LEAVE ? NULL : ignore);
    guest_set_handler(X86_NMI, ignore);
    test_sweep();
    test_io_apic_registers();
    test_config_space();
    guest_print("PASS wild_devices\n");
    /* now all delivery modes to all destinations, ourselves included */
    for (uint32_t n = 0; n < 2000; n++) {
        access(LODGE_MMIO_APIC + 0x310, 4, true, guest_random());
        access(LODGE_MMIO_APIC + 0x300, 4, true, guest_random());
    }
    return 0;
}
