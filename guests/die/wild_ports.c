/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/* Reads and writes every port in every size. Those that end or reset the machine come last, so that
 * one knows that the others did not. */
#include "guests/lib/guest.h"

static uint32_t in(uint16_t port, unsigned int size)
{
    uint32_t v = 0;
    if (size == 1)
        __asm__ volatile("inb %w1, %b0" : "+a"(v) : "d"(port));
    else if (size == 2)
        __asm__ volatile("inw %w1, %w0" : "+a"(v) : "d"(port));
    else
        __asm__ volatile("inl %w1, %0" : "+a"(v) : "d"(port));
    return v;
}

static void out(uint16_t port, unsigned int size, uint32_t v)
{
    if (size == 1)
        __asm__ volatile("outb %b0, %w1" : : "a"(v), "d"(port));
    else if (size == 2)
        __asm__ volatile("outw %w0, %w1" : : "a"(v), "d"(port));
    else
        __asm__ volatile("outl %0, %w1" : : "a"(v), "d"(port));
}

/* Does an access of that size touch the exit port or one that ends things? */
static bool is_final(uint16_t port, unsigned int size)
{
    static const uint16_t final[] = {LODGE_PORT_EXIT,
                                     LODGE_PORT_RESET,
                                     0x64,
                                     0x92,
                                     LODGE_PORT_ACPI_PM1_CONTROL,
                                     LODGE_PORT_ACPI_PM1_CONTROL + 1};
    for (unsigned int n = 0; n < sizeof(final) / sizeof(final[0]); n++) {
        if ((uint16_t)(final[n] - port) < size)
            return true;
    }
    return false;
}

/* NMIs may come from what was programmed; nothing else does, since IF is clear. */
static void ignore(struct guest_frame *f)
{
    (void)f;
}

static void test_every_port(void)
{
    guest_set_handler(X86_NMI, ignore);
    for (uint32_t port = 0; port < 0x10000; port++) {
        for (unsigned int size = 1; size <= 4; size *= 2) {
            (void)in((uint16_t)port, size);
            if (is_final((uint16_t)port, size))
                continue;
            out((uint16_t)port, size, 0);
            out((uint16_t)port, size, ~0u);
            out((uint16_t)port, size, (uint32_t)guest_random());
        }
    }
}

static void test_random_order(void)
{
    for (int n = 0; n < 300000; n++) {
        uint16_t port = (uint16_t)(guest_random() & (n & 1 ? 0xFFFF : 0x7FF));
        unsigned int size = 1u << guest_random() % 3;
        if (is_final(port, size))
            continue;
        if (n & 2)
            (void)in(port, size);
        else
            out(port, size, (uint32_t)guest_random());
    }
}

static void test_strings(void)
{
    static uint8_t buffer[4096];
    for (uint32_t port = 0; port < 0x1000; port++) {
        void *p = buffer;
        uint64_t n = 300;
        __asm__ volatile("rep insb" : "+D"(p), "+c"(n) : "d"(port) : "memory");
        if (is_final((uint16_t)port, 4))
            continue;
        p = buffer;
        n = 300;
        __asm__ volatile("rep outsb" : "+S"(p), "+c"(n) : "d"(port) : "memory");
    }
}

int main(void)
{
    test_every_port();
    test_random_order();
    test_strings();
    /* the serial port as it was, to be able to say so */
    outb(LODGE_PORT_SERIAL + 1, 0);
    outb(LODGE_PORT_SERIAL + 3, 3);
    outb(LODGE_PORT_SERIAL + 4, 3);
    guest_print("PASS wild_ports\n");
    return 0;
}
