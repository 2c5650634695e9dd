/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * What emitted code reaches through GS: per vCPU, at fixed offsets.
 *
 * The first page is what emitted code may spill to; a later mode may leave it writable by the guest.
 * Everything after it is what emitted code trusts: helper addresses, TLB, jump cache.
 *
 * TLB. An entry is found by bits 12 to 27 of the linear address, and holds minus the page's linear
 * address, so that adding an address leaves its offset in the page, or something with a bit above
 * bit 27. Three arrays rather than one of structures: an index register can be scaled by 8 at most,
 * and neighbouring pages share cache lines.
 *
 * Jump cache. By 16 bits of RIP plus RIP / 4096 (functions begin at multiples of 16): minus RIP, and
 * the code to go to. Instructions that go on in the next page have tables of their own, by that page's
 * address: any value whatever may be where a jump is to go.
 */
#ifndef LODGE_ENGINE_SOFT_FRAME_H
#define LODGE_ENGINE_SOFT_FRAME_H

#include <stdatomic.h>

#include "core/types.h"
#include "x86/cpu.h"

enum {
    FRAME_INDEX_BITS = 16, /* what MOVZX takes from a register without touching flags */
    FRAME_INDEXES = 1 << FRAME_INDEX_BITS,
    FRAME_CONTEXTS = X86_TLB_NONE, /* kernel, kernel with SMAP suspended, user */
    FRAME_CROSS = FRAME_CONTEXTS,  /* first of the jump tables for second pages */
    FRAME_JUMPS = 2 * FRAME_CONTEXTS,
    /* In the addends of the TLB: so that their low six bits are a count for SHRX. */
    FRAME_TLB_BIAS = PAGE_SHIFT,
};

/* Guest registers that have no host register: R10 R11 R14 R15. */
enum { FRAME_DISPLACED = 4, FRAME_LOOP_ADDENDS = 4 };

/* Why emitted code calls. */
enum frame_stub {
    STUB_MISS,   /* the TLB does not have the page: fill and try again, or interpret the instruction */
    STUB_CALL,   /* interpret this instruction */
    STUB_POLL,   /* somebody wants the vCPU: leave, RIP at this instruction */
    STUB_CHAIN,  /* the block that follows is not linked yet */
    STUB_BRANCH, /* the target is not in the jump cache: interpret the branch, then look it up */
    STUB_STALE,  /* the block was invalidated */
    STUB_CROSS,  /* is the second page of an instruction the one that it was translated from? */
    STUB_VECTOR, /* vector registers are not loaded */
    STUB_COUNT,
};

struct translator;

struct frame_tlb {
    uint64_t addend[FRAME_INDEXES]; /* host address = linear address + addend - FRAME_TLB_BIAS */
    uint64_t read[FRAME_INDEXES];   /* minus the page's linear address */
    uint64_t write[FRAME_INDEXES];
};

struct frame_jump {
    uint64_t minus_rip;
    const uint8_t *code;
};

struct frame {
    /* --- spilled to --- */
    uint64_t displaced[FRAME_DISPLACED];
    uint64_t page;    /* linear address of the page of the running block */
    uint64_t address; /* R11 at stubs: the linear address of a memory operand, or RIP */
    uint64_t kept;    /* across a second address check in one instruction */
    uint64_t instructions; /* executed, if they are counted */
    uint8_t spill_end[PAGE_SIZE - 8 * (FRAME_DISPLACED + 4)];

    /* --- trusted --- */
    _Atomic uint32_t go;   /* 0: leave at the next poll */
    uint32_t vectors_dead; /* 0: guest vector registers are in the host's */
    uint32_t kind;         /* enum frame_stub of the call under way */
    uint32_t host_mxcsr;
    uint64_t segment_base[2];         /* FS, GS */
    uint64_t mask_status;               /* RFLAGS: status flags, the others, all but IF */
    uint64_t mask_system, mask_not_if, mask_not_df;
    uint64_t mask_sign[2], mask_bit[2]; /* of 32 and 64 bits: the sign; the offset of a bit */
    struct x86_cpu *cpu;
    struct translator *translator;
    const uint8_t *resume; /* where emitted code goes on */
    const uint8_t *(*land)(struct translator *, const uint8_t *ret); /* behind all stubs */
    uint64_t loop_addend[FRAME_LOOP_ADDENDS]; /* of the groups of a loop under way (tr_loop.c) */
    uint8_t trusted_end[PAGE_SIZE - 16 - 16 - 96 - 8 * FRAME_LOOP_ADDENDS];

    struct frame_tlb tlb[FRAME_CONTEXTS];
    struct frame_jump jump[FRAME_JUMPS][FRAME_INDEXES]; /* by context; FRAME_CROSS + context */
};

_Static_assert(offsetof(struct frame, go) == PAGE_SIZE, "spill area and the rest are apart");
_Static_assert(offsetof(struct frame, tlb) == 2 * PAGE_SIZE, "pages by purpose");

/* Values that no address makes a hit. Zero does, since a page with that index is not page 0, but for
 * the first FRAME_ALIGN_MAX indexes (an operand that has to be aligned to 2^n bytes is checked from bit
 * 12 + n on) and the last one (an operand that ends beyond the address space). There it is a page
 * that differs from all of this index in bit 27. */
enum { FRAME_ALIGN_MAX = 32, FRAME_TLB_SPECIAL = FRAME_ALIGN_MAX };

static inline uint64_t frame_tlb_none(uint32_t index)
{
    bool special = index < FRAME_TLB_SPECIAL || index == FRAME_INDEXES - 1;
    return special ? -((uint64_t)(index ^ 1u << (FRAME_INDEX_BITS - 1)) << PAGE_SHIFT) : 0;
}

static inline uint32_t frame_jump_index(uint64_t rip)
{
    return (uint32_t)(rip + (rip >> PAGE_SHIFT)) & (FRAME_INDEXES - 1);
}

static inline uint64_t frame_jump_none(uint32_t index)
{
    return index == 0 ? 1 : 0;
}

#endif
