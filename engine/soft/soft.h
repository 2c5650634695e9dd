/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/* Between the soft engine's files: its data per vCPU. */
#ifndef LODGE_ENGINE_SOFT_SOFT_H
#define LODGE_ENGINE_SOFT_SOFT_H

#include "engine/soft/block.h"
#include "x86/step.h"

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

/* DR7.L0 .. G3 */

/*
 * Is there anything to see to before the next block? An interrupt that is pending while IF is clear
 * is not: whatever sets IF ends its block, so it is found then, and a long stretch with interrupts
 * off runs at full speed. RFLAGS.IF (bit 9) is moved to where VCPU_REQ_INTR is.
 */
static always_inline bool soft_needs_attention(const struct x86_cpu *cpu)
{
    _Static_assert(X86_FLAG_IF >> 8 == VCPU_REQ_INTR, "IF is shifted onto the request");
    uint64_t wanted = ~(uint64_t)VCPU_REQ_INTR | (cpu->rflags >> 8 & VCPU_REQ_INTR);
    return ((vcpu_requests(&cpu->vcpu) & wanted) | cpu->shadow | (cpu->dr7 & X86_DR7_ENABLES) |
            (cpu->rflags & (X86_FLAG_TF | X86_FLAG_RF)) | cpu->nmi_pending | cpu->debug_pending |
            cpu->late_code) != 0;
}

static inline struct translator *soft_translator(const struct x86_cpu *cpu)
{
    const struct soft_vcpu *s = cpu->engine;
    return s ? s->translator : NULL;
}

#endif
