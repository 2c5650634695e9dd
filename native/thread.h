/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * Threads (thread.c), who runs (scheduler.c), waiting (wait.c). Interrupts are off in all of them. docs/native.md,
 * "CPUs, interrupts, threads".
 */
#ifndef LODGE_NATIVE_THREAD_H
#define LODGE_NATIVE_THREAD_H

#include <stdatomic.h>
#include <stdnoreturn.h>

#include "core/err.h"
#include "core/seam.h"
#include "core/types.h"
#include "share/cpu.h"

struct cpu;
struct spin;

enum {
    THREAD_NAME = 48,
    THREAD_STACK = 32 << 10,
};

enum thread_state { THREAD_READY, THREAD_RUNS, THREAD_WAITS, THREAD_ENDED };

/* Who pays for threads. */
struct account {
    struct share_vm share;
    uint64_t guest_ticks; /* of the TSC, that CPUs spent in its guest; under the run queue's lock, as the next */
    uint64_t measured_ticks; /* scheduler_measure's */
};

struct thread {
    char name[THREAD_NAME];
    uint64_t rsp; /* while it does not run; what else is saved lies there (thread.S) */
    void *stack;
    void (*function)(void *arg);
    void *arg;

    /* scheduler.c, under the run queue's lock */
    uint32_t state;          /* enum thread_state */
    struct share_vcpu share; /* an idle thread's: only since and ran_ns */
    struct account own;      /* its account, if it has none in common with others */

    /* wait.c */
    _Atomic uint32_t *word;    /* under the wait queue's lock, and so the next two */
    struct thread *wait_next;
    bool queued;               /* in that queue */
    _Atomic bool woken;        /* who sets it, a waker or the deadline, makes the thread ready */
    uint64_t deadline;         /* under its CPU's deadline_lock, and so the next two */
    struct thread *deadline_next, *deadline_before;
    struct cpu *deadline_cpu;  /* in whose list it is; NULL: in none */

    _Atomic uint32_t ended;    /* 1: its function has returned; thread_join waits on it */
    void (*on_switch)(void *owner); /* hw_on_switch */
    void *on_switch_owner;
    struct seam_lock_trace lock_trace;
};

/* Makes a thread that runs function(arg) from now on; ends when it returns. ERR_NO_MEMORY. It is there until
 * thread_join. */
int must_check thread_create(struct thread **t, const char *name, void (*function)(void *), void *arg);
/* For a VM: on its account, on these CPUs (bits; at least one that there is). serves: it does a VM's devices' work,
 * which is short and does not wait for its turn. */
int must_check thread_create_for(struct thread **t, struct account *account, uint64_t cpus, bool serves, const char *name,
                                 void (*function)(void *), void *arg);
/* Waits until it has ended, and frees it. */
void thread_join(struct thread *t);
/* NULL: this CPU does not schedule yet. */
struct thread *thread_current(void);

/* thread.c, for scheduler.c. Registers that a function preserves go onto the stack, whose pointer goes to *save; then
 * the other stack is loaded, and what lies there returns. (thread.S) */
void thread_switch(uint64_t *save, uint64_t load);
/* A thread without a stack: the one that calls becomes it when it is switched out. NULL: no memory. */
struct thread *thread_adopt(const char *name);

/* This CPU begins to schedule: the calling stack becomes its idle thread's. */
noreturn void scheduler_run(void);
/* With all CPUs in the table, before the first thread. */
void scheduler_init(void);
/* A thread that is ready for the first time. account: NULL: its own. */
void scheduler_start(struct thread *t, struct account *account, uint64_t cpus, bool serves);
/* A VM's account, for good. The terms have been checked (machine/fleet.c). */
void scheduler_account_add(struct account *account, const struct share_terms *terms);
/* Other terms, which have been checked. */
void scheduler_account_set(struct account *account, const struct share_terms *terms);
/* share_vm_urge. */
void scheduler_urge(struct account *account, bool urgent);
/* The current thread, which is on a VM's account, does what is short and holds up others from now on, or does not. */
void scheduler_serve(bool serves);
/* Other CPUs for a thread that has not ended: at least one that there is. */
void scheduler_pin(struct thread *t, uint64_t cpus);

/* What was used until one moment, in ns. */
struct account_use {
    uint64_t ran_ns, guest_ns, steal_ns;
};
/* Where all CPUs' time went: cpus * now = before + idle + own + what all VMs' accounts ran. */
struct scheduler_use {
    uint64_t now;       /* seam_time_ns */
    uint64_t before_ns; /* until CPUs began to schedule */
    uint64_t idle_ns;
    uint64_t own_ns; /* by threads that are no VM's */
};
/* use[i] of account[i], [0 .. count): all VMs' accounts. */
void scheduler_measure(struct scheduler_use *all, struct account *const account[], struct account_use use[], uint32_t count);
/* The current thread is never run again, and its stack not used any more when scheduler_ended says so. */
noreturn void scheduler_exit(void);
bool scheduler_ended(struct thread *t);
/* The first thing on the stack of a thread that was just switched to. */
void scheduler_arrived(void);
/* Another one's turn? Then it runs; returns when it is this one's again. */
void scheduler_preempt(void);
void scheduler_yield(void);
/* A thread that waits is ready; another CPU is told if need be. With wait queues' and deadline locks held or not. */
void scheduler_wake(struct thread *t);
/* What hw_on_switch left with the current thread is called and forgotten: before scheduler_block, no lock held. */
void scheduler_leave(void);
/* The current thread has been put where a waker finds it, and *queue, a spin lock that is held, is let go when it
 * cannot be missed any more; returns when it was woken. */
void scheduler_block(struct spin *queue);
/* From the timer's interrupt handler: only notes. */
void scheduler_timer_fired(void);

/* core/seam.h's seam_wait and seam_wake. */
void wait_on(_Atomic uint32_t *word, uint32_t expected, uint64_t deadline_ns);
void wait_wake(_Atomic uint32_t *word, bool all);
/* Wakes who waits with a deadline in this CPU's list that is not after now. */
void wait_expire(struct cpu *c, uint64_t now);

#endif
