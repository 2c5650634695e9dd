/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * Operands: sizes, registers, the memory operand, immediates. All prefixes are known by now, and
 * the row that describes the instruction.
 *
 * Sizes come from one table, by the row's rule and by one of five situations, which is all that
 * mode, 66 and REX.W amount to.
 */
#include "isa/decode.h"
#include "isa/x86.h"

enum { SITUATION_16, SITUATION_32, SITUATION_64_66, SITUATION_64, SITUATION_64_W, SITUATIONS };

/* table */
static const uint8_t operand_sizes[SIZE_COUNT][SITUATIONS] = {
    /*               16 32  64-bit mode: 66, none, REX.W */
    [SIZE_B] = {1, 1, 1, 1, 1},   [SIZE_W] = {2, 2, 2, 2, 2},   [SIZE_D] = {4, 4, 4, 4, 4},
    [SIZE_V] = {2, 4, 2, 4, 8},   [SIZE_Z] = {2, 4, 2, 4, 4},   [SIZE_Y] = {4, 4, 4, 4, 8},
    [SIZE_D64] = {2, 4, 2, 8, 8}, [SIZE_F64] = {2, 4, 8, 8, 8}, [SIZE_NATIVE] = {4, 4, 8, 8, 8},
};

static unsigned int situation(const struct decoder *d)
{
    bool prefix66 = d->flags & INSN_OPSIZE_PREFIX;
    if (d->mode != INSN_MODE_64)
        return prefix66 == (d->mode == INSN_MODE_16) ? SITUATION_32 : SITUATION_16;
    if (d->rex & REX_W)
        return SITUATION_64_W;
    return prefix66 ? SITUATION_64_66 : SITUATION_64;
}

static void set_sizes(struct decoder *d)
{
    static const uint8_t address_sizes[3][2] = {
        [INSN_MODE_16] = {2, 4}, [INSN_MODE_32] = {4, 2}, [INSN_MODE_64] = {8, 4}};
    struct insn *out = d->out;
    unsigned int s = situation(d);

    out->addrsize = address_sizes[d->mode][d->address_prefix];
    out->opsize = operand_sizes[d->row->size][s];
    if ((d->attr & ATTR_MEM16) && (d->flags & INSN_MEM))
        out->opsize = 2;
    out->srcsize = d->row->src == SIZE_SAME ? out->opsize : operand_sizes[d->row->src][s];
}

/* Byte registers 4 to 7 are AH CH DH BH unless there is a REX prefix of whatever value. */
static uint8_t byte_register(const struct decoder *d, uint8_t reg)
{
    return !(d->flags & INSN_REX) && reg >= 4 && reg < 8 ? (uint8_t)(reg + 12) : reg;
}

static void set_registers(struct decoder *d)
{
    struct insn *out = d->out;
    uint8_t opcode_reg = (uint8_t)((out->opcode & 7) | (d->rex & REX_B ? 8 : 0));

    switch (d->row->where) {
    case WHERE_MODRM:
    case WHERE_MODRM_REG:
        out->reg = (uint8_t)(((out->modrm >> 3) & 7) | (d->rex & REX_R ? 8 : 0));
        if (!(d->flags & INSN_MEM))
            out->rm = (uint8_t)((out->modrm & 7) | (d->rex & REX_B ? 8 : 0));
        break;
    case WHERE_OPCODE:
    case WHERE_OPCODE_ACC:
        out->rm = opcode_reg;
        break;
    case WHERE_SEG:
        out->reg = (out->opcode >> 3) & 7;
        break;
    default: /* none, or the accumulator, which is register 0 */
        break;
    }
    bool uses_reg = d->row->form == INSN_FORM_RM_REG || d->row->form == INSN_FORM_REG_RM;
    if (out->opsize == 1 && uses_reg)
        out->reg = byte_register(d, out->reg);
    if (out->srcsize == 1)
        out->rm = byte_register(d, out->rm);
}

static bool read_displacement(struct decoder *d, unsigned int n)
{
    uint64_t v;
    if (!decoder_read(d, n, &v))
        return false;
    d->out->disp = (int32_t)(uint32_t)decoder_sign_extend(v, n);
    return true;
}

