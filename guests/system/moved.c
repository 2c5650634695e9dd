/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * For a VM that is saved and goes on elsewhere (tests/native/save.py): pages, registers, the TSC, and a timer whose interrupts go on, are checked
 * all the time, until a key comes over the serial port:
 *
 *   t  says "moved: tsc N, N ticks, N rounds", and goes on
 *   s  spoils a page, which must be found
 *   e  the end
 */
#include "guests/lib/guest.h"
#include "lodge/ports.h"

enum { VECTOR_TIMER = 0x50, PERIOD = 1000000, PAGES = 60, WORDS = 512, TICKS_AT_ONCE = 4, LSR = 5 };

static uint64_t *page[PAGES];
static volatile uint64_t ticks;
static uint64_t rounds;

static void on_timer(struct guest_frame *f)
{
    (void)f;
    ticks++;
    apic_write(APIC_EOI, 0);
}

static uint64_t word(unsigned int p, unsigned int n)
{
    return (uint64_t)(p * WORDS + n + 1) * 0x9E3779B97F4A7C15;
}

static char key(void)
{
    return inb(LODGE_PORT_SERIAL + LSR) & 1 ? (char)inb(LODGE_PORT_SERIAL) : '\0';
}

static void check_pages(void)
{
    for (unsigned int p = 0; p < PAGES; p++) {
        for (unsigned int n = 0; n < WORDS; n += 1 + (n & 7))
            CHECK_EQ(page[p][n], word(p, n));
    }
}

/* Some of the timer's interrupts come, and the TSC goes on and not back. */
static void wait_for_ticks(void)
{
    uint64_t first = ticks, last = rdtsc(), now;

    while (ticks - first < TICKS_AT_ONCE) {
        guest_wait();
        now = rdtsc();
        CHECK(now > last);
        last = now;
    }
}

static void test_all_is_kept(void)
{
    for (char k = 0; k != 'e'; k = key()) {
        check_pages();
        wait_for_ticks();
        rounds++;
        if (k == 't')
            guest_print("moved: tsc %lu, %lu ticks, %lu rounds\n", rdtsc(), (uint64_t)ticks, rounds);
        if (k == 's')
            page[rounds % PAGES][0] ^= 1;
    }
}

int main(void)
{
    for (unsigned int p = 0; p < PAGES; p++) {
        page[p] = guest_page();
        for (unsigned int n = 0; n < WORDS; n++)
            page[p][n] = word(p, n);
    }
    apic_enable();
    guest_set_handler(VECTOR_TIMER, on_timer);
    apic_write(APIC_TIMER_DIVIDE, 0xB);
    apic_write(APIC_LVT_TIMER, 1 << 17 | VECTOR_TIMER);
    apic_write(APIC_TIMER_COUNT, PERIOD);
    guest_print("moved: ready\n");
    GUEST_RUN(test_all_is_kept);
    return guest_done();
}
