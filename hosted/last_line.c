/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * Keeps the last line that a guest printed, for the message about its end. A guest is hostile and
 * the message goes to the operator's terminal, so what is kept is plain: escape sequences are left
 * out, and whatever is not printable ASCII becomes '?'. (The console itself passes every byte on,
 * as a serial cable would.) Called with the board lock held; constant work per byte.
 */
#include "hosted/last_line.h"

#include <stdbool.h>
#include <string.h>

enum escape_state { TEXT, AFTER_ESC, IN_CSI, IN_STRING };

enum { BELL = 0x07, ESC = 0x1B };

/* Is this byte part of an escape sequence (ECMA-48, 5.3 and 5.4)? */
static bool skip_escape(struct last_line *l, uint8_t b)
{
    switch ((enum escape_state)l->escape) {
    case TEXT:
        if (b == ESC)
            l->escape = AFTER_ESC;
        return b == ESC;
    case AFTER_ESC:
        if (b == '[')
            l->escape = IN_CSI;
        else if (b == ']' || b == 'P' || b == '_' || b == '^')
            l->escape = IN_STRING;
        else if (b >= 0x30 || b < 0x20) /* 0x20-0x2F: intermediate, more to come */
            l->escape = TEXT;
        return true;
    case IN_CSI:
        if (b >= 0x40 || b < 0x20)
            l->escape = TEXT;
        return true;
    case IN_STRING:
        if (b == BELL)
            l->escape = TEXT;
        else if (b == ESC)
            l->escape = AFTER_ESC;
        else if (b == '\n') { /* never ended: do not swallow the rest of the output */
            l->escape = TEXT;
            return false;
        }
        return true;
    }
    return false;
}

static bool is_blank(const struct last_line *l)
{
    for (uint8_t i = 0; i < l->length; i++) {
        if (l->text[i] != ' ')
            return false;
    }
    return true;
}

static void complete_line(struct last_line *l)
{
    if (!is_blank(l)) {
        memcpy(l->complete, l->text, l->length);
        l->complete[l->length] = '\0';
    }
    l->length = 0;
}

void last_line_feed(struct last_line *l, const uint8_t *bytes, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        uint8_t b = bytes[i];

        if (skip_escape(l, b))
            continue;
        if (b == '\n')
            complete_line(l);
        else if (b == '\b' && l->length)
            l->length--;
        else if (b == '\t')
            b = ' ';
        if (b >= ' ' && l->length < LAST_LINE_SIZE - 1)
            l->text[l->length++] = b < 0x7F ? (char)b : '?';
    }
}

const char *last_line_get(struct last_line *l)
{
    if (!is_blank(l)) {
        l->text[l->length] = '\0';
        return l->text;
    }
    return l->complete;
}
