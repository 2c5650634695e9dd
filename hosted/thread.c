/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * Threads are made once, before the sandbox, which lets nobody make one, and never end before the
 * process does. Stacks are small and explicit, with a guard: what a VM costs should not include 16
 * times 8 MiB of address space, and nothing recurses on what a guest says.
 */
#include "hosted/thread.h"

#include <pthread.h>
#include <sys/prctl.h>

#include "core/err.h"
#include "core/mem.h"
#include "core/seam.h"
#include "hosted/terminal.h"

enum { STACK_SIZE = 256 << 10, STACK_GUARD = 64 << 10 };

static void *begin(void *p)
{
    struct thread *t = p;
    void (*body)(void *arg) = t->body;
    void *arg = t->arg;

    (void)prctl(PR_SET_NAME, t->name, 0, 0, 0);
    terminal_thread_prepare();
    atomic_store(&t->begun, 1);
    seam_wake(&t->begun, true); /* an address, nothing more, should it be gone */
    body(arg);
    return NULL;
}

int thread_start(struct thread *t, const char *name, void (*body)(void *arg), void *arg)
{
    pthread_attr_t attr;
    pthread_t thread;
    int error;

    t->body = body;
    t->arg = arg;
    (void)str_copy(t->name, sizeof(t->name), name);
    atomic_init(&t->begun, 0);
    pthread_attr_init(&attr);
    pthread_attr_setstacksize(&attr, STACK_SIZE + STACK_GUARD); /* glibc takes the guard from it */
    pthread_attr_setguardsize(&attr, STACK_GUARD);
    pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
    error = pthread_create(&thread, &attr, begin, t);
    pthread_attr_destroy(&attr);
    return error ? ERR_NO_MEMORY : OK;
}

void thread_await(struct thread *t)
{
    while (atomic_load(&t->begun) == 0)
        seam_wait(&t->begun, 0, UINT64_MAX);
}
