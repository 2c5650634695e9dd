/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * What the handlers of SIMD and x87 instructions share: may the instruction run at all, where is
 * its memory operand. Private to x86/op_simd*.c, x86/op_x87*.c and x86/op_fpstate*.c.
 */
#ifndef LODGE_X86_SIMD_H
#define LODGE_X86_SIMD_H

#include "core/mem.h"
#include "x86/mem.h"
#include "x86/native.h"

/* x87 status word (SDM 1, 8.1.3) and MXCSR (10.2.3) */
#define X87_FSW_EXCEPTIONS 0x003Fu
#define X87_FSW_SF         0x0040u
#define X87_FSW_ES         0x0080u
#define X87_FSW_CONDITIONS 0x4700u
#define X87_FSW_TOP        0x3800u
#define X87_FSW_BUSY       0x8000u
#define X87_FSW_TOP_SHIFT  11
/* Control word bits that exist, and bit 6, which always reads as 1 */
#define X87_FCW_WRITABLE 0x1F3Fu
#define X87_FCW_FIXED    0x0040u

#define MXCSR_FLAGS          0x003Fu
#define MXCSR_PRECOMPUTATION 0x0007u /* IE, DE, ZE */
#define MXCSR_MASKS          0x1F80u
#define MXCSR_UM             0x0800u
#define MXCSR_FTZ            0x8000u
#define MXCSR_WRITABLE       0xFFFFu
#define MXCSR_MASK_SHIFT     7

/* --- may it run? (SDM 3A 2.5, 13.1; volume 2, 2.4) --- */

int simd_refuse(struct x86_cpu *cpu, bool vex);
int simd_check_mmx(struct x86_cpu *cpu);

/* XMM and YMM registers: legacy SSE or VEX. X86_OK or a recorded #UD or #NM. */
static always_inline int simd_check(struct x86_cpu *cpu, bool vex)
{
    if (vex) {
        const uint64_t avx = X86_XCR0_SSE | X86_XCR0_AVX;
        if (likely(!(cpu->cr0 & X86_CR0_TS) && (cpu->cr4 & X86_CR4_OSXSAVE) &&
                   (cpu->xcr0 & avx) == avx && cpu->protected_mode))
            return X86_OK;
    } else if (likely(!(cpu->cr0 & (X86_CR0_TS | X86_CR0_EM)) && (cpu->cr4 & X86_CR4_OSFXSR))) {
        return X86_OK;
    }
    return simd_refuse(cpu, vex);
}

/* --- memory operands --- */

/* Linear address of i's memory operand, with the alignment check. */
static always_inline int simd_address(struct x86_cpu *cpu, const struct insn *i, int access,
                                      uint64_t *linear)
{
    int s = x86_operand(cpu, i, i->memsize, access, linear);
    if (unlikely(s != X86_OK))
        return s;
    if (unlikely((i->simd & SIMD_ALIGNED) && (*linear & (i->memsize - 1u))))
        return x86_fault(cpu, X86_GP, 0);
    return X86_OK;
}

/*
 * Where an instruction finds its source: in guest RAM, or copied to `bounce` where that is not
 * directly reachable.
 */
static always_inline int simd_source(struct x86_cpu *cpu, const struct insn *i, void *bounce,
                                     void **source)
{
    uint64_t linear;
    int s = simd_address(cpu, i, X86_READ, &linear);
    if (unlikely(s != X86_OK))
        return s;
    s = x86_mem_host(cpu, linear, i->memsize, X86_READ, source);
    if (likely(s == X86_OK && *source))
        return X86_OK;
    if (s != X86_OK)
        return s;
    *source = bounce;
    return x86_read_bytes(cpu, linear, bounce, i->memsize);
}

/* Where a result goes; *host is NULL if x86_write_bytes to *linear has to do it. The access is
 * permitted either way, so nothing can fault after the instruction ran. */
static always_inline int simd_destination(struct x86_cpu *cpu, const struct insn *i,
                                          uint64_t *linear, void **host)
{
    int s = simd_address(cpu, i, X86_WRITE, linear);
    if (unlikely(s != X86_OK))
        return s;
    return x86_mem_host(cpu, *linear, i->memsize, X86_WRITE, host);
}

/* Ends a store: the result is at host, or in bounce if host is NULL. */
static always_inline int simd_stored(struct x86_cpu *cpu, const struct insn *i, uint64_t linear,
                                     void *host, const void *bounce)
{
    if (unlikely(!host))
        return x86_write_bytes(cpu, linear, bounce, i->memsize);
    x86_note_store(cpu, host);
    return X86_OK;
}

/* Areas larger than an operand of the software TLB. A write changes nothing if any byte of it would
 * fault. */
int simd_read_area(struct x86_cpu *cpu, uint64_t linear, void *buf, uint32_t size);
int simd_write_area(struct x86_cpu *cpu, uint64_t linear, const void *buf, uint32_t size);

/* --- x87 state --- */

/* Is an unmasked exception pending? The same as ES, but true of any image, also one that was loaded
 * from elsewhere: with one pending, the host would fault in a fragment. */
static inline bool x87_is_pending(const struct x86_fpu *fpu)
{
    return fpu->fsw & ~(uint32_t)fpu->fcw & X87_FSW_EXCEPTIONS;
}

/* Makes ES and B of a status word what they always are: whether an unmasked exception is pending.
 */
static inline uint16_t x87_normal_fsw(uint16_t fsw, uint16_t fcw)
{
    uint16_t v = (uint16_t)(fsw & ~(X87_FSW_ES | X87_FSW_BUSY));
    if (v & ~fcw & X87_FSW_EXCEPTIONS)
        v |= X87_FSW_ES | X87_FSW_BUSY;
    return v;
}

static inline uint16_t x87_normal_fcw(uint16_t fcw)
{
    return (uint16_t)((fcw & X87_FCW_WRITABLE) | X87_FCW_FIXED);
}

static inline unsigned int x87_top(const struct x86_fpu *fpu)
{
    return fpu->fsw >> X87_FSW_TOP_SHIFT & 7u;
}

/* TOP in the status word was `from` and has been changed: the image holds registers by their
 * distance from it, so they are moved to where they still are the same physical registers
 * (x86/op_simd.c). */
void x87_move_top(struct x86_fpu *fpu, unsigned int from);

/* As FNINIT does: registers keep their contents. */
void x87_init(struct x86_fpu *fpu);

/* X86_OK or a recorded #NM, or #MF if the instruction waits for pending exceptions. */
int x87_check(struct x86_cpu *cpu, bool waits);

/* MMX instructions leave TOP 0 and all tags valid (SDM 1, 9.6.2). */
void x87_enter_mmx(struct x86_fpu *fpu);

/* Handlers of instructions with rules of their own. */
x86_op_fn *simd_select_move(const struct insn *i);
x86_op_fn *simd_select_masked(const struct insn *i);
x86_op_fn simd_op_gather;
x86_op_fn x87_op_fnstenv, x87_op_fldenv, x87_op_fnsave, x87_op_frstor;

#endif
