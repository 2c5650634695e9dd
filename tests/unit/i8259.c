/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/* Unit tests of the pair of 8259As. */
#include <string.h>

#include "core/err.h"
#include "device/i8259.h"
#include "tests/lib/board.h"
#include "tests/lib/unit.h"

enum { M = 0x20, S = 0xA0, EOI = 0x20 };

static struct board b;
static struct i8259 pic;

static void line(unsigned int input, bool level)
{
    lock_take(&b.vm.board_lock);
    i8259_set_line(&pic, input, level);
    lock_release(&b.vm.board_lock);
}

static void pulse(unsigned int input)
{
    line(input, true);
    line(input, false);
}

static void out(uint16_t port, uint8_t v)
{
    board_out(&b, port, 1, v);
}

static uint8_t in(uint16_t port)
{
    return (uint8_t)board_in(&b, port, 1);
}

static bool intr(void)
{
    return atomic_load(&b.apic_bus.extint);
}

static void init_chip(uint16_t port, uint8_t base, uint8_t icw3, uint8_t icw4)
{
    out(port, 0x11);
    out(port + 1, base);
    out(port + 1, icw3);
    out(port + 1, icw4);
    out(port + 1, 0x00);
}

/* As an operating system sets the pair up: vectors 0x30 and 0x38, everything open. */
static void setup(void)
{
    board_init(&b);
    CHECK_EQ(i8259_create(&pic, &b.vm), OK);
    init_chip(M, 0x30, 0x04, 0x01);
    init_chip(S, 0x38, 0x02, 0x01);
}

static void test_power_on(void)
{
    board_init(&b);
    CHECK_EQ(i8259_create(&pic, &b.vm), OK);
    CHECK_EQ(in(M + 1), 0xFF);
    CHECK_EQ(in(M), 0);
    pulse(1);
    CHECK(!intr());
    CHECK_EQ(i8259_ack(&pic), (uint64_t)-1);
    out(M + 1, 0xA5); /* how Linux finds one */
    CHECK_EQ(in(M + 1), 0xA5);
}

static void test_vectors(void)
{
    setup();
    for (unsigned int i = 0; i < 16; i++) {
        if (i == 2)
            continue;
        unit_context("input %u", i);
        pulse(i);
        CHECK(intr());
        CHECK_EQ(i8259_ack(&pic), 0x30 + i);
        CHECK(!intr());
        out(M, EOI);
        if (i >= 8)
            out(S, EOI);
        CHECK_EQ(i8259_ack(&pic), (uint64_t)-1);
    }
    unit_context(NULL);
    pulse(2); /* not connected */
    pulse(16);
    CHECK(!intr());
}

static void test_priority_and_nesting(void)
{
    setup();
    pulse(5);
    pulse(1);
    CHECK_EQ(i8259_ack(&pic), 0x31);
    CHECK(!intr()); /* 5 waits */
    pulse(0);
    CHECK_EQ(i8259_ack(&pic), 0x30); /* 0 nests */
    out(M, EOI);                     /* ends 0 */
    CHECK(!intr());
    out(M, 0x61); /* specific, 1 */
    CHECK(intr());
    CHECK_EQ(i8259_ack(&pic), 0x35);
    out(M, 0x0B);
    CHECK_EQ(in(M), 0x20);
    out(M, 0x0A);
    CHECK_EQ(in(M), 0);
    pulse(5); /* latched while in service */
    CHECK_EQ(in(M), 0x20);
    out(M, EOI);
    CHECK_EQ(i8259_ack(&pic), 0x35);
}

static void test_mask(void)
{
    setup();
    out(M + 1, 0x08);
    pulse(3);
    CHECK(!intr());
    CHECK_EQ(in(M), 0x08); /* kept */
    out(M + 1, 0);
    CHECK(intr());
    out(M + 1, 0x08); /* INTR goes again; a processor that acknowledges now gets nothing */
    CHECK(!intr());
    CHECK_EQ(i8259_ack(&pic), (uint64_t)-1);
}

