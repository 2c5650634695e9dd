/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/* Scalar types and compiler helpers that every layer uses. */
#ifndef LODGE_CORE_TYPES_H
#define LODGE_CORE_TYPES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/*
 * A guest-physical address. A struct, so that mixing one up with a host pointer, a guest-virtual
 * address or a length does not compile. It is untrusted wherever it comes from.
 */
struct gpa {
    uint64_t v;
};

static inline struct gpa gpa(uint64_t v)
{
    return (struct gpa){v};
}

#define PAGE_SHIFT 12
#define PAGE_SIZE  ((uint64_t)1 << PAGE_SHIFT)
#define PAGE_MASK  (~(PAGE_SIZE - 1))

#define KIB(n) ((uint64_t)(n) << 10)
#define MIB(n) ((uint64_t)(n) << 20)
#define GIB(n) ((uint64_t)(n) << 30)

#define ARRAY_SIZE(a) (sizeof(a) / sizeof((a)[0]))
#define BIT(n)        ((uint64_t)1 << (n))

/* From a pointer to a member back to the structure that holds it. */
#define container_of(ptr, type, member) ((type *)(void *)((char *)(ptr) - offsetof(type, member)))

#define must_check      __attribute__((warn_unused_result))
#define printf_like(f, a) __attribute__((format(printf, f, a)))
#define likely(x)       __builtin_expect(!!(x), 1)
#define unlikely(x)     __builtin_expect(!!(x), 0)
#define always_inline   inline __attribute__((always_inline))
#define noinline_cold   __attribute__((noinline, cold))

#endif
