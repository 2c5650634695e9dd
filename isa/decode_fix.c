/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * What a table row cannot say: checks of register numbers, operations that a prefix or an operand
 * changes, ends of blocks that depend on operands. One function for each value of enum insn_fix.
 */
#include "isa/decode.h"

static bool fix_none(struct decoder *d)
{
    (void)d;
    return true;
}

/* REX.R does not extend segment registers (SDM 2A 2.2.1.2). */
static bool fix_seg_store(struct decoder *d)
{
    d->out->reg &= 7;
    return d->out->reg < SEG_COUNT;
}

/* A load of SS holds interrupts off for one instruction; outside 64-bit mode any load may change
 * what a block was compiled for (whether segments are flat). */
static bool fix_seg_load(struct decoder *d)
{
    d->out->reg &= 7;
    if (d->mode != INSN_MODE_64 || d->out->reg == SEG_SS)
        d->flags |= INSN_ENDS;
    return d->out->reg < SEG_COUNT && d->out->reg != SEG_CS;
}

static bool fix_lds(struct decoder *d)
{
    struct insn *out = d->out;
    if (out->map == 1)
        out->imm2 = out->opcode & 7; /* 0F B2 LSS, B4 LFS, B5 LGS: as segments are numbered */
    else
        out->imm2 = out->opcode == 0xC4 ? SEG_ES : SEG_DS;
    if (d->mode != INSN_MODE_64 || out->imm2 == SEG_SS)
        d->flags |= INSN_ENDS;
    return true;
}

static bool fix_cr(struct decoder *d)
{
    const unsigned int exist = 1 << 0 | 1 << 2 | 1 << 3 | 1 << 4 | 1 << 8;
    return (exist >> d->out->reg) & 1;
}

static bool fix_dr(struct decoder *d)
{
    return d->out->reg < 8;
}

/* 90: XCHG rAX, rAX would clear the upper half of RAX. With REX.B it is XCHG with R8. */
static bool fix_nop(struct decoder *d)
{
    struct insn *out = d->out;
    if (out->rm != 0)
        return true;
    out->form = INSN_FORM_NONE;
    out->op = INSN_NOP;
    if (d->flags & INSN_PREFIX_F3) {
        out->op = INSN_PAUSE;
        d->flags |= INSN_ENDS;
    }
    return true;
}

static bool fix_string(struct decoder *d)
{
    if (d->flags & INSN_PREFIX_F3)
        d->flags |= INSN_REPE | INSN_ENDS;
    else if (d->flags & INSN_PREFIX_F2)
        d->flags |= INSN_REPNE | INSN_ENDS;
    return true;
}

static bool fix_cmpxchg8b(struct decoder *d)
{
    if (d->out->opsize == 8)
        d->out->op = INSN_CMPXCHG16B;
    return true;
}

static bool fix_vzero(struct decoder *d)
{
    if (d->flags & INSN_VEX_L)
        d->out->op = INSN_VZEROALL;
    return true;
}

static bool (*const fixes[FIX_COUNT])(struct decoder *d) = {
    [FIX_NONE] = fix_none,
    [FIX_SEG_STORE] = fix_seg_store,
    [FIX_SEG_LOAD] = fix_seg_load,
    [FIX_LDS] = fix_lds,
    [FIX_CR] = fix_cr,
    [FIX_DR] = fix_dr,
    [FIX_NOP] = fix_nop,
    [FIX_STRING] = fix_string,
    [FIX_CMPXCHG8B] = fix_cmpxchg8b,
    [FIX_VZERO] = fix_vzero,
};

/* Of the VEX-encoded instructions that are not SIMD: VEX.L is 0 (but VZEROALL's), and vvvv is 1111
 * (un-inverted: 0) if it names no operand. */
static bool vex_fields_allowed(const struct decoder *d)
{
    uint8_t form = d->row->form;
    bool uses_vvvv =
        form == INSN_FORM_REG_VVVV_RM || form == INSN_FORM_REG_RM_VVVV || form == INSN_FORM_VVVV_RM;
    if ((d->flags & INSN_VEX_L) && d->row->fix != FIX_VZERO)
        return false;
    return uses_vvvv || d->out->vvvv == 0;
}

/* A vector index needs a SIB byte (SDM 2A 2.3.12); destination, index and mask of a gather must be
 * three registers (table 2-27, exception class 12). */
static bool vsib_allowed(const struct decoder *d)
{
    const struct insn *out = d->out;
    uint8_t mask = d->mode == INSN_MODE_64 ? out->vvvv : out->vvvv & 7;

    if ((out->modrm & 7) != 4 || out->addrsize == 2)
        return false;
    return out->reg != out->index && out->reg != mask && out->index != mask;
}

bool decoder_fix(struct decoder *d)
{
    if ((d->attr & ATTR_VSIB) && !vsib_allowed(d))
        return false;
    if ((d->flags & INSN_VEX) && d->row->op != INSN_SIMD && !vex_fields_allowed(d))
        return false;
    return fixes[d->row->fix](d);
}
