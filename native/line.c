/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * The line being written is an array and a cursor; a key is a small function on these, found in a table; afterwards
 * the line is drawn anew, but for a letter added at its end. The terminal's width is not known, and taken to be 80:
 * a longer line is shown in part, with the cursor in it, so that the terminal never wraps.
 *
 * What comes in is bytes from whoever is at the other end of a cable: sequences may be torn apart, cut off or
 * nonsense; all lengths are bounded; nothing that is not printable ASCII gets into the line. CR, LF and CR LF each
 * end one line.
 *
 * Pure: output through a function. One thread per struct line.
 */
#include "native/line.h"

#include "core/fmt.h"
#include "core/mem.h"

enum { ESC = 0x1B, BELL = 0x07, TAB = 0x09, DELETE = 0x7F, MATCHES = 512, WORD = 64 };

#define CTRL(letter) ((letter) - '@')

static void put(struct line *l, const char *s)
{
    l->ops->output(l->owner, s, str_len(s));
}

static void bell(struct line *l)
{
    put(l, "\a");
}

/* --- drawing ----------------------------------------------------------------------------------- */

/* Letters that are shown: the last column stays free, or terminals wrap. */
static uint32_t room(const struct line *l)
{
    return LINE_COLUMNS - 1 - (uint32_t)str_len(l->prompt);
}

static void draw(struct line *l)
{
    uint32_t wide = room(l), n;
    char move[16];

    if (l->hidden)
        return;
    if (l->cursor < l->first)
        l->first = l->cursor > wide / 2 ? l->cursor - wide / 2 : 0;
    if (l->cursor > l->first + wide)
        l->first = l->cursor - wide / 2;
    n = l->length - l->first < wide ? l->length - l->first : wide;
    put(l, "\r");
    put(l, l->prompt);
    l->ops->output(l->owner, l->text + l->first, n);
    put(l, "\x1B[K\r"); /* erases what is left of the old one */
    (void)fmt(move, sizeof(move), "\x1B[%uC", (uint32_t)str_len(l->prompt) + l->cursor - l->first);
    if (l->prompt[0] != 0 || l->cursor > l->first)
        put(l, move);
}

void line_hide(struct line *l)
{
    if (!l->hidden)
        put(l, "\r\x1B[K");
    l->hidden = true;
}

void line_show(struct line *l)
{
    l->hidden = false;
    draw(l);
}

/* --- editing ----------------------------------------------------------------------------------- */

static void set_text(struct line *l, const char *text)
{
    (void)str_copy(l->text, sizeof(l->text), text);
    l->length = l->cursor = (uint32_t)str_len(l->text);
    l->first = 0;
}

static bool insert(struct line *l, const char *s, uint32_t n)
{
    if (n > LINE_SIZE - 1 - l->length)
        return false;
    memmove(l->text + l->cursor + n, l->text + l->cursor, l->length - l->cursor + 1);
    memcpy(l->text + l->cursor, s, n);
    l->cursor += n;
    l->length += n;
    return true;
}

static void erase(struct line *l, uint32_t from, uint32_t to)
{
    memmove(l->text + from, l->text + to, l->length - to + 1);
    l->length -= to - from;
    l->cursor = from;
}

static void key_begin(struct line *l)
{
    l->cursor = 0;
}

static void key_end(struct line *l)
{
    l->cursor = l->length;
}

static void key_left(struct line *l)
{
    l->cursor -= l->cursor > 0;
}

static void key_right(struct line *l)
{
    l->cursor += l->cursor < l->length;
}

static void key_backspace(struct line *l)
{
    if (l->cursor > 0)
        erase(l, l->cursor - 1, l->cursor);
}

static void key_delete(struct line *l)
{
    if (l->cursor < l->length)
        erase(l, l->cursor, l->cursor + 1);
}

static void key_kill_after(struct line *l)
{
    erase(l, l->cursor, l->length);
}

