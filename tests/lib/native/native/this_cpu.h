/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/* Before native/this_cpu.h on the path of includes: the simulated CPU whose turn it is (tests/lib/native/sim.c). */
#ifndef LODGE_NATIVE_THIS_CPU_H
#define LODGE_NATIVE_THIS_CPU_H

struct cpu;

struct cpu *this_cpu(void);

#endif
