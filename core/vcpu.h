/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * The part of a vCPU that every engine and both homes share: identity, requests from elsewhere,
 * parking and rest. Registers are in x86/cpu.h, which embeds this as its first member.
 *
 * Requests: any thread may set bits; only the vCPU's own thread clears them. vcpu_request makes a
 * halted vCPU wake up and a running one leave guest code soon (the engine polls `requests`).
 */
#ifndef LODGE_CORE_VCPU_H
#define LODGE_CORE_VCPU_H

#include <stdatomic.h>

#include "core/exit.h"
#include "core/types.h"

struct vm;

enum {
    VCPU_REQ_KICK = 1 << 0, /* come out to the home's loop */
    VCPU_REQ_INTR = 1 << 1, /* local APIC or ExtINT line changed: look for an interrupt */
    VCPU_REQ_NMI = 1 << 2,
    VCPU_REQ_INIT = 1 << 3,
    VCPU_REQ_SIPI = 1 << 4, /* vector in the low byte of sipi_vector */
    VCPU_REQ_REST = 1 << 5, /* somebody wants all vCPUs at rest */
    VCPU_REQ_STOP = 1 << 6, /* the VM has stopped: leave for good */
    VCPU_REQ_PV_KICK = 1 << 7, /* KVM_HC_KICK_CPU: end a halt once */
};

struct vcpu {
    struct vm *vm;
    uint32_t id; /* 0 .. vm->vcpu_count - 1; 0 is the boot processor */
    _Atomic uint32_t requests;
    _Atomic uint32_t sipi_vector;
    /* Written under vm->rest_lock or by the own thread as said in core/vm.c. */
    _Atomic uint32_t resting; /* 1: stands at an instruction boundary and touches no guest state */
    _Atomic uint32_t inside;  /* 1: waits in vm_rest_begin, in the middle of an instruction */
    _Atomic uint32_t parked;  /* 1: sleeps on `requests`, or is about to */
    uint64_t halted_ns;       /* time spent in vcpu_park: for the meter */
    uint64_t exits[EXIT_REASONS]; /* counted by vcpu_handle_exit; own thread only */
    struct exit last_exit;        /* the newest one, for post-mortem messages */
};

/* A vCPU begins its life resting: no thread runs it. */
void vcpu_init(struct vcpu *v, struct vm *vm, uint32_t id);

/* Its thread begins (waits while somebody has the VM at rest) and ends running it. Between the two
 * the vCPU does not count as resting, except inside vcpu_park and vcpu_rest. */
void vcpu_enter(struct vcpu *v);
void vcpu_leave(struct vcpu *v);

void vcpu_request(struct vcpu *v, uint32_t bits);

/* Sleeps until a request in `mask` is pending or the deadline (seam_time_ns) has passed. Own
 * thread only, at an instruction boundary: the vCPU counts as resting meanwhile. */
void vcpu_park(struct vcpu *v, uint32_t mask, uint64_t deadline_ns);

/* Own thread, at an instruction boundary, when VCPU_REQ_REST is pending: stands still until the
 * one who asked lets go. */
void vcpu_rest(struct vcpu *v);

static inline uint32_t vcpu_requests(const struct vcpu *v)
{
    return atomic_load_explicit(&v->requests, memory_order_acquire);
}

/* Takes (clears) the given bits and says which of them were set. Own thread only. */
static inline uint32_t vcpu_take_requests(struct vcpu *v, uint32_t bits)
{
    return atomic_fetch_and_explicit(&v->requests, ~bits, memory_order_acq_rel) & bits;
}

#endif
