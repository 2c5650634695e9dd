/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/* Unit tests of the real-time clock and CMOS memory. */
#include <string.h>

#include "core/err.h"
#include "device/rtc.h"
#include "tests/lib/board.h"
#include "tests/lib/fake_seam.h"
#include "tests/lib/unit.h"

#define MS 1000000ull
#define SECOND 1000000000ull

static struct board b;
static struct rtc rtc;

static void out(uint8_t index, uint8_t v)
{
    board_out(&b, 0x70, 1, index);
    board_out(&b, 0x71, 1, v);
}

static uint8_t in(uint8_t index)
{
    board_out(&b, 0x70, 1, index);
    return (uint8_t)board_in(&b, 0x71, 1);
}

/* The VM starts at this time (seconds since 1970). */
static void setup_at(uint64_t seconds)
{
    fake_seam_set_wall(seconds * SECOND);
    board_init(&b);
    CHECK_EQ(rtc_create(&rtc, &b.vm, board_line(&b, 8)), OK);
}

static void setup(void)
{
    setup_at(1700000000); /* 2023-11-14 22:13:20, a Tuesday */
}

struct bytes {
    uint8_t century, year, month, day, weekday, hour, minute, second;
};

static void check_time(struct bytes t)
{
    CHECK_EQ(in(RTC_CENTURY), t.century);
    CHECK_EQ(in(9), t.year);
    CHECK_EQ(in(8), t.month);
    CHECK_EQ(in(7), t.day);
    CHECK_EQ(in(6), t.weekday);
    CHECK_EQ(in(4), t.hour);
    CHECK_EQ(in(2), t.minute);
    CHECK_EQ(in(0), t.second);
}

static void test_time(void)
{
    setup();
    check_time((struct bytes){0x20, 0x23, 0x11, 0x14, 3, 0x22, 0x13, 0x20});
    fake_seam_advance(45 * SECOND);
    check_time((struct bytes){0x20, 0x23, 0x11, 0x14, 3, 0x22, 0x14, 0x05});
    out(0x0B, 0x06); /* binary */
    check_time((struct bytes){20, 23, 11, 14, 3, 22, 14, 5});
    out(0x0B, 0x04); /* binary, 12 h */
    check_time((struct bytes){20, 23, 11, 14, 3, 0x80 | 10, 14, 5});
    out(0x0B, 0x00);
    check_time((struct bytes){0x20, 0x23, 0x11, 0x14, 3, 0x90, 0x14, 0x05});
}

static void test_calendar(void)
{
    /* table: seconds since 1970 and what `date -u` says */
    static const struct {
        uint64_t seconds;
        struct bytes t;
    } rows[] = {
        {0, {0x19, 0x70, 0x01, 0x01, 5, 0x00, 0x00, 0x00}},
        {951782399, {0x20, 0x00, 0x02, 0x28, 2, 0x23, 0x59, 0x59}},
        {951782400, {0x20, 0x00, 0x02, 0x29, 3, 0x00, 0x00, 0x00}},
        {951868800, {0x20, 0x00, 0x03, 0x01, 4, 0x00, 0x00, 0x00}},
        {1735689599, {0x20, 0x24, 0x12, 0x31, 3, 0x23, 0x59, 0x59}},
        {1735689600, {0x20, 0x25, 0x01, 0x01, 4, 0x00, 0x00, 0x00}},
        {2147483648, {0x20, 0x38, 0x01, 0x19, 3, 0x03, 0x14, 0x08}},
        {4107542400, {0x21, 0x00, 0x03, 0x01, 2, 0x00, 0x00, 0x00}},
        {4107542399, {0x21, 0x00, 0x02, 0x28, 1, 0x23, 0x59, 0x59}},
    };
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        unit_context("row %zu", i);
        setup_at(rows[i].seconds);
        check_time(rows[i].t);
    }
}

static void test_twelve_hours(void)
{
    static const uint8_t expected[] = {0x12, 0x01, 0x11, 0x92, 0x81, 0x91};
    static const unsigned int hours[] = {0, 1, 11, 12, 13, 23};
    for (unsigned int i = 0; i < 6; i++) {
        unit_context("hour %u", hours[i]);
        setup_at(hours[i] * 3600u);
        out(0x0B, 0x00);
        CHECK_EQ(in(4), expected[i]);
        out(4, expected[i]); /* setting the hour to what it is changes nothing */
        out(0x0B, 0x06);
        CHECK_EQ(in(4), hours[i]);
    }
}

