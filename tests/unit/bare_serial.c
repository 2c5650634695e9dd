/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/* The operator's serial port (native/serial.c) on a 16550 of the test's, and the log that writes to it
 * (native/log.c). */
#include <stdlib.h>
#include <string.h>

#include "native/serial.h"
#include "tests/fakes/native/io.h"
#include "tests/lib/unit.h"

enum { WIRE = 1 << 20, FIFO = 16 };

static struct {
    bool there, dead; /* dead: nothing ever leaves */
    bool has_fifo;
    bool interrupting, empty_event; /* the transmitter's interrupt, taken back by reading IIR */
    uint8_t ier, lcr, mcr, fcr, divisor[2];
    unsigned int queued; /* in the transmitter */
    unsigned int shifting;
    unsigned int reads_per_byte, reads;
    char wire[WIRE];
    size_t sent, overrun;
    uint8_t input[4096];
    unsigned int input_size, input_at;
    uint8_t status; /* errors of the next byte */
    unsigned int accesses;
    bool instant;    /* an emulator's: what is written is out at once */
    bool line, edge; /* of its interrupt; what the I/O APIC has seen */
    unsigned int types_at; /* a byte comes in at this access; 0: none */
} u;

/* After each access: has the line risen? */
static void watch_line(void)
{
    bool now = ((u.ier & 1) && u.input_at < u.input_size) || ((u.ier & 2) && u.empty_event);

    u.edge |= now && !u.line;
    u.line = now;
    if (u.types_at && u.accesses == u.types_at) {
        u.input[u.input_size++] = '!';
        u.types_at = 0;
        watch_line();
    }
}

static void shift_out(void)
{
    if (u.queued > 0 && !u.dead && ++u.reads >= u.reads_per_byte * u.queued) {
        u.queued = 0;
        u.reads = 0;
        u.empty_event = true;
    }
}

static uint8_t read_iir(void)
{
    uint8_t fifo = u.has_fifo && (u.fcr & 1) ? 0xC0 : 0;
    if ((u.ier & 1) && u.input_at < u.input_size)
        return fifo | 4;
    if ((u.ier & 2) && u.empty_event) {
        u.empty_event = false;
        return fifo | 2;
    }
    return fifo | 1;
}

static uint8_t read_lsr(void)
{
    shift_out();
    uint8_t ready = u.input_at < u.input_size, status = ready ? u.status : 0;
    if (u.queued > 0)
        u.shifting = 50; /* the last byte takes its time */
    else if (u.shifting > 0)
        u.shifting--;
    return (uint8_t)(ready | status | (u.queued == 0 ? 0x20 : 0) | (u.queued + u.shifting == 0 ? 0x40 : 0));
}

static uint32_t read_port(uint16_t port)
{
    switch (port - 0x3F8) {
    case 0:
        u.status = 0;
        return u.input_at < u.input_size ? u.input[u.input_at++] : 0;
    case 1:
        return u.ier;
    case 2:
        return read_iir();
    case 5:
        return read_lsr();
    case 6:
        return u.mcr & 0x10 ? ((u.mcr & 2u) << 3 | (u.mcr & 1u) << 5 | (u.mcr & 0xCu) << 4) : 0xB0;
    default:
        return 0;
    }
}

static uint32_t in(uint16_t port, unsigned int size)
{
    uint32_t v;

    CHECK(size == 1);
    u.accesses++;
    if (!u.there)
        return 0xFF;
    v = read_port(port);
    watch_line();
    return v;
}

static void transmit(uint8_t v)
{
    unsigned int room = u.has_fifo && (u.fcr & 1) ? FIFO : 1;
    if (u.queued == room)
        u.overrun++;
    else
        u.queued++;
    if (u.sent < WIRE)
        u.wire[u.sent++] = (char)v;
    u.empty_event = u.instant;
    if (u.instant)
        u.queued = 0;
}

static void write_port(uint16_t port, uint32_t v)
{
    switch (port - 0x3F8) {
    case 0:
        if (u.lcr & 0x80)
            u.divisor[0] = (uint8_t)v;
        else
            transmit((uint8_t)v);
        break;
    case 1:
        if (u.lcr & 0x80) {
            u.divisor[1] = (uint8_t)v;
            break;
        }
        if ((v & 2) && !(u.ier & 2) && u.queued == 0)
            u.empty_event = true;
        u.ier = (uint8_t)v;
        break;
    case 2:
        u.fcr = (uint8_t)v;
        break;
    case 3:
        u.lcr = (uint8_t)v;
        break;
    case 4:
        u.mcr = (uint8_t)v;
        break;
    default:
        CHECK(false);
    }
}

static void out(uint16_t port, unsigned int size, uint32_t v)
{
    CHECK(size == 1);
    u.accesses++;
    write_port(port, v);
    watch_line();
}

static void plug(bool has_fifo, unsigned int reads_per_byte)
{
    memset(&u, 0, sizeof(u));
    u.there = true;
    u.has_fifo = has_fifo;
    u.fcr = 0x87; /* as serial_init has left it */
    u.reads_per_byte = reads_per_byte;
    fake_io = (struct fake_io){.in = in, .out = out};
}

