/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/* Unit tests of the local APIC's timer: modes, divisors, rate limit, races with the timer thread.
 */
#include <pthread.h>

#include "tests/unit/lapic_env.h"

/* --- timer --- */

static unsigned int timer_interrupts(uint64_t ns, uint64_t slice)
{
    unsigned int n = 0;
    for (uint64_t t = 0; t < ns; t += slice) {
        fake_seam_advance(slice);
        if (lapic_take_interrupt(&cpus[0]) == 0x40) {
            n++;
            lapic_eoi(cpus[0].lapic);
        }
    }
    return n;
}

static void test_timer_one_shot(void)
{
    setup();
    enable_all();
    wr(0, LAPIC_LVT_TIMER, 0x40);
    wr(0, LAPIC_TIMER_DIVIDE, 0xB); /* by 1 */
    wr(0, LAPIC_TIMER_INITIAL, 1000);
    CHECK_EQ(rd(0, LAPIC_TIMER_CURRENT), 1000);
    fake_seam_advance(400);
    CHECK_EQ(rd(0, LAPIC_TIMER_CURRENT), 600);
    CHECK(!lapic_has_interrupt(&cpus[0]));
    CHECK_EQ(timer_interrupts(10 * US, 100), 1);
    CHECK_EQ(rd(0, LAPIC_TIMER_CURRENT), 0);
    wr(0, LAPIC_TIMER_INITIAL, 1000);
    wr(0, LAPIC_TIMER_INITIAL, 0);
    CHECK_EQ(timer_interrupts(10 * US, 100), 0);
    wr(0, LAPIC_LVT_TIMER, 0x10040); /* masked: counts, tells nobody */
    wr(0, LAPIC_TIMER_INITIAL, 1000);
    CHECK_EQ(timer_interrupts(10 * US, 100), 0);
}

static void test_timer_divide(void)
{
    static const struct {
        uint32_t reg, divisor;
    } rows[] = {{0, 2}, {1, 4}, {2, 8}, {3, 16}, {8, 32}, {9, 64}, {10, 128}, {11, 1}};
    setup();
    enable_all();
    wr(0, LAPIC_LVT_TIMER, 0x40);
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        unit_context("divisor %u", rows[i].divisor);
        wr(0, LAPIC_TIMER_DIVIDE, rows[i].reg);
        wr(0, LAPIC_TIMER_INITIAL, 10000);
        fake_seam_advance(3000u * rows[i].divisor);
        CHECK_EQ(rd(0, LAPIC_TIMER_CURRENT), 7000);
        CHECK(!lapic_has_interrupt(&cpus[0]));
        fake_seam_advance(7000u * rows[i].divisor);
        CHECK_EQ(lapic_take_interrupt(&cpus[0]), 0x40);
        lapic_eoi(cpus[0].lapic);
    }
    unit_context(NULL);
    wr(0, LAPIC_TIMER_DIVIDE, 0xB); /* change while it runs: the count goes on */
    wr(0, LAPIC_TIMER_INITIAL, 1000);
    fake_seam_advance(500);
    wr(0, LAPIC_TIMER_DIVIDE, 0x0);
    CHECK_EQ(rd(0, LAPIC_TIMER_CURRENT), 500);
    fake_seam_advance(998);
    CHECK_EQ(rd(0, LAPIC_TIMER_CURRENT), 1);
    fake_seam_advance(2);
    CHECK_EQ(lapic_take_interrupt(&cpus[0]), 0x40);
}

static void test_timer_periodic(void)
{
    setup();
    enable_all();
    wr(0, LAPIC_TIMER_DIVIDE, 0xB);
    wr(0, LAPIC_LVT_TIMER, 0x20040);
    wr(0, LAPIC_TIMER_INITIAL, 1 * MS);
    CHECK_EQ(timer_interrupts(10 * MS, 100 * US), 10);
    fake_seam_advance(250 * US);
    CHECK_EQ(rd(0, LAPIC_TIMER_CURRENT), 750 * US);
    wr(0, LAPIC_TIMER_INITIAL, 1); /* D4: at most one every 100 us */
    CHECK_EQ(timer_interrupts(10 * MS, 10 * US), 100);
    CHECK_EQ(rd(0, LAPIC_TIMER_CURRENT), 1);
    wr(0, LAPIC_TIMER_INITIAL, 70 * US); /* merged to multiples: 140 us */
    CHECK_EQ(timer_interrupts(14 * MS, 10 * US), 100);
    wr(0, LAPIC_LVT_TIMER, 0x40); /* to one-shot, while it counts: the last one */
    CHECK_EQ(timer_interrupts(14 * MS, 10 * US), 1);
    wr(0, LAPIC_LVT_TIMER, 0x60040); /* reserved mode */
    wr(0, LAPIC_TIMER_INITIAL, 10);
    CHECK_EQ(rd(0, LAPIC_TIMER_INITIAL), 0);
    CHECK_EQ(timer_interrupts(MS, 100 * US), 0);
}

