/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/* The meter (share/meter.c): memory times time without loss, differences, and what is counted late. */
#include "share/meter.h"
#include "tests/lib/unit.h"

#define S UINT64_C(1000000000)

static uint64_t random_state = 1;

static uint64_t random_below(uint64_t n)
{
    random_state = random_state * 6364136223846793005u + 1442695040888963407u;
    return (random_state >> 20) % n;
}

/* Whatever is held, and however often it changes: what comes out is the sum, to the nanosecond. */
static void test_memory(void)
{
    for (uint32_t round = 0; round < 100; round++) {
        struct meter_memory m = {0};
        uint64_t now = random_below(S);
        __extension__ unsigned __int128 sum = 0;
        struct meter_use u;

        meter_hold(&m, 0, now);
        for (uint32_t n = 0; n < 200; n++) {
            uint64_t pages = random_below(3) ? random_below((uint64_t)1 << 34) : 0, ns = random_below(5 * S);

            meter_hold(&m, pages, now);
            now += ns;
            sum += (unsigned __int128)pages * ns;
        }
        u = meter_use_of(&m, 0, 0, 0, now);
        CHECK_EQ(u.page_s, (uint64_t)(sum / S));
        CHECK_EQ(u.page_ns, (uint64_t)(sum % S));
        CHECK_EQ(meter_use_of(&m, 0, 0, 0, now - 1).page_s <= u.page_s, 1);
    }
}

static void test_clock_that_lags(void)
{
    struct meter_memory m = {0};

    meter_hold(&m, 10, 5 * S);
    meter_hold(&m, 20, 4 * S); /* another CPU's reading, a moment before */
    CHECK_EQ(meter_use_of(&m, 0, 0, 0, 6 * S).page_s, 20);
}

static void test_guest_and_overhead(void)
{
    const struct meter_memory none = {0};
    struct meter_use u = meter_use_of(&none, 100, 30, 7, S);

    CHECK_EQ(u.guest_ns, 30);
    CHECK_EQ(u.overhead_ns, 70);
    CHECK_EQ(u.steal_ns, 7);
    u = meter_use_of(&none, 100, 101, 0, S); /* two clocks */
    CHECK_EQ(u.guest_ns, 100);
    CHECK_EQ(u.overhead_ns, 0);
}

/* A guest's time that is counted late was overhead before: never less than nothing, and the sum is what was run. */
static void test_between(void)
{
    const struct meter_use before = {.guest_ns = 10, .overhead_ns = 50, .steal_ns = 5, .page_s = 1, .page_ns = S - 1};
    const struct meter_use after = {.guest_ns = 75, .overhead_ns = 5, .steal_ns = 6, .page_s = 3, .page_ns = 1};
    struct meter_use d = meter_between(&before, &after);

    CHECK_EQ(d.guest_ns, 20);
    CHECK_EQ(d.overhead_ns, 0);
    CHECK_EQ(d.steal_ns, 1);
    CHECK_EQ(d.page_s, 1);
    CHECK_EQ(d.page_ns, 2);
}

static void test_between_goes_back(void)
{
    const struct meter_use before = {.guest_ns = 5000, .overhead_ns = 5000}, after = {.guest_ns = 5000, .overhead_ns = 4900};
    struct meter_use d = meter_between(&before, &after);

    CHECK_EQ(d.guest_ns, 0);
    CHECK_EQ(d.overhead_ns, 0);
}

static void test_sums(void)
{
    struct meter_use sum = {.page_ns = S - 1};
    const struct meter_use u = {.guest_ns = 1, .overhead_ns = 2, .steal_ns = 3, .page_s = 4, .page_ns = S - 1};

    for (uint32_t n = 0; n < 3; n++)
        meter_add(&sum, &u);
    CHECK_EQ(sum.guest_ns, 3);
    CHECK_EQ(sum.overhead_ns, 6);
    CHECK_EQ(sum.steal_ns, 9);
    CHECK_EQ(sum.page_s, 15);
    CHECK_EQ(sum.page_ns, S - 4);
}

int main(void)
{
    UNIT_RUN(test_memory);
    UNIT_RUN(test_clock_that_lags);
    UNIT_RUN(test_guest_and_overhead);
    UNIT_RUN(test_between);
    UNIT_RUN(test_between_goes_back);
    UNIT_RUN(test_sums);
    return unit_done();
}
