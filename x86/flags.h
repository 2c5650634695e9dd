/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * Status flags, exactly as a processor makes them: handlers execute the guest's operation with the
 * host's own instruction and take the flags over. So flags that the manual calls undefined come out
 * like the host's, too.
 *
 * The carrier between inline assembly and C is RAX as LAHF and SETO leave it: AH holds SF ZF 0 AF 0
 * PF 1 CF (bits 7 to 0, the same places as in RFLAGS), AL holds OF. It is about twice as fast as
 * PUSHF, and sets are much faster than POPF, which could also set TF.
 */
#ifndef LODGE_X86_FLAGS_H
#define LODGE_X86_FLAGS_H

#include "x86/cpu.h"

/* At the end of an asm template whose "a" output is the carrier. */
#define X86_ASM_SAVE_FLAGS "\n\tlahf\n\tseto %%al"
/* At its beginning; the carrier is an "a" input. OF is made by 7Fh + 1. */
#define X86_ASM_LOAD_FLAGS "addb $0x7f, %%al\n\tsahf\n\t"

#define X86_FLAGS_NOT_CF (X86_FLAGS_STATUS & ~X86_FLAG_CF)

/* The carrier for the status flags of rflags. */
static always_inline uint64_t x86_flags_pack(uint64_t rflags)
{
    return (rflags & 0xFF) << 8 | (rflags >> 11 & 1);
}

/* Status flags from the carrier, and bit 1, which is always set in RFLAGS. */
static always_inline uint64_t x86_flags_unpack(uint64_t carrier)
{
    return (uint64_t)(uint8_t)(carrier >> 8) | (uint64_t)(uint8_t)carrier << 11;
}

/* Takes the flags in `mask` over from the carrier. */
static always_inline void x86_flags_merge(struct x86_cpu *cpu, uint64_t mask, uint64_t carrier)
{
    uint64_t flags = x86_flags_unpack(carrier);
    if (mask != X86_FLAGS_STATUS)
        flags &= mask;
    cpu->rflags = (cpu->rflags & ~mask) | flags;
}

static always_inline void x86_flag_set(struct x86_cpu *cpu, uint64_t flag, bool on)
{
    cpu->rflags = (cpu->rflags & ~flag) | (on ? flag : 0);
}

/* Condition codes (SDM 1, appendix B.1), low nibble of Jcc, SETcc, CMOVcc: X(number, name, test).
 */
#define X86_CONDITIONS(X)                                                                          \
    X(0, o, (f & X86_FLAG_OF) != 0)                                                                \
    X(1, no, (f & X86_FLAG_OF) == 0)                                                               \
    X(2, b, (f & X86_FLAG_CF) != 0)                                                                \
    X(3, ae, (f & X86_FLAG_CF) == 0)                                                               \
    X(4, e, (f & X86_FLAG_ZF) != 0)                                                                \
    X(5, ne, (f & X86_FLAG_ZF) == 0)                                                               \
    X(6, be, (f & (X86_FLAG_CF | X86_FLAG_ZF)) != 0)                                               \
    X(7, a, (f & (X86_FLAG_CF | X86_FLAG_ZF)) == 0)                                                \
    X(8, s, (f & X86_FLAG_SF) != 0)                                                                \
    X(9, ns, (f & X86_FLAG_SF) == 0)                                                               \
    X(10, p, (f & X86_FLAG_PF) != 0)                                                               \
    X(11, np, (f & X86_FLAG_PF) == 0)                                                              \
    X(12, l, ((f ^ f >> 4) & X86_FLAG_SF) != 0)                                                    \
    X(13, ge, ((f ^ f >> 4) & X86_FLAG_SF) == 0)                                                   \
    X(14, le, (((f ^ f >> 4) & X86_FLAG_SF) | (f & X86_FLAG_ZF)) != 0)                             \
    X(15, g, (((f ^ f >> 4) & X86_FLAG_SF) | (f & X86_FLAG_ZF)) == 0)

#define X86_DEFINE_CONDITION(number, name, test)                                                   \
    static always_inline bool x86_condition_##name(const struct x86_cpu *cpu)                      \
    {                                                                                              \
        uint64_t f = cpu->rflags;                                                                  \
        return test;                                                                               \
    }
X86_CONDITIONS(X86_DEFINE_CONDITION)
#undef X86_DEFINE_CONDITION

#endif
