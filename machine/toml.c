/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * The reader of the TOML subset.
 *
 * Why a subset, and why our own: both homes read the same files, and the native one has neither
 * libc nor an allocator at that point. A definition of a VM needs a dozen scalar keys, and a fleet
 * some of them for each VM: [[vm]] says where one begins. Arrays as values, inline tables, floats,
 * dates and multi-line strings would triple the reader for nothing. What is
 * left out is named in an error rather than taken for something else, so every file that this
 * reader takes means the same to any TOML 1.0 reader. The other way round, four things that TOML
 * allows are refused on purpose: quoted keys, NUL (\u0000) in a string, a byte-order mark, and
 * several keys that only differ in how they are written.
 *
 * The text is not trusted: it is looked at once, from front to back, `at` never passes `end`, and
 * every byte is checked to be part of valid UTF-8 on its way (comments too). No recursion.
 */
#include "machine/toml.h"

#include "core/fmt.h"
#include "core/mem.h"

enum { TOML_FILE_SHOWN = 160 }; /* bytes of a long file name that a message keeps */

void toml_init(struct toml *t, const char *file, const char *text, size_t size, char *message,
               size_t message_size)
{
    memset(t, 0, sizeof(*t));
    t->file = file;
    t->at = text;
    t->end = text + size;
    t->message = message;
    t->message_size = message_size;
    t->line = 1;
}

int toml_error(struct toml *t, const char *format, ...)
{
    size_t length = str_len(t->file);
    bool cut = length > TOML_FILE_SHOWN;
    const char *shown = cut ? t->file + (length - TOML_FILE_SHOWN) : t->file;
    size_t used = fmt(t->message, t->message_size, "%s%s:%u: ", cut ? "..." : "", shown, t->line);
    if (used < t->message_size) {
        va_list ap;
        va_start(ap, format);
        fmt_v(t->message + used, t->message_size - used, format, ap);
        va_end(ap);
    }
    return ERR_INVALID;
}

static size_t left(const struct toml *t)
{
    return (size_t)(t->end - t->at);
}

/* The byte at the reading position, or -1 at the end. */
static int peek(const struct toml *t)
{
    return t->at < t->end ? (unsigned char)*t->at : -1;
}

static bool starts_with(const struct toml *t, const char *s)
{
    size_t n = str_len(s);
    return left(t) >= n && memcmp(t->at, s, n) == 0;
}

static void skip_blanks(struct toml *t)
{
    while (peek(t) == ' ' || peek(t) == '\t')
        t->at++;
}

static bool is_digit(int c)
{
    return c >= '0' && c <= '9';
}

static bool is_key_byte(int c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || is_digit(c) || c == '_' || c == '-';
}

/* --- UTF-8 --------------------------------------------------------------------------------------
 */

/* Length of the valid UTF-8 sequence at s (Unicode 15, table 3-7), or 0. */
static size_t utf8_length(const unsigned char *s, size_t size)
{
    static const struct {
        uint8_t first_low, first_high, second_low, second_high;
        uint8_t length;
    } form[] = {
        /* table */
        {0x00, 0x7F, 0, 0, 1},       {0xC2, 0xDF, 0x80, 0xBF, 2}, {0xE0, 0xE0, 0xA0, 0xBF, 3},
        {0xE1, 0xEC, 0x80, 0xBF, 3}, {0xED, 0xED, 0x80, 0x9F, 3}, {0xEE, 0xEF, 0x80, 0xBF, 3},
        {0xF0, 0xF0, 0x90, 0xBF, 4}, {0xF1, 0xF3, 0x80, 0xBF, 4}, {0xF4, 0xF4, 0x80, 0x8F, 4},
    };
    for (size_t f = 0; f < ARRAY_SIZE(form); f++) {
        if (s[0] < form[f].first_low || s[0] > form[f].first_high)
            continue;
        if (form[f].length > size)
            return 0;
        if (form[f].length > 1 && (s[1] < form[f].second_low || s[1] > form[f].second_high))
            return 0;
        for (size_t n = 2; n < form[f].length; n++)
            if ((s[n] & 0xC0) != 0x80)
                return 0;
        return form[f].length;
    }
    return 0;
}

