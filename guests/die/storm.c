/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * Interrupt storms: as many as there can be, from every source and in every direction.
 *
 * run: timer => lives
 * run: timer => lives vcpus=4
 * run: no-eoi => runs seconds=1
 * run: deadline => lives vcpus=2
 * run: self => lives vcpus=2
 * run: nested => any seconds=2
 * run: broadcast => lives vcpus=2
 * run: broadcast => lives vcpus=4
 * run: nmi => lives vcpus=4
 * run: nmi-forever => runs vcpus=2 seconds=1
 * run: level => lives
 * run: clocks => lives
 * run: ping-pong => lives vcpus=2
 * run: ping-pong => lives vcpus=4
 * run: startup => lives vcpus=2
 * run: startup => lives vcpus=4
 * run: startup-garbage seed=@ => any vcpus=3 seconds=2
 * run: icr seed=@ => any vcpus=4 seconds=2
 * run: reset => off vcpus=4
 */
#include "guests/die/die.h"

enum { VECTOR = 0x50, MAX = 16, ICR_ALL = 0x80000, ICR_OTHERS = 0xC0000, ICR_NMI = 0x400 };

static volatile unsigned int taken[MAX];
static volatile unsigned int begun, done;
static volatile unsigned int turn;

static unsigned int whoami(void)
{
    return (apic_read(APIC_ID) >> 24) % MAX;
}

static void on_vector(struct guest_frame *f)
{
    (void)f;
    taken[whoami()]++;
    apic_write(APIC_EOI, 0);
}

static void wait_for(unsigned int n, unsigned int count)
{
    while (taken[n] < count)
        pause();
}

static void finish(void)
{
    __asm__ volatile("cli; lock; incl %0" : "+m"(done));
}

/* Runs fn on all processors with interrupts on, and waits for all of them. */
static void everywhere(void (*fn)(unsigned int n))
{
    apic_enable();
    if (smp_count() > 1)
        smp_start(fn);
    fn(0);
    while (done < smp_count())
        pause();
}

static void start_timer(uint32_t mode, uint32_t count)
{
    apic_write(APIC_TIMER_DIVIDE, 0xB);
    apic_write(APIC_LVT_TIMER, mode | VECTOR);
    apic_write(APIC_TIMER_COUNT, count);
}

/* --- timers --- */

static void do_timer(unsigned int n)
{
    (void)n;
    __asm__ volatile("sti");
    start_timer(1 << 17, 1);
    wait_for(whoami(), 500);
    /* and set again and again, faster than it can fire */
    for (unsigned int i = 0; i < 5000; i++)
        start_timer(i & 1 ? 1 << 17 : 0, i & 7);
    apic_write(APIC_LVT_TIMER, 1 << 16);
    finish();
}

static void timer(void)
{
    guest_set_handler(VECTOR, on_vector);
    everywhere(do_timer);
}

static void on_without_eoi(struct guest_frame *f)
{
    (void)f;
    taken[0]++;
}

static void no_eoi(void)
{
    for (unsigned int v = 0x20; v < 0x100; v++)
        guest_set_handler((uint8_t)v, on_without_eoi);
    apic_enable();
    __asm__ volatile("sti");
    for (unsigned int v = 0x20;; v = v == 0xFF ? 0x20 : v + 1)
        apic_send_self((uint8_t)v);
}

static void on_deadline(struct guest_frame *f)
{
    (void)f;
    unsigned int n = whoami();
    apic_write(APIC_EOI, 0);
    if (++taken[n] < 30000)
        wrmsr(0x6E0, n & taken[n] & 1 ? rdtsc() + 1 : 1);
}

static void do_deadline(unsigned int n)
{
    (void)n;
    apic_write(APIC_LVT_TIMER, 2 << 17 | VECTOR);
    __asm__ volatile("sti");
    wrmsr(0x6E0, 1);
    wait_for(whoami(), 30000);
    finish();
}

static void deadline(void)
{
    guest_set_handler(VECTOR, on_deadline);
    everywhere(do_deadline);
}

/* --- between processors --- */

static void on_self(struct guest_frame *f)
{
    (void)f;
    apic_write(APIC_EOI, 0);
    if (++taken[whoami()] < 30000)
        apic_write(APIC_ICR, 0x44000 | VECTOR);
}

static void do_self(unsigned int n)
{
    (void)n;
    __asm__ volatile("sti");
    apic_write(APIC_ICR, 0x44000 | VECTOR);
    wait_for(whoami(), 30000);
    finish();
}

