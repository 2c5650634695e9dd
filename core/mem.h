/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/* Memory and string primitives. memcpy, memmove, memset and memcmp are what compilers may call on
 * their own: hosted takes libc's, native supplies its own (native/mem.c). */
#ifndef LODGE_CORE_MEM_H
#define LODGE_CORE_MEM_H

#include "core/types.h"

void *memcpy(void *restrict dst, const void *restrict src, size_t n);
void *memmove(void *dst, const void *src, size_t n);
void *memset(void *dst, int c, size_t n);
int memcmp(const void *a, const void *b, size_t n);

/* -ffreestanding takes away the compiler's knowledge of these, and with it the expansion of small
 * constant sizes in place, which the interpreter lives on: give it back. */
#if !__STDC_HOSTED__
#define memcpy(dst, src, n)  __builtin_memcpy((dst), (src), (n))
#define memmove(dst, src, n) __builtin_memmove((dst), (src), (n))
#define memset(dst, c, n)    __builtin_memset((dst), (c), (n))
#define memcmp(a, b, n)      __builtin_memcmp((a), (b), (n))
#endif

size_t str_len(const char *s);
bool str_equal(const char *a, const char *b);
/* Copies at most size - 1 bytes and always terminates (size > 0). Returns str_len(src). */
size_t str_copy(char *dst, size_t size, const char *src);

/* PAGE_SIZE bytes, aligned. */
static inline bool page_is_zero(const uint8_t *page)
{
    const uint64_t *p = __builtin_assume_aligned(page, PAGE_SIZE);
    uint64_t any = 0;

    for (size_t i = 0; i < PAGE_SIZE / sizeof(*p) && !any; i += 8)
        any = p[i] | p[i + 1] | p[i + 2] | p[i + 3] | p[i + 4] | p[i + 5] | p[i + 6] | p[i + 7];
    return any == 0;
}

/* Unaligned little-endian loads and stores (x86 is little-endian; these never trap). */
static inline uint16_t load_u16(const void *p)
{
    uint16_t v;
    memcpy(&v, p, sizeof(v));
    return v;
}

static inline uint32_t load_u32(const void *p)
{
    uint32_t v;
    memcpy(&v, p, sizeof(v));
    return v;
}

static inline uint64_t load_u64(const void *p)
{
    uint64_t v;
    memcpy(&v, p, sizeof(v));
    return v;
}

static inline void store_u16(void *p, uint16_t v)
{
    memcpy(p, &v, sizeof(v));
}

static inline void store_u32(void *p, uint32_t v)
{
    memcpy(p, &v, sizeof(v));
}

static inline void store_u64(void *p, uint64_t v)
{
    memcpy(p, &v, sizeof(v));
}

#endif
