/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/* What share/cpu*.c share. The design stands in cpu.c. */
#ifndef LODGE_SHARE_CPU_PRIVATE_H
#define LODGE_SHARE_CPU_PRIVATE_H

#include "share/cpu.h"

enum {
    SHARE_PHI_SHIFT = 10,        /* phi of an unbounded VM is weight << this */
    SHARE_V_SHIFT = 26,          /* virtual time = (ns << this) / phi */
    SHARE_DIVIDE_NS = 1000000,   /* at most this old is what share_divide said */
    SHARE_GRANT_MIN_NS = 100000, /* a VM that its limit held goes on when it may run for so long */
    SHARE_LAG_MAX_NS = 16 * SHARE_SLICE_NS,
};

/* Virtual times wrap around; they are compared by their difference. */
static inline bool share_is_before(uint64_t a, uint64_t b)
{
    return (int64_t)(a - b) < 0;
}

/* ns of CPU in a VM's virtual time, and back. */
static inline int64_t share_to_virtual(int64_t ns, uint64_t phi)
{
    return ns * (1 << SHARE_V_SHIFT) / (int64_t)phi;
}

static inline int64_t share_to_ns(int64_t v, uint64_t phi)
{
    return v * (int64_t)phi / (1 << SHARE_V_SHIFT);
}

/* cpu_account.c */
uint64_t share_virtual_now(struct share_cpus *s);
/* A VM's first vCPU becomes runnable, its last one ceases to be. */
void share_join(struct share_cpus *s, struct share_vm *vm, uint64_t now);
void share_leave(struct share_cpus *s, struct share_vm *vm, uint64_t now);
/* Divides anew if it is time to. */
void share_divide_if_due(struct share_cpus *s, uint64_t now);
/* A VM is charged with a grant; and what was run in truth. */
void share_grant(struct share_cpus *s, struct share_vm *vm, uint64_t ns, uint64_t now);
void share_settle(struct share_cpus *s, struct share_vm *vm, uint64_t granted, uint64_t ran,
                  uint64_t now);
/* Is it a slice short of its reservation? It is active. */
bool share_is_due(struct share_vm *vm, uint64_t now);
/* For how long may it run, by its limit? */
uint64_t share_may_run(struct share_vm *vm, uint64_t now);
/* When will it be able to run again? It may not now. */
uint64_t share_released_at(const struct share_vm *vm);

#endif
