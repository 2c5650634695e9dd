/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/* Unit tests of the 8254 and port 0x61. */
#include <string.h>

#include "core/err.h"
#include "device/i8254.h"
#include "tests/lib/board.h"
#include "tests/lib/fake_seam.h"
#include "tests/lib/unit.h"

enum { MS = 1000000, US = 1000 };

static struct board b;
static struct i8254 pit;

static void setup(void)
{
    board_init(&b);
    CHECK_EQ(i8254_create(&pit, &b.vm, board_line(&b, 0)), OK);
}

static void out(uint16_t port, uint8_t v)
{
    board_out(&b, port, 1, v);
}

static uint8_t in(uint16_t port)
{
    return (uint8_t)board_in(&b, port, 1);
}

/* Control word (low byte then high byte) and count. */
static void program(unsigned int channel, unsigned int mode, uint16_t count)
{
    out(0x43, (uint8_t)(channel << 6 | 0x30 | mode << 1));
    out((uint16_t)(0x40 + channel), (uint8_t)count);
    out((uint16_t)(0x40 + channel), (uint8_t)(count >> 8));
}

static uint16_t latched(unsigned int channel)
{
    out(0x43, (uint8_t)(channel << 6));
    uint16_t low = in((uint16_t)(0x40 + channel));
    return (uint16_t)(low | in((uint16_t)(0x40 + channel)) << 8);
}

static void ticks(uint64_t n)
{
    fake_seam_advance(scale_u64(n, 1000000000, I8254_HZ) + 1);
}

static bool out2(void)
{
    return (in(0x61) & 0x20) != 0;
}

static void test_periodic_interrupts(void)
{
    setup();
    CHECK_EQ(b.edges[0], 0);
    fake_seam_advance(100 * MS); /* nothing before it is programmed */
    CHECK_EQ(b.edges[0], 0);
    for (unsigned int mode = 2; mode <= 3; mode++) {
        unit_context("mode %u", mode);
        program(0, mode, 11932); /* 100 Hz */
        b.edges[0] = 0;
        fake_seam_advance(1005 * MS);
        CHECK_EQ(b.edges[0], 100);
        program(0, mode, 0); /* 65536: 18.2 Hz */
        b.edges[0] = 0;
        fake_seam_advance(1000 * MS);
        CHECK_EQ(b.edges[0], 18);
    }
}

/* D4: short periods are merged, to multiples of the period of at least 100 us. */
static void test_rate_limit(void)
{
    static const struct {
        uint16_t count;
        unsigned int per_second;
    } rows[] = {{1, 10026}, {2, 9943}, {100, 5965}, {119, 10026}, {120, 9943}, {1193, 1000}};
    setup();
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        unit_context("count %u", rows[i].count);
        program(0, 2, rows[i].count);
        b.edges[0] = 0;
        fake_seam_advance(1000 * MS);
        CHECK(b.edges[0] <= rows[i].per_second + 1 && b.edges[0] + 1 >= rows[i].per_second);
    }
}

static void test_one_shots(void)
{
    /* modes 0 and 4 interrupt once, 1 and 5 wait for a gate that never rises */
    static const unsigned int expected[] = {1, 0, 0, 0, 1, 0};
    setup();
    for (unsigned int mode = 0; mode <= 5; mode++) {
        if (mode == 2 || mode == 3)
            continue;
        unit_context("mode %u", mode);
        program(0, mode, 1000);
        b.edges[0] = 0;
        ticks(999);
        CHECK_EQ(b.edges[0], 0);
        ticks(100);
        CHECK_EQ(b.edges[0], expected[mode]);
        fake_seam_advance(100 * MS);
        CHECK_EQ(b.edges[0], expected[mode]);
    }
    unit_context(NULL);
    program(0, 0, 1000); /* reprogrammed before it is due */
    ticks(900);
    program(0, 0, 1000);
    b.edges[0] = 0;
    ticks(900);
    CHECK_EQ(b.edges[0], 0);
    out(0x43, 0x30); /* control word alone: stops */
    ticks(5000);
    CHECK_EQ(b.edges[0], 0);
}

/* Latching must not swallow an edge that is due but was not fired yet. */
static void test_latch_keeps_due_edge(void)
{
    setup();
    program(0, 2, 11932);
    uint64_t due = pit.next_edge;
    out(0x43, 0x00);
    in(0x40);
    program(2, 0, 500);
    CHECK_EQ(pit.next_edge, due);
}