/* The port is one of the machine's, so tests go on with it; this empties it. */
static void settle(void)
{
    char buf[2048];
    u.dead = false;
    for (unsigned int i = 0; i < 2000000; i++) {
        size_t before = u.sent;
        serial_poll();
        if (u.sent == before && u.queued == 0)
            break;
    }
    (void)serial_read(buf, sizeof(buf));
    CHECK_EQ(u.overrun, 0);
}

static void check_wire(const char *text)
{
    u.wire[u.sent < WIRE ? u.sent : WIRE - 1] = 0;
    CHECK_STR(u.wire, text);
    u.sent = 0;
}

/* Must be the first: nothing is there. */
static void test_absent(void)
{
    plug(true, 1);
    u.there = false;
    CHECK(!serial_init());
    u.accesses = 0;
    serial_write("lost", 4);
    serial_write_now("lost", 4);
    serial_poll();
    serial_drain();
    serial_interrupt();
    serial_enable_interrupts();
    CHECK_EQ(u.accesses, 0);
}

static void test_init(void)
{
    plug(false, 1);
    CHECK(serial_init());
    CHECK_EQ(u.divisor[0] | u.divisor[1] << 8, 1);
    CHECK_EQ(u.lcr, 3);
    CHECK_EQ(u.ier, 0);
    CHECK_EQ(u.mcr, 0x0B);
    serial_write("one by one", 10); /* no FIFO */
    settle();
    check_wire("one by one");
    plug(true, 20);
    CHECK(serial_init());
    CHECK_EQ(u.fcr & 1, 1);
}

/* Polled, on a slow line: all of it, in order; no call waits. */
static void test_polled(void)
{
    plug(true, 20);
    for (char c = 'a'; c <= 'z'; c++) {
        unsigned int before = u.accesses;
        for (unsigned int i = 0; i < 10; i++)
            serial_write(&c, 1);
        CHECK(u.accesses - before < 10 * (FIFO + 4));
    }
    CHECK(u.sent < 100);
    settle();
    CHECK_EQ(u.sent, 260);
    for (unsigned int i = 0; i < 260; i++)
        CHECK_EQ(u.wire[i], 'a' + (char)(i / 10));
}

static void test_sink(void)
{
    plug(true, 1);
    serial_sink.write("a\nbc\n\nd", 7);
    settle();
    check_wire("a\r\nbc\r\n\r\nd");
    serial_sink.write_now("\nx", 2);
    check_wire("\r\nx");
}

/* What does not fit is lost from the oldest on; what is said to be lost and what came is all there was. */
static void test_loss(void)
{
    static char pattern[200000];
    struct serial_counts before, after;
    unsigned long long said = 0, lost = 0;
    plug(true, 20);
    serial_count(&before);
    for (size_t i = 0; i < sizeof(pattern); i++)
        pattern[i] = (char)('0' + i % 10);
    for (size_t at = 0; at < sizeof(pattern); at += 1000) {
        serial_write(pattern + at, 1000);
        if (at % 5000 == 0)
            for (unsigned int i = 0; i < 3000; i++)
                serial_poll();
    }
    settle();
    u.wire[u.sent] = 0;
    size_t notes = 0, bytes = u.sent;
    for (char *p = u.wire; (p = strstr(p, "\r\n[")) != NULL; p++, notes++) {
        char *end;
        said = strtoull(p + 3, &end, 10);
        CHECK(strncmp(end, " bytes lost]\r\n", 14) == 0);
        bytes -= (size_t)(end + 14 - p);
        lost += said;
        CHECK_EQ(end[14], '0' + (p[-1] - '0' + 1 + (char)(said % 10)) % 10); /* it goes on just there */
    }
    CHECK(notes > 2 && lost > 50000);
    CHECK_EQ(bytes + lost, sizeof(pattern));
    CHECK_EQ(u.wire[u.sent - 1], '9'); /* the newest is there */
    serial_count(&after);
    CHECK_EQ(after.lost - before.lost, lost);
}

/* Dead: writing goes on, polling ends. */
static void test_dead(void)
{
    plug(true, 1);
    u.dead = true;
    size_t room = serial_room();
    CHECK(room > 30000);
    for (unsigned int i = 0; i < 1000; i++) {
        serial_write("0123456789012345678901234567890123456789", 40);
        CHECK(serial_room() <= room && room - serial_room() <= 40);
        room = serial_room();
    }
    CHECK_EQ(room, 0);
    CHECK(u.sent <= FIFO);
    u.accesses = 0;
    for (unsigned int i = 0; i < 100; i++)
        serial_write_now("panic", 5);
    CHECK(u.accesses < 40000);
    serial_drain();
    settle();
    u.sent = 0;
    serial_write_now("alive", 5); /* it moves again */
    check_wire("alive");
}

static void test_write_now(void)
{
    plug(true, 20);
    serial_write("queued before, ", 15);
    serial_write_now("and now", 7);
    check_wire("queued before, and now");
    serial_write("bye", 3);
    serial_drain();
    CHECK_EQ(u.queued + u.shifting, 0);
    check_wire("bye");
}

