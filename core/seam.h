/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * The seam: everything that a home (hosted/, native/, or the tests' fake) supplies to the
 * freestanding part. One implementation per binary, chosen at link time. Files, sockets, threads
 * and terminals are not here: they are back ends behind const tables, because one binary has
 * several of them.
 *
 * Unless it says otherwise a function may be called on any thread with any lock held.
 */
#ifndef LODGE_CORE_SEAM_H
#define LODGE_CORE_SEAM_H

#include <stdatomic.h>
#include <stdnoreturn.h>

#include "core/types.h"

struct vm;

/* A bug of ours: says file, line and message on every console and ends the process (hosted) or
 * stops all CPUs (native). Never for what a guest did. */
noreturn void seam_panic(const char *file, int line, const char *message);

enum seam_log_level { SEAM_LOG_ERROR, SEAM_LOG_WARNING, SEAM_LOG_INFO, SEAM_LOG_DEBUG };

/* One line, without its end; vm may be NULL. Rate-limited per VM by the home (a guest must not be
 * able to fill the operator's log). */
void seam_log(const struct vm *vm, enum seam_log_level level, const char *line, size_t length);

/* Zeroed, page-aligned host memory for Lodge's own use; NULL if there is none. */
void *seam_pages_alloc(size_t pages);
void seam_pages_free(void *p, size_t pages);

/* Nanoseconds since some fixed point; never goes back; the same on all CPUs. */
uint64_t seam_time_ns(void);
/* Nanoseconds since 1970-01-01T00:00:00Z by the host's wall clock. May jump. */
uint64_t seam_wall_time_ns(void);

/* Cryptographically good random bytes. */
void seam_random(void *buf, size_t size);

/*
 * Wait on a word (futex): sleeps while *word == expected, until seam_wake on it, the deadline
 * (seam_time_ns; UINT64_MAX for none) or spuriously. Callers loop. Locks, parking and rest are all
 * made of this pair (core/lock.c, core/vcpu.c).
 */
void seam_wait(_Atomic uint32_t *word, uint32_t expected, uint64_t deadline_ns);
void seam_wake(_Atomic uint32_t *word, bool all);

/* Nanoseconds that this thread, a vCPU's, was ready to run but had no pCPU, since the thread began;
 * never goes back; 0 where the home cannot tell. Hosted it is a system call: for every few ms. */
uint64_t seam_steal_ns(void);

/* The vCPU's thread has nothing to do but wait for another one: give up the pCPU for a moment. */
void seam_yield(void);

/* Ranks of the locks that this thread or CPU holds now: a small per-thread stack that core/lock.c
 * keeps in debug builds. Never NULL. */
struct seam_lock_trace {
    uint32_t depth;
    uint32_t rank[16];
};
struct seam_lock_trace *seam_lock_trace(void);

/* See that vm_timers_run(vm) is called on the VM's timer thread (hosted: its event loop) at
 * deadline_ns (seam_time_ns) or soon after; replaces the deadline armed before. Cheap. */
void seam_timer_arm(struct vm *vm, uint64_t deadline_ns);

/* The VM's stop reason was set (vm_stop): wake whoever waits for its end. */
void seam_vm_stopped(struct vm *vm);

/* Memory for generated code, mapped twice: never writable and executable at one address. */
struct seam_exec {
    uint8_t *write;      /* writable, not executable */
    const uint8_t *exec; /* the same bytes, executable, not writable */
    size_t size;
};
int must_check seam_exec_alloc(struct seam_exec *e, size_t size);
void seam_exec_free(struct seam_exec *e);

/* Where generated code that runs on this thread or CPU finds its data: the base of GS. */
void seam_set_frame(void *frame);

#endif
