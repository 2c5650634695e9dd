/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * A machine of several CPUs, simulated in one thread of this process, on which native/'s threads run: thread.c,
 * thread.S, scheduler.c, wait.c, seam.c and guest_timer.c as they are, with headers for spin locks, this_cpu() and
 * the clock put before the real ones (tests/lib/native/native/).
 *
 * Each CPU runs until it comes to a point (a spin lock, a look at the clock, an interrupt sent, and wherever a test
 * says sim_point), where a random CPU of those that can go on does so. So the interleavings are random, at that
 * grain, and come again with the same seed. Time is a variable: it creeps from point to point, and jumps when all
 * CPUs compute (sim_work) or halt.
 *
 * Watched all the time, with an abort when it does not hold: spin locks are let go by who took them, never taken
 * twice by one CPU, always in the same order, and not held where a CPU computes, halts or takes interrupts; no
 * thread is on two CPUs, or is switched to before it was switched out; no CPU halts for good while a thread is
 * ready.
 */
#ifndef LODGE_TESTS_LIB_NATIVE_SIM_H
#define LODGE_TESTS_LIB_NATIVE_SIM_H

#include "core/types.h"
#include "native/thread.h"

enum { SIM_CPUS = 8, SIM_THREADS = 256 };

/* CPUs that schedule and have nothing to do. Same seed, same course. */
void sim_begin(uint32_t cpus, uint64_t seed);
/* Until done(), or max_points were passed; false: not done, and nobody can go on, or max_points. */
bool sim_run(bool (*done)(void), uint64_t max_points);
/* Joins the threads of sim_thread that have not been; one that has not ended is an abort: it waits for ever. */
void sim_end(void);

/* thread_create with an abort on failure, before sim_run or on a simulated thread; known to the checks. */
struct thread *sim_thread(const char *name, void (*function)(void *), void *arg);
/* On a VM's account. */
struct thread *sim_thread_for(struct account *account, const char *name, void (*function)(void *), void *arg);
/* Its thread_join. */
void sim_join(struct thread *t);

void sim_point(void);
/* As a vCPU in guest code for so long: interrupts end it for a preemption point. */
void sim_work(uint64_t ns);
uint64_t sim_random(uint64_t below);
uint64_t sim_now(void);
/* Points passed since the program began. */
uint64_t sim_points(void);

/* The nth allocation of pages or stacks from now on fails, once; 0: none. */
void sim_fail_allocation(uint32_t nth);
/* Pages and stacks that have not been given back. */
uint32_t sim_allocations(void);
/* How many spin locks the CPU holds whose turn it is. */
uint32_t sim_locks_held(void);

#endif