static void key_kill_before(struct line *l)
{
    erase(l, 0, l->cursor);
}

static void key_kill_word(struct line *l)
{
    uint32_t from = l->cursor;

    while (from > 0 && l->text[from - 1] == ' ')
        from--;
    while (from > 0 && l->text[from - 1] != ' ')
        from--;
    erase(l, from, l->cursor);
}

static void key_clear_screen(struct line *l)
{
    put(l, "\x1B[H\x1B[2J");
}

static void key_give_up(struct line *l)
{
    put(l, "^C\r\n");
    l->back = 0;
    set_text(l, "");
}

/* --- history ----------------------------------------------------------------------------------- */

static void remember(struct line *l)
{
    if (l->length == 0)
        return;
    if (l->entries > 0 && str_equal(l->history[(l->entries - 1) % LINE_HISTORY], l->text))
        return;
    (void)str_copy(l->history[l->entries % LINE_HISTORY], LINE_SIZE, l->text);
    l->entries++;
}

static void show_entry(struct line *l, uint32_t back)
{
    if (l->back == 0)
        (void)str_copy(l->draft, sizeof(l->draft), l->text);
    l->back = back;
    set_text(l, back == 0 ? l->draft : l->history[(l->entries - back) % LINE_HISTORY]);
}

static void key_up(struct line *l)
{
    if (l->back < l->entries && l->back < LINE_HISTORY)
        show_entry(l, l->back + 1);
    else
        bell(l);
}

static void key_down(struct line *l)
{
    if (l->back > 0)
        show_entry(l, l->back - 1);
    else
        bell(l);
}

/* --- completion -------------------------------------------------------------------------------- */

struct matches {
    char before[LINE_SIZE]; /* the line up to the word */
    const char *begin;      /* the word as it stands */
    uint32_t length, count;
    char common[WORD]; /* what all that match begin with */
};

static bool begins(const char *s, const char *with, size_t n)
{
    return str_len(s) >= n && memcmp(s, with, n) == 0;
}

/* Words come from names that others have chosen: they have to be such as could be typed. */
static bool is_word(const char *s)
{
    for (; *s; s++)
        if (*s <= ' ' || *s > '~')
            return false;
    return true;
}

static bool match(struct line *l, const struct matches *m, uint32_t n, char *word, bool *more)
{
    *more = l->ops->word(l->owner, m->before, n, word, WORD);
    return *more && is_word(word) && begins(word, m->begin, m->length);
}

static void find_matches(struct line *l, struct matches *m)
{
    char word[WORD];
    bool more = true;

    for (uint32_t n = 0; n < MATCHES && more; n++) {
        if (!match(l, m, n, word, &more))
            continue;
        if (m->count++ == 0)
            (void)str_copy(m->common, sizeof(m->common), word);
        size_t same = 0;
        while (m->common[same] != 0 && m->common[same] == word[same])
            same++;
        m->common[same] = 0;
    }
}

static void list_matches(struct line *l, const struct matches *m)
{
    char word[WORD];
    bool more = true;

    put(l, "\r\n");
    for (uint32_t n = 0; n < MATCHES && more; n++)
        if (match(l, m, n, word, &more)) {
            put(l, word);
            put(l, "  ");
        }
    put(l, "\r\n");
}

static void key_complete(struct line *l)
{
    struct matches m = {.count = 0};
    uint32_t from = l->cursor, add;

    while (from > 0 && l->text[from - 1] != ' ')
        from--;
    memcpy(m.before, l->text, from);
    m.begin = l->text + from;
    m.length = l->cursor - from;
    if (l->ops->word)
        find_matches(l, &m);
    if (m.count == 0) {
        bell(l);
        return;
    }
    add = (uint32_t)str_len(m.common) - m.length;
    if (m.count > 1 && add == 0)
        list_matches(l, &m);
    else if (!insert(l, m.common + m.length, add) || (m.count == 1 && !insert(l, " ", 1)))
        bell(l);
}

