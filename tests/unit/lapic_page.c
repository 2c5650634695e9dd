/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/* Unit tests of the local APIC in the form of those who run it in our place: what it holds after
 * random use survives the way there and back, and a running timer keeps its time. */
#include "tests/unit/lapic_env.h"

static uint64_t rng = 88172645463325252u;

static uint64_t next_random(void)
{
    rng ^= rng << 13;
    rng ^= rng >> 7;
    rng ^= rng << 17;
    return rng;
}

static void use_at_random(unsigned int cpu)
{
    uint64_t r = next_random();
    if ((r & 15) == 0)
        (void)wrmsr(cpu, MSR_APIC_BASE, 0xFEE00800 | (r >> 16 & 0x400));
    else if ((r & 15) == 1)
        (void)wrmsr(cpu, MSR_TSC_DEADLINE, vm_clock_ns(&vm) * 2 + (r >> 32 & 0xFFFFF));
    else if ((r & 15) == 2)
        (void)lapic_take_interrupt(&cpus[cpu]);
    else
        wr(cpu, (uint32_t)(r >> 8 & 0x3F) * 16, (uint32_t)next_random() & 0x601FF);
    fake_seam_advance(r >> 40 & 0xFFFF);
}

struct image {
    uint8_t page[LAPIC_PAGE_SIZE];
    uint64_t base, deadline;
};

static struct image take(unsigned int cpu)
{
    struct image i;
    lapic_get_page(&cpus[cpu], i.page);
    i.base = lapic_base_msr(&cpus[cpu]);
    i.deadline = lapic_get_tsc_deadline(&cpus[cpu]);
    return i;
}

static int check_saved(unsigned int cpu)
{
    uint8_t buf[1024];
    struct state_writer w = {buf, sizeof(buf), 0};
    lapic_state_ops.save(&cpus[cpu], &w);
    CHECK(w.used <= sizeof(buf));
    struct state_reader r = {.buf = buf, .size = w.used, .version = 1};
    return lapic_state_ops.check(&cpus[cpu], &r);
}

static void test_there_and_back(void)
{
    for (int round = 0; round < 3000; round++) {
        setup();
        unit_context("round %d", round);
        for (uint64_t n = next_random() % 40; n > 0; n--)
            use_at_random(1);
        struct image before = take(1);
        lapic_reset(&cpus[1], false);
        lapic_set_page(&cpus[1], before.page, before.base, before.deadline);
        struct image after = take(1);
        CHECK(memcmp(before.page, after.page, sizeof(before.page)) == 0);
        CHECK_EQ(after.base, before.base);
        CHECK_EQ(after.deadline, before.deadline);
        CHECK_EQ(check_saved(1), OK);
    }
    unit_context(NULL);
}

/* A guest can write what the local APIC of somebody else takes and ours does not (reserved bits, in
 * KVM the BSP flag, vectors below 16): what comes of it is a state that can be loaded. */
static void test_any_page(void)
{
    for (int round = 0; round < 3000; round++) {
        uint64_t mode = LAPIC_BASE_ENABLE | (next_random() & LAPIC_BASE_X2APIC);
        struct image any = {.deadline = next_random() & next_random()};
        setup();
        unit_context("round %d", round);
        for (size_t i = 0; i < sizeof(any.page); i++)
            any.page[i] = (uint8_t)(next_random() & next_random() >> 8);
        any.base = 0xFEE00000 | (next_random() & LAPIC_BASE_BSP) | (round % 8 == 0 ? 0 : mode);
        lapic_set_page(&cpus[1], any.page, any.base, any.deadline);
        CHECK_EQ(check_saved(1), OK);
    }
    unit_context(NULL);
}

static uint32_t word_at(const struct image *i, uint32_t offset)
{
    uint32_t v;
    memcpy(&v, i->page + offset, sizeof(v));
    return v;
}

/* One-shot and periodic: what is left to count goes down as time passes before the move. */
static void test_count(void)
{
    for (uint32_t mode = 0; mode < 2; mode++) {
        setup();
        wr(1, LAPIC_SVR, 0x1FF);
        wr(1, LAPIC_TIMER_DIVIDE, 0xB); /* by 1 */
        wr(1, LAPIC_LVT_TIMER, 0x40 | mode << LAPIC_TIMER_MODE_SHIFT);
        wr(1, LAPIC_TIMER_INITIAL, MS);
        fake_seam_advance(300 * US);
        struct image i = take(1);
        CHECK_EQ(word_at(&i, LAPIC_TIMER_CURRENT), 700 * US);
        lapic_reset(&cpus[1], false);
        fake_seam_advance(5 * MS); /* nobody looked meanwhile: no time has passed for the timer */
        lapic_set_page(&cpus[1], i.page, i.base, i.deadline);
        fake_seam_advance(600 * US);
        i = take(1);
        CHECK_EQ(word_at(&i, LAPIC_TIMER_CURRENT), 100 * US);
    }
}