static void self(void)
{
    guest_set_handler(VECTOR, on_self);
    everywhere(do_self);
}

/* Each inside the one before, until the stack has run through all memory below it. */
static void on_nested(struct guest_frame *f)
{
    (void)f;
    apic_write(APIC_EOI, 0);
    apic_write(APIC_ICR, 0x44000 | VECTOR);
    __asm__ volatile("sti; nop; nop; cli");
}

static void nested(void)
{
    guest_set_handler(VECTOR, on_nested);
    apic_enable();
    __asm__ volatile("sti");
    apic_write(APIC_ICR, 0x44000 | VECTOR);
    for (;;)
        pause();
}

static void do_broadcast(unsigned int n)
{
    __asm__ volatile("sti");
    for (unsigned int i = 0; i < 5000; i++) {
        apic_send(0, ICR_ALL | (VECTOR + (i & 7)));
        if (i % 64 == n)
            apic_send(0xFF, VECTOR);
    }
    finish();
    __asm__ volatile("sti");
    while (done < smp_count())
        pause();
}

static void broadcast(void)
{
    for (uint8_t v = 0; v < 8; v++)
        guest_set_handler((uint8_t)(VECTOR + v), on_vector);
    everywhere(do_broadcast);
    for (unsigned int n = 0; n < smp_count(); n++)
        DIE_UNLESS(taken[n] > 0);
}

static void on_nmi(struct guest_frame *f)
{
    (void)f;
    taken[whoami()]++;
}

static void do_nmi(unsigned int n)
{
    (void)n;
    /* not while somebody is on its way here and has no IDT */
    __asm__ volatile("lock; incl %0" : "+m"(begun));
    while (begun < smp_count())
        pause();
    for (unsigned int i = 0; i < 5000; i++)
        apic_send(0, ICR_OTHERS | ICR_NMI);
    finish();
    while (done < smp_count())
        pause();
}

static void nmi(void)
{
    guest_set_handler(X86_NMI, on_nmi);
    everywhere(do_nmi);
    for (unsigned int n = 0; n < smp_count(); n++)
        DIE_UNLESS(taken[n] > 0);
}

static void on_nmi_back(struct guest_frame *f)
{
    (void)f;
    apic_write(APIC_ICR, ICR_OTHERS | ICR_NMI);
}

static void do_nothing(unsigned int n)
{
    for (;;)
        if (n & 1)
            __asm__ volatile("cli; hlt");
        else
            pause();
}

static void nmi_forever(void)
{
    guest_set_handler(X86_NMI, on_nmi_back);
    apic_enable();
    smp_start(do_nothing);
    apic_send(0, ICR_OTHERS | ICR_NMI);
    do_nothing(0);
}

/* Wake-ups that must not be lost: each halts until it is its turn, then wakes the next. */
static void do_ping_pong(unsigned int n)
{
    unsigned int count = smp_count(), me = whoami();
    (void)n;
    while (turn < 8000) {
        __asm__ volatile("cli");
        if (turn % count == me) {
            turn++;
            apic_send(turn % count, VECTOR);
        } else if (turn < 8000) {
            __asm__ volatile("sti; hlt");
        }
    }
    apic_send(0, ICR_OTHERS | VECTOR);
    finish();
}

static void ping_pong(void)
{
    guest_set_handler(VECTOR, on_vector);
    everywhere(do_ping_pong);
}

/* --- other sources --- */

static void io_apic_write(uint32_t index, uint32_t v)
{
    *(volatile uint32_t *)ptr(LODGE_MMIO_IO_APIC) = index;
    *(volatile uint32_t *)ptr(LODGE_MMIO_IO_APIC + 0x10) = v;
}

static void route(unsigned int pin, uint32_t low)
{
    io_apic_write(0x10 + 2 * pin + 1, 0);
    io_apic_write(0x10 + 2 * pin, low);
}

static void on_level(struct guest_frame *f)
{
    if (taken[0] == 30000)
        outb(LODGE_PORT_SERIAL + 1, 0);
    on_vector(f);
}

/* The UART says that it can take a byte, and nobody gives it one: level-triggered, so after each
 * EOI it comes again, and nothing else gets to run. */
static void level(void)
{
    guest_set_handler(VECTOR, on_level);
    apic_enable();
    route(LODGE_IRQ_SERIAL, 1 << 15 | VECTOR);
    outb(LODGE_PORT_SERIAL + 4, 8);
    outb(LODGE_PORT_SERIAL + 1, 2);
    __asm__ volatile("sti");
    while (taken[0] < 30000)
        pause();
    __asm__ volatile("cli");
    route(LODGE_IRQ_SERIAL, 1 << 16);
}

