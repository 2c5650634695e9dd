/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * SIMD instructions, but for moves and masked accesses, which are in files of their own: check that
 * the instruction may run, find its memory operand, call its fragment (x86/native.c), commit.
 *
 * Exceptions. A fragment runs with all SIMD floating-point exceptions masked and no flag set; the
 * flags that come out say what happened. If one of them is unmasked in the guest's MXCSR, the
 * fragment has stored nothing, and #XM follows. What a masked run does not tell:
 *  - Unmasked, exceptions that are found before the computation (IE, DE, ZE; of any element) keep
 * it from taking place, so flags from after it (OE, UE, PE) are not set (SDM 1, 11.5.3).
 *  - Masked underflow is flagged only if the result is inexact too, unmasked underflow always. With
 *    flush-to-zero an exact denormal result raises UE as well; so where the guest unmasks UE (then
 *    its own FTZ has no effect) the fragment runs with FTZ. If UE does not come out there was no
 *    denormal result, and FTZ changed nothing. If UE does come out, PE is set with it, also for an
 *    exact result, where a processor would leave it clear. VCVTPS2PH ignores FTZ: unmasked
 * underflow with an exact half-precision denormal is not seen.
 *
 * Memory operands are given to the fragment where they are, in guest RAM, so an access is as atomic
 * as the guest's own would be. Faults of the operand come before the fragment runs.
 */
#include "x86/simd.h"

noinline_cold int simd_refuse(struct x86_cpu *cpu, bool vex)
{
    const uint64_t avx = X86_XCR0_SSE | X86_XCR0_AVX;
    if (vex && (!(cpu->cr4 & X86_CR4_OSXSAVE) || (cpu->xcr0 & avx) != avx || !cpu->protected_mode))
        return x86_fault(cpu, X86_UD, 0);
    if (!vex && ((cpu->cr0 & X86_CR0_EM) || !(cpu->cr4 & X86_CR4_OSFXSR)))
        return x86_fault(cpu, X86_UD, 0);
    return x86_fault(cpu, X86_NM, 0);
}

int simd_check_mmx(struct x86_cpu *cpu)
{
    if (unlikely(cpu->cr0 & X86_CR0_EM))
        return x86_fault(cpu, X86_UD, 0);
    if (unlikely(cpu->cr0 & X86_CR0_TS))
        return x86_fault(cpu, X86_NM, 0);
    if (unlikely(x87_is_pending(&cpu->fpu)))
        return x86_fault(cpu, X86_MF, 0);
    return X86_OK;
}

void x87_move_top(struct x86_fpu *fpu, unsigned int from)
{
    unsigned int by = (from - x87_top(fpu)) & 7;
    if (by == 0)
        return;
    uint8_t st[8][16];
    memcpy(st, fpu->st, sizeof(st));
    for (unsigned int n = 0; n < 8; n++)
        memcpy(fpu->st[(n + by) & 7], st[n], sizeof(st[n]));
}

void x87_enter_mmx(struct x86_fpu *fpu)
{
    unsigned int top = x87_top(fpu);
    fpu->fsw &= (uint16_t)~X87_FSW_TOP;
    x87_move_top(fpu, top);
    fpu->ftw = 0xFF;
}

/* --- floating-point exceptions --- */

static always_inline void exceptions_begin(struct x86_cpu *cpu)
{
    struct native_frame *f = &cpu->native->frame;
    uint32_t mxcsr = cpu->fpu.mxcsr & MXCSR_WRITABLE;
    f->unmasked = ~mxcsr >> MXCSR_MASK_SHIFT & MXCSR_FLAGS;
    f->mxcsr = (mxcsr & ~MXCSR_FLAGS) | MXCSR_MASKS;
    if (unlikely(!(mxcsr & MXCSR_UM)))
        f->mxcsr |= MXCSR_FTZ;
}

static noinline_cold int exceptions_raise(struct x86_cpu *cpu, uint32_t raised)
{
    if (raised & cpu->native->frame.unmasked & MXCSR_PRECOMPUTATION)
        raised &= MXCSR_PRECOMPUTATION;
    cpu->fpu.mxcsr |= raised;
    return x86_fault(cpu, cpu->cr4 & X86_CR4_OSXMMEXCPT ? X86_XM : X86_UD, 0);
}

static always_inline int exceptions_end(struct x86_cpu *cpu)
{
    uint32_t raised = cpu->native->frame.mxcsr_out & MXCSR_FLAGS;
    if (unlikely(raised & cpu->native->frame.unmasked))
        return exceptions_raise(cpu, raised);
    cpu->fpu.mxcsr |= raised;
    return X86_OK;
}

