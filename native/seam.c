/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * The seam (core/seam.h) on the bare machine. seam_panic is in panic.c, seam_log in log.c, seam_random in
 * seam_time.c, a VM's timer and its end in guest_timer.c. What is left is made of frames, the clock, threads and
 * waiting.
 *
 *  - Memory comes in whole pages from the direct map (frames.h), owned by the hypervisor.
 *  - Locks' ranks are kept with the thread. A CPU that does not schedule yet has a trace of its own: at boot, locks
 *    are taken and let go, and never waited for.
 *  - Steal time is the time that the scheduler kept the thread ready.
 *  - Generated code is exec.c's. It needs no base of GS, which is the CPU's (cpu.h).
 *
 * Locking: none of its own.
 */
#include "core/seam.h"

#include "core/err.h"
#include "native/clock.h"
#include "native/cpu.h"
#include "native/frames.h"
#include "native/thread.h"

void *seam_pages_alloc(size_t pages)
{
    return pages ? frames_alloc(pages, FRAME_OWN) : NULL;
}

void seam_pages_free(void *p, size_t pages)
{
    if (p)
        frames_free(p, pages);
}

uint64_t seam_time_ns(void)
{
    return clock_ns();
}

uint64_t seam_wall_time_ns(void)
{
    return clock_wall_ns();
}

void seam_wait(_Atomic uint32_t *word, uint32_t expected, uint64_t deadline_ns)
{
    wait_on(word, expected, deadline_ns);
}

void seam_wake(_Atomic uint32_t *word, bool all)
{
    wait_wake(word, all);
}

uint64_t seam_steal_ns(void)
{
    return thread_current()->share.ready_ns; /* changed only before the thread runs */
}

void seam_yield(void)
{
    scheduler_yield();
}

struct seam_lock_trace *seam_lock_trace(void)
{
    static struct seam_lock_trace early[HW_CPUS];
    struct thread *t = thread_current();

    return t ? &t->lock_trace : &early[this_cpu()->index];
}

void seam_set_frame(void *frame)
{
    (void)frame;
}