/* PIT at its fastest, in every mode; RTC at its fastest; both set again all the time. */
static void clocks(void)
{
    guest_set_handler(VECTOR, on_vector);
    apic_enable();
    route(2, VECTOR);
    route(8, VECTOR);
    __asm__ volatile("sti");
    for (unsigned int i = 0; i < 4000; i++) {
        outb(0x43, (uint8_t)(0x30 | (i & 7) << 1 | (i >> 3 & 1)));
        outb(0x40, (uint8_t)(i & 3));
        outb(0x40, 0);
        outb(0x70, 0x0A);
        outb(0x71, (uint8_t)(0x20 | (i & 15)));
        outb(0x70, 0x0B);
        outb(0x71, (uint8_t)(0x02 | i << 4));
        outb(0x70, 0x0C);
        (void)inb(0x71);
        outb(0x43, (uint8_t)(0xB0 | (i & 7) << 1));
        outb(0x42, 1);
        outb(0x42, 0);
        outb(0x61, (uint8_t)(i & 3));
    }
    outb(0x43, 0x34);
    outb(0x40, 1);
    outb(0x40, 0);
    unsigned int before = taken[0];
    while (taken[0] < before + 1000)
        pause();
    __asm__ volatile("cli");
}

/* --- INIT and SIPI --- */

static void do_count(unsigned int n)
{
    (void)n;
    finish();
}

/* Everybody is started over and over, at whatever point of its life it is. */
static void startup(void)
{
    smp_start(do_count);
    for (unsigned int i = 0; i < 3000; i++) {
        apic_send(0, ICR_OTHERS | 0x4500);
        apic_send(0, ICR_OTHERS | 0x4600 | 0x08);
        for (unsigned int k = 0; k < (i & 255); k++)
            pause();
    }
    apic_send(0, ICR_OTHERS | 0x4500);
}

static void startup_garbage(void)
{
    uint64_t seed = die_number("seed=", 1);
    for (uint64_t a = 0x1000; a < 0x90000; a += 8)
        if (a < (uintptr_t)die_command_line() / 4096 * 4096)
            *(volatile uint64_t *)ptr(a) = die_random(&seed);
    apic_enable();
    for (unsigned int i = 0; i < 20000; i++) {
        uint64_t v = die_random(&seed);
        apic_send((uint32_t)(1 + v % 3), 0x4500);
        apic_send((uint32_t)(1 + (v >> 8) % 3), 0x4600 | (uint32_t)(v >> 16 & 0xFF));
        for (unsigned int k = 0; k < (v >> 24 & 0x3FF); k++)
            pause();
    }
}

static void do_icr(unsigned int n)
{
    uint64_t seed = die_number("seed=", 1) + n;
    __asm__ volatile("sti");
    for (unsigned int i = 0; i < 20000; i++) {
        apic_write(APIC_ICR_HIGH, (uint32_t)die_random(&seed));
        uint32_t v = (uint32_t)die_random(&seed);
        if ((v & 0x700) == 0x500 && i & 63) /* INIT only seldom */
            v ^= 0x100;
        apic_write(APIC_ICR, v);
    }
}

static void icr(void)
{
    for (unsigned int v = 16; v < 256; v++)
        guest_set_handler((uint8_t)v, on_vector);
    guest_set_handler(X86_NMI, on_nmi);
    apic_enable();
    smp_start(do_icr);
    do_icr(0);
    __asm__ volatile("cli");
}

/* A reset in the middle of a storm. */
static void reset(void)
{
    for (uint8_t v = 0; v < 8; v++)
        guest_set_handler((uint8_t)(VECTOR + v), on_vector);
    apic_enable();
    smp_start(do_broadcast);
    for (unsigned int i = 0; i < 100; i++)
        apic_send(0, ICR_ALL | VECTOR);
    outb(LODGE_PORT_RESET, 6);
    for (;;)
        pause();
}

static const struct die_mode modes[] = {
    {"timer", timer},
    {"no-eoi", no_eoi},
    {"deadline", deadline},
    {"self", self},
    {"nested", nested},
    {"broadcast", broadcast},
    {"nmi", nmi},
    {"nmi-forever", nmi_forever},
    {"level", level},
    {"clocks", clocks},
    {"ping-pong", ping_pong},
    {"startup", startup},
    {"startup-garbage", startup_garbage},
    {"icr", icr},
    {"reset", reset},
};

DIE_MAIN(modes)
