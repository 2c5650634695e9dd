/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/* Unit tests of the 16550A. */
#include <string.h>

#include "core/err.h"
#include "device/uart.h"
#include "lodge/ports.h"
#include "tests/lib/board.h"
#include "tests/lib/fake_seam.h"
#include "tests/lib/unit.h"

enum { RBR, IER, IIR, LCR, MCR, LSR, MSR, SCR, FCR = IIR, LINE = 4 };

static struct board b;
static struct uart uart;
static uint8_t sent[64];
static size_t sent_count;
static unsigned int rooms;

static void back_end_write(void *owner, const uint8_t *bytes, size_t size)
{
    CHECK(owner == &sent_count);
    lock_assert_held(&b.vm.board_lock);
    for (size_t i = 0; i < size; i++)
        sent[sent_count++ % sizeof(sent)] = bytes[i];
}

static void back_end_room(void *owner)
{
    CHECK(owner == &sent_count);
    rooms++;
}

static const struct uart_backend back_end = {back_end_write, back_end_room};

static void setup(void)
{
    board_init(&b);
    sent_count = 0;
    rooms = 0;
    CHECK_EQ(uart_create(&uart, &b.vm, LODGE_PORT_SERIAL, 0, board_line(&b, LINE), &back_end,
                         &sent_count),
             OK);
}

static void out(unsigned int reg, uint8_t v)
{
    board_out(&b, (uint16_t)(LODGE_PORT_SERIAL + reg), 1, v);
}

static uint8_t in(unsigned int reg)
{
    return (uint8_t)board_in(&b, (uint16_t)(LODGE_PORT_SERIAL + reg), 1);
}

static size_t receive(const char *text)
{
    return uart_receive(&uart, (const uint8_t *)text, strlen(text));
}

static void test_reset_values(void)
{
    static const uint8_t expected[] = {0x00, 0x00, 0x01, 0x00, 0x00, 0x60, 0xB0, 0x00};
    setup();
    for (unsigned int i = 0; i < 8; i++)
        CHECK_EQ(in(i), expected[i]);
    CHECK(!b.level[LINE]);
}

static void test_masks(void)
{
    static const uint8_t ones[] = {0, 0x0F, 0xC2, 0x7F, 0x0F, 0x60, 0xB0, 0xFF};
    setup();
    for (unsigned int i = 1; i < 8; i++) {
        unit_context("register %u", i);
        out(i, i == LCR ? 0x7F : i == MCR ? 0xEF : 0xFF);
        CHECK_EQ(in(i), ones[i]);
    }
    unit_context(NULL);
    out(LCR, 0x80); /* divisor latch; 0 is nothing special (D4) */
    CHECK_EQ(in(0) | in(1) << 8, 1);
    out(0, 0);
    out(1, 0);
    CHECK_EQ(in(0) | in(1) << 8, 0);
    out(0, 0x34);
    out(1, 0x12);
    CHECK_EQ(uart.divisor, 0x1234);
    CHECK_EQ(sent_count, 0);
    out(LCR, 0x03);
    CHECK_EQ(in(IER), 0x0F);
    receive("x");
    CHECK_EQ(in(RBR), 'x');
}

static void test_transmit(void)
{
    setup();
    for (const char *p = "hello"; *p; p++) {
        CHECK_EQ(in(LSR), 0x60);
        out(RBR, (uint8_t)*p);
    }
    CHECK_EQ(sent_count, 5);
    CHECK(memcmp(sent, "hello", 5) == 0);
    board_out(&b, LODGE_PORT_SERIAL, 2, 0x0421); /* '!' and IER in one access */
    CHECK_EQ(sent[5], '!');
    CHECK_EQ(in(IER), 4);
}

/* The transmitter interrupt: when enabled with an empty THR, and after each byte; IIR ends it. */
static void test_transmit_interrupt(void)
{
    setup();
    out(IER, 0x02);
    CHECK(b.level[LINE]);
    CHECK_EQ(in(IIR), 0x02);
    CHECK(!b.level[LINE]);
    CHECK_EQ(in(IIR), 0x01);
    out(IER, 0x02); /* already enabled */
    CHECK(!b.level[LINE]);
    out(RBR, 'a');
    CHECK(b.level[LINE]);
    out(IER, 0x00);
    CHECK(!b.level[LINE]);
    CHECK_EQ(in(IIR), 0x01); /* not reported, not ended */
    out(IER, 0x02);
    CHECK_EQ(in(IIR), 0x02);
    for (unsigned int n = 1; n <= 3; n++) { /* a handler that never reads IIR: an edge per byte */
        unsigned int edges = b.edges[LINE];
        out(RBR, 'b');
        CHECK(b.level[LINE]);
        CHECK_EQ(b.edges[LINE], edges + 1);
    }
    CHECK_EQ(in(IIR), 0x02);
    out(IER, 0x00); /* as Linux tests for broken ones: off and on raises it again */
    out(IER, 0x02);
    CHECK_EQ(in(IIR), 0x02);
}

