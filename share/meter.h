/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * The meter: what a VM has used, so that the cost of the machine can be shared. Pure: the clock is an argument.
 *
 * Processor time is counted by who gives it (share/cpu.h: struct share_use) and by engines (what of it was the guest's
 * own). Here it is put together: guest and overhead are all that was run on a VM's account, steal is what its vCPUs
 * wanted in vain. Memory is what is held, times how long.
 *
 * Ranges: nanoseconds in 64 bits are 584 years of one CPU. A VM's pages are at most 2^34 (64 TiB), so that
 * page-seconds in 64 bits are 2^30 seconds of the largest, and a rest below one second, times pages, is below 2^64.
 */
#ifndef LODGE_SHARE_METER_H
#define LODGE_SHARE_METER_H

#include "core/types.h"

struct meter_use {
    uint64_t guest_ns, overhead_ns, steal_ns;
    uint64_t page_s, page_ns; /* of 4 KiB: page_s whole page-seconds and page_ns / 10^9 of one */
};

struct meter_memory {
    uint64_t pages, since; /* held, from when on */
    uint64_t page_s, page_ns;
};

/* It holds so many pages from now on; it held what it held until now. */
void meter_hold(struct meter_memory *m, uint64_t pages, uint64_t now);

/* ran_ns: all that was run for it; guest_ns: by its guest, as far as it has been counted. */
struct meter_use meter_use_of(const struct meter_memory *m, uint64_t ran_ns, uint64_t guest_ns,
                              uint64_t steal_ns, uint64_t now);

void meter_add(struct meter_use *sum, const struct meter_use *use);
/* All that was run for it. */
static inline uint64_t meter_ran(const struct meter_use *use)
{
    return use->guest_ns + use->overhead_ns;
}

/* Between two readings of a counter. A CPU may have read its clock before another one read the meter, and be heard of later: then nothing has
 * passed. */
static inline uint64_t meter_passed(uint64_t before, uint64_t after)
{
    return after > before ? after - before : 0;
}

/* What was used between two readings. */
struct meter_use meter_between(const struct meter_use *before, const struct meter_use *after);

#endif