/* The timer thread comes for an edge that has been moved meanwhile. */
static void test_stale_fire(void)
{
    setup();
    program(0, 2, 11932);
    pit.timer.fire(&pit);
    CHECK_EQ(b.edges[0], 0);
    out(0x43, 0x34);
    pit.timer.fire(&pit);
    CHECK_EQ(b.edges[0], 0);
}

static void test_counting(void)
{
    setup();
    program(0, 2, 1000);
    ticks(300);
    CHECK_EQ(latched(0), 700);
    ticks(1000);
    CHECK_EQ(latched(0), 700);
    program(0, 3, 1000);
    ticks(100);
    CHECK_EQ(latched(0), 800);
    ticks(500);
    CHECK_EQ(latched(0), 800);
    program(0, 0, 1000);
    ticks(1010); /* goes on through 0 */
    CHECK_EQ(latched(0), 65526);
    program(0, 0, 0);
    CHECK_EQ(latched(0), 0);
    ticks(1);
    CHECK_EQ(latched(0), 65535);
    out(0x43, 0x31); /* BCD */
    out(0x40, 0x00);
    out(0x40, 0x50);
    ticks(1);
    CHECK_EQ(latched(0), 0x4999);
    ticks(5000);
    CHECK_EQ(latched(0), 0x9999);
}

static void test_access_modes(void)
{
    setup();
    out(0x43, 0x14); /* channel 0, low byte, mode 2 */
    out(0x40, 200);
    ticks(50);
    CHECK_EQ(in(0x40), 150);
    CHECK_EQ(in(0x40), 150);
    out(0x43, 0x24); /* high byte */
    out(0x40, 2);
    ticks(0x110);
    CHECK_EQ(in(0x40), 0);
    out(0x43, 0x00);
    CHECK_EQ(in(0x40), 0);
    program(0, 2, 0x1234);
    CHECK_EQ(in(0x40), 0x34);
    CHECK_EQ(in(0x40), 0x12);
    CHECK_EQ(in(0x43), 0xFF);
    out(0x43, 0x3C); /* modes 6 and 7 are 2 and 3 */
    CHECK_EQ(pit.channel[0].mode, 2);
    out(0x43, 0x3E);
    CHECK_EQ(pit.channel[0].mode, 3);
}

static void test_latches(void)
{
    setup();
    program(0, 2, 1000);
    ticks(100);
    out(0x43, 0x00);
    ticks(100);
    out(0x43, 0x00); /* ignored: the first has not been read */
    CHECK_EQ(in(0x40), 900 & 0xFF);
    CHECK_EQ(in(0x40), 900 >> 8);
    out(0x43, 0xC2); /* read back: count and status of channel 0 */
    ticks(50);
    CHECK_EQ(in(0x40), 0xB4); /* status first: OUT, low/high, mode 2 */
    CHECK_EQ(in(0x40), 800 & 0xFF);
    CHECK_EQ(in(0x40), 800 >> 8);
    out(0x43, 0x34);
    out(0x43, 0xE2); /* status only: null count */
    CHECK_EQ(in(0x40), 0xF4);
    out(0x43, 0xEE); /* of all three */
    CHECK_EQ(in(0x41), 0xF6);
    CHECK_EQ(in(0x42), 0xF6);
    CHECK_EQ(in(0x40), 0xF4);
}

static void test_port61(void)
{
    setup();
    CHECK_EQ(in(0x61) & 0x0F, 0);
    out(0x61, 0xFF);
    CHECK_EQ(in(0x61) & 0xCF, 0x0F);
    unsigned int toggles = 0;
    for (unsigned int i = 0, last = 0; i < 1000; i++) {
        fake_seam_advance(US);
        unsigned int now = in(0x61) & 0x10;
        toggles += now != last;
        last = now;
    }
    CHECK(toggles >= 65 && toggles <= 67); /* every 15 us */
}

/* As Linux calibrates: channel 2, mode 0, gate up, wait for OUT. */
static void test_channel2_mode0(void)
{
    setup();
    out(0x61, 0x00);
    program(2, 0, 1000);
    CHECK(!out2());
    ticks(5000);
    CHECK(!out2()); /* gate down: does not count */
    CHECK_EQ(latched(2), 1000);
    out(0x61, 0x01);
    ticks(600);
    out(0x61, 0x00); /* pauses */
    ticks(5000);
    CHECK(latched(2) == 400 || latched(2) == 399);
    out(0x61, 0x01);
    ticks(398);
    CHECK(!out2());
    ticks(4);
    CHECK(out2());
    out(0x43, 0xB0);
    CHECK(!out2()); /* control word: low */
    CHECK_EQ(b.edges[0], 0);
}