static void test_level(void)
{
    setup();
    board_out(&b, 0x4D0, 2, 0xFFFF);
    CHECK_EQ(board_in(&b, 0x4D0, 2), 0xDEF8);
    line(5, true);
    CHECK_EQ(i8259_ack(&pic), 0x35);
    out(M, EOI);
    CHECK(intr()); /* still there */
    line(5, false);
    CHECK(!intr());
    line(9, true);
    CHECK_EQ(i8259_ack(&pic), 0x39);
    line(9, false);
    out(S, EOI);
    out(M, EOI);
    CHECK(!intr());
    line(10, true);
    board_out(&b, 0x4D1, 1, 0); /* to edge: the request stays latched until acknowledged */
    CHECK(intr());
}

/* The slave withdraws its request before the acknowledge. */
static void test_spurious_slave(void)
{
    setup();
    board_out(&b, 0x4D1, 1, 0x02);
    line(9, true);
    CHECK(intr());
    line(9, false);
    CHECK(intr()); /* the master has latched the slave's edge */
    CHECK_EQ(i8259_ack(&pic), 0x3F);
    out(S, 0x0B);
    CHECK_EQ(in(S), 0); /* not in service in the slave, */
    out(M, 0x0B);
    CHECK_EQ(in(M), 0x04); /* but in the master */
}

static void test_auto_eoi_and_rotation(void)
{
    setup();
    init_chip(M, 0x30, 0x04, 0x03);
    pulse(3);
    CHECK_EQ(i8259_ack(&pic), 0x33);
    pulse(4);
    CHECK_EQ(i8259_ack(&pic), 0x34); /* nothing in service */
    out(M, 0x80);                    /* rotate in automatic EOI mode */
    pulse(4);
    CHECK_EQ(i8259_ack(&pic), 0x34);
    pulse(0);
    pulse(5);
    CHECK_EQ(i8259_ack(&pic), 0x35); /* 5 is first after 4 */
    CHECK_EQ(i8259_ack(&pic), 0x30);
    out(M, 0x00); /* no rotation any more: 0, acknowledged last, is still the last */
    pulse(5);
    CHECK_EQ(i8259_ack(&pic), 0x35);
    CHECK_EQ(pic.chip[0].lowest, 0);
    out(M, 0xC6); /* set priority: 6 last, 7 first */
    pulse(0);
    pulse(7);
    CHECK_EQ(i8259_ack(&pic), 0x37);
}

static void test_rotating_eoi(void)
{
    setup();
    pulse(1);
    CHECK_EQ(i8259_ack(&pic), 0x31);
    out(M, 0xA0); /* rotate on non-specific EOI: 1 becomes last */
    pulse(1);
    pulse(6);
    CHECK_EQ(i8259_ack(&pic), 0x36);
    out(M, 0xE6); /* rotate on specific EOI: 6 last */
    pulse(7);
    CHECK_EQ(i8259_ack(&pic), 0x37);
    out(M, EOI);
    CHECK_EQ(i8259_ack(&pic), 0x31);
    out(M, 0x40); /* no operation */
    CHECK(!intr());
}

static void test_special_mask(void)
{
    setup();
    pulse(2 + 1);
    CHECK_EQ(i8259_ack(&pic), 0x33);
    pulse(6);
    CHECK(!intr());
    out(M + 1, 0x08);
    CHECK(!intr());
    out(M, 0x68); /* set special mask mode: masked ones in service hold nobody back */
    CHECK(intr());
    CHECK_EQ(i8259_ack(&pic), 0x36);
    out(M, EOI); /* 3 is masked: 6 is ended */
    out(M, 0x0B);
    CHECK_EQ(in(M), 0x08);
    out(M, 0x48);
    pulse(6);
    CHECK(!intr());
}

static void test_special_fully_nested(void)
{
    setup();
    init_chip(M, 0x30, 0x04, 0x11);
    pulse(12);
    CHECK_EQ(i8259_ack(&pic), 0x3C);
    pulse(9); /* a more urgent one of the same slave */
    CHECK_EQ(i8259_ack(&pic), 0x39);
    setup(); /* without: held back */
    pulse(12);
    CHECK_EQ(i8259_ack(&pic), 0x3C);
    pulse(9);
    CHECK(!intr());
    out(M, EOI);
    CHECK_EQ(i8259_ack(&pic), 0x39);
}

