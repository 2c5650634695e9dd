/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * A VM's timer thread, and waiting for a VM's end: what of the seam belongs to one VM.
 *
 * seam_timer_arm is called on every change of a guest's timers, thousands of times a second, so it does nothing
 * unless the new deadline is earlier than the one armed: the thread that comes early finds nothing due, and
 * vm_timers_run arms the next.
 *
 * No deadline is lost. Who arms lowers timer_deadline, then bumps timer_word and wakes. The thread reads
 * timer_word, then timer_deadline, and waits while the word is what it was: if it read the old deadline, the word
 * changes after it was read, and the wait ends. When the deadline is due, it is set to "never" before vm_timers_run
 * is called. A deadline that was armed just before that, and is overwritten, belongs to a timer that is in the VM's
 * queue already (seam_timer_arm is called with the queue's lock held), which vm_timers_run looks at afterwards, and
 * arms what is left.
 *
 * Locking: none of its own; all fields are atomic.
 */
#include "native/guest.h"

#include "core/fmt.h"
#include "core/seam.h"
#include "core/vm.h"
#include "engine/hw.h"
#include "native/thread.h"

void guest_init(struct guest *g, struct vm *vm)
{
    g->vm = vm;
    atomic_init(&g->timer_deadline, UINT64_MAX);
    atomic_init(&g->timer_word, 0);
    atomic_init(&g->timer_ends, false);
    g->timer_thread = NULL;
    atomic_init(&g->stopped, 0);
    vm->home = g;
}

static void timer_tell(struct guest *g)
{
    atomic_fetch_add(&g->timer_word, 1);
    seam_wake(&g->timer_word, false);
}

void seam_timer_arm(struct vm *vm, uint64_t deadline_ns)
{
    struct guest *g = vm->home;
    uint64_t armed = atomic_load(&g->timer_deadline);

    do {
        if (deadline_ns >= armed)
            return;
    } while (!atomic_compare_exchange_weak(&g->timer_deadline, &armed, deadline_ns));
    timer_tell(g);
}

static void timer_thread(void *arg)
{
    struct guest *g = arg;

    for (;;) {
        uint32_t word = atomic_load(&g->timer_word);
        uint64_t deadline;

        if (atomic_load(&g->timer_ends))
            return;
        deadline = atomic_load(&g->timer_deadline);
        if (deadline == UINT64_MAX || seam_time_ns() < deadline) {
            seam_wait(&g->timer_word, word, deadline);
            continue;
        }
        atomic_store(&g->timer_deadline, UINT64_MAX);
        vm_timers_run(g->vm);
        hw_preempt_point(); /* a guest may arm them as fast as they fire */
    }
}

int guest_timer_start(struct guest *g)
{
    char name[THREAD_NAME];

    (void)fmt(name, sizeof(name), "%s timers", g->vm->name);
    return thread_create_for(&g->timer_thread, &g->account, UINT64_MAX, true, name, timer_thread, g);
}

void guest_timer_end(struct guest *g)
{
    if (!g->timer_thread)
        return;
    atomic_store(&g->timer_ends, true);
    timer_tell(g);
    thread_join(g->timer_thread);
    g->timer_thread = NULL;
    atomic_store(&g->timer_ends, false);
}

void seam_vm_stopped(struct vm *vm)
{
    struct guest *g = vm->home;

    atomic_fetch_add(&g->stopped, 1);
    seam_wake(&g->stopped, true);
}

bool guest_wait_stopped(struct guest *g, uint64_t deadline_ns)
{
    for (;;) {
        uint32_t seen = atomic_load(&g->stopped); /* before the reason is looked at: a stop in between ends the wait */

        if (vm_is_stopped(g->vm))
            return true;
        if (seam_time_ns() >= deadline_ns)
            return false;
        seam_wait(&g->stopped, seen, deadline_ns);
    }
}
