/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * Readings of the meter. Processor time is the scheduler's: each moment of each CPU is a thread's or the idle loop's, from
 * the same reading of the clock that ends what was before. So the sums are what has passed times the CPUs, exactly, and
 * a difference is a bug. What of a VM's time is its guest's own is counted by the engine, around entry and exit, on the
 * TSC; a guest that runs while the meter is read is counted when it comes out, and is overhead until then: at most a
 * slice for each CPU, and made good at the next reading.
 *
 * Memory is the VM's RAM, from when it was taken out of the machine's frames till it is back.
 *
 * Locking: the run queue's lock for all processor time at once; each guest's lock for its memory.
 */
#include "native/meter.h"

#include "native/fleet.h"

void meter_read(struct meter_reading *r)
{
    uint32_t count = fleet_guests();

    for (uint32_t i = 0; i < count; i++)
        r->account[i] = &fleet_guest(i)->account;
    scheduler_measure(&r->all, r->account, r->raw, count);
    for (uint32_t i = 0; i < count; i++) {
        struct guest *g = fleet_guest(i);
        const struct account_use *u = &r->raw[i];

        lock_take(&g->lock);
        r->vm[i] = meter_use_of(&g->memory, u->ran_ns, u->guest_ns, u->steal_ns, r->all.now);
        lock_release(&g->lock);
    }
}