static unsigned int told;

static void receive_told(void)
{
    char c;
    told++;
    (void)serial_read(&c, 0); /* the lock is free */
}

static void type(const char *text)
{
    CHECK(u.input_size + strlen(text) <= sizeof(u.input));
    memcpy(u.input + u.input_size, text, strlen(text));
    u.input_size += (unsigned int)strlen(text);
}

static void test_receive(void)
{
    char buf[16];
    plug(true, 1);
    serial_on_receive(receive_told);
    told = 0;
    serial_poll();
    CHECK_EQ(told, 0);
    type("ps\r");
    serial_poll();
    CHECK_EQ(told, 1);
    CHECK_EQ(serial_read(buf, 2), 2);
    CHECK(memcmp(buf, "ps", 2) == 0);
    CHECK_EQ(serial_read(buf, sizeof(buf)), 1);
    CHECK_EQ(buf[0], '\r');
    CHECK_EQ(serial_read(buf, sizeof(buf)), 0);
}

static void test_receive_errors(void)
{
    struct serial_counts before, after;
    static char buf[8192];
    plug(true, 1);
    serial_count(&before);
    type("x");
    u.status = 0x10; /* break */
    serial_poll();
    CHECK_EQ(serial_read(buf, sizeof(buf)), 0);
    type("y");
    u.status = 0x02; /* one was overrun */
    serial_poll();
    CHECK_EQ(serial_read(buf, sizeof(buf)), 1);
    for (unsigned int i = 0; i < 2000; i++) { /* more than fits: the first stay */
        char digit[2] = {(char)('0' + i % 10), 0};
        type(digit);
    }
    for (unsigned int i = 0; i < 100; i++)
        serial_poll();
    CHECK_EQ(serial_read(buf, sizeof(buf)), 1024);
    for (unsigned int i = 0; i < 1024; i++)
        CHECK_EQ(buf[i], '0' + (char)(i % 10));
    serial_count(&after);
    CHECK_EQ(after.line_errors - before.line_errors, 1);
    CHECK_EQ(after.received_lost - before.received_lost, 1 + 2000 - 1024);
    CHECK_EQ(after.received - before.received, 1 + 1024);
}

/* From here on with interrupts. */
static void run_interrupts(unsigned int most)
{
    while (most-- > 0) {
        shift_out();
        if (((u.ier & 1) && u.input_at < u.input_size) || ((u.ier & 2) && u.empty_event))
            serial_interrupt();
    }
}

static void test_interrupts(void)
{
    static char text[5000];
    char buf[16];
    plug(true, 20);
    serial_enable_interrupts();
    CHECK_EQ(u.ier, 5);
    memset(text, 'z', sizeof(text));
    serial_write(text, sizeof(text));
    CHECK_EQ(u.ier, 7);
    CHECK(u.sent <= FIFO);
    run_interrupts(200000);
    CHECK_EQ(u.sent, sizeof(text));
    CHECK_EQ(u.ier, 5); /* nothing left: no interrupt for it */
    CHECK_EQ(u.overrun, 0);
    type("help");
    told = 0;
    run_interrupts(10);
    CHECK(told > 0);
    CHECK_EQ(serial_read(buf, sizeof(buf)), 4);
    u.there = false; /* reads as all ones: no interrupt pending, and no loop without an end */
    serial_interrupt();
}

/* On an edge-triggered input, as the I/O APIC's for COM1. */
static void run_edges(void)
{
    for (unsigned int i = 0; i < 1000 && u.edge; i++) {
        u.edge = false;
        serial_interrupt();
    }
}

/* Much to send on a port that takes all at once, so that its handler never finds it idle; a byte comes in at any time,
 * also just when the handler gives up. It is received. */
static void test_no_edge_is_lost(void)
{
    static char text[24 << 10];
    char buf[16];
    unsigned int given_up;

    memset(text, 'z', sizeof(text));
    plug(true, 1);
    u.instant = true;
    u.ier = 5; /* as the driver has left it */
    serial_write(text, sizeof(text));
    u.edge = false;
    serial_interrupt();
    given_up = u.accesses;
    run_edges();
    CHECK_EQ(u.sent, sizeof(text));
    for (unsigned int at = given_up - 1500; at < given_up + 1500; at++) {
        plug(true, 1);
        u.instant = true;
        u.types_at = at;
        u.ier = 5;
        serial_write(text, sizeof(text));
        run_edges();
        CHECK_EQ(u.sent, sizeof(text));
        if (serial_read(buf, sizeof(buf)) != 1) {
            CHECK(!"the byte is received");
            break;
        }
    }
}

int main(void)
{
    UNIT_RUN(test_absent);
    UNIT_RUN(test_init);
    UNIT_RUN(test_polled);
    UNIT_RUN(test_sink);
    UNIT_RUN(test_loss);
    UNIT_RUN(test_dead);
    UNIT_RUN(test_write_now);
    UNIT_RUN(test_receive);
    UNIT_RUN(test_receive_errors);
    UNIT_RUN(test_interrupts);
    UNIT_RUN(test_no_edge_is_lost);
    return unit_done();
}