static void test_timer_deadline(void)
{
    setup();
    enable_all();
    CHECK_EQ(wrmsr(0, MSR_TSC_DEADLINE, 12345), OK); /* not in that mode: ignored */
    CHECK_EQ(rdmsr(0, MSR_TSC_DEADLINE), 0);
    wr(0, LAPIC_LVT_TIMER, 0x40040);
    wr(0, LAPIC_TIMER_INITIAL, 1000);
    CHECK_EQ(rd(0, LAPIC_TIMER_CURRENT), 0);
    uint64_t tsc = vm_clock_ns(&vm) * 2;
    CHECK_EQ(wrmsr(0, MSR_TSC_DEADLINE, tsc + 2000), OK);
    CHECK_EQ(rdmsr(0, MSR_TSC_DEADLINE), tsc + 2000);
    fake_seam_advance(999);
    CHECK(!lapic_has_interrupt(&cpus[0]));
    fake_seam_advance(1);
    CHECK_EQ(rdmsr(0, MSR_TSC_DEADLINE), 0);
    CHECK_EQ(timer_interrupts(MS, 100 * US), 1);
    CHECK_EQ(wrmsr(0, MSR_TSC_DEADLINE, 1), OK); /* past: at once */
    CHECK_EQ(lapic_take_interrupt(&cpus[0]), 0x40);
    lapic_eoi(cpus[0].lapic);
    CHECK_EQ(wrmsr(0, MSR_TSC_DEADLINE, ~0ull), OK);
    CHECK_EQ(wrmsr(0, MSR_TSC_DEADLINE, 0), OK);
    CHECK_EQ(timer_interrupts(MS, 100 * US), 0);
    CHECK_EQ(wrmsr(0, MSR_TSC_DEADLINE, vm_clock_ns(&vm) * 2 + 2000), OK);
    wr(0, LAPIC_LVT_TIMER, 0x40); /* a change of mode disarms */
    CHECK_EQ(timer_interrupts(MS, 100 * US), 0);
    CHECK_EQ(rdmsr(0, MSR_TSC_DEADLINE), 0);
}

/* The timer thread comes for a deadline that has been moved or taken away meanwhile. */
static void test_timer_stale_fire(void)
{
    setup();
    enable_all();
    struct vm_timer *t = &cpus[0].lapic->timer;
    wr(0, LAPIC_LVT_TIMER, 0x20040);
    wr(0, LAPIC_TIMER_INITIAL, 1000000);
    t->fire(t->owner);
    CHECK(!lapic_has_interrupt(&cpus[0]));
    wr(0, LAPIC_TIMER_INITIAL, 0);
    t->fire(t->owner);
    CHECK(!lapic_has_interrupt(&cpus[0]));
    wr(0, LAPIC_LVT_TIMER, 0x40040);
    CHECK_EQ(wrmsr(0, MSR_TSC_DEADLINE, vm_clock_ns(&vm) * 2 + 2000), OK);
    t->fire(t->owner);
    CHECK(!lapic_has_interrupt(&cpus[0]));
    fake_seam_advance(1000);
    CHECK_EQ(lapic_take_interrupt(&cpus[0]), 0x40);
}

/* --- the timer thread against the own one --- */

static _Atomic bool timer_thread_ends;

static void *run_timers(void *arg)
{
    while (!atomic_load(&timer_thread_ends))
        vm_timers_run(&vm);
    return arg;
}

/* The timer thread reruns a periodic timer while its owner reprograms it: what the owner wrote last
 * holds, and a timer that was switched off stays off. */
static void test_timer_reprogrammed_while_firing(void)
{
    pthread_t thread;
    unsigned int taken = 0;
    fake_seam_real_time(true);
    setup();
    enable_all();
    wr(0, LAPIC_TIMER_DIVIDE, 0xB);
    atomic_store(&timer_thread_ends, false);
    pthread_create(&thread, NULL, run_timers, NULL);
    for (unsigned int i = 0; i < 300; i++) {
        wr(0, LAPIC_LVT_TIMER, i % 3 == 0 ? 0x40 : 0x20040);
        wr(0, LAPIC_TIMER_INITIAL, 100 * US + i * 16);
        uint64_t until = seam_time_ns() + (i % 5) * 60 * US;
        while (seam_time_ns() < until)
            rd(0, LAPIC_TIMER_CURRENT);
        wr(0, i & 1 ? LAPIC_TIMER_INITIAL : LAPIC_TIMER_DIVIDE, i & 1 ? 0 : i & 0xB);
        wr(0, LAPIC_TIMER_INITIAL, 0);
        CHECK_EQ(rd(0, LAPIC_TIMER_CURRENT), 0);
        if (lapic_take_interrupt(&cpus[0]) == 0x40)
            taken++;
        wr(0, LAPIC_EOI, 0);
    }
    uint64_t until = seam_time_ns() + 2 * MS;
    while (seam_time_ns() < until)
        (void)lapic_take_interrupt(&cpus[0]); /* what was on its way when it was switched off */
    wr(0, LAPIC_EOI, 0);
    for (until += 2 * MS; seam_time_ns() < until;)
        CHECK(!lapic_has_interrupt(&cpus[0]));
    atomic_store(&timer_thread_ends, true);
    pthread_join(thread, NULL);
    fake_seam_real_time(false);
    CHECK(taken > 0);
}

int main(void)
{
    UNIT_RUN(test_timer_one_shot);
    UNIT_RUN(test_timer_divide);
    UNIT_RUN(test_timer_periodic);
    UNIT_RUN(test_timer_deadline);
    UNIT_RUN(test_timer_stale_fire);
    UNIT_RUN(test_timer_reprogrammed_while_firing);
    return unit_done();
}
