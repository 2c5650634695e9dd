/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/* The bare machine's screen (native/screen.c): text is read back from the frame buffer by its letters' shapes. */
#include <stdlib.h>
#include <string.h>

#include "native/screen.h"
#include "native/screen_font.h"
#include "tests/fakes/native/io.h"
#include "tests/lib/unit.h"

static struct screen_mode mode;
static uint8_t *memory; /* just as large as screen_size says */
static char text[128];

static int start(struct screen_mode m)
{
    free(memory);
    mode = m;
    size_t size = screen_size(&m);
    memory = size != 0 ? malloc(size) : NULL;
    if (memory)
        memset(memory, 0xAA, size);
    return screen_init(&m, memory);
}

static void put(const char *s)
{
    screen_write(s, strlen(s));
}

static uint32_t pixel(uint32_t x, uint32_t y)
{
    uint32_t bytes = (mode.depth + 7u) / 8, v = 0;
    memcpy(&v, memory + (size_t)y * mode.pitch + x * bytes, bytes);
    return v;
}

static char letter_at(uint32_t column, uint32_t row, uint32_t grey)
{
    for (char c = ' '; c <= '~'; c++) {
        bool same = true;
        for (uint32_t y = 0; y < 16 && same; y++)
            for (uint32_t x = 0; x < 8; x++)
                same &= pixel(column * 8 + x, row * 16 + y) == (font_row(c, y) & 0x80 >> x ? grey : 0);
        if (same)
            return c;
    }
    return 0;
}

static const char *row_text(uint32_t row, uint32_t columns, uint32_t grey)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < columns; i++) {
        if (mode.kind == SCREEN_PIXELS) {
            text[i] = letter_at(i, row, grey);
        } else {
            const uint8_t *p = memory + (size_t)row * (mode.pitch ? mode.pitch : 2 * mode.width) + 2 * i;
            text[i] = (char)p[0];
            CHECK_EQ(p[1], 7);
        }
        if (text[i] != ' ')
            n = i + 1;
    }
    text[n] = 0;
    return text;
}

static struct screen_mode rgb32(uint32_t width, uint32_t height, uint32_t pitch)
{
    return (struct screen_mode){SCREEN_PIXELS, width, height, pitch, 32, {16, 8}, {8, 8}, {0, 8}};
}

/* Each letter differs from all others, and leaves the columns between letters free. */
static void test_font(void)
{
    for (char a = ' '; a <= '~'; a++)
        for (char b = ' '; b <= '~'; b++) {
            bool same = true;
            for (unsigned int row = 0; row < FONT_HEIGHT; row++)
                same &= font_row(a, row) == font_row(b, row);
            CHECK_EQ(same, a == b);
        }
    for (char a = ' '; a <= '~'; a++)
        for (unsigned int row = 0; row < FONT_HEIGHT; row++)
            CHECK_EQ(font_row(a, row) & 0x83, 0);
}

static void test_depths(void)
{
    static const struct {
        struct screen_mode m;
        uint32_t grey;
    } rows[] = {
        {{SCREEN_PIXELS, 100, 50, 403, 32, {16, 8}, {8, 8}, {0, 8}}, 0xB0B0B0},
        {{SCREEN_PIXELS, 100, 50, 400, 32, {0, 8}, {8, 8}, {16, 8}}, 0xB0B0B0},
        {{SCREEN_PIXELS, 100, 50, 400, 32, {20, 10}, {10, 10}, {0, 10}}, 0x2C0u << 20 | 0x2C0 << 10 | 0x2C0},
        {{SCREEN_PIXELS, 100, 50, 301, 24, {16, 8}, {8, 8}, {0, 8}}, 0xB0B0B0},
        {{SCREEN_PIXELS, 100, 50, 200, 16, {11, 5}, {5, 6}, {0, 5}}, 0x16 << 11 | 0x2C << 5 | 0x16},
        {{SCREEN_PIXELS, 100, 50, 201, 15, {10, 5}, {5, 5}, {0, 5}}, 0x16 << 10 | 0x16 << 5 | 0x16},
    };
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        unit_context("row %zu", i);
        CHECK_EQ(start(rows[i].m), OK);
        put("Lodge {8}\n12 CPUs, gypsy"); /* 12 columns, 3 rows */
        CHECK_STR(row_text(0, 12, rows[i].grey), "Lodge {8}");
        CHECK_STR(row_text(1, 12, rows[i].grey), "12 CPUs, gyp");
        CHECK_STR(row_text(2, 12, rows[i].grey), "sy");
        CHECK_EQ(pixel(99, 20) | pixel(0, 49), 0); /* what is left over is black */
    }
}

