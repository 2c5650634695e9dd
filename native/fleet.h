/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/* The VMs of this machine (fleet.c). */
#ifndef LODGE_NATIVE_FLEET_H
#define LODGE_NATIVE_FLEET_H

#include "core/types.h"
#include "native/guest.h"

/* Reads the fleet file among the modules. What is wrong with it is said, and left out. True: threads of one core may run
 * different VMs. Before fleet_init, once. */
bool fleet_read(void);
/* Makes its guests, of which none has begun. In a thread, once. */
void fleet_init(void);
/* Orders all that start by themselves to start. */
void fleet_start(void);
/* Presses every power button, waits until all are off or the time is up, ends the rest. */
void fleet_stop(uint64_t patience_ns);

/* CPUs as the file counts them (those that run VMs, from 0), a bit each, as numbers of cpu_table; only of those that there are. */
uint64_t fleet_cpus(uint64_t counted);
/* Those that there are, as the file counts them. */
uint64_t fleet_cpus_there(void);

uint32_t fleet_guests(void);
struct guest *fleet_guest(uint32_t i);
/* By name; NULL: there is none. */
struct guest *fleet_find(const char *name);

#endif
