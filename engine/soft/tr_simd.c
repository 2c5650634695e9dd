/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * SSE and AVX instructions: emitted as they are, on the host's own vector registers, which hold the
 * guest's while translated code runs. Only memory operands and general registers are replaced.
 *
 * What would make them do more than compute is part of the block's mode: whether the guest may use
 * them (CR0, CR4, XCR0), and whether all SIMD exceptions are masked, so that none becomes a signal.
 * Where that does not hold they are interpreted.
 *
 * Vector registers are loaded when they are first needed: a block asks once, and again after it has
 * called the interpreter, which works on the image in memory. A block that begins by asking has an
 * entry behind the question, so a loop asks once.
 *
 * Interpreted always: MMX (it is x87 state), masked moves and gathers (their faults are by element),
 * string comparisons.
 */
#include "engine/soft/translator.h"

static void need_vectors(struct translation *x)
{
    if (x->vectors_known)
        return;
    bool first = x->e.p == x->base + x->b->code + x->b->body;
    emit_load32(&x->e, RCX, emit_frame(offsetof(struct frame, vectors_dead)));
    uint8_t *live = emit_jrcxz(&x->e);
    (void)tr_call_stub(x, STUB_VECTOR);
    emit_patch8(live, x->e.p);
    if (first)
        x->b->live = (uint16_t)((uint32_t)(x->e.p - x->base) - x->b->code);
    x->vectors_known = true;
}

static uint32_t opcode_of(const struct insn *i)
{
    return EMIT_OP(insn_mandatory_prefix(i), i->map, i->opcode);
}

static void put_vector(struct translation *x, uint8_t reg, uint8_t rm, const struct emit_mem *m)
{
    const struct insn *i = x->i;
    uint32_t op = opcode_of(i);
    bool w = i->flags & INSN_REX_W;
    if (i->flags & INSN_VEX) {
        bool l = i->flags & INSN_VEX_L;
        if (m)
            emit_vex_rm(&x->e, op, w, l, reg, i->vvvv, *m);
        else
            emit_vex_rr(&x->e, op, w, l, reg, i->vvvv, rm);
    } else if (m) {
        emit_rm(&x->e, op, w ? EMIT_W : 0, reg, *m);
    } else {
        emit_rr(&x->e, op, w ? EMIT_W : 0, reg, rm);
    }
    if (insn_simd_has_imm8(i))
        emit8(&x->e, (uint8_t)i->imm);
}

static bool tr_simd(struct translation *x)
{
    const struct insn *i = x->i;
    if (i->simd & (SIMD_SPECIAL | SIMD_MMX))
        return false;
    need_vectors(x);
    uint8_t reg = i->reg & 15, rm = i->rm & 15;
    if (i->flags & INSN_MEM) {
        struct emit_mem m;
        uint32_t align = i->simd & SIMD_ALIGNED ? i->memsize : 1;
        if (!tr_memory(x, i->memsize, i->simd & SIMD_MEM_WRITE, align, &m))
            return false;
        if (i->simd & SIMD_REG_GPR_W)
            reg = tr_target(i->reg, RCX);
        put_vector(x, reg, 0, &m);
    } else {
        if (i->simd & SIMD_REG_GPR_W)
            reg = tr_target(i->reg, RCX);
        if (i->simd & SIMD_RM_GPR_R)
            rm = tr_use(x, i->rm, R11);
        if (i->simd & SIMD_RM_GPR_W)
            rm = tr_target(i->rm, R11);
        put_vector(x, reg, rm, NULL);
        if (i->simd & SIMD_RM_GPR_W)
            tr_put(x, i->rm, rm);
    }
    if (i->simd & SIMD_REG_GPR_W)
        tr_put(x, i->reg, reg);
    return true;
}

static bool tr_vzeroupper(struct translation *x)
{
    need_vectors(x);
    emit8(&x->e, 0xC5);
    emit8(&x->e, 0xF8);
    emit8(&x->e, 0x77);
    return true;
}

tr_fn *tr_find_vector(const struct insn *i, uint8_t mode)
{
    if (i->op == INSN_VZEROUPPER)
        return mode & MODE_AVX ? tr_vzeroupper : NULL;
    if (i->op != INSN_SIMD)
        return NULL;
    return mode & (i->flags & INSN_VEX ? MODE_AVX : MODE_SSE) ? tr_simd : NULL;
}