static void test_channel2_gated_modes(void)
{
    setup();
    program(2, 1, 100); /* one-shot, triggered by the gate */
    CHECK(out2());
    out(0x61, 1);
    CHECK(!out2());
    out(0x61, 0); /* gate does not matter now */
    ticks(60);
    out(0x61, 1); /* again: starts anew */
    ticks(60);
    CHECK(!out2());
    ticks(41);
    CHECK(out2());
    out(0x61, 0);
    program(2, 5, 100); /* strobe, triggered */
    ticks(200);
    out(0x61, 1);
    CHECK(out2());
    ticks(100);
    CHECK(!out2());
    ticks(1);
    CHECK(out2());
    out(0x61, 0);
    program(2, 3, 100);
    ticks(70);
    CHECK(out2()); /* gate down: high */
    out(0x61, 1);
    ticks(49);
    CHECK(out2());
    ticks(2);
    CHECK(!out2());
    out(0x61, 0);
    CHECK(out2());
    out(0x61, 1); /* anew */
    ticks(49);
    CHECK(out2());
    program(2, 2, 100);
    ticks(98);
    CHECK(out2());
    ticks(1);
    CHECK(!out2());
}

static void test_state_refused(void)
{
    enum { CHANNEL = 8 + 8 + 4 + 1 + 1 + 6 + 1 + 1 + 2 + 1 + 1 };
    /* table */
    static const struct board_bad_state rows[] = {
        {16, 4, 0},
        {16, 4, 65537},       /* count */
        {CHANNEL + 20, 1, 6}, /* mode */
        {21, 1, 0},
        {21, 1, 4}, /* access */
        {25, 1, 0},
        {CHANNEL * 2 + 25, 1, 1}, /* gates */
        {24, 1, 1},               /* runs, not loaded */
        {29, 1, 3},               /* latched bytes */
        {CHANNEL * 3, 1, 0x10},
        {CHANNEL * 3, 1, 0x01},  /* port 0x61 */
        {CHANNEL * 3 + 1, 8, 5}, /* an edge, not running */
    };
    setup();
    board_check_refuses(&b, rows, sizeof(rows) / sizeof(rows[0]));
    static const struct board_bad_state low_only[] = {{26, 1, 1}, {27, 1, 1}, {29, 1, 2}};
    out(0x43, 0x14);
    board_check_refuses(&b, low_only, 3);
}

static void more(void)
{
    if ((board_random() & 7) == 0)
        out(0x61, (uint8_t)board_random());
}

static void test_fuzz(void)
{
    setup();
    struct board_fuzz f = {&b.vm.port_bus, 0x40, 4, 40000, more, 300 * US};
    board_fuzz(&b, &f);
}

/* A restored timer goes on as if nothing had been. */
static void test_state_keeps_time(void)
{
    uint8_t buf[BOARD_STATE];
    setup();
    program(0, 2, 11932);
    fake_seam_advance(4 * MS);
    size_t size = board_save(&b, buf);
    lock_take(&b.vm.board_lock);
    i8254_reset(&pit);
    lock_release(&b.vm.board_lock);
    fake_seam_advance(2 * MS);
    CHECK_EQ(b.edges[0], 0);
    board_load(&b, buf, size);
    fake_seam_advance(3 * MS);
    CHECK_EQ(b.edges[0], 0);
    fake_seam_advance(2 * MS);
    CHECK_EQ(b.edges[0], 1);
}

int main(void)
{
    UNIT_RUN(test_periodic_interrupts);
    UNIT_RUN(test_rate_limit);
    UNIT_RUN(test_one_shots);
    UNIT_RUN(test_latch_keeps_due_edge);
    UNIT_RUN(test_stale_fire);
    UNIT_RUN(test_counting);
    UNIT_RUN(test_access_modes);
    UNIT_RUN(test_latches);
    UNIT_RUN(test_port61);
    UNIT_RUN(test_channel2_mode0);
    UNIT_RUN(test_channel2_gated_modes);
    UNIT_RUN(test_state_refused);
    UNIT_RUN(test_state_keeps_time);
    UNIT_RUN(test_fuzz);
    return unit_done();
}
