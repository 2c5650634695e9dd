/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * A pull reader for a strict subset of TOML 1.0: comments, tables, arrays of tables, bare and dotted
 * keys, strings (basic and literal, one line), integers, booleans. Everything else is refused by name. It knows
 * nothing of what the keys mean (machine/config.c does). No allocation; the text stays the
 * caller's.
 */
#ifndef LODGE_MACHINE_TOML_H
#define LODGE_MACHINE_TOML_H

#include "core/err.h"
#include "core/types.h"

enum {
    TOML_PATH = 96,   /* bytes of a dotted key with its table, terminator included */
    TOML_TEXT = 4096, /* bytes of a string value, terminator included */
};

enum toml_event {
    TOML_END,     /* the text is used up */
    TOML_TABLE,   /* [path] */
    TOML_ELEMENT, /* [[path]]: another element of an array of tables begins */
    TOML_VALUE,   /* path = value */
};

enum toml_kind { TOML_STRING, TOML_INTEGER, TOML_BOOLEAN };

struct toml {
    const char *file; /* for messages */
    const char *at, *end;
    char *message;
    size_t message_size;
    uint32_t line; /* of the newest event or error; from 1 */

    char table[TOML_PATH]; /* the open table's path; "" at the top */
    char path[TOML_PATH];  /* the newest event's, table included: "cpu.level" */
    bool dotted;           /* TOML_VALUE: the key itself had a dot */
    enum toml_kind kind;   /* TOML_VALUE */
    char text[TOML_TEXT];  /* TOML_STRING: valid UTF-8 without NUL, terminated */
    size_t text_length;
    int64_t integer; /* TOML_INTEGER */
    bool boolean;    /* TOML_BOOLEAN */
};

void toml_init(struct toml *t, const char *file, const char *text, size_t size, char *message,
               size_t message_size);

/* The next table or value. ERR_INVALID with message "FILE:LINE: what is wrong"; then no more calls.
 */
int must_check toml_next(struct toml *t, enum toml_event *event);

/* Writes "FILE:LINE: ..." to the message and returns ERR_INVALID. For the reader's user too. */
int must_check toml_error(struct toml *t, const char *format, ...) printf_like(2, 3);

#endif