static unsigned int cursor;

static void out(uint16_t port, unsigned int size, uint32_t v)
{
    cursor = cursor << 16 | (port - 0x3D4u) << 8 | v;
    CHECK_EQ(size, 1);
}

static void test_text(void)
{
    fake_io.out = out;
    CHECK_EQ(start((struct screen_mode){.kind = SCREEN_TEXT, .width = 80, .height = 25}), OK);
    CHECK_EQ(cursor, 0x000A0120); /* off */
    put("a\tb\rc\n12\b3\x1B\x80");
    CHECK_STR(row_text(0, 80, 0), "c       b");
    CHECK_STR(row_text(1, 80, 0), "13??");
    for (unsigned int i = 0; i < 40; i++) {
        char line[20];
        snprintf(line, sizeof(line), "\nline %u", i);
        put(line);
    }
    CHECK_STR(row_text(24, 80, 0), "line 39");
    CHECK_STR(row_text(0, 80, 0), "line 15");
    put("\b\b\b\b\b\b\b\b\b\b\b\b\rX");
    CHECK_STR(row_text(24, 80, 0), "Xine 39");
}

/* By a quarter at once; nothing is left of what was there, and nothing is lost at the bottom. */
static void test_scroll(void)
{
    CHECK_EQ(start(rgb32(160, 128, 640)), OK); /* 20 by 8 */
    for (unsigned int i = 0; i < 100; i++) {
        char line[30];
        snprintf(line, sizeof(line), "%u:%.*s\n", i, (int)(i * 7 % 17), "abcdefghijklmnopqrst");
        put(line);
        line[strlen(line) - 1] = 0;
        unsigned int row = 0;
        while (row < 8 && strcmp(row_text(row, 20, 0xB0B0B0), line) != 0)
            row++;
        CHECK(row < 8);
        for (row++; row < 8; row++)
            CHECK_STR(row_text(row, 20, 0xB0B0B0), "");
    }
}

static void test_large(void)
{
    CHECK_EQ(start(rgb32(4096, 2160, 16384)), OK); /* the upper left part is used */
    for (unsigned int i = 0; i < 300; i++)
        put("0123456789012345678901234567890123456789\n");
    CHECK_STR(row_text(0, 100, 0xB0B0B0), "0123456789012345678901234567890123456789");
    for (uint32_t x = 0; x < 4096; x += 64)
        CHECK_EQ(pixel(x, 68 * 16), 0);
}

static void test_refused(void)
{
    static const struct screen_mode rows[] = {
        {0},
        {.kind = SCREEN_TEXT},
        {.kind = SCREEN_TEXT, .width = 80, .height = 25, .pitch = 100},
        {.kind = SCREEN_TEXT, .width = 0x80000050, .height = 25},
        {SCREEN_PIXELS, 640, 480, 2560, 8, {0, 3}, {3, 3}, {6, 2}},
        {SCREEN_PIXELS, 640, 480, 2559, 32, {16, 8}, {8, 8}, {0, 8}},
        {SCREEN_PIXELS, 0x40000000, 480, 0, 32, {16, 8}, {8, 8}, {0, 8}},
        {SCREEN_PIXELS, 640, 480, 2560, 32, {25, 8}, {8, 8}, {0, 8}},
        {SCREEN_PIXELS, 640, 480, 2560, 32, {16, 8}, {8, 0}, {0, 8}},
        {SCREEN_PIXELS, 640, 480, 2560, 32, {16, 8}, {8, 8}, {0, 255}},
        {SCREEN_PIXELS, 7, 480, 2560, 32, {16, 8}, {8, 8}, {0, 8}},
        {SCREEN_PIXELS, 640, 15, 2560, 32, {16, 8}, {8, 8}, {0, 8}},
        {SCREEN_PIXELS, 640, 0xFFFFFFFF, 0xFFFFFFFF, 32, {16, 8}, {8, 8}, {0, 8}},
    };
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        static uint8_t some[64];
        unit_context("row %zu", i);
        CHECK_EQ(screen_size(&rows[i]), 0);
        CHECK_EQ(screen_init(&rows[i], some), (uint64_t)ERR_UNSUPPORTED);
        put("discarded");
    }
}

int main(void)
{
    UNIT_RUN(test_refused); /* first: there is no screen yet */
    UNIT_RUN(test_font);
    UNIT_RUN(test_depths);
    UNIT_RUN(test_text);
    UNIT_RUN(test_scroll);
    UNIT_RUN(test_large);
    free(memory);
    return unit_done();
}
