/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/* The operator's line editor (native/line.c), seen on a terminal of the test's: its current row, and where the
 * cursor is. */
#include <stdlib.h>
#include <string.h>

#include "core/types.h"
#include "native/line.h"
#include "tests/lib/unit.h"

static struct {
    char row[LINE_COLUMNS + 1], above[LINE_COLUMNS + 1];
    unsigned int column, bells, cleared, rows;
    char escape[16];
    unsigned int escape_length;
} t;

static struct line l;
static const char *ended; /* what the last line_input returned that was not NULL */

static void escape_end(char c)
{
    t.escape[t.escape_length] = 0;
    if (c == 'K')
        memset(t.row + t.column, ' ', LINE_COLUMNS - t.column);
    else if (c == 'C')
        t.column += (unsigned int)atoi(t.escape + 2);
    else if (c == 'J')
        t.cleared++;
    else
        CHECK_EQ(c, 'H');
    t.escape_length = 0;
}

static void terminal(char c)
{
    if (t.escape_length > 0 || c == 0x1B) {
        CHECK(t.escape_length < sizeof(t.escape) - 1);
        t.escape[t.escape_length++] = c;
        if (t.escape_length > 2 && c >= '@')
            escape_end(c);
        return;
    }
    switch (c) {
    case '\a':
        t.bells++;
        break;
    case '\r':
        t.column = 0;
        break;
    case '\n':
        memcpy(t.above, t.row, sizeof(t.row));
        memset(t.row, ' ', LINE_COLUMNS);
        t.rows++;
        break;
    default:
        CHECK(c >= ' ' && c <= '~');
        CHECK(t.column < LINE_COLUMNS - 1); /* it would wrap */
        t.row[t.column++ % LINE_COLUMNS] = c;
    }
}

static void output(void *owner, const char *p, size_t n)
{
    CHECK(owner == &l);
    while (n-- > 0)
        terminal(*p++);
}

static const char *const words[] = {"help",
                                    "ps",
                                    "pause",
                                    "poweroff",
                                    "reboot",
                                    "reset",
                                    "resume",
                                    "re\x1B"
                                    "d"};
static const char *seen_text; /* what stood before the word */
static char seen_buffer[LINE_SIZE];

static bool word(void *owner, const char *text, uint32_t n, char *to, size_t size)
{
    CHECK(owner == &l);
    strcpy(seen_buffer, text);
    seen_text = seen_buffer;
    if (n >= ARRAY_SIZE(words))
        return false;
    snprintf(to, size, "%s", words[n]);
    return true;
}

static const struct line_ops ops = {output, word};

static void setup(void)
{
    memset(&t, 0, sizeof(t));
    memset(t.row, ' ', LINE_COLUMNS);
    memset(t.above, ' ', LINE_COLUMNS);
    ended = NULL;
    line_init(&l, &ops, &l, "lodge> ");
    line_start(&l);
}

static void type(const char *s)
{
    for (; *s; s++) {
        const char *e = line_input(&l, *s);
        if (e)
            ended = e;
    }
}

/* The row shows the prompt and this, the cursor (before what follows the bar) at its place. */
static void check_shown(const char *text)
{
    char row[LINE_COLUMNS + 1];
    const char *bar = strchr(text, '|');
    unsigned int cursor = 7 + (unsigned int)(bar - text);
    snprintf(row, sizeof(row), "lodge> %.*s%s", (int)(bar - text), text, bar + 1);
    size_t n = strlen(row);
    memset(row + n, ' ', LINE_COLUMNS - n);
    row[LINE_COLUMNS] = 0;
    t.row[LINE_COLUMNS] = 0;
    CHECK_STR(t.row, row);
    CHECK_EQ(t.column, cursor);
}

