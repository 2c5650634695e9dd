/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * What an instruction does to general registers. A list of what is known for certain, for who
 * reasons about code ahead of running it (engine/soft/tr_loop.c); what is rare, privileged, or uses
 * the stack is not on it. The differential test holds the list against each execution.
 */
#include "isa/insn.h"
#include "isa/x86.h"

enum {
    UNKNOWN = 0,
    NOTHING,
    DESTINATION, /* of its form */
    ACCUMULATOR, /* RAX */
    HIGH_HALF,   /* RDX */
    BOTH_HALVES, /* RAX and RDX */
    EXCHANGE,    /* both operands */
    TWO_RESULTS, /* reg and vvvv */
    AS_SIMD,     /* by struct insn's simd */
};

static const uint8_t effect_kind[INSN_OP_COUNT] = {
    [INSN_ADD] = DESTINATION,   [INSN_OR] = DESTINATION,    [INSN_ADC] = DESTINATION,
    [INSN_SBB] = DESTINATION,   [INSN_AND] = DESTINATION,   [INSN_SUB] = DESTINATION,
    [INSN_XOR] = DESTINATION,   [INSN_CMP] = NOTHING,       [INSN_TEST] = NOTHING,
    [INSN_INC] = DESTINATION,   [INSN_DEC] = DESTINATION,   [INSN_NOT] = DESTINATION,
    [INSN_NEG] = DESTINATION,   [INSN_ROL] = DESTINATION,   [INSN_ROR] = DESTINATION,
    [INSN_RCL] = DESTINATION,   [INSN_RCR] = DESTINATION,   [INSN_SHL] = DESTINATION,
    [INSN_SHR] = DESTINATION,   [INSN_SAL] = DESTINATION,   [INSN_SAR] = DESTINATION,
    [INSN_SHLD] = DESTINATION,  [INSN_SHRD] = DESTINATION,  [INSN_RORX] = DESTINATION,
    [INSN_SARX] = DESTINATION,  [INSN_SHLX] = DESTINATION,  [INSN_SHRX] = DESTINATION,
    [INSN_ANDN] = DESTINATION,  [INSN_BEXTR] = DESTINATION, [INSN_BLSR] = DESTINATION,
    [INSN_BLSMSK] = DESTINATION, [INSN_BLSI] = DESTINATION, [INSN_BZHI] = DESTINATION,
    [INSN_PDEP] = DESTINATION,  [INSN_PEXT] = DESTINATION,  [INSN_MULX] = TWO_RESULTS,
    [INSN_BT] = NOTHING,        [INSN_BTS] = DESTINATION,   [INSN_BTR] = DESTINATION,
    [INSN_BTC] = DESTINATION,   [INSN_BSF] = DESTINATION,   [INSN_BSR] = DESTINATION,
    [INSN_TZCNT] = DESTINATION, [INSN_LZCNT] = DESTINATION, [INSN_POPCNT] = DESTINATION,
    [INSN_CRC32] = DESTINATION, [INSN_MUL] = BOTH_HALVES,   [INSN_DIV] = BOTH_HALVES,
    [INSN_IDIV] = BOTH_HALVES,  [INSN_IMUL] = BOTH_HALVES,  [INSN_IMUL2] = DESTINATION,
    [INSN_MOV] = DESTINATION,   [INSN_MOVZX] = DESTINATION, [INSN_MOVSX] = DESTINATION,
    [INSN_MOVBE] = DESTINATION, [INSN_MOVNTI] = NOTHING,    [INSN_LEA] = DESTINATION,
    [INSN_XCHG] = EXCHANGE,     [INSN_BSWAP] = DESTINATION, [INSN_CMOVCC] = DESTINATION,
    [INSN_SETCC] = DESTINATION, [INSN_CBW] = ACCUMULATOR,   [INSN_CWD] = HIGH_HALF,
    [INSN_SAHF] = NOTHING,      [INSN_LAHF] = ACCUMULATOR,  [INSN_CMC] = NOTHING,
    [INSN_CLC] = NOTHING,       [INSN_STC] = NOTHING,       [INSN_NOP] = NOTHING,
    [INSN_JCC] = NOTHING,       [INSN_JMP] = NOTHING,       [INSN_SIMD] = AS_SIMD,
};

static uint16_t bit_of(uint8_t reg)
{
    return (uint16_t)(1u << (reg >= 16 ? reg - 16 : reg)); /* AH CH DH BH */
}

static bool destination_of(const struct insn *i, uint16_t *written)
{
    bool memory = i->flags & INSN_MEM;
    switch (i->form) {
    case INSN_FORM_RM:
    case INSN_FORM_RM_REG:
    case INSN_FORM_RM_IMM:
    case INSN_FORM_RM_CL:
    case INSN_FORM_RM_REG_IMM:
    case INSN_FORM_RM_REG_CL:
        *written = memory ? 0 : bit_of(i->rm);
        return true;
    case INSN_FORM_REG_RM:
    case INSN_FORM_REG_RM_IMM:
    case INSN_FORM_REG_VVVV_RM:
    case INSN_FORM_REG_RM_VVVV:
        *written = bit_of(i->reg);
        return true;
    case INSN_FORM_VVVV_RM:
        *written = bit_of(i->vvvv);
        return true;
    default:
        return false;
    }
}

bool insn_gpr_writes(const struct insn *i, uint16_t *written)
{
    bool memory = i->flags & INSN_MEM;
    *written = 0;
    switch (effect_kind[i->op]) {
    case NOTHING:
        return true;
    case DESTINATION:
        return destination_of(i, written);
    case ACCUMULATOR:
        *written = bit_of(RAX);
        return true;
    case HIGH_HALF:
        *written = bit_of(RDX);
        return true;
    case BOTH_HALVES:
        *written = bit_of(RAX) | bit_of(RDX);
        return true;
    case EXCHANGE:
        *written = bit_of(i->reg) | (memory ? 0 : bit_of(i->rm));
        return true;
    case TWO_RESULTS:
        *written = bit_of(i->reg) | bit_of(i->vvvv);
        return true;
    case AS_SIMD:
        if (i->simd & SIMD_REG_GPR_W)
            *written |= bit_of(i->reg);
        if (i->simd & SIMD_RM_GPR_W && !memory)
            *written |= bit_of(i->rm);
        return !(i->simd & (SIMD_SPECIAL | SIMD_MMX));
    default:
        return false;
    }
}

int64_t insn_gpr_step(const struct insn *i)
{
    bool memory = i->flags & INSN_MEM;
    if (i->opsize != 8)
        return 0;
    if (i->op == INSN_LEA)
        return i->addrsize == 8 && i->base == i->reg && i->index == INSN_NO_REG &&
                       !(i->flags & (INSN_RIPREL | INSN_MOFFS))
                   ? i->disp
                   : 0;
    if (memory)
        return 0;
    if (i->op == INSN_INC)
        return 1;
    if (i->op == INSN_DEC)
        return -1;
    if (i->form != INSN_FORM_RM_IMM)
        return 0;
    if (i->op == INSN_ADD)
        return (int64_t)i->imm;
    return i->op == INSN_SUB && i->imm != 0 ? -(int64_t)i->imm : 0;
}