/* Checks the character at the reading position (there is one) as part of a comment or string, and
 * says how long it is. */
static int check_character(struct toml *t, size_t *length)
{
    const unsigned char *s = (const unsigned char *)t->at;
    if (s[0] == 0)
        return toml_error(t, "NUL byte: this is not a text file");
    if ((s[0] < 0x20 && s[0] != '\t') || s[0] == 0x7F)
        return toml_error(t, "control character 0x%02x (write it as \\u%04X in a string)", s[0],
                          s[0]);
    *length = utf8_length(s, left(t));
    if (*length == 0)
        return toml_error(t, "byte 0x%02x is not valid UTF-8 (save the file as UTF-8)", s[0]);
    return OK;
}

/* Appends a code point to t->text. */
static int put_code_point(struct toml *t, uint32_t c)
{
    unsigned char b[4];
    size_t n;
    if (c < 0x80) {
        b[0] = (unsigned char)c;
        n = 1;
    } else if (c < 0x800) {
        b[0] = (unsigned char)(0xC0 | c >> 6);
        b[1] = (unsigned char)(0x80 | (c & 0x3F));
        n = 2;
    } else if (c < 0x10000) {
        b[0] = (unsigned char)(0xE0 | c >> 12);
        b[1] = (unsigned char)(0x80 | (c >> 6 & 0x3F));
        b[2] = (unsigned char)(0x80 | (c & 0x3F));
        n = 3;
    } else {
        b[0] = (unsigned char)(0xF0 | c >> 18);
        b[1] = (unsigned char)(0x80 | (c >> 12 & 0x3F));
        b[2] = (unsigned char)(0x80 | (c >> 6 & 0x3F));
        b[3] = (unsigned char)(0x80 | (c & 0x3F));
        n = 4;
    }
    if (t->text_length + n >= TOML_TEXT)
        return toml_error(t, "string of '%s' is longer than %d bytes", t->path, TOML_TEXT - 1);
    memcpy(t->text + t->text_length, b, n);
    t->text_length += n;
    return OK;
}

/* --- values -------------------------------------------------------------------------------------
 */

static int hex_digit(int c)
{
    if (is_digit(c))
        return c - '0';
    if (c >= 'a' && c <= 'f')
        return c - 'a' + 10;
    if (c >= 'A' && c <= 'F')
        return c - 'A' + 10;
    return -1;
}

/* \uXXXX or \UXXXXXXXX; the reading position is behind the letter. */
static int read_unicode_escape(struct toml *t, unsigned int digits)
{
    uint32_t c = 0;
    for (unsigned int n = 0; n < digits; n++) {
        int d = hex_digit(peek(t));
        if (d < 0)
            return toml_error(t, "\\%c needs %u hexadecimal digits", digits == 4 ? 'u' : 'U',
                              digits);
        c = c << 4 | (uint32_t)d;
        t->at++;
    }
    if (c == 0)
        return toml_error(t, "NUL is not allowed in a string");
    if (c > 0x10FFFF || (c >= 0xD800 && c <= 0xDFFF))
        return toml_error(t, "escape is not a Unicode character (U+%X)", c);
    return put_code_point(t, c);
}

/* The reading position is behind the backslash. */
static int read_escape(struct toml *t)
{
    static const char from[] = "btnfr\"\\";
    static const char to[] = "\b\t\n\f\r\"\\";
    int c = peek(t);
    for (size_t n = 0; from[n] != 0; n++) {
        if (c == from[n]) {
            t->at++;
            return put_code_point(t, (uint32_t)to[n]);
        }
    }
    if (c == 'u' || c == 'U') {
        t->at++;
        return read_unicode_escape(t, c == 'u' ? 4 : 8);
    }
    return toml_error(t, "unknown escape after \\ (there are \\b \\t \\n \\f \\r \\\" \\\\ \\uXXXX "
                         "\\UXXXXXXXX; write \\\\ for a backslash)");
}