static void test_editing(void)
{
    /* table: keys, what is shown */
    static const struct {
        const char *keys, *shown;
    } rows[] = {
        {"", "|"},
        {"ps", "ps|"},
        {"ps\x7F", "p|"},
        {"ps\b\b\b", "|"},
        {"stp\x02o", "sto|p"},
        {"abc\x01x", "x|abc"},
        {"abc\x01\x05x", "abcx|"},
        {"abc\x02\x02\x0B", "a|"},
        {"abc\x02\x02\x15", "|bc"},
        {"one two  \x17", "one |"},
        {"one two\x17\x17", "|"},
        {"one two\x02\x17", "one |o"},
        {"abc\x01\x04", "|bc"},
        {"abc\x04", "abc|"},
        {"abc\x1B[D\x1B[Dx", "ax|bc"},
        {"abc\x1BOD\x1BOC\x1BODx", "abx|c"},
        {"abc\x1B[Hx\x1B[Fy", "xabcy|"},
        {"abc\x1B[1~x\x1B[4~y", "xabcy|"},
        {"abc\x1B[7~x\x1B[8~y", "xabcy|"},
        {"abc\x1B[D\x1B[D\x1B[3~", "a|c"},
        {"a\x1B[1;5Dbc", "abc|"}, /* a key that is not known */
        {"a\x1B[99999999999999999999999Dbc", "abc|"},
        {"a\x1B[\x1B[Db", "b|a"}, /* a sequence that another interrupts */
        {"a\x1B[1\x07"
         "b",
         "ab|"},
        {"a\x1Bxb", "ab|"},
        {"a\x1B\x1B[Db", "b|a"},
        {"a\x80\xFF\xC3\xA4\x07\x0E"
         "b",
         "ab|"},
        {"abc\x0C", "abc|"},
        {"abc\x1B[D\x03", "|"},
    };
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        unit_context("row %zu", i);
        setup();
        type(rows[i].keys);
        check_shown(rows[i].shown);
        CHECK(!ended);
    }
    CHECK_EQ(t.rows, 1); /* the last one gave up */
    CHECK(memcmp(t.above, "lodge> ab^C", 11) == 0);
    setup();
    type("\x0C");
    CHECK_EQ(t.cleared, 1);
}

static void test_ends(void)
{
    setup();
    type("ps -a\x1B[D\x1B[D\r");
    CHECK_STR(ended, "ps -a");
    CHECK_EQ(t.rows, 1);
    CHECK(memcmp(t.above, "lodge> ps -a ", 13) == 0);
    line_start(&l);
    ended = NULL;
    type("\n"); /* of CR LF */
    CHECK(!ended);
    type("\n");
    CHECK_STR(ended, "");
    line_start(&l);
    ended = NULL;
    type("x\x1B[1\r"); /* an end ends sequences, too */
    CHECK_STR(ended, "x");
}

static void enter(const char *s)
{
    type(s);
    type("\r");
    CHECK_STR(ended, s);
    line_start(&l);
}

static void test_history(void)
{
    setup();
    type("\x1B[A\x1B[B");
    CHECK_EQ(t.bells, 2);
    enter("first");
    enter("second");
    enter("second"); /* once is enough */
    enter("");
    type("dra\x1B[A");
    check_shown("second|");
    type("\x10");
    check_shown("first|");
    type("\x1B[A");
    check_shown("first|");
    CHECK_EQ(t.bells, 3);
    type("\x0E\x0E");
    check_shown("dra|");
    type("\x1B[A\x7F!\r");
    CHECK_STR(ended, "secon!");
    line_start(&l);
    type("\x1B[A");
    check_shown("secon!|");
    type("\x1B[A"); /* what was changed is as it was */
    check_shown("second|");
    type("\x03");
    for (char c = 'a'; c <= 'z'; c++)
        enter((char[]){c, c, 0});
    for (unsigned int i = 0; i < 100; i++)
        type("\x1B[A");
    check_shown("kk|"); /* sixteen back */
}

static void test_completion(void)
{
    setup();
    type("he\t");
    check_shown("help |");
    CHECK_STR(seen_text, "");
    type("ps pa\t");
    check_shown("help ps pause |");
    CHECK_STR(seen_text, "help ps ");
    setup();
    type("res\t"); /* reset, resume: no further */
    CHECK_EQ(t.rows, 2);
    check_shown("res|");
    CHECK(memcmp(t.above, "reset  resume  ", 15) == 0);
    setup();
    type("r\t"); /* "re" of all; the one that could not be typed is none */
    check_shown("re|");
    CHECK_EQ(t.rows, 0);
    type("q\t");
    check_shown("req|");
    CHECK_EQ(t.bells, 1);
    setup();
    type("pa now\x1B[D\x1B[D\x1B[D\x1B[D\t");
    check_shown("pause | now");
    setup();
    for (unsigned int i = 0; i < LINE_SIZE - 5; i++)
        type(" ");
    type("po\t"); /* no room */
    CHECK(t.bells > 0);
    CHECK(l.length < LINE_SIZE && l.text[l.length] == 0);
    static const struct line_ops none = {output, NULL};
    line_init(&l, &none, &l, "");
    line_start(&l);
    type("h\t\x01");
    CHECK_EQ(t.column, 0);
}

