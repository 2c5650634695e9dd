/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/* What share/cpu*.c share. The design stands in cpu.c. */
#ifndef LODGE_SHARE_CPU_PRIVATE_H
#define LODGE_SHARE_CPU_PRIVATE_H

#include "share/cpu.h"

enum {
    SHARE_PHI_SHIFT = 10,        /* phi of an unbounded VM is weight << this */
    SHARE_V_SHIFT = 26,          /* virtual time = (ns << this) / phi */
    SHARE_DIVIDE_NS = 25000, /* for each active VM: on average, divisions are at least so far apart */
    SHARE_GRANT_MIN_NS = 100000, /* a VM that its limit held goes on when it may run for so long */
    SHARE_LAG_MAX_NS = 16 * SHARE_SLICE_NS,
    SHARE_BEHIND_MOST = 8, /* slices: more is nobody owed who is active */
};

/* Virtual times wrap around; they are compared by their difference. */
static inline bool share_is_before(uint64_t a, uint64_t b)
{
    return (int64_t)(a - b) < 0;
}

/* CPUs may have read their clocks in another order than they come here. */
static inline uint64_t share_elapsed(uint64_t now, uint64_t since)
{
    return now > since ? now - since : 0;
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
/* A VM's first vCPU becomes runnable, its last one ceases to be. */
void share_join(struct share_cpus *s, struct share_vm *vm, uint64_t now);
void share_leave(struct share_cpus *s, struct share_vm *vm, uint64_t now);
/* While it is not active: what it is owed (owes, if negative), in ns. */
int64_t share_lag_after_sleep(const struct share_vm *vm, uint64_t now);
/* Divides anew if it is time to, as somebody wants to run, or does not any more. */
enum share_change { SHARE_CAME, SHARE_WENT };
void share_divide_if_due(struct share_cpus *s, uint64_t now, enum share_change change);
/* What is at the path of each switch stands here, to be inlined: a VM is charged with a grant, and what it has not used of it is given
 * back. */
#define SHARE_CHARGE_MAX ((int64_t)1 << 30)

void share_charge_absent(struct share_vm *vm, int64_t ns, uint64_t now);
void share_forget_excess(struct share_cpus *s, struct share_vm *vm, uint64_t virtual_now);
void share_settle_bounds(struct share_cpus *s, struct share_vm *vm, int64_t unused, uint64_t ran,
                         uint64_t now);

/* The base moves along, so that `sum` stays small. */
static always_inline uint64_t share_virtual_now(struct share_cpus *s)
{
    int64_t step;

    if (!s->phi)
        return s->base;
    step = s->sum / (int64_t)s->phi;
    s->base += (uint64_t)step;
    s->sum -= step * (int64_t)s->phi;
    return s->base;
}

static inline int64_t share_bounded(int64_t v, int64_t low, int64_t high)
{
    return v < low ? low : v > high ? high : v;
}

static always_inline void share_charge(struct share_cpus *s, struct share_vm *vm, int64_t ns,
                                       uint64_t now)
{
    int64_t step;

    ns = share_bounded(ns, -SHARE_CHARGE_MAX, SHARE_CHARGE_MAX);
    if (unlikely(!vm->active)) {
        share_charge_absent(vm, ns, now);
        return;
    }
    step = share_to_virtual(ns, vm->phi);
    vm->v += (uint64_t)step;
    s->sum += step * (int64_t)vm->phi;
}

static always_inline void share_grant(struct share_cpus *s, struct share_vm *vm, uint64_t ns,
                                      uint64_t now, uint64_t virtual_now)
{
    if (unlikely(vm->active && share_is_before(vm->v, virtual_now - SHARE_BEHIND_MOST * vm->quantum)))
        share_forget_excess(s, vm, virtual_now);
    share_charge(s, vm, (int64_t)ns, now);
    vm->reserve -= (int64_t)ns;
    s->grants++;
    s->ends += now + ns;
    vm->tokens -= (int64_t)ns; /* means nothing without a limit */
}

static always_inline void share_settle(struct share_cpus *s, struct share_vm *vm, uint64_t since,
                                       uint64_t granted, uint64_t ran, uint64_t now)
{
    int64_t unused = (int64_t)granted - (int64_t)ran;

    s->grants--;
    s->ends -= since + granted;
    share_charge(s, vm, -unused, now);
    vm->reserve += unused;
    vm->ran_ns += ran;
    if (unlikely(vm->terms.limit || vm->terms.burst_ns))
        share_settle_bounds(s, vm, unused, ran, now);
}

/* By how many ns is it short of its reservation? It is active. */
int64_t share_owed_of_reserve(struct share_vm *vm, uint64_t now);
/* For how long may it run, by its limit? */
uint64_t share_may_run(struct share_vm *vm, uint64_t now);
/* When will it be able to run again? It may not now. */
uint64_t share_released_at(const struct share_vm *vm);

#endif
