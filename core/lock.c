/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * The sleeping mutex: the three-state futex lock of U. Drepper, "Futexes Are Tricky" (2011),
 * section 5. An uncontended take and release is one atomic operation each; a thread that has to
 * wait marks the word (HELD_WAITED), so that only then the release wakes somebody.
 *
 * Order checking (debug builds): each thread keeps the ranks that it holds in seam_lock_trace(); a
 * lock may only be taken while every held rank is lower.
 */
#include "core/lock.h"

#include "core/assert.h"
#include "core/seam.h"

enum { FREE, HELD, HELD_WAITED };

void lock_init(struct lock *l, enum lock_rank rank)
{
    atomic_init(&l->word, FREE);
    l->rank = (uint32_t)rank;
}

static void trace_take(const struct lock *l)
{
    struct seam_lock_trace *t = seam_lock_trace();
    for (uint32_t i = 0; i < t->depth; i++)
        if (t->rank[i] >= l->rank)
            panic("lock order: a lock of the same or a higher rank is held");
    if (t->depth >= ARRAY_SIZE(t->rank))
        panic("lock order: too many locks held");
    t->rank[t->depth++] = l->rank;
}

static void trace_release(const struct lock *l)
{
    struct seam_lock_trace *t = seam_lock_trace();
    if (t->depth == 0 || t->rank[t->depth - 1] != l->rank)
        panic("lock pairing: released lock is not the one taken last");
    t->depth--;
}

void lock_take(struct lock *l)
{
    if (LODGE_DEBUG)
        trace_take(l);
    uint32_t expected = FREE;
    if (atomic_compare_exchange_strong_explicit(&l->word, &expected, HELD, memory_order_acquire,
                                                memory_order_relaxed))
        return;
    while (atomic_exchange_explicit(&l->word, HELD_WAITED, memory_order_acquire) != FREE)
        seam_wait(&l->word, HELD_WAITED, UINT64_MAX);
}

void lock_release(struct lock *l)
{
    if (LODGE_DEBUG)
        trace_release(l);
    uint32_t before = atomic_exchange_explicit(&l->word, FREE, memory_order_release);
    assert(before != FREE);
    if (before == HELD_WAITED)
        seam_wake(&l->word, false);
}

void lock_assert_held(const struct lock *l)
{
    if (!LODGE_DEBUG)
        return;
    const struct seam_lock_trace *t = seam_lock_trace();
    for (uint32_t i = 0; i < t->depth; i++)
        if (t->rank[i] == l->rank)
            return;
    panic("a lock that must be held is not");
}
