/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * More output than anybody wants to read, and a UART whose registers are turned over meanwhile.
 *
 * run: bytes => lives output=1000000 seconds=20
 * run: both => lives output=400000 vcpus=2 seconds=20
 * run: strings => lives output=1000000 seconds=20
 * run: forever => runs output=100000 vcpus=2 seconds=1
 * run: registers => any seconds=2
 */
#include "guests/die/die.h"

static volatile unsigned int done;

static void put(unsigned int count)
{
    for (unsigned int n = 0; n < count; n++)
        outb(LODGE_PORT_SERIAL, (uint8_t)(n % 80 ? 'a' + n % 26 : '\n'));
}

static void bytes(void)
{
    put(1000000);
}

static void other(unsigned int n)
{
    (void)n;
    put(200000);
    done = 1;
}

static void both(void)
{
    smp_start(other);
    put(200000);
    while (!done)
        pause();
}

static void strings(void)
{
    volatile uint8_t *p = ptr(0x1000000);
    for (unsigned int n = 0; n < 1000000; n++)
        p[n] = n % 64 ? 'x' : '\n';
    __asm__ volatile("rep outsb" : : "c"(1000000), "d"(LODGE_PORT_SERIAL), "S"(p) : "memory");
}

static void forever_on(unsigned int n)
{
    (void)n;
    for (;;)
        put(1000);
}

static void forever(void)
{
    smp_start(forever_on);
    forever_on(0);
}

/* Output in loop-back, FIFOs on and off, divisors of 0, interrupts enabled with nobody to take
 * them, between bytes. */
static void registers(void)
{
    uint64_t seed = 1;
    for (unsigned int n = 0; n < 300000; n++) {
        uint64_t v = die_random(&seed);
        uint16_t port = (uint16_t)(LODGE_PORT_SERIAL + (v & 7));
        if (v & 8)
            (void)inb(port);
        else if (port != LODGE_PORT_SERIAL || v & 0xF0)
            outb(port, (uint8_t)(v >> 8));
    }
    outb(LODGE_PORT_SERIAL + 3, 3);
    outb(LODGE_PORT_SERIAL + 4, 0);
}

static const struct die_mode modes[] = {
    {"bytes", bytes},     {"both", both},           {"strings", strings},
    {"forever", forever}, {"registers", registers},
};

DIE_MAIN(modes)
