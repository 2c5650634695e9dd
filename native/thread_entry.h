/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/* Between thread.c and thread.S. */
#ifndef LODGE_NATIVE_THREAD_ENTRY_H
#define LODGE_NATIVE_THREAD_ENTRY_H

#include <stdnoreturn.h>

struct thread;

/* Not to be called: its address lies on a new thread's stack. */
void thread_entry(void);
/* Called there, on that stack, with the run queue's lock held by who switched to it. */
noreturn void thread_begin(struct thread *t);

#endif
