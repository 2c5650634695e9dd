/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/* Which CPU this code runs on. A header of its own, so that tests, which simulate CPUs, can put theirs before it on the
 * path of includes. Read it again after everything that may move a thread to another CPU. */
#ifndef LODGE_NATIVE_THIS_CPU_H
#define LODGE_NATIVE_THIS_CPU_H

struct cpu;

static inline struct cpu *this_cpu(void)
{
    struct cpu *c;

    __asm__ volatile("mov %%gs:0, %0" : "=r"(c));
    return c;
}

#endif