/* It is kept elsewhere: nothing fires here. */
static void test_nothing_armed(void)
{
    setup();
    wr(1, LAPIC_SVR, 0x1FF);
    wr(1, LAPIC_TIMER_DIVIDE, 0xB);
    wr(1, LAPIC_LVT_TIMER, 0x40);
    wr(1, LAPIC_TIMER_INITIAL, MS);
    struct image i = take(1);
    lapic_reset(&cpus[1], false);
    lapic_set_page(&cpus[1], i.page, i.base, i.deadline);
    fake_seam_advance(2 * MS);
    vm_timers_run(&vm);
    CHECK_EQ(lapic_highest_irr(cpus[1].lapic), -1);
}

/* A loaded state arms the timer, who takes the APIC over holds it. */
static void test_held(void)
{
    setup();
    wr(1, LAPIC_SVR, 0x1FF);
    wr(1, LAPIC_TIMER_DIVIDE, 0xB);
    wr(1, LAPIC_LVT_TIMER, 0x40);
    wr(1, LAPIC_TIMER_INITIAL, MS);
    lapic_hold_timer(&cpus[1]);
    fake_seam_advance(300 * US);
    struct image i = take(1);
    CHECK_EQ(word_at(&i, LAPIC_TIMER_CURRENT), 700 * US);
    fake_seam_advance(2 * MS);
    vm_timers_run(&vm);
    CHECK_EQ(lapic_highest_irr(cpus[1].lapic), -1);
}

/* One-shot, run out: is handed over as a timer that nobody started, once its interrupt was posted;
 * before, as one that is about to. */
static void test_run_out(void)
{
    for (int held = 0; held < 2; held++) {
        setup();
        wr(1, LAPIC_SVR, 0x1FF);
        wr(1, LAPIC_TIMER_DIVIDE, 0xB);
        wr(1, LAPIC_LVT_TIMER, 0x40);
        wr(1, LAPIC_TIMER_INITIAL, MS);
        if (held)
            lapic_hold_timer(&cpus[1]);
        fake_seam_advance(MS);
        vm_timers_run(&vm);
        CHECK_EQ(lapic_highest_irr(cpus[1].lapic), held ? -1 : 0x40);
        struct image i = take(1);
        CHECK_EQ(word_at(&i, LAPIC_TIMER_INITIAL), held ? MS : 0);
        CHECK_EQ(word_at(&i, LAPIC_TIMER_CURRENT), held ? 1 : 0);
    }
}

/* The interrupts that come of a page with such a timer once x86/lapic.c has it again. */
static void check_due(uint32_t lvt, bool requested, bool due)
{
    setup();
    wr(1, LAPIC_SVR, 0x1FF);
    wr(1, LAPIC_TIMER_DIVIDE, 0xB);
    wr(1, LAPIC_LVT_TIMER, lvt);
    struct image i = take(1);
    uint32_t initial = MS, irr = requested;
    memcpy(i.page + LAPIC_TIMER_INITIAL, &initial, sizeof(initial));
    memcpy(i.page + LAPIC_IRR + 2 * 16, &irr, sizeof(irr)); /* vector 40H */
    lapic_set_page(&cpus[1], i.page, i.base, i.deadline);
    CHECK_EQ(cpus[1].lapic->timer_deadline, due ? vm_clock_ns(&vm) : VM_TIMER_NEVER);
    CHECK_EQ(check_saved(1), OK);
}

static void test_due(void)
{
    check_due(0x40, false, true);
    check_due(0x40, true, false);
    check_due(0x40 | LAPIC_LVT_MASKED, false, false);
}

static void test_logical_id(void)
{
    setup();
    wr(1, LAPIC_LDR, 0x5A000000);
    struct image i = take(1);
    lapic_reset(&cpus[1], false);
    lapic_set_page(&cpus[1], i.page, i.base, i.deadline);
    CHECK_EQ(lapic_reg(cpus[1].lapic, LAPIC_LDR), 0x5A000000);
}

int main(void)
{
    UNIT_RUN(test_there_and_back);
    UNIT_RUN(test_any_page);
    UNIT_RUN(test_held);
    UNIT_RUN(test_run_out);
    UNIT_RUN(test_due);
    UNIT_RUN(test_logical_id);
    UNIT_RUN(test_count);
    UNIT_RUN(test_nothing_armed);
    return unit_done();
}
