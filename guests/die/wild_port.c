/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * Every port, read and written with all sizes and many values. Ports that end the run are left for
 * the end, where that is what is expected of them.
 *
 * run: read => lives seconds=20
 * run: write seed=@ => lives seconds=20
 * run: random seed=@ => lives vcpus=2 seconds=20
 * run: strings => lives
 * run: acpi-sleep => off
 * run: reset-cf9 => off
 * run: reset-92 => off
 */
#include "guests/die/die.h"

static uint64_t seed;

static bool ends_the_run(uint32_t port, unsigned int size)
{
    static const uint16_t deadly[] = {LODGE_PORT_EXIT, LODGE_PORT_ACPI_PM1_CONTROL + 1,
                                      LODGE_PORT_RESET, 0x92};
    for (unsigned int n = 0; n < sizeof(deadly) / 2; n++)
        if (deadly[n] >= port && deadly[n] < port + size)
            return true;
    return false;
}

static uint32_t in(uint32_t port, unsigned int size)
{
    uint32_t v = 0;
    if (size == 1)
        __asm__ volatile("inb %w1, %b0" : "+a"(v) : "d"(port));
    else if (size == 2)
        __asm__ volatile("inw %w1, %w0" : "+a"(v) : "d"(port));
    else
        __asm__ volatile("inl %w1, %0" : "=a"(v) : "d"(port));
    return v;
}

static void out(uint32_t port, unsigned int size, uint32_t v)
{
    if (size == 1)
        __asm__ volatile("outb %b0, %w1" : : "a"(v), "d"(port));
    else if (size == 2)
        __asm__ volatile("outw %w0, %w1" : : "a"(v), "d"(port));
    else
        __asm__ volatile("outl %0, %w1" : : "a"(v), "d"(port));
}

/* Where nobody is everything is ones: no byte of the host's shows through. */
static void expect_ones(uint32_t port, unsigned int size)
{
    uint32_t ones = size == 4 ? ~0u : (1u << 8 * size) - 1;
    DIE_UNLESS(in(port, size) == ones);
}

static void read(void)
{
    for (unsigned int size = 1; size <= 4; size *= 2)
        for (uint32_t port = 0; port < 0x10000; port++)
            (void)in(port, size);
    for (unsigned int size = 1; size <= 4; size *= 2) {
        for (uint32_t port = 0x1000; port < 0x10000; port += 7)
            expect_ones(port, size);
        expect_ones(0x80, size);
        expect_ones(0x64, size);
    }
    /* the last port: the rest of the access wraps or goes nowhere, but brings ones */
    DIE_UNLESS(in(0xFFFF, 1) == 0xFF);
}

static void silence(void)
{
    /* the UART's transmitter would make the terminal full of what is written: loop it back */
    outb(LODGE_PORT_SERIAL + 4, 0x10);
}

static void write(void)
{
    static const uint32_t values[] = {0, ~0u, 0x80000000, 0x55555555};
    for (unsigned int n = 0; n < 5; n++)
        for (unsigned int size = 1; size <= 4; size *= 2)
            for (uint32_t port = 0; port < 0x10000; port++) {
                if (port >= LODGE_PORT_SERIAL && port < LODGE_PORT_SERIAL + 8)
                    silence();
                if (!ends_the_run(port, size))
                    out(port, size, n < 4 ? values[n] : (uint32_t)die_random(&seed));
            }
}

static void one_random(void)
{
    /* mostly where devices are */
    static const uint16_t bases[] = {0x20,  0xA0, 0x40, 0x60,  0x70,  0x3F8, 0x600,
                                     0xCF8, 0x80, 0x90, 0x4D0, 0x2F8, 0x43};
    uint64_t v = die_random(&seed);
    uint32_t port = v & 3 ? bases[(v >> 8) % (sizeof(bases) / 2)] + (v >> 16 & 15) : v >> 40;
    unsigned int size = 1u << (v >> 4 & 1) << (v >> 5 & 1);
    port &= 0xFFFF;
    if (v & 4)
        (void)in(port, size);
    else if (!ends_the_run(port, size))
        out(port, size, (uint32_t)die_random(&seed));
}

