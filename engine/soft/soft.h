/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/* Between the soft engine's files: its data per vCPU. */
#ifndef LODGE_ENGINE_SOFT_SOFT_H
#define LODGE_ENGINE_SOFT_SOFT_H

#include "engine/soft/block.h"

struct translator;

/* cpu->engine */
struct soft_vcpu {
    struct block_cache cache;
    struct translator *translator; /* NULL: everything is interpreted */
    uint64_t blocks;               /* run by the interpreter */
    uint64_t stepped;              /* instructions run alone */
    uint64_t uncached;             /* instructions that no block can hold */
    uint64_t faults;
    uint64_t events;
};

static inline struct translator *soft_translator(const struct x86_cpu *cpu)
{
    const struct soft_vcpu *s = cpu->engine;
    return s ? s->translator : NULL;
}

#endif
