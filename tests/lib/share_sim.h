/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * The machine on which share/cpu.c is simulated: CPUs, VMs whose vCPUs compute, sleep and spin, and a clock that jumps
 * from event to event. At every step is checked, over any time that ends there and by figures of its own (bisection,
 * in floating point): nobody is behind what it was promised; no limit is exceeded; credit comes from nothing but
 * unused share; no CPU idles while somebody may run there; nobody runs twice at once.
 */
#ifndef LODGE_TESTS_LIB_SHARE_SIM_H
#define LODGE_TESTS_LIB_SHARE_SIM_H

#include "share/cpu.h"

enum { SIM_VMS = 160, SIM_VCPUS = 4 };
#define MS ((uint64_t)1000000)
#define US ((uint64_t)1000)

struct sim_vm;

/* Of something real: it worked so long, then slept so long; microseconds. */
struct sim_load {
    uint32_t work, rest;
};

struct sim_vcpu {
    struct share_vcpu share;
    struct sim_vm *vm;
    uint64_t work, rest; /* the pattern: computes so long, then sleeps so long; rest 0: never */
    uint32_t jitter;     /* percent that they vary by */
    const struct sim_load *load; /* or what was recorded, over and over */
    uint32_t loads, next_load;
    uint64_t spins;      /* after so long on a CPU, it yields to its siblings; 0: never */
    uint64_t left;       /* of the present work */
    uint64_t wakes_at;   /* UINT64_MAX: does not sleep */
    uint64_t ran;
    uint64_t woke;    /* when; for the latency */
    bool waits_first; /* has not run since */
};

struct sim_vm {
    struct share_vm share;
    struct sim_vcpu vcpu[SIM_VCPUS + 1]; /* the last of them may serve */
    uint32_t count;  /* of its vCPUs */
    uint32_t all;    /* with the one that serves */
    uint64_t ran, seen;
    double sure;              /* its share if all others wanted theirs, too */
    double behind, owed_most; /* that share's part of the time that it has wanted all its vCPUs,
                                 less what it ran */
    double over, over_most;   /* what it ran, less its limit's part of the time */
    double baseline, credit;  /* at which it saves up; what it can have at most */
};

struct sim_cpu {
    struct sim_vcpu *runs;
    uint64_t until, began;
    bool kicked;
};

struct sim {
    struct share_cpus share;
    uint32_t cpus, vms;
    struct sim_vm vm[SIM_VMS];
    struct sim_cpu cpu[SHARE_CPUS];
    uint64_t now, random, steps;
    uint64_t latency_count, latency[200000];
};
extern struct sim sim;
extern uint64_t sim_seed;

/* A machine without VMs. Same seed and number, same course. */
void sim_begin(uint32_t cpus, uint64_t number);
uint64_t sim_random(uint64_t below);
/* Its vCPUs compute without end, for now. */
struct sim_vm *sim_add_vm(struct share_terms terms, uint32_t vcpus);
void sim_set_pattern(struct sim_vm *v, uint64_t work, uint64_t rest, uint32_t jitter);
/* One of its vCPUs works and sleeps as that was recorded, from anywhere in it. */
void sim_set_load(struct sim_vcpu *x, const struct sim_load *load, uint32_t count);
/* Besides its vCPUs, of which it has SIM_VCPUS at most: its devices, in this pattern. */
void sim_add_server(struct sim_vm *v, uint64_t work, uint64_t rest, uint32_t jitter);
/* CPUs of its part if all others wanted all that they can use. */
double sim_promised(const struct sim_vm *v);
/* What is watched from now on; when all VMs are there. */
void sim_promise(void);
/* CPU time that it had so far. */
uint64_t sim_ran(const struct sim_vm *v);
/* To the next event, or `end`. */
void sim_step(uint64_t end);
void sim_run(uint64_t ns);

#endif