static void test_receive_without_fifo(void)
{
    setup();
    out(IER, 0x01);
    CHECK_EQ(receive("ab"), 1);
    CHECK(b.level[LINE]);
    CHECK_EQ(in(IIR), 0x04);
    CHECK_EQ(in(LSR), 0x61);
    CHECK_EQ(receive("b"), 0);
    CHECK_EQ(rooms, 0);
    CHECK_EQ(in(RBR), 'a');
    CHECK_EQ(rooms, 1);
    CHECK(!b.level[LINE]);
    CHECK_EQ(in(LSR), 0x60);
    CHECK_EQ(in(RBR), 0);
    CHECK_EQ(rooms, 1);
    fake_seam_advance(1000000000); /* no timeout without FIFOs */
    CHECK(!b.level[LINE]);
}

static void test_receive_with_fifo(void)
{
    static const uint8_t level[] = {1, 4, 8, 14};
    for (unsigned int t = 0; t < 4; t++) {
        unit_context("trigger %u", level[t]);
        setup();
        out(IER, 0x01);
        out(FCR, (uint8_t)(t << 6 | 1));
        for (unsigned int n = 1; n <= 16; n++) {
            CHECK_EQ(receive("x"), 1);
            CHECK_EQ(b.level[LINE], n >= level[t]);
        }
        CHECK_EQ(receive("x"), 0);
        CHECK_EQ(in(IIR), 0xC4);
        for (unsigned int n = 16; n > 0; n--) {
            CHECK_EQ(in(RBR), 'x');
            CHECK_EQ(b.level[LINE], n - 1 >= level[t]);
        }
        CHECK_EQ(rooms, 1);
    }
}

static void test_receive_timeout(void)
{
    setup();
    out(IER, 0x01);
    out(FCR, 0x81);
    receive("abc");
    CHECK(!b.level[LINE]);
    fake_seam_advance(200000);
    receive("d"); /* starts it anew */
    fake_seam_advance(200000);
    CHECK(!b.level[LINE]);
    fake_seam_advance(200000);
    CHECK(b.level[LINE]);
    CHECK_EQ(in(IIR), 0xCC);
    CHECK_EQ(in(RBR), 'a');
    CHECK(!b.level[LINE]); /* and again for the rest */
    fake_seam_advance(400000);
    CHECK_EQ(in(IIR), 0xCC);
    receive("efghijk"); /* trigger level comes first */
    CHECK_EQ(in(IIR), 0xC4);
    uart.timer.fire(&uart); /* the timer thread, for a timeout that was moved: nothing */
    CHECK(!uart.timeout);
    out(FCR, 0x83); /* clear */
    CHECK_EQ(in(IIR), 0xC1);
    CHECK_EQ(in(LSR), 0x60);
    fake_seam_advance(1000000);
    CHECK(!b.level[LINE]);
}

static void test_fifo_order_and_enable(void)
{
    setup();
    out(FCR, 0x01);
    for (unsigned int round = 0; round < 5; round++) {
        CHECK_EQ(receive("0123456789"), 10);
        for (unsigned int i = 0; i < 10; i++)
            CHECK_EQ(in(RBR), '0' + i);
    }
    receive("abc");
    out(FCR, 0x00); /* turning them off clears */
    CHECK_EQ(in(LSR), 0x60);
    receive("z");
    out(FCR, 0x06); /* without the enable bit, the others are not programmed */
    CHECK_EQ(in(RBR), 'z');
    receive("y");
    out(FCR, 0x01);
    CHECK_EQ(in(LSR), 0x60);
}

static void test_loopback(void)
{
    setup();
    out(MCR, 0x1A); /* as Linux probes: loop, OUT2, RTS: DCD and CTS */
    CHECK_EQ(in(MSR)&0xF0, 0x90);
    out(MCR, 0x15);                 /* DTR, OUT1: DSR and RI */
    CHECK_EQ(in(MSR), 0x60 | 0x0B); /* deltas of DCD, CTS, DSR; RI only when it goes */
    out(MCR, 0x10);
    CHECK_EQ(in(MSR), 0x06);
    CHECK_EQ(in(MSR), 0x00);
    out(FCR, 0x01);
    for (unsigned int i = 0; i < 17; i++)
        out(RBR, (uint8_t)i);
    CHECK_EQ(sent_count, 0);
    CHECK_EQ(in(LSR), 0x63); /* overrun, once */
    CHECK_EQ(in(LSR), 0x61);
    for (unsigned int i = 0; i < 16; i++)
        CHECK_EQ(in(RBR), i);
    CHECK_EQ(receive("x"), 0); /* cut off */
    CHECK_EQ(rooms, 0);
    out(MCR, 0x00);
    CHECK_EQ(rooms, 1);
    CHECK_EQ(receive("x"), 1);
}

