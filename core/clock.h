/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * One clock per VM, from which TSC, kvm-clock, APIC timer, PIT, RTC and PM timer all derive: 64-bit
 * nanoseconds since the VM was made, standing still while the VM rests. It never goes back.
 *
 * Timers are one-shot and belong to their owner's structure. They fire on the VM's timer thread,
 * with no lock held, in order of deadline; a timer may be set again from its own function. After
 * vm_timer_cancel returns the function may still be running elsewhere, unless both run under the
 * same lock: owners take their own lock in the function and look whether they still want it.
 *
 * Locking: the queue has LOCK_RANK_TIMER, below which nothing is taken.
 */
#ifndef LODGE_CORE_CLOCK_H
#define LODGE_CORE_CLOCK_H

#include "core/lock.h"
#include "core/types.h"

struct vm;

#define VM_TIMER_NEVER UINT64_MAX

struct vm_timer {
    uint64_t deadline; /* VM clock, ns; VM_TIMER_NEVER: not queued */
    void (*fire)(void *owner);
    void *owner;
    struct vm_timer *next; /* sorted by deadline */
};

struct vm_clock {
    struct lock lock;
    struct vm_timer *queue;
    _Atomic uint32_t sequence; /* odd while the two below are being changed */
    _Atomic uint64_t offset;   /* running: vm ns = seam ns - offset. At rest: the frozen vm ns */
    _Atomic bool running;
    uint64_t wall_base; /* wall-clock ns when the VM clock was 0 */
};

/* The clock starts at rest, at 0. */
void vm_clock_init(struct vm_clock *c);
void vm_clock_start(struct vm *vm);
void vm_clock_stop(struct vm *vm);
/* At rest only: sets the clock (a restored VM); queued timers keep their deadlines. */
void vm_clock_set(struct vm *vm, uint64_t ns);
uint64_t vm_clock_ns(const struct vm *vm);

void vm_timer_init(struct vm_timer *t, void (*fire)(void *owner), void *owner);
/* (Re)arms; a deadline in the past fires at once, on the timer thread. */
void vm_timer_set(struct vm *vm, struct vm_timer *t, uint64_t deadline);
void vm_timer_cancel(struct vm *vm, struct vm_timer *t);
/* Called by the home on the timer thread: fires what is due and arms the seam for the next. */
void vm_timers_run(struct vm *vm);

/* ns * mul / div without overflow in between (128 bits by hand: no libgcc). */
uint64_t scale_u64(uint64_t value, uint64_t mul, uint64_t div);

#endif
