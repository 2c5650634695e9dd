/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/* Reading the bare machine's real-time clock (native/cmos.c). */
#include <string.h>

#include "native/cmos.h"
#include "tests/fakes/native/io.h"
#include "tests/lib/unit.h"

enum { BINARY = 4, H24 = 2 };

static uint8_t cmos[128], index_register;
static unsigned int reads, updating_until, tick_at;

static uint32_t in(uint16_t port, unsigned int size)
{
    CHECK(port == 0x71 && size == 1);
    if (++reads == tick_at) /* the date turns while it is read */
        memcpy(cmos, (const uint8_t[10]){0, 0, 0, 0, 0, 0, 0, 1, 1, 0x25}, 10);
    if (index_register == 0x0A)
        return reads < updating_until ? 0x80 : 0x26;
    return cmos[index_register & 0x7F];
}

static void out(uint16_t port, unsigned int size, uint32_t v)
{
    CHECK(port == 0x70 && size == 1 && v < 0x80);
    index_register = (uint8_t)v;
}

static void setup(void)
{
    fake_io = (struct fake_io){.in = in, .out = out};
    memset(cmos, 0, sizeof(cmos));
    memcpy(cmos, (const uint8_t[10]){0x59, 0, 0x59, 0, 0x23, 0, 0, 0x31, 0x12, 0x24}, 10);
    cmos[0x0B] = H24;
    cmos[0x32] = 0x20;
    reads = updating_until = tick_at = 0;
}

static void test_read(void)
{
    struct cmos_time t;
    uint64_t ns;
    setup();
    CHECK_EQ(cmos_read(0x32, &t), OK);
    CHECK_EQ(cmos_to_ns(&t, &ns), OK);
    CHECK_EQ(ns, 1735689599000000000);
    setup();
    updating_until = 500;
    CHECK_EQ(cmos_read(0, &t), OK);
    CHECK(reads >= 500 && !t.has_century);
    setup();
    updating_until = UINT32_MAX;
    CHECK_EQ(cmos_read(0, &t), (uint64_t)ERR_IO);
    fake_io.in = NULL; /* nothing there: all ones */
    CHECK_EQ(cmos_read(0, &t), (uint64_t)ERR_IO);
}

/* Whenever the year turns in between, it is one of the two seconds, and nothing else. */
static void test_torn(void)
{
    unsigned int before = 0;
    for (unsigned int at = 1; at < 40; at++) {
        struct cmos_time t;
        uint64_t ns = 0;
        setup();
        tick_at = at;
        unit_context("at %u", at);
        CHECK_EQ(cmos_read(0x32, &t), OK);
        CHECK_EQ(cmos_to_ns(&t, &ns), OK);
        before += ns == 1735689599000000000;
        CHECK(ns == 1735689599000000000 || ns == 1735689600000000000);
    }
    CHECK(before > 0 && before < 39);
}

static void test_formats(void)
{
    static const struct {
        struct cmos_time t;
        uint64_t seconds;
    } rows[] = {
        {{0x00, 0x00, 0x00, 0x01, 0x01, 0x70, 0x19, H24, true}, 0},
        {{0x59, 0x59, 0x23, 0x28, 0x02, 0x00, 0x20, H24, true}, 951782399},
        {{0x00, 0x00, 0x00, 0x29, 0x02, 0x00, 0x20, H24, true}, 951782400},
        {{8, 14, 3, 19, 1, 38, 20, H24 | BINARY, true}, 2147483648},
        {{8, 14, 3, 19, 1, 38, 0, H24 | BINARY, false}, 2147483648},
        {{0x00, 0x00, 0x12, 0x01, 0x01, 0x70, 0x00, 0, false}, 0},     /* midnight is 12 a.m. */
        {{0x00, 0x00, 0x92, 0x01, 0x01, 0x70, 0x00, 0, false}, 43200}, /* noon is 12 p.m. */
        {{0x00, 0x00, 0x01, 0x01, 0x01, 0x70, 0x00, 0, false}, 3600},
        {{0, 0, 0x80 | 11, 1, 1, 70, 0, BINARY, false}, 82800},
        {{0x00, 0x00, 0x00, 0x01, 0x03, 0x00, 0x21, H24, true}, 4107542400},
        {{0x00, 0x00, 0x00, 0x01, 0x01, 0x69, 0xFF, H24, true}, 3124224000}, /* a century that is none */
    };
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        uint64_t ns = 1;
        unit_context("row %zu", i);
        CHECK_EQ(cmos_to_ns(&rows[i].t, &ns), OK);
        CHECK_EQ(ns, rows[i].seconds * 1000000000);
    }
}

static void test_refused(void)
{
    static const struct cmos_time rows[] = {
        {0x60, 0x00, 0x00, 0x01, 0x01, 0x24, 0x20, H24, true},
        {0x0A, 0x00, 0x00, 0x01, 0x01, 0x24, 0x20, H24, true},
        {0x00, 0x60, 0x00, 0x01, 0x01, 0x24, 0x20, H24, true},
        {0x00, 0x00, 0x24, 0x01, 0x01, 0x24, 0x20, H24, true},
        {0x00, 0x00, 0x00, 0x00, 0x01, 0x24, 0x20, H24, true},
        {0x00, 0x00, 0x00, 0x30, 0x02, 0x24, 0x20, H24, true},
        {0x00, 0x00, 0x00, 0x29, 0x02, 0x23, 0x20, H24, true},
        {0x00, 0x00, 0x00, 0x29, 0x02, 0x00, 0x21, H24, true},
        {0x00, 0x00, 0x00, 0x01, 0x13, 0x24, 0x20, H24, true},
        {0x00, 0x00, 0x00, 0x01, 0x00, 0x24, 0x20, H24, true},
        {0x00, 0x00, 0x00, 0x01, 0x01, 0x6A, 0x20, H24, true},
        {0x00, 0x00, 0x13, 0x01, 0x01, 0x24, 0x20, 0, true},
        {0x00, 0x00, 0x00, 0x01, 0x01, 0x24, 0x20, 0, true},
        {0x00, 0x00, 0x00, 0x01, 0x01, 0x24, 0x19, H24, true},
        {0, 0, 0, 1, 1, 100, 20, H24 | BINARY, true},
        {0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 6, true},
        {0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0, true},
    };
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        uint64_t ns;
        unit_context("row %zu", i);
        CHECK_EQ(cmos_to_ns(&rows[i], &ns), (uint64_t)ERR_INVALID);
    }
}

int main(void)
{
    UNIT_RUN(test_read);
    UNIT_RUN(test_torn);
    UNIT_RUN(test_formats);
    UNIT_RUN(test_refused);
    return unit_done();
}
