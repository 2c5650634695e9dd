/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * Every timer of the machine at its fastest, and interrupts to oneself, without end: storm.c has the same as far as
 * they come to an end. Others must get on with their work beside it, and a signal must get through.
 *
 * run: tick => runs seconds=1
 * run: tick => runs vcpus=4 seconds=1
 * run: once => runs vcpus=2 seconds=1
 * run: past => runs seconds=1
 * run: past => runs vcpus=4 seconds=1
 * run: near => runs vcpus=2 seconds=1
 * run: rewrite => runs vcpus=2 seconds=1
 * run: pit => runs seconds=1
 * run: rtc => runs seconds=1
 * run: self => runs seconds=1
 * run: self => runs vcpus=4 seconds=1
 * run: crossfire => runs vcpus=4 seconds=1
 * run: all => runs vcpus=2 seconds=1
 * run: all => runs vcpus=4 seconds=1
 */
#include "guests/die/die.h"

enum {
    TIMER = 0x50,
    BOARD = 0x60,
    SELF = 0x70,
    PERIODIC = 1 << 17,
    DEADLINE = 2 << 17,
    MASKED = 1 << 16,
    DIVIDE_BY_1 = 0xB,
    ICR_SELF = 0x40000,
    ICR_ALL = 0x80000,
    MSR_DEADLINE = 0x6E0,
};

static _Noreturn void everywhere(void (*fn)(unsigned int n))
{
    apic_enable();
    if (smp_count() > 1)
        smp_start(fn);
    guest_print("storms\n");
    fn(0);
    guest_die("it came back");
}

static _Noreturn void idle_or_spin(unsigned int n)
{
    __asm__ volatile("sti");
    for (;;)
        if (n & 1)
            __asm__ volatile("hlt");
        else
            pause();
}

static void end_interrupt(struct guest_frame *f)
{
    (void)f;
    apic_write(APIC_EOI, 0);
}

/* --- the local APIC's timer --- */

static void set_timer(uint32_t mode, uint32_t count)
{
    apic_write(APIC_TIMER_DIVIDE, DIVIDE_BY_1);
    apic_write(APIC_LVT_TIMER, mode | TIMER);
    apic_write(APIC_TIMER_COUNT, count);
}

static void do_tick(unsigned int n)
{
    set_timer(PERIODIC, 1);
    idle_or_spin(n);
}

static void tick(void)
{
    guest_set_handler(TIMER, end_interrupt);
    everywhere(do_tick);
}

static void count_again(struct guest_frame *f)
{
    end_interrupt(f);
    apic_write(APIC_TIMER_COUNT, 1);
}

static void do_once(unsigned int n)
{
    set_timer(0, 1);
    idle_or_spin(n);
}

static void once(void)
{
    guest_set_handler(TIMER, count_again);
    everywhere(do_once);
}

/* A deadline that has passed when it is set: due at once. */
static void set_past(struct guest_frame *f)
{
    end_interrupt(f);
    wrmsr(MSR_DEADLINE, 1);
}

static void do_past(unsigned int n)
{
    apic_write(APIC_LVT_TIMER, DEADLINE | TIMER);
    wrmsr(MSR_DEADLINE, 1);
    idle_or_spin(n);
}

static void past(void)
{
    guest_set_handler(TIMER, set_past);
    everywhere(do_past);
}

/* One that passes while it is set, or not. */
static void set_near(struct guest_frame *f)
{
    static volatile unsigned int ahead;

    end_interrupt(f);
    wrmsr(MSR_DEADLINE, rdtsc() + (ahead++ & 0xFFF));
}

static void do_near(unsigned int n)
{
    apic_write(APIC_LVT_TIMER, DEADLINE | TIMER);
    wrmsr(MSR_DEADLINE, rdtsc() + 1);
    idle_or_spin(n);
}

static void near_by(void)
{
    guest_set_handler(TIMER, set_near);
    everywhere(do_near);
}

/* Set anew faster than it can be due, in all modes, with interrupts off. */
static void do_rewrite(unsigned int n)
{
    static const uint32_t modes[] = {0, PERIODIC, DEADLINE, MASKED};

    for (unsigned int k = n;; k++) {
        set_timer(modes[k & 3], k & 7);
        wrmsr(MSR_DEADLINE, k & 4 ? rdtsc() : 0);
    }
}

static void rewrite(void)
{
    everywhere(do_rewrite);
}

/* --- the board's --- */

static void route(unsigned int pin, uint32_t low)
{
    volatile uint32_t *index = ptr(LODGE_MMIO_IO_APIC), *data = ptr(LODGE_MMIO_IO_APIC + 0x10);

    *index = 0x10 + 2 * pin + 1;
    *data = 0;
    *index = 0x10 + 2 * pin;
    *data = low;
}

static void start_pit(void)
{
    route(2, BOARD);
    outb(0x43, 0x34); /* counter 0, both bytes, mode 2 */
    outb(0x40, 2);    /* the least that the mode takes */
    outb(0x40, 0);
}

static void cmos_write(uint8_t index, uint8_t v)
{
    outb(0x70, index);
    outb(0x71, v);
}

/* 8192 times a second, and alarm and update, too */
static void start_rtc(void)
{
    route(8, BOARD + 1);
    cmos_write(0x0A, 0x23);
    cmos_write(0x0B, 0x72);
}

static void end_rtc(struct guest_frame *f)
{
    outb(0x70, 0x0C);
    (void)inb(0x71);
    end_interrupt(f);
}

static void pit(void)
{
    guest_set_handler(BOARD, end_interrupt);
    apic_enable();
    start_pit();
    idle_or_spin(0);
}

static void rtc(void)
{
    guest_set_handler(BOARD + 1, end_rtc);
    apic_enable();
    start_rtc();
    idle_or_spin(1);
}

/* --- interrupts between processors --- */

static void send_again(struct guest_frame *f)
{
    end_interrupt(f);
    apic_write(APIC_ICR, ICR_SELF | SELF);
}

static void do_self(unsigned int n)
{
    apic_write(APIC_ICR, ICR_SELF | SELF);
    idle_or_spin(n);
}

static void self(void)
{
    guest_set_handler(SELF, send_again);
    everywhere(do_self);
}

static void do_crossfire(unsigned int n)
{
    __asm__ volatile("sti");
    for (unsigned int k = n;; k++)
        apic_write(APIC_ICR, ICR_ALL | (SELF + (k & 7)));
}

static void crossfire(void)
{
    for (uint8_t v = 0; v < 8; v++)
        guest_set_handler((uint8_t)(SELF + v), end_interrupt);
    everywhere(do_crossfire);
}

/* --- all of them --- */

static void do_all(unsigned int n)
{
    set_timer(PERIODIC, 1);
    apic_write(APIC_ICR, ICR_SELF | SELF);
    if (n & 1)
        do_crossfire(n);
    idle_or_spin(n);
}

static void all(void)
{
    guest_set_handler(TIMER, end_interrupt);
    for (uint8_t v = 0; v < 8; v++)
        guest_set_handler((uint8_t)(SELF + v), end_interrupt);
    guest_set_handler(SELF, send_again);
    guest_set_handler(BOARD, end_interrupt);
    guest_set_handler(BOARD + 1, end_rtc);
    apic_enable();
    start_pit();
    start_rtc();
    everywhere(do_all);
}

static const struct die_mode modes[] = {
    {"tick", tick}, {"once", once}, {"past", past},           {"near", near_by}, {"rewrite", rewrite}, {"pit", pit},
    {"rtc", rtc},   {"self", self}, {"crossfire", crossfire}, {"all", all},
};

DIE_MAIN(modes)
