/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/* The threads that vCPUs run on: see vcpu_thread.c. */
#ifndef LODGE_HOSTED_VCPU_THREAD_H
#define LODGE_HOSTED_VCPU_THREAD_H

#include <stdatomic.h>

#include "core/vm.h"
#include "hosted/thread.h"

struct vcpu_threads {
    struct vm *vm;
    struct vcpu_thread {
        struct vcpu_threads *all;
        uint32_t id;
        struct thread thread;
    } thread[VM_MAX_VCPUS];
    _Atomic uint32_t ready;   /* threads that have opened what they need */
    _Atomic uint32_t round;   /* bumped to let them run; they wait on it */
    _Atomic uint32_t running; /* threads inside pc_run_vcpu */
};

/* One thread per vCPU, standing still. ERR_NO_MEMORY. Then: waits until all are ready for the sandbox. */
int must_check vcpu_threads_create(struct vcpu_threads *t, struct vm *vm);
void vcpu_threads_await(struct vcpu_threads *t);
/* Lets all run pc_run_vcpu once. The last to come out calls seam_vm_stopped. */
void vcpu_threads_go(struct vcpu_threads *t);
/* Have all come out? */
bool vcpu_threads_are_out(const struct vcpu_threads *t);

#endif
