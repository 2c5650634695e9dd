/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * A line editor for a terminal on a serial line (VT100 or what behaves like it): insert and delete, Ctrl-A E B F K
 * U W D L C P N, arrows, Home, End, Delete, history, completion by Tab. (line.c)
 */
#ifndef LODGE_NATIVE_LINE_H
#define LODGE_NATIVE_LINE_H

#include "core/types.h"

enum { LINE_SIZE = 256, LINE_HISTORY = 16, LINE_PROMPT = 32, LINE_COLUMNS = 80, LINE_ESCAPE = 8 };

struct line_ops {
    /* To the terminal. */
    void (*output)(void *owner, const char *bytes, size_t size);
    /*
     * The nth word that could stand where the one before the cursor does, whether it begins like it or not; text:
     * what stands before that word. Writes it and returns true, or false: there are no more. NULL: there is no
     * completion.
     */
    bool (*word)(void *owner, const char *text, uint32_t n, char *word, size_t size);
};

struct line {
    const struct line_ops *ops;
    void *owner;
    char prompt[LINE_PROMPT];

    char text[LINE_SIZE]; /* terminated */
    uint32_t length, cursor;
    uint32_t first; /* leftmost letter that is shown: a long line is scrolled */
    bool hidden;

    char history[LINE_HISTORY][LINE_SIZE]; /* a ring: entry n is in [n % LINE_HISTORY] */
    uint32_t entries;                      /* ever */
    uint32_t back;                         /* 0: the line that is being written; n: the nth before it */
    char draft[LINE_SIZE];                 /* ... kept while another one is looked at */

    char escape[LINE_ESCAPE]; /* an escape sequence that is not complete */
    uint32_t escape_length;
    bool after_cr;
};

/* prompt is copied. */
void line_init(struct line *l, const struct line_ops *ops, void *owner, const char *prompt);
/* Shows the prompt, and an empty line. */
void line_start(struct line *l);
/* A byte from the terminal. When it ends the line: its text, without an end, valid until the next call; else NULL.
 * Then line_start begins the next. */
const char *line_input(struct line *l, char c);
/* Takes the line off the screen, for something else to be written, and puts it back there. */
void line_hide(struct line *l);
void line_show(struct line *l);

#endif
