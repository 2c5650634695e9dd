/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/* Rings (native/ring.c) and the log (native/log.c). */
#include <stdlib.h>
#include <string.h>

#include "native/log.h"
#include "native/ring.h"
#include "tests/lib/unit.h"

static void test_ring(void)
{
    char memory[8], buf[20];
    uint64_t a = 0, b = 0, missed;
    struct ring r;
    ring_init(&r, memory, sizeof(memory));
    CHECK_EQ(ring_read(&r, &a, buf, 20, &missed), 0);
    ring_write(&r, "hello", 5);
    CHECK_EQ(ring_read(&r, &a, buf, 3, &missed), 3);
    CHECK(memcmp(buf, "hel", 3) == 0 && missed == 0 && a == 3);
    ring_write(&r, "world", 5); /* "lo" of a, "hello" of b: two bytes are gone */
    CHECK_EQ(ring_begin(&r), 2);
    CHECK_EQ(ring_read(&r, &a, buf, 20, &missed), 7);
    CHECK(memcmp(buf, "loworld", 7) == 0 && missed == 0);
    CHECK_EQ(ring_read(&r, &b, buf, 20, &missed), 8);
    CHECK(memcmp(buf, "lloworld", 8) == 0);
    CHECK_EQ(missed, 2);
    CHECK_EQ(b, 10);
    b = 99; /* a position that never was */
    CHECK_EQ(ring_read(&r, &b, buf, 20, &missed), 0);
    CHECK(b == 10 && missed == 0);
    ring_write(&r, "0123456789abcdef-end", 20); /* more than it holds */
    CHECK_EQ(r.end, 30);
    CHECK_EQ(ring_read(&r, &a, buf, 20, &missed), 8);
    CHECK(memcmp(buf, "cdef-end", 8) == 0);
    CHECK_EQ(missed, 12);
}

/* Against all that was ever written, kept whole; sizes that are no powers of two, several readers. */
static void test_ring_random(void)
{
    static uint8_t all[200000], memory[61], buf[100], piece[150];
    uint64_t position[3] = {0}, missed;
    size_t written = 0;
    struct ring r;
    srand(1);
    ring_init(&r, memory, sizeof(memory));
    while (written + sizeof(piece) < sizeof(all)) {
        size_t n = (size_t)rand() % (rand() % 8 == 0 ? sizeof(piece) : 9);
        for (size_t i = 0; i < n; i++)
            all[written + i] = piece[i] = (uint8_t)rand();
        ring_write(&r, piece, n);
        written += n;
        CHECK_EQ(r.end, written);
        unsigned int who = (unsigned int)rand() % 4;
        if (who == 3)
            continue;
        uint64_t from = position[who], oldest = written > 61 ? written - 61 : 0;
        size_t got = ring_read(&r, &position[who], buf, (size_t)rand() % sizeof(buf), &missed);
        CHECK_EQ(missed, from < oldest ? oldest - from : 0);
        CHECK_EQ(position[who], from + missed + got);
        CHECK(memcmp(buf, all + from + missed, got) == 0);
    }
}

/* --- log --------------------------------------------------------------------------------------- */

static char wrote[300000], wrote_now[4096];
static size_t written, written_now;

static void sink_write(const char *p, size_t n)
{
    memcpy(wrote + written, p, n);
    written += n;
    wrote[written] = 0;
}

static void sink_now(const char *p, size_t n)
{
    memcpy(wrote_now + written_now, p, n);
    written_now += n;
    wrote_now[written_now] = 0;
}

static const struct log_sink sink = {sink_write, sink_now};

static void test_log(void)
{
    char buf[100];
    CHECK_EQ(log_newest(buf, sizeof(buf)), 0);
    log_line("before there was a %s", "sink");
    log_add_sink(&sink); /* it is told */
    CHECK_STR(wrote, "before there was a sink\n");
    written = 0;
    log_line("%u CPUs", 2u);
    CHECK_STR(wrote, "2 CPUs\n");
    CHECK_EQ(log_newest(buf, sizeof(buf)), 31);
    CHECK(memcmp(buf, "before there was a sink\n2 CPUs\n", 31) == 0);
    CHECK_EQ(log_newest(buf, 30), 7); /* whole lines only */
    CHECK(memcmp(buf, "2 CPUs\n", 7) == 0);
    CHECK_EQ(log_newest(buf, 7), 7);
    CHECK_EQ(log_newest(buf, 6), 0);
    CHECK_EQ(log_newest(buf, 0), 0);
}

static void test_log_hostile(void)
{
    static char text[2000];
    written = 0;
    log_line("a guest said: %s", "\x1B[2J\r\nroot# \x7F\x9B\t");
    CHECK_STR(wrote, "a guest said: ?[2J??root# ???\n");
    memset(text, 'x', sizeof(text) - 1);
    for (size_t length = 505; length < 520; length++) {
        written = 0;
        log_line("%.*s", (int)length, text);
        CHECK_EQ(written, length <= 510 ? length + 1 : 511);
        CHECK(wrote[written - 1] == '\n');
        CHECK_EQ(memcmp(wrote + written - 4, "...", 3) == 0, length > 510);
    }
}

static uint64_t now_ns(void)
{
    return 12345678901;
}

static void test_log_time(void)
{
    written = 0;
    log_set_clock(now_ns);
    log_line("now");
    CHECK_STR(wrote, "[   12.345678] now\n");
    log_set_clock(NULL);
}

/* Full: the newest lines, whole, and as many as fit. */
static void test_log_wraps(void)
{
    static char buf[100000];
    for (unsigned int i = 0; i < 10000; i++) {
        written = 0;
        log_line("line %u", i);
    }
    size_t n = log_newest(buf, sizeof(buf));
    CHECK(n > 65000 && n <= 65536 && buf[n - 1] == '\n');
    buf[n] = 0;
    CHECK(memcmp(buf, "line ", 5) == 0);
    unsigned int first = (unsigned int)atoi(buf + 5);
    char *p = buf;
    for (unsigned int i = first; i < 10000; i++, p = strchr(p, '\n') + 1)
        CHECK_EQ(atoi(p + 5), i);
    CHECK(*p == 0);
}

/* Last: there is no way back. */
static void test_log_panic(void)
{
    char buf[100];
    written = 0;
    log_now("panic\n at ", 10);
    log_line("%s:%u", "x.c", 5u);
    CHECK_EQ(written, 0);
    CHECK_STR(wrote_now, "panic\n at x.c:5\n");
    CHECK_EQ(log_newest(buf, 16), 16);
    CHECK(memcmp(buf, "panic\n at x.c:5\n", 16) == 0);
}

int main(void)
{
    UNIT_RUN(test_ring);
    UNIT_RUN(test_ring_random);
    UNIT_RUN(test_log);
    UNIT_RUN(test_log_hostile);
    UNIT_RUN(test_log_time);
    UNIT_RUN(test_log_wraps);
    UNIT_RUN(test_log_panic);
    return unit_done();
}
