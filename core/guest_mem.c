/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * Guest RAM and ROM: a sorted array of a few slots, looked at linearly. All arithmetic on guest
 * addresses is done in forms that cannot wrap: with base <= a known, "n <= size - (a - base)".
 *
 * Readers take no lock: slots change only while the VM is at rest.
 */
#include "core/guest_mem.h"

#include "core/assert.h"
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
    m->slot[at] = (struct guest_mem_slot){base.v, size, host, writable, NULL};
    m->count++;
    return OK;
}

/* --- what is not there yet ----------------------------------------------------------------------
 */

static bool is_within(const struct guest_mem_late *late, uint32_t i, uint64_t a, uint64_t size)
{
    uint64_t base = late->piece[i].base;
    return a < base ? size > base - a : a - base < late->piece[i].size;
}

bool guest_mem_bring(const struct guest_mem *m, uint64_t a, uint64_t size)
{
    uint32_t missing = guest_mem_missing(m), wanted = 0;
    for (uint32_t i = 0; i < GUEST_MEM_LATE; i++)
        if ((missing >> i & 1) && is_within(m->late, i, a, size))
            wanted |= UINT32_C(1) << i;
    return wanted == 0 || m->late->bring(m->late, wanted);
}

bool guest_mem_bring_next(const struct guest_mem *m)
{
    uint32_t missing = guest_mem_missing(m);
    return missing == 0 || m->late->bring(m->late, missing & -missing);
}

bool guest_mem_has_late_room(const struct guest_mem *m)
{
    return m->late && guest_mem_missing(m) != BIT(GUEST_MEM_LATE) - 1;
}

void guest_mem_add_late(const struct guest_mem *m, const struct guest_mem_piece *piece)
{
    uint32_t missing = guest_mem_missing(m);
    uint32_t i = (uint32_t)__builtin_ctz(~missing);
    if (NEVER(!guest_mem_has_late_room(m)))
        return;
    m->late->piece[i] = *piece;
    atomic_store(&m->late->missing, missing | UINT32_C(1) << i);
}

static bool is_there(const struct guest_mem *m, uint64_t a, uint64_t size)
{
    return likely(guest_mem_missing(m) == 0) || guest_mem_bring(m, a, size);
}

/* --- access -------------------------------------------------------------------------------------
 */

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
    return is_there(m, a.v, size) ? s : NULL;
}

void *guest_mem_ptr(const struct guest_mem *m, struct gpa a, uint64_t size)
{
    const struct guest_mem_slot *s = guest_mem_find(m, a, size);
    return s ? s->host + (a.v - s->base) : NULL;
}

void *guest_mem_host(const struct guest_mem *m, struct gpa a)
{
    const struct guest_mem_slot *s = slot_at(m, a.v);
    return s ? s->host + (a.v - s->base) : NULL;
}

_Atomic uint32_t *guest_mem_page_state(const struct guest_mem *m, const void *host)
{
    for (uint32_t i = 0; i < m->count; i++) {
        const struct guest_mem_slot *s = &m->slot[i];
        uint64_t offset = (uint64_t)(uintptr_t)host - (uint64_t)(uintptr_t)s->host;
        if (offset < s->size)
            return s->page_state ? &s->page_state[offset >> PAGE_SHIFT] : NULL;
    }
    return NULL;
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
    if (!is_backed(m, a.v, size, false) || !is_there(m, a.v, size))
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
    if (!is_backed(m, a.v, size, true) || !is_there(m, a.v, size))
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
