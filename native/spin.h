/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/* Spin locks (tickets: in the order of asking). Leaves: below every lock of core/lock.h; interrupts are off; who holds
 * one does not wait, yield or come to a preemption point. Order among them: wait queue, a CPU's deadlines, run queue,
 * frames, log, serial, screen. */
#ifndef LODGE_NATIVE_SPIN_H
#define LODGE_NATIVE_SPIN_H

#include <stdatomic.h>

#include "core/types.h"

struct spin {
    _Atomic uint32_t next, now;
};

static inline void spin_lock(struct spin *s)
{
    uint32_t mine = atomic_fetch_add_explicit(&s->next, 1, memory_order_relaxed);

    while (atomic_load_explicit(&s->now, memory_order_acquire) != mine)
        __builtin_ia32_pause();
}

static inline void spin_unlock(struct spin *s)
{
    atomic_store_explicit(&s->now, atomic_load_explicit(&s->now, memory_order_relaxed) + 1, memory_order_release);
}

#endif
