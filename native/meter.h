/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/* What the fleet's VMs have used, and where all of the machine's processor time went (meter.c). */
#ifndef LODGE_NATIVE_METER_H
#define LODGE_NATIVE_METER_H

#include "machine/fleet.h"
#include "native/thread.h"
#include "share/meter.h"

struct meter_reading {
    struct scheduler_use all;
    struct meter_use vm[FLEET_VMS]; /* by its number in the fleet: [0 .. fleet_guests()) */
    struct account *account[FLEET_VMS];
    struct account_use raw[FLEET_VMS];
};

/* All at one moment, r->all.now. Any thread; *r is too large for a stack. */
void meter_read(struct meter_reading *r);
#endif
