/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * Formatting without libc. One pass over the format; each conversion is parsed into a struct spec
 * and handed to a small function that produces its text, which put_padded then aligns. Output goes
 * through struct out, which counts everything and stores what fits, so that the return value is
 * that of snprintf and truncation needs no special case anywhere.
 */
#include "core/fmt.h"

#include "core/mem.h"

struct out {
    char *buf;
    size_t size;
    size_t used;
};

enum length { LENGTH_CHAR, LENGTH_SHORT, LENGTH_INT, LENGTH_LONG, LENGTH_LONG_LONG, LENGTH_SIZE };

struct spec {
    bool left, zero, alternate;
    size_t width;
    bool has_precision;
    size_t precision;
    enum length length;
};

/* Numbers above this in a format are a bug of the caller; cut, so that loops stay short. */
enum { WIDTH_MAX = 4096 };

static void put(struct out *o, char c)
{
    if (o->used + 1 < o->size)
        o->buf[o->used] = c;
    o->used++;
}

static void put_many(struct out *o, char c, size_t n)
{
    while (n-- > 0)
        put(o, c);
}

static void put_padded(struct out *o, const struct spec *s, const char *prefix, const char *text,
                       size_t n)
{
    size_t prefix_length = str_len(prefix);
    size_t zeros = s->has_precision && s->precision > n ? s->precision - n : 0;
    size_t total = prefix_length + zeros + n;
    size_t pad = s->width > total ? s->width - total : 0;
    if (s->zero && !s->left && !s->has_precision) {
        zeros = pad;
        pad = 0;
    }
    if (!s->left)
        put_many(o, ' ', pad);
    for (size_t i = 0; i < prefix_length; i++)
        put(o, prefix[i]);
    put_many(o, '0', zeros);
    for (size_t i = 0; i < n; i++)
        put(o, text[i]);
    if (s->left)
        put_many(o, ' ', pad);
}

static void put_unsigned(struct out *o, const struct spec *s, const char *prefix, uint64_t v,
                         unsigned int base, bool upper)
{
    const char *digits = upper ? "0123456789ABCDEF" : "0123456789abcdef";
    char text[20];
    size_t at = sizeof(text);
    do {
        text[--at] = digits[v % base];
        v /= base;
    } while (v != 0);
    put_padded(o, s, prefix, text + at, sizeof(text) - at);
}

static void put_string(struct out *o, const struct spec *s, const char *text)
{
    struct spec plain = *s;
    if (!text)
        text = "(null)";
    size_t limit = s->has_precision ? s->precision : SIZE_MAX;
    size_t n = 0;
    while (n < limit && text[n] != '\0')
        n++;
    plain.has_precision = false;
    plain.zero = false;
    put_padded(o, &plain, "", text, n);
}

static int64_t take_signed(va_list *ap, enum length length)
{
    switch (length) {
    case LENGTH_CHAR:
        return (signed char)va_arg(*ap, int);
    case LENGTH_SHORT:
        return (short)va_arg(*ap, int);
    case LENGTH_LONG:
    case LENGTH_SIZE:
        return va_arg(*ap, long);
    case LENGTH_LONG_LONG:
        return va_arg(*ap, long long);
    case LENGTH_INT:
    default:
        return va_arg(*ap, int);
    }
}

static uint64_t take_unsigned(va_list *ap, enum length length)
{
    switch (length) {
    case LENGTH_CHAR:
        return (unsigned char)va_arg(*ap, unsigned int);
    case LENGTH_SHORT:
        return (unsigned short)va_arg(*ap, unsigned int);
    case LENGTH_LONG:
    case LENGTH_SIZE:
        return va_arg(*ap, unsigned long);
    case LENGTH_LONG_LONG:
        return va_arg(*ap, unsigned long long);
    case LENGTH_INT:
    default:
        return va_arg(*ap, unsigned int);
    }
}

static size_t take_number(const char **p, va_list *ap)
{
    size_t n = 0;
    if (**p == '*') {
        int v = va_arg(*ap, int);
        (*p)++;
        n = v > 0 ? (size_t)v : 0;
    } else {
        for (; **p >= '0' && **p <= '9'; (*p)++)
            if (n < WIDTH_MAX)
                n = n * 10 + (size_t)(**p - '0');
    }
    return n < WIDTH_MAX ? n : WIDTH_MAX;
}

static enum length take_length(const char **p)
{
    switch (**p) {
    case 'h':
        (*p)++;
        if (**p != 'h')
            return LENGTH_SHORT;
        (*p)++;
        return LENGTH_CHAR;
    case 'l':
        (*p)++;
        if (**p != 'l')
            return LENGTH_LONG;
        (*p)++;
        return LENGTH_LONG_LONG;
    case 'z':
        (*p)++;
        return LENGTH_SIZE;
    default:
        return LENGTH_INT;
    }
}

static void take_spec(struct spec *s, const char **p, va_list *ap)
{
    memset(s, 0, sizeof(*s));
    for (;; (*p)++) {
        if (**p == '-')
            s->left = true;
        else if (**p == '0')
            s->zero = true;
        else if (**p == '#')
            s->alternate = true;
        else
            break;
    }
    s->width = take_number(p, ap);
    if (**p == '.') {
        (*p)++;
        s->has_precision = true;
        s->precision = take_number(p, ap);
    }
    s->length = take_length(p);
}

static void put_signed(struct out *o, const struct spec *s, int64_t v)
{
    uint64_t magnitude = v < 0 ? 0 - (uint64_t)v : (uint64_t)v;
    put_unsigned(o, s, v < 0 ? "-" : "", magnitude, 10, false);
}

static void put_conversion(struct out *o, const struct spec *s, char c, va_list *ap)
{
    char one;
    switch (c) {
    case 'd':
        put_signed(o, s, take_signed(ap, s->length));
        break;
    case 'u':
        put_unsigned(o, s, "", take_unsigned(ap, s->length), 10, false);
        break;
    case 'x':
    case 'X':
        put_unsigned(o, s, s->alternate ? "0x" : "", take_unsigned(ap, s->length), 16, c == 'X');
        break;
    case 'p':
        put_unsigned(o, s, "0x", (uint64_t)(uintptr_t)va_arg(*ap, void *), 16, false);
        break;
    case 'c':
        one = (char)va_arg(*ap, int);
        put_padded(o, s, "", &one, 1);
        break;
    case 's':
        put_string(o, s, va_arg(*ap, const char *));
        break;
    default: /* "%%", and what we do not know is shown as it stands */
        put(o, c);
        break;
    }
}

size_t fmt_v(char *buf, size_t size, const char *format, va_list ap)
{
    struct out o = {buf, size, 0};
    struct spec s;
    va_list args;
    va_copy(args, ap);
    for (const char *p = format; *p != '\0'; p++) {
        if (*p != '%') {
            put(&o, *p);
            continue;
        }
        p++;
        take_spec(&s, &p, &args);
        if (*p == '\0')
            break;
        put_conversion(&o, &s, *p, &args);
    }
    va_end(args);
    if (size > 0)
        buf[o.used < size ? o.used : size - 1] = '\0';
    return o.used;
}

size_t fmt(char *buf, size_t size, const char *format, ...)
{
    va_list ap;
    va_start(ap, format);
    size_t n = fmt_v(buf, size, format, ap);
    va_end(ap);
    return n;
}
