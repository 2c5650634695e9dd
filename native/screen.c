/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * A screen of text.
 *
 * What should be seen is an array of letters, which is scrolled; what is seen is another. After each write the two
 * are compared and the letters that differ are drawn: the frame buffer is never read (it is slow at that:
 * uncached), and a line that scrolls costs what it changes, not the whole picture. No escape sequences: the screen
 * shows the log, and nobody edits on it.
 *
 * A frame buffer has pixels of 15 to 32 bits whose colours lie where the loader says (Multiboot 2, 3.6.12; UEFI's
 * PixelBitMask); one with a palette is not used. Larger ones than ROWS and COLUMNS show their upper left part. VGA
 * text is letter and attribute, 16 bits (IBM VGA technical reference).
 *
 * Locking: one spin lock, below the log's. In a panic none is taken: what is half drawn is drawn again. State: the
 * one screen.
 */
#include "native/screen.h"

#include "core/mem.h"
#include "native/io.h"
#include "native/screen_font.h"
#include "native/spin.h"

enum { PORT_CRTC = 0x3D4, CRTC_CURSOR_START = 0x0A, CURSOR_OFF = 1 << 5 };
enum { COLUMNS = 240, ROWS = 68, TAB = 8, GREY = 0xB0, ATTRIBUTE_GREY = 0x07, SIZE_MAX_BYTES = 256 << 20 };

static char wanted[ROWS * COLUMNS], shown[ROWS * COLUMNS]; /* by row; `columns` of each row are used */
static struct {
    struct spin lock;
    struct screen_mode mode;
    uint8_t *memory; /* NULL: there is no screen */
    uint32_t columns, rows, column, row, grey;
    uint32_t dirty_first, dirty_end; /* rows in which the two may differ */
} screen;

/* --- modes ------------------------------------------------------------------------------------- */

static bool colour_fits(const struct screen_mode *m, struct screen_colour c)
{
    return c.size > 0 && c.size <= 16 && c.at + c.size <= m->depth;
}

static bool pixels_fit(const struct screen_mode *m)
{
    if (m->depth != 15 && m->depth != 16 && m->depth != 24 && m->depth != 32)
        return false;
    return m->width >= FONT_WIDTH && m->height >= FONT_HEIGHT && m->width <= 65536 &&
           m->pitch >= m->width * ((m->depth + 7u) / 8) && colour_fits(m, m->red) && colour_fits(m, m->green) &&
           colour_fits(m, m->blue);
}

static uint32_t text_pitch(const struct screen_mode *m)
{
    return m->pitch != 0 ? m->pitch : 2 * m->width;
}

static bool text_fits(const struct screen_mode *m)
{
    return m->width > 0 && m->height > 0 && m->width <= 1024 && text_pitch(m) >= 2 * m->width;
}

size_t screen_size(const struct screen_mode *m)
{
    uint64_t size = 0;

    if (m->kind == SCREEN_PIXELS && pixels_fit(m))
        size = (uint64_t)m->pitch * m->height;
    else if (m->kind == SCREEN_TEXT && text_fits(m))
        size = (uint64_t)text_pitch(m) * m->height;
    return size <= SIZE_MAX_BYTES ? (size_t)size : 0;
}

static uint32_t colour(struct screen_colour c, uint32_t v) /* v: 8 bits */
{
    return (c.size >= 8 ? v << (c.size - 8) : v >> (8 - c.size)) << c.at;
}

static uint32_t smaller(uint32_t a, uint32_t b)
{
    return a < b ? a : b;
}

/* --- drawing ----------------------------------------------------------------------------------- */

/* Of 15 to 24 bits. */
static void put_pixel(uint8_t *p, uint32_t v)
{
    if (screen.mode.depth == 24) {
        store_u16(p, (uint16_t)v);
        p[2] = (uint8_t)(v >> 16);
    } else {
        store_u16(p, (uint16_t)v);
    }
}

/* What nearly all screens have, at a few instructions a pixel: all of the log is drawn while the machine starts. */
static void draw_line32(uint8_t *line, uint8_t bits)
{
    for (unsigned int x = 0; x < FONT_WIDTH; x++, bits = (uint8_t)(bits << 1))
        store_u32(line + x * 4, screen.grey & (0u - (bits >> 7)));
}

static void draw_line(uint8_t *line, uint8_t bits, uint32_t bytes)
{
    for (unsigned int x = 0; x < FONT_WIDTH; x++)
        put_pixel(line + x * bytes, bits & 0x80 >> x ? screen.grey : 0);
}

