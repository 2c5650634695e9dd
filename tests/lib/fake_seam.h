/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * The fake seam: core/seam.h for tests. The clock stands still until a test moves it; page
 * allocations can be made to fail; log lines are kept; panics can be expected.
 */
#ifndef LODGE_TESTS_LIB_FAKE_SEAM_H
#define LODGE_TESTS_LIB_FAKE_SEAM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct vm;

/* Moves the clock; timers armed by seam_timer_arm are run (vm_timers_run) as their time comes. */
void fake_seam_advance(uint64_t ns);
/* From now on the clock is the host's own (for tests with threads). */
void fake_seam_real_time(bool on);
void fake_seam_set_wall(uint64_t ns);
/* What seam_steal_ns says, on every thread; 0 at first. */
void fake_seam_set_steal(uint64_t ns);

/* The nth seam_pages_alloc or seam_exec_alloc from now fails (1: the next); 0: none. */
void fake_seam_fail_allocation(unsigned int nth);
/* Allocations that were not freed. */
unsigned int fake_seam_allocations(void);

/* Newest log line, "" if none. */
const char *fake_seam_last_log(void);

/* Random bytes are a fixed sequence; this starts it anew. */
void fake_seam_seed(uint64_t seed);

#endif
