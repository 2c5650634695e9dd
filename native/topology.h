/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/* Which CPUs are threads of one core (topology.c, pure). */
#ifndef LODGE_NATIVE_TOPOLOGY_H
#define LODGE_NATIVE_TOPOLOGY_H

#include "core/types.h"

typedef void topology_cpuid(uint32_t leaf, uint32_t subleaf, uint32_t r[4]);

/* How many low bits of an APIC id tell the threads of one core apart; 0: a core has one. Asked of one processor for
 * all: where cores differ (one with two threads, others with one), ids are spaced for those with most. */
uint32_t topology_thread_bits(topology_cpuid *cpuid);

#endif
