/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * Waiting on a word: seam_wait and seam_wake (core/seam.h), natively.
 *
 * Who waits stands in one of WAIT_QUEUES queues, by a hash of the word's address, in the order of coming; and, if
 * it has a deadline, in its CPU's list of deadlines, first one first. Lists, since few wait with a deadline: a VM's
 * timer thread and now and then somebody else.
 *
 * No wake-up is lost. A waker first changes the word, then takes the queue's lock. Who waits takes the queue's
 * lock, reads the word, and is in the queue when it lets the lock go, unless the word had changed. Of two sections
 * under one lock one is first. If the waiter's, the waker finds it in the queue. If the waker's, what it wrote
 * before is seen by the waiter (release and acquire of the lock), which does not wait. And one that is found is
 * woken in earnest: it has let go of the queue's lock only with the run queue's held (scheduler_block), which
 * scheduler_wake takes, so it is out of its CPU by then.
 *
 * One that waits with a deadline may be found twice, by a waker and by its CPU's deadline. Who turns `woken` from
 * false to true, and nobody else, makes it ready. A waker of one that loses goes on to the next in the queue: the
 * wake-up is not spent on a thread that has given up. The deadline cannot find a thread that is not out of its CPU
 * yet: the list is served by the CPU on which the thread began to wait, with interrupts off, so not between its
 * entry into the list and the switch.
 *
 * A waker takes the thread out of the queue, a deadline out of the list. The other of the two the thread leaves by
 * itself when it runs again, so it cannot come to its end or to another wait while somebody still looks at it:
 * looking is done under the queue's, or the list's, lock.
 *
 * A word's address is only compared, never followed, by wakers: it may be gone.
 *
 * Locking: a queue's lock, then a list's (struct cpu, deadline_lock), then the run queue's.
 */
#include "core/assert.h"
#include "engine/hw.h"
#include "native/cpu.h"
#include "native/spin.h"
#include "native/thread.h"

enum { WAIT_QUEUE_BITS = 8, WAIT_QUEUES = 1 << WAIT_QUEUE_BITS };

struct wait_queue {
    struct spin lock;
    struct thread *first;
} __attribute__((aligned(64))); /* a cache line each */

static struct wait_queue queues[WAIT_QUEUES];

/* Fibonacci hashing: D. Knuth, The Art of Computer Programming, volume 3, 6.4. */
static struct wait_queue *queue_of(const _Atomic uint32_t *word)
{
    uint64_t key = (uint64_t)(uintptr_t)word >> 2;

    return &queues[(key * 0x9E3779B97F4A7C15) >> (64 - WAIT_QUEUE_BITS)];
}

static void queue_append(struct wait_queue *q, struct thread *t)
{
    struct thread **p = &q->first;

    while (*p)
        p = &(*p)->wait_next;
    t->wait_next = NULL;
    t->queued = true;
    *p = t;
}

/* *p, where a queue points to the thread. */
static void queue_unlink(struct thread **p)
{
    struct thread *t = *p;

    *p = t->wait_next;
    t->wait_next = NULL;
    t->queued = false;
}

static void queue_leave(struct wait_queue *q, struct thread *t)
{
    struct thread **p = &q->first;

    while (*p != t)
        p = &(*p)->wait_next;
    queue_unlink(p);
}

/* --- deadlines; under the CPU's deadline_lock --- */

static void note_first(struct cpu *c)
{
    uint64_t first = c->deadlines ? c->deadlines->deadline : UINT64_MAX;

    atomic_store_explicit(&c->first_deadline, first, memory_order_relaxed);
}

static void deadline_insert(struct cpu *c, struct thread *t)
{
    struct thread *before = NULL, *next = c->deadlines;

    while (next && next->deadline <= t->deadline) {
        before = next;
        next = next->deadline_next;
    }
    t->deadline_cpu = c;
    t->deadline_before = before;
    t->deadline_next = next;
    if (next)
        next->deadline_before = t;
    if (before)
        before->deadline_next = t;
    else
        c->deadlines = t;
    note_first(c);
}

static void deadline_unlink(struct cpu *c, struct thread *t)
{
    if (t->deadline_next)
        t->deadline_next->deadline_before = t->deadline_before;
    if (t->deadline_before)
        t->deadline_before->deadline_next = t->deadline_next;
    else
        c->deadlines = t->deadline_next;
    t->deadline_cpu = NULL;
    note_first(c);
}

/* --- waking --- */

/* True for one of those who want to make it ready. */
static bool claim(struct thread *t)
{
    return !atomic_exchange(&t->woken, true);
}

void wait_expire(struct cpu *c, uint64_t now)
{
    struct thread *t;

    spin_lock(&c->deadline_lock);
    while ((t = c->deadlines) != NULL && t->deadline <= now) {
        deadline_unlink(c, t);
        if (claim(t))
            scheduler_wake(t);
    }
    spin_unlock(&c->deadline_lock);
}

void wait_wake(_Atomic uint32_t *word, bool all)
{
    struct wait_queue *q = queue_of(word);
    struct thread **p = &q->first, *t;

    spin_lock(&q->lock);
    while ((t = *p) != NULL) {
        if (t->word != word || !claim(t)) {
            p = &t->wait_next;
            continue;
        }
        queue_unlink(p);
        scheduler_wake(t);
        if (!all)
            break;
    }
    spin_unlock(&q->lock);
}

/* --- waiting --- */

static void wait_deadline(struct thread *t, uint64_t deadline_ns)
{
    struct cpu *c = this_cpu();

    t->deadline = deadline_ns;
    if (deadline_ns == UINT64_MAX)
        return;
    spin_lock(&c->deadline_lock);
    deadline_insert(c, t);
    spin_unlock(&c->deadline_lock);
}

/* Out of whatever it still stands in. `queued` is as whoever claimed the thread left it. */
static void wait_finish(struct wait_queue *q, struct thread *t, struct cpu *began)
{
    if (t->queued) {
        spin_lock(&q->lock);
        queue_leave(q, t);
        spin_unlock(&q->lock);
    }
    if (t->deadline == UINT64_MAX)
        return;
    spin_lock(&began->deadline_lock);
    if (t->deadline_cpu)
        deadline_unlink(began, t);
    spin_unlock(&began->deadline_lock);
}

void wait_on(_Atomic uint32_t *word, uint32_t expected, uint64_t deadline_ns)
{
    struct wait_queue *q = queue_of(word);
    struct thread *t = thread_current();
    struct cpu *began;
    uint64_t now = seam_time_ns();

    if (!t || t == this_cpu()->idle)
        panic("waiting where there is no thread");
    if (now >= deadline_ns)
        return;
    if (now >= this_cpu()->timer_armed)
        hw_preempt_point();
    scheduler_leave();
    spin_lock(&q->lock);
    if (atomic_load(word) != expected) {
        spin_unlock(&q->lock);
        return;
    }
    t->word = word;
    atomic_store_explicit(&t->woken, false, memory_order_relaxed);
    queue_append(q, t);
    began = this_cpu();
    wait_deadline(t, deadline_ns);
    scheduler_block(&q->lock);
    wait_finish(q, t, began);
}