/* --- results outside of vector registers --- */

static always_inline void commit_flags(struct x86_cpu *cpu)
{
    cpu->rflags = (cpu->rflags & ~X86_FLAGS_STATUS) | (cpu->native->frame.flags & X86_FLAGS_STATUS);
}

/* General register and flags. The host has cleared the upper half of a 32-bit result. */
static always_inline void commit(struct x86_cpu *cpu, const struct insn *i, uint64_t result)
{
    if (i->simd & SIMD_REG_GPR_W)
        cpu->gpr[i->reg & 15] = result;
    if (i->simd & SIMD_RM_GPR_W)
        cpu->gpr[i->rm & 15] = result;
    if (i->simd & SIMD_FLAGS)
        commit_flags(cpu);
}

/* --- the handlers --- */

/* Register form, or memory as source. All but cpu and i are constants. */
static always_inline int simd_run(struct x86_cpu *cpu, const struct insn *i, bool vex, bool memory,
                                  bool exceptions)
{
    struct native_frame *f = &cpu->native->frame;
    void *source = f->bounce;
    int s = simd_check(cpu, vex);
    if (unlikely(s != X86_OK))
        return s;
    if (memory) {
        s = simd_source(cpu, i, f->bounce, &source);
        if (unlikely(s != X86_OK))
            return s;
    }
    if (exceptions)
        exceptions_begin(cpu);
    uint64_t result = native_find(cpu, i)(f, &cpu->fpu, cpu->gpr[i->rm & 15], source);
    if (exceptions) {
        s = exceptions_end(cpu);
        if (unlikely(s != X86_OK))
            return s;
    }
    if (i->simd & (SIMD_REG_GPR_W | SIMD_RM_GPR_W | SIMD_FLAGS))
        commit(cpu, i, result);
    return X86_OK;
}

#define SIMD_HANDLER(name, vex, memory, exceptions)                                                \
    static int name(struct x86_cpu *cpu, const struct insn *i)                                     \
    {                                                                                              \
        return simd_run(cpu, i, vex, memory, exceptions);                                          \
    }
SIMD_HANDLER(sse_register, false, false, false)
SIMD_HANDLER(sse_register_fp, false, false, true)
SIMD_HANDLER(sse_memory, false, true, false)
SIMD_HANDLER(sse_memory_fp, false, true, true)
SIMD_HANDLER(vex_register, true, false, false)
SIMD_HANDLER(vex_register_fp, true, false, true)
SIMD_HANDLER(vex_memory, true, true, false)
SIMD_HANDLER(vex_memory_fp, true, true, true)

/* Memory as destination; no exceptions. */
static int simd_store(struct x86_cpu *cpu, const struct insn *i)
{
    struct native_frame *f = &cpu->native->frame;
    uint64_t linear;
    void *host;
    int s = simd_check(cpu, i->flags & INSN_VEX);
    if (s == X86_OK)
        s = simd_destination(cpu, i, &linear, &host);
    if (unlikely(s != X86_OK))
        return s;
    native_find(cpu, i)(f, &cpu->fpu, 0, host ? host : f->bounce);
    return simd_stored(cpu, i, linear, host, f->bounce);
}

/* The same with exceptions (VCVTPS2PH): memory must not change if one is unmasked. */
static int simd_store_fp(struct x86_cpu *cpu, const struct insn *i)
{
    struct native_frame *f = &cpu->native->frame;
    uint64_t linear;
    void *host;
    int s = simd_check(cpu, i->flags & INSN_VEX);
    if (s == X86_OK)
        s = simd_destination(cpu, i, &linear, &host);
    if (unlikely(s != X86_OK))
        return s;
    exceptions_begin(cpu);
    native_find(cpu, i)(f, &cpu->fpu, 0, f->bounce);
    s = exceptions_end(cpu);
    if (unlikely(s != X86_OK))
        return s;
    return x86_write_bytes(cpu, linear, f->bounce, i->memsize);
}

/* --- MMX --- */

/* Does it name an XMM register too (CVTPI2PS and the like)? Then SSE's conditions hold as well. */
static bool mmx_uses_xmm(const struct insn *i)
{
    const unsigned int reg = SIMD_READ_REG | SIMD_WRITE_REG, rm = SIMD_READ_RM | SIMD_WRITE_RM;
    return ((i->simd_regs & reg) && !(i->simd & SIMD_REG_MM)) ||
           ((i->simd_regs & rm) && !(i->simd & SIMD_RM_MM));
}

