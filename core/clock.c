/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * The VM clock and its timers.
 *
 * The clock is two words: running, and an offset that means "seam time minus VM time" while it
 * runs and "VM time" while it stands. Readers are many and hot (every RDTSC), writers are rare
 * (rest), so a sequence count brackets each change and readers retry.
 *
 * Timers are an intrusive list sorted by deadline. A VM has a couple of dozen at most (an APIC
 * timer per vCPU, PIT, RTC, PM timer), so the walk is short and no heap is worth its code.
 *
 * Locking: clock.lock guards the queue. It is dropped around each timer's function, which may set
 * or cancel any timer, its own included.
 */
#include "core/clock.h"

#include "core/seam.h"
#include "core/vm.h"

void vm_clock_init(struct vm_clock *c)
{
    lock_init(&c->lock, LOCK_RANK_TIMER);
    c->queue = NULL;
    atomic_init(&c->sequence, 0);
    atomic_init(&c->offset, 0);
    atomic_init(&c->running, false);
    c->wall_base = seam_wall_time_ns();
}

uint64_t vm_clock_ns(const struct vm *vm)
{
    const struct vm_clock *c = &vm->clock;
    for (;;) {
        uint32_t before = atomic_load_explicit(&c->sequence, memory_order_acquire);
        uint64_t offset = atomic_load_explicit(&c->offset, memory_order_relaxed);
        bool running = atomic_load_explicit(&c->running, memory_order_relaxed);
        uint64_t ns = running ? seam_time_ns() - offset : offset;
        atomic_thread_fence(memory_order_acquire);
        if ((before & 1) == 0 && atomic_load_explicit(&c->sequence, memory_order_relaxed) == before)
            return ns;
    }
}

static void clock_change_begin(struct vm_clock *c)
{
    atomic_fetch_add_explicit(&c->sequence, 1, memory_order_acq_rel);
    atomic_thread_fence(memory_order_seq_cst);
}

static void clock_change_end(struct vm_clock *c, uint64_t offset, bool running)
{
    atomic_store_explicit(&c->offset, offset, memory_order_relaxed);
    atomic_store_explicit(&c->running, running, memory_order_relaxed);
    atomic_fetch_add_explicit(&c->sequence, 1, memory_order_acq_rel);
}

static void clock_change(struct vm_clock *c, uint64_t offset, bool running)
{
    clock_change_begin(c);
    clock_change_end(c, offset, running);
}

/* With clock.lock held: tells the home when the first timer is due. */
static void arm_first(struct vm *vm)
{
    struct vm_clock *c = &vm->clock;
    if (!atomic_load_explicit(&c->running, memory_order_relaxed) || !c->queue) {
        seam_timer_arm(vm, UINT64_MAX);
        return;
    }
    uint64_t deadline;
    uint64_t offset = atomic_load_explicit(&c->offset, memory_order_relaxed);
    if (c->queue->deadline > INT64_MAX)
        deadline = UINT64_MAX;
    else
        deadline = c->queue->deadline + offset;
    seam_timer_arm(vm, deadline);
}

void vm_clock_start(struct vm *vm)
{
    struct vm_clock *c = &vm->clock;
    lock_take(&c->lock);
    if (!atomic_load_explicit(&c->running, memory_order_relaxed)) {
        uint64_t frozen = atomic_load_explicit(&c->offset, memory_order_relaxed);
        clock_change(c, seam_time_ns() - frozen, true);
    }
    arm_first(vm);
    lock_release(&c->lock);
}

void vm_clock_stop(struct vm *vm)
{
    struct vm_clock *c = &vm->clock;
    lock_take(&c->lock);
    if (atomic_load_explicit(&c->running, memory_order_relaxed)) {
        /* Time is taken inside the change: a reader that was let go before it saw no later time. */
        uint64_t offset = atomic_load_explicit(&c->offset, memory_order_relaxed);
        clock_change_begin(c);
        clock_change_end(c, seam_time_ns() - offset, false);
    }
    arm_first(vm);
    lock_release(&c->lock);
}

void vm_clock_set(struct vm *vm, uint64_t ns)
{
    struct vm_clock *c = &vm->clock;
    lock_take(&c->lock);
    clock_change(c, ns, false);
    lock_release(&c->lock);
}

void vm_timer_init(struct vm_timer *t, void (*fire)(void *owner), void *owner)
{
    *t = (struct vm_timer){.deadline = VM_TIMER_NEVER, .fire = fire, .owner = owner};
}

/* With clock.lock held. */
static void queue_remove(struct vm_clock *c, struct vm_timer *t)
{
    struct vm_timer **p = &c->queue;
    while (*p && *p != t)
        p = &(*p)->next;
    if (*p)
        *p = t->next;
    t->next = NULL;
    t->deadline = VM_TIMER_NEVER;
}

static void queue_insert(struct vm_clock *c, struct vm_timer *t, uint64_t deadline)
{
    struct vm_timer **p = &c->queue;
    while (*p && (*p)->deadline <= deadline)
        p = &(*p)->next;
    t->deadline = deadline;
    t->next = *p;
    *p = t;
}

void vm_timer_set(struct vm *vm, struct vm_timer *t, uint64_t deadline)
{
    struct vm_clock *c = &vm->clock;
    lock_take(&c->lock);
    bool was_first = c->queue == t;
    if (t->deadline != VM_TIMER_NEVER)
        queue_remove(c, t);
    if (deadline != VM_TIMER_NEVER)
        queue_insert(c, t, deadline);
    if (was_first || c->queue == t)
        arm_first(vm);
    lock_release(&c->lock);
}

void vm_timer_cancel(struct vm *vm, struct vm_timer *t)
{
    vm_timer_set(vm, t, VM_TIMER_NEVER);
}

void vm_timers_run(struct vm *vm)
{
    struct vm_clock *c = &vm->clock;
    /* A timer that sets itself into the past again and again must not keep us here: after so many
     * the home gets a chance to look at its other events, and is called again at once. */
    unsigned int budget = 64;
    uint64_t now = vm_clock_ns(vm);
    lock_take(&c->lock);
    while (budget-- > 0 && c->queue && c->queue->deadline <= now &&
           atomic_load_explicit(&c->running, memory_order_relaxed)) {
        struct vm_timer *t = c->queue;
        void (*fire)(void *owner) = t->fire;
        void *owner = t->owner;
        queue_remove(c, t);
        lock_release(&c->lock);
        fire(owner);
        lock_take(&c->lock);
    }
    arm_first(vm);
    lock_release(&c->lock);
}

uint64_t scale_u64(uint64_t value, uint64_t mul, uint64_t div)
{
    unsigned __int128 product = (unsigned __int128)value * mul;
    uint64_t high = (uint64_t)(product >> 64), low = (uint64_t)product;
    if (high >= div)
        return UINT64_MAX; /* also div == 0: saturates instead of faulting */
    uint64_t quotient, remainder;
    __asm__("divq %4" : "=a"(quotient), "=d"(remainder) : "0"(low), "1"(high), "r"(div) : "cc");
    return quotient;
}