static void many_random(unsigned int n)
{
    seed += n;
    for (unsigned int i = 0; i < 300000; i++)
        one_random();
}

static volatile bool other_done;

static void other(unsigned int n)
{
    many_random(n);
    other_done = true;
}

/* Both processors at once: the generator that they share without a lock makes it wilder. */
static void random_ports(void)
{
    smp_start(other);
    many_random(0);
    while (!other_done)
        pause();
}

/* Runs of INS and OUTS at every port where a device could be: long ones at every sixteenth, since each
 * byte may be an exit of its own. */
static void long_strings(void)
{
    for (uint32_t port = 0; port < 0x1000; port++) {
        void *to = ptr(0x800000), *from = ptr(0x800000);
        uint64_t n = port % 16 ? 20 : 300, m = n;
        __asm__ volatile("rep insb" : "+D"(to), "+c"(n) : "d"(port) : "memory");
        if (!ends_the_run(port, 1))
            __asm__ volatile("rep outsb" : "+S"(from), "+c"(m) : "d"(port) : "memory");
    }
}

/* INS and OUTS, at sizes and addresses that cross page ends, into nothing, from nothing. */
static void strings(void)
{
    static const uint64_t places[] = {0x800FFF,           0x8003FE,
                                      DIE_HOLE,           LODGE_MMIO_ECAM + 0xFFD,
                                      LODGE_MMIO_IO_APIC, LODGE_MMIO_APIC + 0x20,
                                      0x3FFFFFE};
    for (unsigned int n = 0; n < sizeof(places) / 8; n++) {
        __asm__ volatile("mov $512, %%ecx; mov %0, %%rdi; mov $0xCFC, %%edx; rep insl\n\t"
                         "mov $512, %%ecx; mov %0, %%rsi; mov $0x80, %%edx; rep outsl\n\t"
                         "mov $77, %%ecx; mov %0, %%rdi; mov $0x71, %%edx; rep insw\n\t"
                         "mov $77, %%ecx; mov %0, %%rsi; mov $0x42, %%edx; rep outsb\n\t"
                         "std; mov $99, %%ecx; mov %0, %%rdi; mov $0xCFD, %%edx; rep insb\n\t"
                         "mov $99, %%ecx; mov %0, %%rsi; mov $0x21, %%edx; rep outsw; cld"
                         :
                         : "r"(places[n])
                         : "rcx", "rdx", "rsi", "rdi", "memory", "cc");
    }
    long_strings();
}

static void acpi_sleep(void)
{
    for (unsigned int type = 0; type < 8; type++)
        if (type != 5)
            out(LODGE_PORT_ACPI_PM1_CONTROL, 2, type << 10 | 1 << 13);
    guest_print("still there\n");
    outb(LODGE_PORT_ACPI_PM1_CONTROL + 1, 5 << 2 | 1 << 5);
    guest_exit(3);
}

static void reset_cf9(void)
{
    out(LODGE_PORT_RESET, 1, 6);
    guest_exit(3);
}

static void reset_92(void)
{
    out(0x92, 1, 1);
    guest_exit(3);
}

static void start_and(void (*mode)(void))
{
    seed = die_number("seed=", 1);
    silence();
    mode();
    outb(LODGE_PORT_SERIAL + 4, 0);
}

#define QUIET(name)                                                                                \
    static void name##_quietly(void)                                                               \
    {                                                                                              \
        start_and(name);                                                                           \
    }
QUIET(read)
QUIET(write)
QUIET(random_ports)
QUIET(strings)

static const struct die_mode modes[] = {
    {"read", read_quietly},       {"write", write_quietly},   {"random", random_ports_quietly},
    {"strings", strings_quietly}, {"acpi-sleep", acpi_sleep}, {"reset-cf9", reset_cf9},
    {"reset-92", reset_92},
};

DIE_MAIN(modes)
