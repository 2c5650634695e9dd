/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * The threads that vCPUs run on. Between a reset and the next boot they wait on `round` instead of
 * ending, because the sandbox lets nobody make new ones.
 *
 * Order: everything that the main thread did before vcpu_threads_go (pc_boot) is seen by the vCPU
 * threads, through the release of `round`; all they did is seen by the main thread once
 * vcpu_threads_are_out, through `running`.
 */
#include "hosted/vcpu_thread.h"

#include <stdio.h>

#include "core/err.h"
#include "core/seam.h"
#include "hosted/seam.h"
#include "hosted/thread.h"
#include "machine/pc.h"

static void run_rounds(void *arg)
{
    const struct vcpu_thread *self = arg;
    struct vcpu_threads *t = self->all;

    seam_steal_open();
    atomic_fetch_add_explicit(&t->ready, 1, memory_order_release);
    seam_wake(&t->ready, true);
    for (uint32_t seen = 0;; seen++) {
        while (atomic_load_explicit(&t->round, memory_order_acquire) == seen)
            seam_wait(&t->round, seen, UINT64_MAX);
        pc_run_vcpu(t->vm, self->id);
        if (atomic_fetch_sub_explicit(&t->running, 1, memory_order_acq_rel) == 1)
            seam_vm_stopped(t->vm);
    }
}

int vcpu_threads_create(struct vcpu_threads *t, struct vm *vm)
{
    t->vm = vm;
    atomic_init(&t->ready, 0);
    atomic_init(&t->round, 0);
    atomic_init(&t->running, 0);
    for (uint32_t i = 0; i < vm->vcpu_count; i++) {
        char name[16];
        int err;

        t->thread[i].all = t;
        t->thread[i].id = i;
        snprintf(name, sizeof(name), "vcpu%u", i);
        err = thread_start(&t->thread[i].thread, name, run_rounds, &t->thread[i]);
        if (err)
            return err;
    }
    return OK;
}

/* What they open they must have opened before the sandbox comes into force. */
void vcpu_threads_await(struct vcpu_threads *t)
{
    for (uint32_t n; (n = atomic_load_explicit(&t->ready, memory_order_acquire)) < t->vm->vcpu_count;)
        seam_wait(&t->ready, n, UINT64_MAX);
}

void vcpu_threads_go(struct vcpu_threads *t)
{
    atomic_store(&t->running, t->vm->vcpu_count);
    atomic_fetch_add_explicit(&t->round, 1, memory_order_release);
    seam_wake(&t->round, true);
}

bool vcpu_threads_are_out(const struct vcpu_threads *t)
{
    return atomic_load_explicit(&t->running, memory_order_acquire) == 0;
}
