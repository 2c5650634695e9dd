/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/* Time on the bare machine, by the TSC (clock.c). seam_time_ns and its kin are made of these (seam_time.c). */
#ifndef LODGE_NATIVE_CLOCK_H
#define LODGE_NATIVE_CLOCK_H

#include <stdatomic.h>

#include "core/err.h"
#include "core/types.h"
#include "native/acpi.h"

/*
 * Measures the TSC, maps what it is measured by (map_device), reads the wall clock. Before it clock_ns is 0. One
 * line on the result in message, whether it is good or bad; message_size > 0. ERR_UNSUPPORTED: the TSC cannot be
 * had. Once, on the boot CPU, interrupts off, some tens of ms.
 */
int must_check clock_init(const struct acpi *a, char *message, size_t message_size);

/* Nanoseconds since clock_init; never goes back; the same on all CPUs. Any CPU, any time; 584 years. */
uint64_t clock_ns(void);
/* The TSC at that clock_ns: the first value at which clock_ns is not less. UINT64_MAX: never. */
uint64_t clock_tsc_at(uint64_t ns);
uint32_t clock_tsc_khz(void);
/* Nanoseconds since 1970 by the real-time clock as it was at clock_init; since clock_init itself if that had no
 * date. */
uint64_t clock_wall_ns(void);

/*
 * Do two CPUs' TSCs agree? Both call it at about the same time, interrupts off, with the same *p (zeroed) and sides
 * 0 and 1; about a millisecond. The same for both: OK, neither has seen the other's TSC ahead of its own;
 * ERR_UNSUPPORTED, one has, by p->ahead ticks at least (for side 0 to read): then call clock_distrust. ERR_BUSY:
 * the other one did not come within a second.
 */
struct clock_pair {
    _Atomic uint32_t turn, done;
    _Atomic uint64_t stamp;
    _Atomic int64_t least[2]; /* by side: the least time that a stamp of the other one's took */
    int64_t ahead;
};
int must_check clock_check_pair(struct clock_pair *p, uint32_t side);
/* TSCs disagree: from now on clock_ns sees to it that it does not go back by a word that all CPUs share (slower).
 */
void clock_distrust(void);

#endif