static void test_modem_and_line_interrupts(void)
{
    setup();
    out(IER, 0x08);
    out(MCR, 0x10); /* all lines go away */
    CHECK(b.level[LINE]);
    CHECK_EQ(in(IIR), 0x00);
    CHECK_EQ(in(MSR), 0x0B);
    CHECK(!b.level[LINE]);
    out(IER, 0x07);
    out(RBR, 'a');
    out(RBR, 'b'); /* overrun: most urgent, then received data, then transmitter */
    CHECK_EQ(in(IIR), 0x06);
    CHECK_EQ(in(LSR), 0x63);
    CHECK_EQ(in(IIR), 0x04);
    CHECK_EQ(in(RBR), 'a');
    CHECK_EQ(in(IIR), 0x02);
    CHECK_EQ(in(IIR), 0x01);
}

static void test_break(void)
{
    setup();
    out(FCR, 0x01);
    out(IER, 0x04);
    receive("a");
    CHECK(uart_receive_break(&uart));
    receive("h");
    CHECK(!b.level[LINE]);
    CHECK_EQ(in(LSR), 0xE1); /* somewhere in the FIFO */
    CHECK_EQ(in(RBR), 'a');
    CHECK(b.level[LINE]);
    CHECK_EQ(in(IIR), 0xC6);
    CHECK_EQ(in(LSR), 0xF1);
    CHECK_EQ(in(LSR), 0x61);
    CHECK_EQ(in(RBR), 0);
    CHECK_EQ(in(RBR), 'h');
    out(MCR, 0x10); /* sent and received in loopback mode */
    out(LCR, 0x43);
    CHECK_EQ(in(LSR), 0xF1);
    CHECK(!uart_receive_break(&uart));
    CHECK_EQ(in(RBR), 0);
    out(LCR, 0x43);
    CHECK_EQ(in(LSR), 0x60);
}

static void test_state_refused(void)
{
    enum { FIFO = 9, BREAK = FIFO + 16, HEAD = BREAK + 2, COUNT, THR, TIMEOUT, TIMEOUT_AT };
    /* table */
    static const struct board_bad_state rows[] = {
        {0, 1, 0x10},  {2, 1, 0x20},    {4, 1, 0x40},       {4, 1, 0x11},  {4, 1, 0x03},
        {5, 1, 0x01},  {6, 1, 0x10},    {HEAD, 1, 16},      {COUNT, 1, 2}, {BREAK, 2, 1},
        {BREAK, 2, 2}, {TIMEOUT, 1, 1}, {TIMEOUT_AT, 8, 5},
    };
    setup();
    board_check_refuses(&b, rows, sizeof(rows) / sizeof(rows[0]));
    static const struct board_bad_state full[] = {
        {COUNT, 1, 17},
        {BREAK, 2, 0x0001},
        {BREAK, 2, 0x0008},
        {TIMEOUT, 1, 1},
        {TIMEOUT_AT, 8, VM_TIMER_NEVER},
        {4, 1, 0x00},
    };
    out(FCR, 0x01);
    receive("abc");
    board_check_refuses(&b, full, sizeof(full) / sizeof(full[0]));
}

static void more(void)
{
    uint64_t r = board_random();
    if ((r & 3) == 0)
        uart_receive(&uart, (const uint8_t *)"0123456789abcdefgh", r >> 8 & 15);
    if ((r & 0x1F0) == 0)
        uart_receive_break(&uart);
}

static void test_fuzz(void)
{
    setup();
    struct board_fuzz f = {&b.vm.port_bus, LODGE_PORT_SERIAL, 8, 60000, more, 300000};
    board_fuzz(&b, &f);
}

int main(void)
{
    UNIT_RUN(test_reset_values);
    UNIT_RUN(test_masks);
    UNIT_RUN(test_transmit);
    UNIT_RUN(test_transmit_interrupt);
    UNIT_RUN(test_receive_without_fifo);
    UNIT_RUN(test_receive_with_fifo);
    UNIT_RUN(test_receive_timeout);
    UNIT_RUN(test_fifo_order_and_enable);
    UNIT_RUN(test_loopback);
    UNIT_RUN(test_modem_and_line_interrupts);
    UNIT_RUN(test_break);
    UNIT_RUN(test_state_refused);
    UNIT_RUN(test_fuzz);
    return unit_done();
}
