/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/* The last console line: what a hostile guest prints comes out as plain text. */
#include "hosted/last_line.h"

#include <stdlib.h>
#include <string.h>

#include "tests/lib/unit.h"

static const struct {
    const char *printed, *line;
} cases[] = {
    {"", ""},
    {"hello", "hello"},
    {"one\r\ntwo\r\n", "two"},
    {"one\r\ntwo\r\n  \r\n\r\n", "two"},
    {"one\r\ntw", "tw"},
    {"\x1B[31mred\x1B[0m\n", "red"},
    {"\x1B]0;title\x07text", "text"},
    {"\x1B]0;title\x1B\\text", "text"},
    {"\x1B]0;never ended\nnext line\n", "next line"},
    {"\x1B(Bplain", "plain"},
    {"\x1B"
     "7saved",
     "saved"},
    {"bell\x07 \x7F\xC3\xA4", "bell ???"},
    {"abc\b\bX", "aX"},
    {"a\tb", "a b"},
    {"\b\b\bx", "x"},
    {"\x1B[2", ""},
};

static void test_lines(void)
{
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct last_line whole = {0}, bytewise = {0};

        unit_context("case %zu", i);
        last_line_feed(&whole, (const uint8_t *)cases[i].printed, strlen(cases[i].printed));
        for (const char *p = cases[i].printed; *p; p++)
            last_line_feed(&bytewise, (const uint8_t *)p, 1);
        CHECK_STR(last_line_get(&whole), cases[i].line);
        CHECK_STR(last_line_get(&bytewise), cases[i].line);
    }
}

static void test_long(void)
{
    struct last_line l = {0};

    for (int i = 0; i < 1000; i++)
        last_line_feed(&l, (const uint8_t *)"x", 1);
    CHECK_EQ(strlen(last_line_get(&l)), LAST_LINE_SIZE - 1);
    last_line_feed(&l, (const uint8_t *)"\n", 1);
    CHECK_EQ(strlen(last_line_get(&l)), LAST_LINE_SIZE - 1);
}

static void test_random(void)
{
    struct last_line l = {0};

    srand(1);
    for (int i = 0; i < 200000; i++) {
        uint8_t b = (uint8_t)rand();
        const char *s;

        last_line_feed(&l, &b, 1);
        for (s = last_line_get(&l); *s; s++)
            CHECK(*s >= ' ' && *s < 0x7F);
        CHECK(s - last_line_get(&l) < LAST_LINE_SIZE);
    }
}

int main(void)
{
    UNIT_RUN(test_lines);
    UNIT_RUN(test_long);
    UNIT_RUN(test_random);
    return unit_done();
}
