/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * Who gets the processor, and when. Pure: no memory but the caller's, no clock but its argument,
 * which never goes back. The design stands in share/cpu.c.
 *
 * One struct share_cpus is one machine's CPUs and all who want them. Its caller holds one lock
 * around every call; "now" may have been read before it was taken, but for one CPU never goes back. The caller switches: it tells what happens (wake, stop), and asks who is next
 * (pick); what a function returns is advice that has to be followed.
 */
#ifndef LODGE_SHARE_CPU_H
#define LODGE_SHARE_CPU_H

#include "core/err.h"
#include "core/types.h"
#include "share/divide.h"

enum {
    SHARE_CPUS = 64,
    SHARE_NO_CPU = SHARE_CPUS,
    SHARE_WEIGHT_MAX = 10000,
    SHARE_SLICE_NS = 1000000,   /* what is granted at a time, to who weighs as much as others do */
    SHARE_SLICE_MIN_NS = 250000, /* and to who weighs less, of whose share a slice would be more */
    SHARE_WAKE_NS = 250000,     /* and to one that has just woken, which therefore is due earlier */
    SHARE_BUCKET_NS = 10000000, /* a limit is kept over any time longer than this */
    SHARE_BURST_FACTOR = 4,     /* weight while credit is spent, beside the plain one */
};

/* What a VM was promised. */
struct share_terms {
    uint32_t weight;      /* 1 .. SHARE_WEIGHT_MAX */
    uint32_t reservation; /* percent of one CPU that it gets whenever it wants it; 0: none */
    uint32_t limit;       /* percent of one CPU that it never exceeds; 0: none */
    uint64_t burst_ns;    /* CPU time that it may save up; 0: none */
};

enum share_state { SHARE_SLEEPS, SHARE_READY, SHARE_RUNS };

struct share_vm;

struct share_vcpu {
    struct share_vm *vm;
    uint64_t mask;    /* CPUs that it may run on, never none */
    uint32_t cpu;     /* where it runs, is queued, or ran last */
    uint8_t state;    /* enum share_state */
    bool fresh;       /* woke up, and has not run since */
    bool brief;       /* what it runs now is its first grant after that */
    bool serves;      /* not a vCPU but work that is done for them, which never waits for its turn
                         (cpu.c) */
    uint64_t since;   /* when `state` began */
    uint64_t granted; /* while it runs: for how long it may, which its VM has been charged with */
    uint64_t ran_ns, ready_ns;        /* ever: on a CPU; wanting one in vain (steal) */
    struct share_vcpu *before, *next; /* in the queue of `cpu` */
    struct share_vcpu *sibling;       /* the VM's next */
};

struct share_vm {
    struct share_terms terms;
    struct share_vcpu *vcpus;
    uint32_t vcpu_count; /* without those that serve */
    uint32_t runnable;   /* of these: READY or RUNS */
    bool active;         /* runnable != 0: it counts in the averages */
    bool bursts;         /* phi is with SHARE_BURST_FACTOR */
    bool urgent;         /* share_vm_urge */
    uint64_t v;          /* virtual time, while active */
    uint64_t phi;        /* its weight in effect, << SHARE_PHI_SHIFT */
    uint64_t quantum;    /* SHARE_SLICE_NS in its virtual time */
    uint64_t slice;      /* what it is granted at a time, in ns */
    uint64_t request, fresh_request; /* that, and SHARE_WAKE_NS, in virtual time */
    bool capped;         /* it could use no more, or may not */
    bool whole;          /* its share is all that its vCPUs can use */
    int64_t far;         /* who is so far behind in virtual time, goes first (cpu.c) */
    int64_t lag;         /* while not active: ns that it is owed (or owes, if negative) */
    uint64_t
        rate; /* parts of a CPU (SHARE_CPU), while not active: at which it works off what it owes */
    uint64_t since; /* when it became inactive */
    int64_t tokens; /* of the limit: ns that it may run */
    uint64_t tokens_at;
    int64_t reserve; /* of the reservation: ns that it has wanted and not had */
    uint64_t reserve_at;
    int64_t credit; /* ns saved up */
    uint64_t credit_at;
    uint64_t ran_ns, ready_ns;
    struct share_claim claim;       /* its part in share_divide */
    uint64_t had;                   /* claim.rate before the last division */
    struct share_vm *next_capped;   /* see share_cpus */
    struct share_vm *before, *next; /* all VMs */
};

struct share_queue {
    struct share_vcpu *first, *last; /* READY, in the order of coming */
    uint32_t count;
    struct share_vcpu *runs;
    uint64_t deadline; /* in virtual time, of what runs */
    uint64_t until;    /* when it is to stop: its grant ends, or somebody is not held by a limit any more */
    bool claimed;      /* about to pick, idle or not */
};

struct share_cpus {
    uint64_t idle;          /* CPUs that run nothing and are not about to: a bit each */
    uint32_t count, online; /* there are; take part: their capacity is divided */
    struct share_queue queue[SHARE_CPUS];
    struct share_vm *vms;
    uint32_t active;       /* VMs */
    uint64_t weight;       /* of all VMs */
    uint32_t ready;        /* queued anywhere */
    uint64_t base;         /* virtual time is base + sum / phi */
    int64_t sum;           /* of phi * (v - base) of active VMs */
    uint64_t phi;          /* of active VMs */
    uint64_t grants, ends; /* grants that run, and the sum of their ends */
    uint64_t lambda;       /* of the last division */
    uint64_t unit;         /* that, or more: what phi is measured by */
    uint64_t divided_until; /* when those so far are so long ago, on average, as they should be */
    struct share_vm *capped; /* of these, those that are, as of the last division */
    bool stale;       /* who is active has changed since */
    uint64_t release; /* when the first VM that its limit holds goes on; UINT64_MAX: none is held */
};