/* An MMX register that was written has all ones where the x87 has sign and exponent. */
static void mmx_written(struct x86_fpu *fpu, const struct insn *i)
{
    if ((i->simd_regs & SIMD_WRITE_REG) && (i->simd & SIMD_REG_MM))
        store_u16(fpu->st[i->reg & 7] + 8, 0xFFFF);
    if ((i->simd_regs & SIMD_WRITE_RM) && (i->simd & SIMD_RM_MM))
        store_u16(fpu->st[i->rm & 7] + 8, 0xFFFF);
}

static int mmx_check(struct x86_cpu *cpu, const struct insn *i)
{
    if (mmx_uses_xmm(i)) {
        int s = simd_check(cpu, false);
        if (s != X86_OK)
            return s;
    }
    return simd_check_mmx(cpu);
}

static int mmx_operand(struct x86_cpu *cpu, const struct insn *i, uint64_t *linear, void **host)
{
    if (i->simd & SIMD_MEM_WRITE)
        return simd_destination(cpu, i, linear, host);
    if (i->simd & SIMD_MEM_READ)
        return simd_source(cpu, i, cpu->native->frame.bounce, host);
    return X86_OK;
}

static int mmx_run(struct x86_cpu *cpu, const struct insn *i)
{
    struct native_frame *f = &cpu->native->frame;
    uint64_t linear = 0;
    void *host = NULL;
    int s = mmx_check(cpu, i);
    if (s == X86_OK)
        s = mmx_operand(cpu, i, &linear, &host);
    if (unlikely(s != X86_OK))
        return s;
    exceptions_begin(cpu);
    x87_enter_mmx(&cpu->fpu); /* also if an exception follows, as processors do */
    f->mxcsr_out = 0;
    uint64_t result =
        native_find(cpu, i)(f, &cpu->fpu, cpu->gpr[i->rm & 15], host ? host : f->bounce);
    s = exceptions_end(cpu);
    if (unlikely(s != X86_OK))
        return s;
    mmx_written(&cpu->fpu, i);
    commit(cpu, i, result);
    if (i->simd & SIMD_MEM_WRITE)
        return simd_stored(cpu, i, linear, host, f->bounce);
    return X86_OK;
}

/* TOP as for all MMX instructions, but all tags empty. */
static int mmx_emms(struct x86_cpu *cpu, const struct insn *i)
{
    (void)i;
    int s = simd_check_mmx(cpu);
    if (s != X86_OK)
        return s;
    x87_enter_mmx(&cpu->fpu);
    cpu->fpu.ftw = 0;
    return X86_OK;
}

/* --- PCMPESTRx, PCMPISTRx --- */

static int simd_string_compare(struct x86_cpu *cpu, const struct insn *i)
{
    struct native_frame *f = &cpu->native->frame;
    void *source = f->bounce;
    int s = simd_check(cpu, i->flags & INSN_VEX);
    if (s == X86_OK && (i->flags & INSN_MEM))
        s = simd_source(cpu, i, f->bounce, &source);
    if (unlikely(s != X86_OK))
        return s;
    f->rax = cpu->gpr[RAX];
    uint64_t result = native_find(cpu, i)(f, &cpu->fpu, cpu->gpr[RDX], source);
    if (i->opcode & 1)
        cpu->gpr[RCX] = result;
    commit_flags(cpu);
    return X86_OK;
}

/* --- choice --- */

enum { MAP_0F = 1, MAP_0F38 = 2, MAP_0F3A = 3 };

static x86_op_fn *select_special(const struct insn *i)
{
    if (i->map == MAP_0F3A)
        return simd_string_compare;
    if (i->map == MAP_0F && i->opcode == 0x77)
        return mmx_emms;
    if (i->map == MAP_0F38 && i->opcode >= 0x90 && i->opcode <= 0x93)
        return simd_op_gather;
    return simd_select_masked(i);
}

x86_op_fn *x86_select_simd(const struct insn *i)
{
    /* [VEX][memory][may raise exceptions] */
    static x86_op_fn *const handlers[2][2][2] = {
        {{sse_register, sse_register_fp}, {sse_memory, sse_memory_fp}},
        {{vex_register, vex_register_fp}, {vex_memory, vex_memory_fp}},
    };
    bool vex = i->flags & INSN_VEX, memory = i->flags & INSN_MEM;
    bool exceptions = !(i->simd & SIMD_NO_FP);
    if (i->simd & SIMD_SPECIAL)
        return select_special(i);
    if (i->simd & SIMD_MMX)
        return mmx_run;
    x86_op_fn *move = simd_select_move(i);
    if (move)
        return move;
    if (i->simd & SIMD_MEM_WRITE)
        return exceptions ? simd_store_fp : simd_store;
    return handlers[vex][memory][exceptions];
}
