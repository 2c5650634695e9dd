/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * Threads are made once, before the sandbox, which lets nobody make one, and never end before the
 * process does. Stacks are small and explicit, with a guard: what a VM costs should not include 16
 * times 8 MiB of address space, and nothing recurses on what a guest says.
 */
#include "hosted/thread.h"

#include <pthread.h>
#include <stdatomic.h>

#include "core/err.h"
#include "core/seam.h"
#include "hosted/terminal.h"

enum { STACK_SIZE = 256 << 10, STACK_GUARD = 64 << 10 };

struct start {
    void (*body)(void *arg);
    void *arg;
    _Atomic uint32_t begun;
};

static void *begin(void *p)
{
    struct start *s = p; /* on the creator's stack: gone once begun is 1 */
    void (*body)(void *arg) = s->body;
    void *arg = s->arg;

    terminal_thread_prepare();
    atomic_store(&s->begun, 1);
    seam_wake(&s->begun, true); /* an address, nothing more, should it be gone */
    body(arg);
    return NULL;
}

int thread_start(const char *name, void (*body)(void *arg), void *arg)
{
    struct start s = {.body = body, .arg = arg};
    pthread_attr_t attr;
    pthread_t thread;
    int error;

    pthread_attr_init(&attr);
    pthread_attr_setstacksize(&attr, STACK_SIZE + STACK_GUARD); /* glibc takes the guard from it */
    pthread_attr_setguardsize(&attr, STACK_GUARD);
    pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
    error = pthread_create(&thread, &attr, begin, &s);
    pthread_attr_destroy(&attr);
    if (error)
        return ERR_NO_MEMORY;
    while (atomic_load(&s.begun) == 0)
        seam_wait(&s.begun, 0, UINT64_MAX);
    (void)pthread_setname_np(thread, name);
    return OK;
}