/* As Linux sets it: SET, divider reset, write, release. */
static void test_set_while_held(void)
{
    setup();
    out(0x0B, 0x82);
    CHECK_EQ(in(0x0B), 0x82);
    out(0x0A, 0x76);
    static const uint8_t bytes[][2] = {{9, 0x30}, {8, 0x02}, {7, 0x28},          {4, 0x23},
                                       {2, 0x59}, {0, 0x58}, {RTC_CENTURY, 0x20}};
    for (size_t i = 0; i < ARRAY_SIZE(bytes); i++)
        out(bytes[i][0], bytes[i][1]);
    fake_seam_advance(100 * SECOND); /* stands */
    CHECK_EQ(in(0), 0x58);
    out(0x0B, 0x02);
    CHECK_EQ(in(0), 0x58);
    out(0x0A, 0x26); /* runs from here, first update in half a second */
    fake_seam_advance(499 * MS);
    CHECK_EQ(in(0), 0x58);
    fake_seam_advance(2 * MS);
    CHECK_EQ(in(0), 0x59);
    fake_seam_advance(SECOND);
    check_time((struct bytes){0x20, 0x30, 0x03, 0x01, 6, 0x00, 0x00, 0x00});
    lock_take(&b.vm.board_lock);
    rtc_reset(&rtc); /* the battery keeps it */
    lock_release(&b.vm.board_lock);
    CHECK_EQ(in(9), 0x30);
}

static void test_set_while_running(void)
{
    setup();
    fake_seam_advance(300 * MS);
    out(2, 0x45);
    fake_seam_advance(699 * MS);
    check_time((struct bytes){0x20, 0x23, 0x11, 0x14, 3, 0x22, 0x45, 0x20});
    fake_seam_advance(2 * MS);
    CHECK_EQ(in(0), 0x21);
}

/* Nothing in the time's bytes hurts; what is out of range is brought into it. */
static void test_absurd_values(void)
{
    setup();
    out(0x0B, 0x82);
    for (uint8_t i = 0; i < 10; i++)
        out(i, 0xFF);
    out(RTC_CENTURY, 0xFF);
    CHECK_EQ(in(0), 0xFF);
    out(0x0B, 0x02);
    check_time((struct bytes){0x22, 0x00, 0x12, 0x31, 4, 0x23, 0x59, 0x59});
    out(0x0B, 0x82);
    for (uint8_t i = 0; i < 10; i++)
        out(i, 0);
    out(RTC_CENTURY, 0);
    out(0x0B, 0x02);
    check_time((struct bytes){0x19, 0x70, 0x01, 0x01, 5, 0, 0, 0});
}

static void test_uip(void)
{
    setup();
    CHECK_EQ(in(0x0A), 0x26);
    fake_seam_advance(999 * MS + 755000);
    CHECK_EQ(in(0x0A), 0x26);
    fake_seam_advance(1001);
    CHECK_EQ(in(0x0A), 0xA6);
    out(0x0B, 0x82);
    CHECK_EQ(in(0x0A), 0x26);
    out(0x0B, 0x02);
    fake_seam_advance(MS);
    CHECK_EQ(in(0x0A), 0x26);
    out(0x0A, 0xFF);
    CHECK_EQ(in(0x0A), 0x7F);
}

static void test_update_interrupt(void)
{
    setup();
    in(0x0C);
    out(0x0B, 0x12);
    fake_seam_advance(999 * MS);
    CHECK(!b.level[8]);
    fake_seam_advance(MS);
    CHECK(b.level[8]);
    fake_seam_advance(5 * SECOND); /* asserted until read: one edge */
    CHECK_EQ(b.edges[8], 1);
    CHECK_EQ(in(0x0C) & 0xB0, 0x90);
    CHECK(!b.level[8]);
    CHECK_EQ(in(0x0C), 0);
    fake_seam_advance(SECOND);
    CHECK_EQ(b.edges[8], 2);
    out(0x0B, 0x92); /* SET clears UIE */
    CHECK_EQ(in(0x0B), 0x82);
    in(0x0C);
    fake_seam_advance(5 * SECOND);
    CHECK_EQ(b.edges[8], 2);
}

static void test_periodic_interrupt(void)
{
    /* table: rate, interrupts in a second when each is read */
    static const struct {
        uint8_t rate;
        unsigned int count;
    } rows[] = {{1, 256}, {2, 128}, {3, 8192}, {6, 1024}, {15, 2}, {0, 0}};
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        unit_context("rate %u", rows[i].rate);
        setup();
        out(0x0A, 0x20 | rows[i].rate);
        out(0x0B, 0x42);
        unsigned int n = 0;
        for (unsigned int t = 0; t < 100000; t++) {
            fake_seam_advance(10000);
            if (b.level[8]) {
                n++;
                CHECK_EQ(in(0x0C) & 0xC0, 0xC0);
            }
        }
        CHECK(n <= rows[i].count + 1 && n + 1 >= rows[i].count);
    }
    out(0x0A, 0x62); /* divider in reset */
    in(0x0C);
    fake_seam_advance(SECOND);
    CHECK_EQ(in(0x0C) & 0x40, 0);
}