/* "basic" or 'literal'. */
static int read_string(struct toml *t)
{
    char quote = *t->at;
    if (starts_with(t, "\"\"\"") || starts_with(t, "'''"))
        return toml_error(t, "multi-line strings are not supported (write it on one line)");
    t->at++;
    t->text_length = 0;
    for (;;) {
        int c = peek(t);
        if (c < 0 || c == '\n' || c == '\r')
            return toml_error(t, "string does not end on its line (close it with %c)", quote);
        if (c == quote)
            break;
        int err;
        if (c == '\\' && quote == '"') {
            t->at++;
            err = read_escape(t);
        } else {
            size_t length;
            err = check_character(t, &length);
            if (err == OK && t->text_length + length >= TOML_TEXT)
                err =
                    toml_error(t, "string of '%s' is longer than %d bytes", t->path, TOML_TEXT - 1);
            if (err == OK) {
                memcpy(t->text + t->text_length, t->at, length);
                t->text_length += length;
                t->at += length;
            }
        }
        if (err != OK)
            return err;
    }
    t->at++;
    t->text[t->text_length] = 0;
    t->kind = TOML_STRING;
    return OK;
}

/* Digits of one base with single underscores between them; *value saturates into an error. */
static int read_digits(struct toml *t, uint64_t base, uint64_t *value)
{
    bool digit_before = false;
    *value = 0;
    for (;; t->at++) {
        int c = peek(t);
        if (c == '_') {
            if (!digit_before || t->at + 1 >= t->end || hex_digit((unsigned char)t->at[1]) < 0)
                return toml_error(t, "an underscore must stand between two digits");
            digit_before = false;
            continue;
        }
        int d = hex_digit(c);
        if (d < 0)
            break;
        if ((uint64_t)d >= base)
            return toml_error(t, "'%c' is not a digit of a number in base %u", c,
                              (unsigned int)base);
        digit_before = true;
        if (__builtin_mul_overflow(*value, base, value) ||
            __builtin_add_overflow(*value, (uint64_t)d, value))
            return toml_error(t, "integer does not fit 64 bits");
    }
    if (!digit_before)
        return toml_error(t, "a number needs at least one digit");
    return OK;
}

static int read_integer(struct toml *t)
{
    bool sign = peek(t) == '-' || peek(t) == '+';
    bool negative = peek(t) == '-';
    t->at += sign;

    uint64_t base = 10;
    if (starts_with(t, "0x"))
        base = 16;
    else if (starts_with(t, "0o"))
        base = 8;
    else if (starts_with(t, "0b"))
        base = 2;
    if (base != 10 && sign)
        return toml_error(t, "a number in base %u has no sign", (unsigned int)base);
    if (base != 10)
        t->at += 2;
    else if (peek(t) == '0' && left(t) > 1 &&
             (is_digit((unsigned char)t->at[1]) || t->at[1] == '_'))
        return toml_error(t, "a decimal number has no leading zeros (octal is written 0o17)");

    uint64_t v;
    int err = read_digits(t, base, &v);
    if (err != OK)
        return err;
    int c = peek(t);
    if (c == '.' || c == 'e' || c == 'E')
        return toml_error(t, "floating-point numbers are not supported");
    if (c == '-' || c == ':')
        return toml_error(t, "dates and times are not supported");
    if (v > (uint64_t)INT64_MAX + negative)
        return toml_error(t, "integer does not fit 64 bits");
    t->integer = negative ? (int64_t)(0 - v) : (int64_t)v;
    t->kind = TOML_INTEGER;
    return OK;
}

/* A bare word: true, false, or something with a better message than "unknown". */
static int read_word(struct toml *t)
{
    const char *start = t->at;
    while (is_key_byte(peek(t)))
        t->at++;
    size_t n = (size_t)(t->at - start);
    t->kind = TOML_BOOLEAN;
    t->boolean = n == 4 && memcmp(start, "true", 4) == 0;
    if (t->boolean || (n == 5 && memcmp(start, "false", 5) == 0))
        return OK;
    if (n == 3 && (memcmp(start, "inf", 3) == 0 || memcmp(start, "nan", 3) == 0))
        return toml_error(t, "floating-point numbers are not supported");
    return toml_error(t,
                      "value of '%s' is not a string, an integer, true or false (strings stand "
                      "in quotes)",
                      t->path);
}

