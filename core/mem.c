/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/* String primitives. The four mem functions that compilers call on their own are the homes'. */
#include "core/mem.h"

size_t str_len(const char *s)
{
    size_t n = 0;
    while (s[n] != '\0')
        n++;
    return n;
}

bool str_equal(const char *a, const char *b)
{
    size_t n = str_len(a);
    return str_len(b) == n && memcmp(a, b, n) == 0;
}

size_t str_copy(char *dst, size_t size, const char *src)
{
    size_t n = str_len(src);
    size_t kept = n < size ? n : size - 1;
    memcpy(dst, src, kept);
    dst[kept] = '\0';
    return n;
}