static void draw_pixels(uint32_t row, uint32_t column, char letter)
{
    uint32_t bytes = (screen.mode.depth + 7u) / 8;
    uint8_t *line = screen.memory + (size_t)row * FONT_HEIGHT * screen.mode.pitch + column * FONT_WIDTH * bytes;

    for (unsigned int y = 0; y < FONT_HEIGHT; y++, line += screen.mode.pitch) {
        if (bytes == 4)
            draw_line32(line, font_row(letter, y));
        else
            draw_line(line, font_row(letter, y), bytes);
    }
}

static void draw(uint32_t row, uint32_t column, char letter)
{
    if (screen.mode.kind == SCREEN_PIXELS)
        draw_pixels(row, column, letter);
    else
        store_u16(screen.memory + (size_t)row * screen.mode.pitch + 2 * column,
                  (uint16_t)(ATTRIBUTE_GREY << 8 | (uint8_t)letter));
}

static void refresh(void)
{
    for (uint32_t row = screen.dirty_first; row < screen.dirty_end; row++)
        for (uint32_t column = 0; column < screen.columns; column++) {
            uint32_t i = row * COLUMNS + column;
            if (shown[i] == wanted[i])
                continue;
            shown[i] = wanted[i];
            draw(row, column, wanted[i]);
        }
    screen.dirty_first = screen.rows;
    screen.dirty_end = 0;
}

/* --- text -------------------------------------------------------------------------------------- */

static void mark(uint32_t first, uint32_t end)
{
    if (first < screen.dirty_first)
        screen.dirty_first = first;
    if (end > screen.dirty_end)
        screen.dirty_end = end;
}

/* Pixels are slow: by a quarter of the screen at once, so that most lines do not scroll. */
static void scroll(void)
{
    uint32_t by = screen.mode.kind == SCREEN_PIXELS && screen.rows >= 4 ? screen.rows / 4 : 1;

    screen.row = screen.rows - by;
    memmove(wanted, wanted + by * COLUMNS, screen.row * COLUMNS);
    memset(wanted + screen.row * COLUMNS, ' ', by * COLUMNS);
    mark(0, screen.rows);
}

static void next_line(void)
{
    screen.column = 0;
    if (++screen.row == screen.rows)
        scroll();
}

static void put_letter(char c)
{
    if (screen.column == screen.columns)
        next_line();
    wanted[screen.row * COLUMNS + screen.column++] = c;
    mark(screen.row, screen.row + 1);
}

static void put(char c)
{
    if (c == '\n')
        next_line();
    else if (c == '\r')
        screen.column = 0;
    else if (c == '\b')
        screen.column -= screen.column > 0;
    else if (c == '\t')
        screen.column = smaller((screen.column / TAB + 1) * TAB, screen.columns);
    else
        put_letter(c >= FONT_FIRST && c <= FONT_LAST ? c : '?');
}

/* The cursor would stand where the loader left it. */
static void hide_cursor(void)
{
    io_out8(PORT_CRTC, CRTC_CURSOR_START);
    io_out8(PORT_CRTC + 1, CURSOR_OFF);
}

int screen_init(const struct screen_mode *m, void *memory)
{
    bool pixels = m->kind == SCREEN_PIXELS;
    size_t size = screen_size(m);

    if (!memory || size == 0)
        return ERR_UNSUPPORTED;
    screen.mode = *m;
    screen.mode.pitch = pixels ? m->pitch : text_pitch(m);
    screen.columns = smaller(m->width / (pixels ? FONT_WIDTH : 1), COLUMNS);
    screen.rows = smaller(m->height / (pixels ? FONT_HEIGHT : 1), ROWS);
    screen.column = screen.row = 0;
    screen.grey = colour(m->red, GREY) | colour(m->green, GREY) | colour(m->blue, GREY);
    screen.memory = memory;
    memset(memory, 0, size);
    if (!pixels)
        hide_cursor();
    memset(wanted, ' ', sizeof(wanted));
    memset(shown, pixels ? ' ' : 0, sizeof(shown)); /* a space is black, as all is; as text it has an attribute */
    mark(0, screen.rows);
    refresh();
    return OK;
}

static void write_now(const char *bytes, size_t size)
{
    if (!screen.memory)
        return;
    for (size_t i = 0; i < size; i++)
        put(bytes[i]);
    refresh();
}

void screen_write(const char *bytes, size_t size)
{
    spin_lock(&screen.lock);
    write_now(bytes, size);
    spin_unlock(&screen.lock);
}

const struct log_sink screen_sink = {screen_write, write_now};