static int read_value(struct toml *t)
{
    int c = peek(t);
    if (c == '"' || c == '\'')
        return read_string(t);
    if (c == '[')
        return toml_error(t, "arrays are not supported");
    if (c == '{')
        return toml_error(t, "inline tables are not supported (use [table] or dotted keys)");
    if (c == '-' || c == '+' || is_digit(c))
        return read_integer(t);
    if (c < 0 || c == '\n' || c == '\r' || c == '#')
        return toml_error(t, "'%s' has no value", t->path);
    return read_word(t);
}

/* --- lines --------------------------------------------------------------------------------------
 */

/* A bare or dotted key, appended to path (which may hold the table's already). */
static int read_key(struct toml *t)
{
    size_t used = str_len(t->path);
    t->dotted = false;
    for (;;) {
        skip_blanks(t);
        if (peek(t) == '"' || peek(t) == '\'')
            return toml_error(t, "quoted keys are not supported");
        if (!is_key_byte(peek(t)))
            return toml_error(t, "expected a key here (letters, digits, _ and -)");
        if (used > 0 && used < TOML_PATH - 1)
            t->path[used++] = '.';
        while (is_key_byte(peek(t))) {
            if (used >= TOML_PATH - 1)
                return toml_error(t, "key is longer than %d bytes", TOML_PATH - 1);
            t->path[used++] = *t->at++;
        }
        t->path[used] = 0;
        skip_blanks(t);
        if (peek(t) != '.')
            return OK;
        t->dotted = true;
        t->at++;
    }
}

static int read_comment(struct toml *t)
{
    while (t->at < t->end && *t->at != '\n' && *t->at != '\r') {
        size_t length;
        int err = check_character(t, &length);
        if (err != OK)
            return err;
        t->at += length;
    }
    return OK;
}

/* LF or CRLF; nothing at the end of the text. Does not count the line yet: messages about what has
 * just been read still name it. */
static int read_line_end(struct toml *t)
{
    skip_blanks(t);
    if (peek(t) == '#') {
        int err = read_comment(t);
        if (err != OK)
            return err;
    }
    if (t->at == t->end || *t->at == '\n')
        return OK;
    if (starts_with(t, "\r\n")) {
        t->at++;
        return OK;
    }
    if (*t->at == '\r')
        return toml_error(t, "carriage return without line feed");
    size_t length;
    int err = check_character(t, &length);
    if (err != OK)
        return err;
    return toml_error(t,
                      "unexpected text after the end of '%s' (one key per line; comments start "
                      "with #)",
                      t->path);
}

/* [path], or [[path]] whose brackets touch each other (TOML 1.0, "Array of Tables"). */
static int read_table(struct toml *t, enum toml_event *event)
{
    bool element = starts_with(t, "[[");
    *event = element ? TOML_ELEMENT : TOML_TABLE;
    t->at += element ? 2 : 1;
    t->path[0] = 0;
    int err = read_key(t);
    if (err != OK)
        return err;
    if (!starts_with(t, element ? "]]" : "]"))
        return toml_error(t, element ? "the name of an array's table ends with ]]" : "a table's name ends with ]");
    t->at += element ? 2 : 1;
    memcpy(t->table, t->path, sizeof(t->table));
    return read_line_end(t);
}

static int read_pair(struct toml *t)
{
    memcpy(t->path, t->table, sizeof(t->path));
    int err = read_key(t);
    if (err != OK)
        return err;
    if (peek(t) != '=')
        return toml_error(t, "expected '=' after '%s'", t->path);
    t->at++;
    skip_blanks(t);
    err = read_value(t);
    if (err != OK)
        return err;
    return read_line_end(t);
}

int toml_next(struct toml *t, enum toml_event *event)
{
    if (starts_with(t, "\xEF\xBB\xBF"))
        return toml_error(t, "the file starts with a byte-order mark (save it without)");
    for (;;) {
        skip_blanks(t);
        int c = peek(t);
        if (c < 0) {
            *event = TOML_END;
            return OK;
        }
        if (c == '\n') {
            t->at++;
            t->line++;
        } else if (c == '#' || c == '\r') {
            int err = read_line_end(t);
            if (err != OK)
                return err;
        } else if (c == '[') {
            return read_table(t, event);
        } else {
            size_t length;
            int err = check_character(t, &length);
            *event = TOML_VALUE;
            return err != OK ? err : read_pair(t);
        }
    }
}
