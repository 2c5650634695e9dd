/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * Guest RAM and ROM: a sorted array of a few slots, looked at linearly. All arithmetic on guest
 * addresses is done in forms that cannot wrap: with base <= a known, "n <= size - (a - base)".
 *
 * Readers take no lock: slots change only while the VM is at rest.
 */
#include "core/guest_mem.h"

#include "core/err.h"
#include "core/mem.h"

int guest_mem_add(struct guest_mem *m, struct gpa base, uint64_t size, void *host, bool writable)
{
    uint64_t end;
    if (size == 0 || ((base.v | size | (uint64_t)(uintptr_t)host) & ~PAGE_MASK) != 0 ||
        __builtin_add_overflow(base.v, size, &end))
        return ERR_INVALID;
    if (m->count == GUEST_MEM_SLOTS)
        return ERR_NO_MEMORY;
    uint32_t at = 0;
    while (at < m->count && m->slot[at].base < base.v)
        at++;
    if (at > 0 && m->slot[at - 1].size > base.v - m->slot[at - 1].base)
        return ERR_EXISTS;
    if (at < m->count && end > m->slot[at].base)
        return ERR_EXISTS;
    memmove(&m->slot[at + 1], &m->slot[at], (m->count - at) * sizeof(m->slot[0]));
    m->slot[at] = (struct guest_mem_slot){base.v, size, host, writable};
    m->count++;
    return OK;
}

/* The slot that holds the byte at a, or NULL. */
static const struct guest_mem_slot *slot_at(const struct guest_mem *m, uint64_t a)
{
    for (uint32_t i = 0; i < m->count; i++) {
        const struct guest_mem_slot *s = &m->slot[i];
        if (a >= s->base && a - s->base < s->size)
            return s;
    }
    return NULL;
}

const struct guest_mem_slot *guest_mem_find(const struct guest_mem *m, struct gpa a, uint64_t size)
{
    const struct guest_mem_slot *s = slot_at(m, a.v);
    if (!s || size == 0 || size > s->size - (a.v - s->base))
        return NULL;
    return s;
}

void *guest_mem_ptr(const struct guest_mem *m, struct gpa a, uint64_t size)
{
    const struct guest_mem_slot *s = guest_mem_find(m, a, size);
    return s ? s->host + (a.v - s->base) : NULL;
}

/* Is all of [a, a + size) backed (and writable if asked)? */
static bool is_backed(const struct guest_mem *m, uint64_t a, uint64_t size, bool write)
{
    while (size > 0) {
        const struct guest_mem_slot *s = slot_at(m, a);
        if (!s || (write && !s->writable))
            return false;
        uint64_t part = s->size - (a - s->base);
        if (part >= size)
            return true;
        a += part; /* cannot wrap: a slot ends at most at 2^64 - 1 */
        size -= part;
    }
    return true;
}

int guest_mem_read(const struct guest_mem *m, struct gpa a, void *buf, size_t size)
{
    uint8_t *out = buf;
    if (!is_backed(m, a.v, size, false))
        return ERR_RANGE;
    while (size > 0) {
        const struct guest_mem_slot *s = slot_at(m, a.v);
        uint64_t offset = a.v - s->base;
        uint64_t part = s->size - offset < size ? s->size - offset : size;
        memcpy(out, s->host + offset, part);
        out += part;
        a.v += part;
        size -= part;
    }
    return OK;
}

int guest_mem_write(const struct guest_mem *m, struct gpa a, const void *buf, size_t size)
{
    const uint8_t *in = buf;
    if (!is_backed(m, a.v, size, true))
        return ERR_RANGE;
    while (size > 0) {
        const struct guest_mem_slot *s = slot_at(m, a.v);
        uint64_t offset = a.v - s->base;
        uint64_t part = s->size - offset < size ? s->size - offset : size;
        memcpy(s->host + offset, in, part);
        in += part;
        a.v += part;
        size -= part;
    }
    return OK;
}