static void test_alarm(void)
{
    setup(); /* 22:13:20 */
    out(1, 0x30);
    out(3, 0x13);
    out(5, 0x22);
    out(0x0B, 0x22);
    in(0x0C);
    fake_seam_advance(9999 * MS);
    CHECK(!b.level[8]);
    fake_seam_advance(MS);
    CHECK(b.level[8]);
    CHECK_EQ(in(0x0C) & 0xA0, 0xA0);
    fake_seam_advance(600 * SECOND);
    CHECK(!b.level[8]);
    out(3, 0xFF); /* every minute */
    out(5, 0xC0);
    fake_seam_advance(60 * SECOND);
    CHECK(b.level[8]);
    in(0x0C);
    out(0x0B, 0x02); /* polled, over days: found whatever the time */
    out(5, 0x03);
    out(3, 0x00);
    in(0x0C);
    fake_seam_advance(86400 * 3 * SECOND);
    CHECK_EQ(in(0x0C) & 0x20, 0x20);
    out(5, 0x99); /* never */
    in(0x0C);
    fake_seam_advance(86400 * 3 * SECOND);
    CHECK_EQ(in(0x0C) & 0x20, 0);
}

static void test_cmos(void)
{
    setup();
    for (unsigned int i = 0x0E; i < 0x80; i++)
        if (i != RTC_CENTURY)
            out((uint8_t)i, (uint8_t)(i * 7));
    for (unsigned int i = 0x0E; i < 0x80; i++)
        if (i != RTC_CENTURY)
            CHECK_EQ(in((uint8_t)i), (uint8_t)(i * 7));
    CHECK_EQ(in(0x0D), 0x80);
    out(0x0D, 0);
    CHECK_EQ(in(0x0D), 0x80);
    CHECK_EQ(board_in(&b, 0x70, 1), 0xFF);
    board_out(&b, 0x70, 1, 0x8F);
    CHECK(rtc.nmi_masked);
    CHECK_EQ(board_in(&b, 0x71, 1), (uint8_t)(0x0F * 7));
    board_out(&b, 0x70, 2, 0x5510); /* both ports at once */
    CHECK_EQ(in(0x10), 0x55);
    CHECK(!rtc.nmi_masked);
    rtc_set_memory_size(&rtc, GIB(3), GIB(5));
    CHECK_EQ(in(0x15) | in(0x16) << 8, 640);
    CHECK_EQ(in(0x17) | in(0x18) << 8, 64512);
    CHECK_EQ(in(0x34) | in(0x35) << 8, (GIB(3) - MIB(16)) >> 16);
    CHECK_EQ(in(0x5B) | in(0x5C) << 8 | in(0x5D) << 16, GIB(5) >> 16);
    rtc_set_memory_size(&rtc, KIB(512), 0);
    CHECK_EQ(in(0x17) | in(0x18) << 8 | in(0x34) | in(0x5B), 0);
}

static void test_state_refused(void)
{
    enum { CMOS = 2, HALTED = CMOS + 128 + 8 };
    /* table */
    static const struct board_bad_state rows[] = {
        {0, 1, 0x80},           {CMOS + 0x0A, 1, 0xA6}, {CMOS + 0x0A, 1, 0x66},
        {CMOS + 0x0B, 1, 0x82}, {CMOS + 0x0C, 1, 0x80}, {CMOS + 0x0C, 1, 0x01},
        {CMOS + 0x0D, 1, 0x80}, {HALTED, 1, 1},
    };
    setup();
    board_check_refuses(&b, rows, sizeof(rows) / sizeof(rows[0]));
}

static void test_fuzz(void)
{
    setup();
    struct board_fuzz f = {&b.vm.port_bus, 0x70, 2, 40000, NULL, 700 * MS};
    board_fuzz(&b, &f);
}

int main(void)
{
    UNIT_RUN(test_time);
    UNIT_RUN(test_calendar);
    UNIT_RUN(test_twelve_hours);
    UNIT_RUN(test_set_while_held);
    UNIT_RUN(test_set_while_running);
    UNIT_RUN(test_absurd_values);
    UNIT_RUN(test_uip);
    UNIT_RUN(test_update_interrupt);
    UNIT_RUN(test_periodic_interrupt);
    UNIT_RUN(test_alarm);
    UNIT_RUN(test_cmos);
    UNIT_RUN(test_state_refused);
    UNIT_RUN(test_fuzz);
    return unit_done();
}