/* --- keys -------------------------------------------------------------------------------------- */

static const struct {
    char code;
    void (*key)(struct line *l);
} control_keys[] = {
    {CTRL('A'), key_begin},        {CTRL('B'), key_left},      {CTRL('C'), key_give_up},
    {CTRL('D'), key_delete},       {CTRL('E'), key_end},       {CTRL('F'), key_right},
    {CTRL('H'), key_backspace},    {TAB, key_complete},        {CTRL('K'), key_kill_after},
    {CTRL('L'), key_clear_screen}, {CTRL('N'), key_down},      {CTRL('P'), key_up},
    {CTRL('U'), key_kill_before},  {CTRL('W'), key_kill_word}, {DELETE, key_backspace},
};

/* After ESC [ or ESC O. */
static const struct {
    const char *sequence;
    void (*key)(struct line *l);
} escape_keys[] = {
    {"A", key_up},     {"B", key_down},   {"C", key_right}, {"D", key_left}, {"H", key_begin},   {"F", key_end},
    {"1~", key_begin}, {"7~", key_begin}, {"4~", key_end},  {"8~", key_end}, {"3~", key_delete},
};

static void end_escape(struct line *l)
{
    l->escape[l->escape_length] = 0;
    for (size_t i = 0; i < ARRAY_SIZE(escape_keys); i++)
        if (str_equal(l->escape + 1, escape_keys[i].sequence)) {
            escape_keys[i].key(l);
            draw(l);
        }
    l->escape_length = 0;
}

/*
 * Within a sequence: escape[0] is '[' or 'O' (ECMA-48, 5.4: then parameters up to 3FH, and a final byte from 40H
 * on). One that is too long is swallowed to its end. Anything else after ESC is a key with Alt, of which there are
 * none here.
 */
static void escape_byte(struct line *l, char c)
{
    if (c == ESC) {
        l->escape_length = 1;
        l->escape[0] = ESC;
    } else if (l->escape[0] == ESC) {
        l->escape[0] = c;
        l->escape_length = c == '[' || c == 'O' ? 1 : 0;
    } else if (c < ' ' || c > '~') {
        l->escape_length = 0;
    } else {
        if (l->escape_length < LINE_ESCAPE - 1)
            l->escape[l->escape_length++] = c;
        if (c >= '@')
            end_escape(l);
    }
}

static void letter(struct line *l, char c)
{
    bool at_end = l->cursor == l->length && l->cursor - l->first < room(l);

    if (!insert(l, &c, 1)) {
        bell(l);
        return;
    }
    if (at_end && !l->hidden)
        l->ops->output(l->owner, &c, 1);
    else
        draw(l);
}

static void control(struct line *l, char c)
{
    for (size_t i = 0; i < ARRAY_SIZE(control_keys); i++)
        if (control_keys[i].code == c) {
            control_keys[i].key(l);
            draw(l);
        }
}

static const char *end_line(struct line *l)
{
    key_end(l);
    draw(l);
    put(l, "\r\n");
    remember(l);
    l->back = 0;
    return l->text;
}

const char *line_input(struct line *l, char c)
{
    bool second_half = c == '\n' && l->after_cr;

    l->after_cr = c == '\r';
    if (second_half)
        return NULL;
    if (c == '\r' || c == '\n') {
        l->escape_length = 0;
        return end_line(l);
    }
    if (l->escape_length > 0 || c == ESC)
        escape_byte(l, c);
    else if (c >= ' ' && c <= '~')
        letter(l, c);
    else
        control(l, c);
    return NULL;
}

void line_start(struct line *l)
{
    l->hidden = false;
    set_text(l, "");
    draw(l);
}

void line_init(struct line *l, const struct line_ops *ops, void *owner, const char *prompt)
{
    memset(l, 0, sizeof(*l));
    l->ops = ops;
    l->owner = owner;
    (void)str_copy(l->prompt, sizeof(l->prompt), prompt);
}