/* count: 1 .. SHARE_CPUS; none takes part yet. */
void share_init(struct share_cpus *s, uint32_t count);
/* This CPU picks for itself from now on: first with share_pick. */
void share_cpu_online(struct share_cpus *s, uint32_t cpu);

/* Are these terms of a VM, and can this machine keep all reservations with it? The others' are of
 * VMs that were added. OK, ERR_INVALID (a term is not in its range) or ERR_RANGE. `vm`: whose terms
 * are to be replaced; NULL: a new one's. */
int must_check share_check(const struct share_cpus *s, const struct share_vm *vm,
                           const struct share_terms *terms, uint32_t vcpus);

/* *vm has no vCPUs yet. Its terms have been checked. */
void share_vm_add(struct share_cpus *s, struct share_vm *vm, const struct share_terms *terms,
                  uint64_t now);
/* Its vCPUs have been removed. */
void share_vm_remove(struct share_cpus *s, struct share_vm *vm);
void share_vm_set(struct share_cpus *s, struct share_vm *vm, const struct share_terms *terms,
                  uint64_t now);

/* The machine's operator wants something of it that needs its vCPUs or what serves it, to end it or to let it rest: until that is taken
 * back, all that is on its account goes first, and its limit holds nobody. */
void share_vm_urge(struct share_vm *vm, bool urgent);

/* Sleeps at first. mask: CPUs, at least one below s->count. */
void share_vcpu_add(struct share_cpus *s, struct share_vm *vm, struct share_vcpu *x, uint64_t mask,
                    bool serves);
/* Sleeps. */
void share_vcpu_remove(struct share_cpus *s, struct share_vcpu *x);
/* It runs, and serves from now on, or does not: what it does next is short and holds up others, or is long. */
void share_vcpu_serve(struct share_cpus *s, struct share_vcpu *x, bool serves, uint64_t now);
/* Other CPUs that it may run on. The CPU that is to call share_pick, giving up what it runs; or SHARE_NO_CPU. */
uint32_t must_check share_vcpu_pin(struct share_cpus *s, struct share_vcpu *x, uint64_t mask,
                                   uint64_t now);

/* What a VM has had so far: CPU time of all that is on its account; and time that its vCPUs wanted a CPU in vain. */
struct share_use {
    uint64_t ran_ns, ready_ns;
};
struct share_use share_use_of(const struct share_vm *vm, uint64_t now);

/* It slept and wants to run: the CPU that is to call share_pick for it, giving up what it runs; or
 * SHARE_NO_CPU: none, its turn will come. */
uint32_t must_check share_wake(struct share_cpus *s, struct share_vcpu *x, uint64_t now);

/* What runs on a CPU stops, and sleeps or (ready) wants to go on. */
void share_stop(struct share_cpus *s, struct share_vcpu *x, bool ready, uint64_t now);

/* Who runs on that CPU, which runs nothing, from now until *until at most (then: share_stop,
 * share_pick). NULL: nobody, until share_wake says so or it is *until. */
struct share_vcpu *must_check share_pick(struct share_cpus *s, uint32_t cpu, uint64_t now,
                                         uint64_t *until);

/* share_stop of x, still ready, and share_pick for its CPU, in one. */
struct share_vcpu *must_check share_next(struct share_cpus *s, struct share_vcpu *x, uint64_t now,
                                         uint64_t *until);

/* After share_pick or share_yield: an idle CPU that is to call share_pick, since somebody is left
 * who may run there (was driven out, or is not held by its limit any more); SHARE_NO_CPU: none. */
uint32_t must_check share_spread_somebody(struct share_cpus *s, uint64_t now); /* of which this is the first look */
static inline uint32_t must_check share_spread(struct share_cpus *s, uint64_t now)
{
    return s->ready && s->idle ? share_spread_somebody(s, now) : (uint32_t)SHARE_NO_CPU;
}

/* x, which runs, waits in a loop for another vCPU of its VM. Who runs in its place, until when, as
 * share_pick: the one of its VM that has waited longest for a CPU, which gets the rest of the
 * slice. x, if there is none: what it waits for runs. */
struct share_vcpu *must_check share_yield(struct share_cpus *s, struct share_vcpu *x, uint64_t now,
                                          uint64_t *until);

/* x, which runs, gives way: whoever else has most right to the CPU runs, as share_pick; x itself, if nobody else wants to. */
struct share_vcpu *must_check share_give_way(struct share_cpus *s, struct share_vcpu *x, uint64_t now,
                                             uint64_t *until);

/* Is it time for share_next? A look without side effects, so that who need not stop need not be put
 * away. */
static inline bool share_should_stop(const struct share_cpus *s, uint32_t cpu, uint64_t now)
{
    const struct share_queue *q = &s->queue[cpu];

    return !q->runs || now >= q->until || q->claimed;
}

#endif
