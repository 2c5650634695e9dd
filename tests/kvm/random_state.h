/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/* Random states of a processor and its local APIC that a guest could have reached: random_state.c,
 * random_apic.c. */
#ifndef LODGE_TESTS_KVM_RANDOM_STATE_H
#define LODGE_TESTS_KVM_RANDOM_STATE_H

#include "x86/cpu.h"

enum { RANDOM_PDPT = 0x8000, RANDOM_PAGES = 0x10000 }; /* guest memory that states use */

struct rng {
    uint64_t state; /* not 0 */
};

/* xorshift64* (Vigna 2016) */
static inline uint64_t rng_next(struct rng *r)
{
    r->state ^= r->state >> 12;
    r->state ^= r->state << 25;
    r->state ^= r->state >> 27;
    return r->state * UINT64_C(0x2545F4914F6CDD1D);
}

static inline uint32_t rng_below(struct rng *r, uint32_t n)
{
    return (uint32_t)((rng_next(r) >> 32) * n >> 32);
}

static inline bool rng_one_in(struct rng *r, uint32_t n)
{
    return rng_below(r, n) == 0;
}

/* The vCPU's whole state; it belongs to a machine under soft, at rest. */
void random_state(struct x86_cpu *cpu, struct rng *r);
/* Its local APIC: part of random_state. */
void random_apic(struct x86_cpu *cpu, struct rng *r);
/* WRMSR that must not fault. */
void random_wrmsr(struct x86_cpu *cpu, uint32_t index, uint64_t value);

#endif