static void test_hide(void)
{
    setup();
    type("abc\x1B[D");
    line_hide(&l);
    t.row[LINE_COLUMNS] = 0;
    CHECK_EQ(strspn(t.row, " "), LINE_COLUMNS);
    CHECK_EQ(t.column, 0);
    output(&l, "a line of the log\r\n", 19);
    line_show(&l);
    check_shown("ab|c");
}

/* Longer than the terminal is wide, and than there is room for. */
static void test_long(void)
{
    static char text[LINE_SIZE];
    setup();
    for (unsigned int i = 0; i < 300; i++)
        type((char[]){(char)('a' + i % 26), 0});
    CHECK_EQ(l.length, LINE_SIZE - 1);
    CHECK_EQ(t.bells, 300 - (LINE_SIZE - 1));
    for (unsigned int i = 0; i < LINE_SIZE - 1; i++)
        text[i] = (char)('a' + i % 26);
    for (unsigned int i = 0; i < 260; i++) {
        type(i % 2 ? "\x1B[D" : "\x02");
        CHECK(t.row[7] == text[l.first]);
        CHECK(t.column >= 7 && t.column < LINE_COLUMNS);
        if (l.cursor < l.length && t.column < LINE_COLUMNS - 1)
            CHECK_EQ(t.row[t.column], text[l.cursor]);
    }
    CHECK_EQ(l.cursor, 0);
    type("\x05\r");
    CHECK_STR(ended, text);
}

/* Any bytes, against a line kept in the plainest way. */
static void test_random(void)
{
    static char text[LINE_SIZE + 1];
    size_t length = 0, cursor = 0;
    srand(7);
    setup();
    for (unsigned int i = 0; i < 60000; i++) {
        static const char keys[] = "abcdefgh  \x01\x02\x04\x05\x06\x0B\x15\x7F";
        char c = keys[(size_t)rand() % (sizeof(keys) - 1)];
        if ((c == 0x0B || c == 0x15) && rand() % 16)
            continue;
        type((char[]){c, 0});
        if (c >= ' ' && c < 0x7F && length < LINE_SIZE - 1) {
            memmove(text + cursor + 1, text + cursor, length++ - cursor);
            text[cursor++] = c;
        } else if ((c == 0x7F && cursor > 0) || (c == 0x04 && cursor < length)) {
            cursor -= c == 0x7F;
            memmove(text + cursor, text + cursor + 1, --length - cursor);
        } else if (c == 0x0B) {
            length = cursor;
        } else if (c == 0x15) {
            memmove(text, text + cursor, length -= cursor);
            cursor = 0;
        } else if (c < 0x07) {
            cursor = c == 1   ? 0
                     : c == 5 ? length
                     : c == 2 ? cursor - (cursor > 0)
                     : c == 6 ? cursor + (cursor < length)
                              : cursor;
        }
        text[length] = 0;
        CHECK_STR(l.text, text);
        CHECK(l.length == length && l.cursor == cursor);
        size_t shown = length - l.first < 72 ? length - l.first : 72;
        CHECK(memcmp(t.row + 7, text + l.first, shown) == 0);
        CHECK_EQ(t.column, 7 + cursor - l.first);
        for (size_t k = 7 + shown; k < LINE_COLUMNS; k++)
            CHECK_EQ(t.row[k], ' ');
        if (unit_failures() > 0)
            return;
    }
}

static void test_noise(void)
{
    srand(11);
    setup();
    for (unsigned int i = 0; i < 100000; i++) {
        static const char some[] = "\x1B[O3~;A\t\r\n\x03";
        char c = rand() % 3 ? some[(size_t)rand() % (sizeof(some) - 1)] : (char)rand();
        if (line_input(&l, c))
            line_start(&l);
        CHECK(l.length < LINE_SIZE && l.cursor <= l.length && strlen(l.text) == l.length && l.first <= l.cursor);
    }
}

int main(void)
{
    UNIT_RUN(test_editing);
    UNIT_RUN(test_ends);
    UNIT_RUN(test_history);
    UNIT_RUN(test_completion);
    UNIT_RUN(test_hide);
    UNIT_RUN(test_long);
    UNIT_RUN(test_random);
    UNIT_RUN(test_noise);
    return unit_done();
}