static void test_poll(void)
{
    setup();
    out(M, 0x0C);
    CHECK_EQ(in(M), 0);
    pulse(4);
    out(M, 0x0C);
    CHECK_EQ(in(M), 0x84);
    CHECK(!intr());
    out(M, EOI);
    pulse(11);
    out(M, 0x0C);
    CHECK_EQ(in(M), 0x82);
    out(S, 0x0C);
    CHECK_EQ(in(S + 1), 0x83);
    CHECK(!intr());
}

/* ICW1 in the middle of everything starts anew; data bytes go where the sequence is (D1). */
static void test_initialization_sequence(void)
{
    setup();
    pulse(3);
    line(5, true);
    CHECK_EQ(i8259_ack(&pic), 0x33);
    out(M, 0x11);
    CHECK(!intr());
    CHECK_EQ(in(M), 0); /* edges forgotten */
    CHECK_EQ(in(M + 1), 0);
    pulse(1);
    CHECK(!intr()); /* not while it is being initialized */
    out(M + 1, 0x47);
    out(M, 0x11); /* again, mid-sequence */
    out(M + 1, 0x4F);
    out(M + 1, 0x04);
    out(M + 1, 0x01);
    out(M + 1, 0xFD);
    CHECK_EQ(in(M + 1), 0xFD);
    pulse(1);
    CHECK_EQ(i8259_ack(&pic), 0x49); /* low bits of ICW2 are not the base's */
    out(M, 0x10);                    /* no ICW4: three words, and its functions off */
    out(M + 1, 0x50);
    out(M + 1, 0x04);
    out(M + 1, 0xFE);
    CHECK_EQ(in(M + 1), 0xFE);
}

static void test_state_refused(void)
{
    enum { SLAVE = 15 };
    /* table: fields in order of saving */
    static const struct board_bad_state rows[] = {
        {0, 1, 0x04}, /* cascade input up, slave asks for nothing */
        {4, 1, 0x07}, /* ELCR of fixed edge inputs */
        {4, 1, 0xFC}, {SLAVE + 4, 1, 0x01}, {5, 1, 0x31}, /* vector base */
        {6, 1, 8},                                        /* priority */
        {7, 1, 1},                                        /* ICW1 is never awaited */
        {7, 1, 5},    {SLAVE + 7, 1, 4},                  /* ICW4 after ICW1 without IC4 */
    };
    board_init(&b);
    CHECK_EQ(i8259_create(&pic, &b.vm), OK);
    board_check_refuses(&b, rows, sizeof(rows) / sizeof(rows[0]));
    static const struct board_bad_state level[] = {{0, 1, 0x20},  /* level input up, no request */
                                                   {1, 1, 0x20}}; /* request, level input down */
    board_out(&b, 0x4D0, 1, 0x20);
    board_check_refuses(&b, level, 2);
}

static void more(void)
{
    uint64_t r = board_random();
    line(r & 31, (r >> 8 & 1) != 0);
    if ((r >> 9 & 3) == 0)
        i8259_ack(&pic);
}

static void test_fuzz(void)
{
    static const uint16_t bases[] = {0x20, 0xA0, 0x4D0};
    for (unsigned int i = 0; i < 3; i++) {
        setup();
        struct board_fuzz f = {&b.vm.port_bus, bases[i], 2, 20000, more, 0};
        board_fuzz(&b, &f);
    }
}

int main(void)
{
    UNIT_RUN(test_power_on);
    UNIT_RUN(test_vectors);
    UNIT_RUN(test_priority_and_nesting);
    UNIT_RUN(test_mask);
    UNIT_RUN(test_level);
    UNIT_RUN(test_spurious_slave);
    UNIT_RUN(test_auto_eoi_and_rotation);
    UNIT_RUN(test_rotating_eoi);
    UNIT_RUN(test_special_mask);
    UNIT_RUN(test_special_fully_nested);
    UNIT_RUN(test_poll);
    UNIT_RUN(test_initialization_sequence);
    UNIT_RUN(test_state_refused);
    UNIT_RUN(test_fuzz);
    return unit_done();
}
