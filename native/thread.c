/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * Threads: made, begun, ended, joined.
 *
 * A new thread's stack is laid out as if it had called thread_switch itself, from thread_entry (thread.S): from the
 * lowest address R15, R14, R13, R12, RBX (the thread), RBP (0), the address of thread_entry, and two zeros, the
 * return address and frame pointer of nobody, where a backtrace ends. So there is one way to switch, and none for a
 * first time.
 *
 * The end. A thread cannot free the stack on which it stands; who joins it does. It says `ended` and wakes who
 * waits for that, then leaves its CPU by scheduler_exit, which takes the run queue's lock, says THREAD_ENDED, and
 * switches with the lock held. So who sees THREAD_ENDED with that lock held knows that nobody stands on the stack.
 * Between the two the thread comes to no preemption point: who joins waits for a few instructions of another CPU.
 *
 * Locking: none of its own.
 */
#include "native/thread.h"

#include "core/assert.h"
#include "core/mem.h"
#include "native/cpu.h"
#include "native/stack.h"
#include "native/thread_entry.h"

_Static_assert(sizeof(struct thread) <= PAGE_SIZE, "a thread is one page");

struct thread *thread_current(void)
{
    return this_cpu()->current;
}

/* Not ready, without a stack. */
static struct thread *thread_new(const char *name)
{
    struct thread *t = seam_pages_alloc(1);

    if (!t)
        return NULL;
    (void)str_copy(t->name, sizeof(t->name), name);
    t->state = THREAD_WAITS;
    t->share.since = seam_time_ns();
    t->deadline = UINT64_MAX;
    return t;
}

struct thread *thread_adopt(const char *name)
{
    return thread_new(name);
}

static void lay_out_stack(struct thread *t)
{
    enum { SLOT_RBX = 4, SLOT_RETURN = 6, SLOTS = 9 };
    /* RSP is a multiple of 16 when the address of thread_entry was popped: nobody's two slots are above it. */
    uint64_t top = (uint64_t)(uintptr_t)t->stack + THREAD_STACK;
    uint64_t *slot = (uint64_t *)(uintptr_t)(top - SLOTS * sizeof(uint64_t));

    memset(slot, 0, SLOTS * sizeof(uint64_t));
    slot[SLOT_RBX] = (uint64_t)(uintptr_t)t;
    slot[SLOT_RETURN] = (uint64_t)(uintptr_t)thread_entry;
    t->rsp = (uint64_t)(uintptr_t)slot;
}

int thread_create_for(struct thread **out, struct account *account, uint64_t cpus, bool serves, const char *name,
                      void (*function)(void *), void *arg)
{
    struct thread *t = thread_new(name);

    *out = NULL;
    if (!t)
        return ERR_NO_MEMORY;
    t->stack = stack_alloc(THREAD_STACK);
    if (!t->stack) {
        seam_pages_free(t, 1);
        return ERR_NO_MEMORY;
    }
    t->function = function;
    t->arg = arg;
    lay_out_stack(t);
    *out = t;
    scheduler_start(t, account, cpus, serves);
    return OK;
}

int thread_create(struct thread **out, const char *name, void (*function)(void *), void *arg)
{
    return thread_create_for(out, NULL, UINT64_MAX, false, name, function, arg);
}

noreturn void thread_begin(struct thread *t)
{
    scheduler_arrived();
    t->function(t->arg);
    if (t->lock_trace.depth)
        panic("a thread ended with a lock held");
    scheduler_leave();
    atomic_store(&t->ended, 1);
    wait_wake(&t->ended, true);
    scheduler_exit();
}

void thread_join(struct thread *t)
{
    while (!atomic_load(&t->ended))
        wait_on(&t->ended, 0, UINT64_MAX);
    while (!scheduler_ended(t))
        __builtin_ia32_pause();
    stack_free(t->stack, THREAD_STACK);
    seam_pages_free(t, 1);
}