/* SDM 2A, table 2-1 */
static bool read_memory_16(struct decoder *d)
{
    static const uint8_t bases[8] = {RBX, RBX, RBP, RBP, RSI, RDI, RBP, RBX};
    static const uint8_t indexes[4] = {RSI, RDI, RSI, RDI};
    struct insn *out = d->out;
    unsigned int mod = out->modrm >> 6, rm = out->modrm & 7;

    if (mod == 0 && rm == 6)
        return read_displacement(d, 2);
    out->base = bases[rm];
    if (rm < 4)
        out->index = indexes[rm];
    return mod == 0 || read_displacement(d, mod == 1 ? 1 : 2);
}

/* SDM 2A, table 2-3. *base is SIB's base field. */
static bool read_sib(struct decoder *d, unsigned int *base)
{
    uint8_t sib;
    if (!decoder_next(d, &sib))
        return false;
    uint8_t index = (uint8_t)(((sib >> 3) & 7) | (d->rex & REX_X ? 8 : 0));
    if (index != RSP || (d->attr & ATTR_VSIB)) {
        d->out->index = index;
        d->out->scale = sib >> 6;
    }
    *base = sib & 7;
    return true;
}

/* SDM 2A, table 2-2 and 2.2.1.6 */
static bool read_memory_32(struct decoder *d)
{
    struct insn *out = d->out;
    unsigned int mod = out->modrm >> 6, base = out->modrm & 7;
    bool sib = base == RSP;

    if (sib && !read_sib(d, &base))
        return false;
    if (mod == 0 && base == RBP) {
        if (!sib && d->mode == INSN_MODE_64)
            d->flags |= INSN_RIPREL;
        return read_displacement(d, 4);
    }
    out->base = (uint8_t)(base | (d->rex & REX_B ? 8 : 0));
    return mod == 0 || read_displacement(d, mod == 1 ? 1 : 4);
}

static bool read_memory(struct decoder *d)
{
    struct insn *out = d->out;
    bool complete = out->addrsize == 2 ? read_memory_16(d) : read_memory_32(d);
    if (out->base == RSP || out->base == RBP)
        out->seg = SEG_SS;
    return complete;
}

/* table */
static const struct imm_kind {
    uint8_t bytes[4]; /* by operand size 1, 2, 4, 8 */
    uint8_t bytes2;   /* of imm2, which follows */
    bool sign_extended, branch;
} imm_kinds[] = {
    [IMM_NONE] = {{0, 0, 0, 0}, 0, false, false},    [IMM_8] = {{1, 1, 1, 1}, 0, false, false},
    [IMM_8S] = {{1, 1, 1, 1}, 0, true, false},       [IMM_16] = {{2, 2, 2, 2}, 0, false, false},
    [IMM_16_8] = {{2, 2, 2, 2}, 1, false, false},    [IMM_Z] = {{1, 2, 4, 4}, 0, true, false},
    [IMM_V] = {{1, 2, 4, 8}, 0, false, false},       [IMM_FAR] = {{2, 2, 4, 4}, 2, false, false},
    [IMM_ADDRESS] = {{0, 0, 0, 0}, 0, false, false}, /* by address size */
    [IMM_REL_8] = {{1, 1, 1, 1}, 0, true, true},     [IMM_REL_Z] = {{2, 2, 4, 4}, 0, true, true},
    [IMM_ONE] = {{0, 0, 0, 0}, 0, false, false},
};

static bool read_immediate(struct decoder *d)
{
    struct insn *out = d->out;
    const struct imm_kind *kind = &imm_kinds[d->row->imm];
    unsigned int log2_size = (unsigned int)__builtin_ctz(out->opsize);
    unsigned int n = d->row->imm == IMM_ADDRESS ? out->addrsize : kind->bytes[log2_size];
    uint64_t v;

    if (d->row->imm == IMM_ONE)
        out->imm = 1;
    if (n == 0)
        return true;
    if (!decoder_read(d, n, &v))
        return false;
    if (kind->sign_extended) {
        v = decoder_sign_extend(v, n);
        if (!kind->branch && out->opsize < 8)
            v &= ((uint64_t)1 << (out->opsize * 8)) - 1;
    }
    out->imm = v;
    if (kind->bytes2 == 0)
        return true;
    if (!decoder_read(d, kind->bytes2, &v))
        return false;
    out->imm2 = (uint16_t)v;
    return true;
}

bool decoder_operands(struct decoder *d)
{
    set_sizes(d);
    set_registers(d);
    if (d->row->where == WHERE_MOFFS)
        d->flags |= INSN_MEM | INSN_MOFFS;
    else if ((d->flags & INSN_MEM) && !read_memory(d))
        return false;
    if (d->seg != SEG_COUNT)
        d->out->seg = d->seg;
    return read_immediate(d);
}
