/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * The table of MMX, SSE, AVX and FMA instructions. Private to isa/simd*.c. One row covers the
 * legacy and the VEX encodings of an opcode with one mandatory prefix, since they differ by rule.
 */
#ifndef LODGE_ISA_SIMD_TABLE_H
#define LODGE_ISA_SIMD_TABLE_H

#include "isa/insn.h"

/* Mandatory prefix, numbered as VEX.pp. */
enum simd_pp { SIMD_PP_NP, SIMD_PP_66, SIMD_PP_F3, SIMD_PP_F2 };

/*
 * Operands, destination first, in the letters of SDM volume 2, appendix A.2.1: V is the XMM or YMM
 * register in modrm.reg, W that in modrm.rm (or memory), H that in VEX.vvvv, L that in bits 7:4 of
 * the immediate; P and Q are MMX registers in modrm.reg and modrm.rm (or memory); G is a general
 * register in modrm.reg, E one in modrm.rm (or memory), Z is XMM0. Legacy encodings have no H:
 * there V is source and destination.
 */
enum simd_form {
    SIMD_FORM_VW,
    SIMD_FORM_VHW,
    SIMD_FORM_VVW,  /* VW, and V is also a source: SHA */
    SIMD_FORM_VVHW, /* VHW, and V is also a source: FMA */
    SIMD_FORM_VHWL,
    SIMD_FORM_VWZ, /* V is also a source */
    SIMD_FORM_WV,
    SIMD_FORM_WHV, /* MOVSS, MOVSD stores in register form */
    SIMD_FORM_HW,  /* shift by an immediate; legacy: W is source and destination */
    SIMD_FORM_CMP, /* V and W are compared, flags are written */
    SIMD_FORM_VE,
    SIMD_FORM_VHE,
    SIMD_FORM_EV,
    SIMD_FORM_GW,
    SIMD_FORM_PQ,
    SIMD_FORM_QP,
    SIMD_FORM_QQ, /* shift by an immediate */
    SIMD_FORM_PE,
    SIMD_FORM_EP,
    SIMD_FORM_GQ,
    SIMD_FORM_VQ,
    SIMD_FORM_PW,
    SIMD_FORM_NONE,      /* EMMS */
    SIMD_FORM_MASKMOV,   /* memory at DS:rDI, V, W */
    SIMD_FORM_MASKMOVQ,  /* memory at DS:rDI, P, Q */
    SIMD_FORM_MASKLOAD,  /* V, H the mask, memory */
    SIMD_FORM_MASKSTORE, /* memory, H the mask, V */
    SIMD_FORM_GATHER,    /* V, VSIB memory, H the mask; all three are written */
    SIMD_FORM_PCMPSTR,   /* V and W are compared; ECX or XMM0 and flags are written */
    SIMD_FORM_COUNT,
};

/* Bytes of the memory operand. */
enum simd_size {
    SIMD_SIZE_NONE, /* no memory form */
    SIMD_SIZE_1,
    SIMD_SIZE_2,
    SIMD_SIZE_4,
    SIMD_SIZE_8,
    SIMD_SIZE_16,
    SIMD_SIZE_V, /* the vector: 8 (MMX), 16 or 32 */
    SIMD_SIZE_H, /* half of it */
    SIMD_SIZE_Q, /* a quarter */
    SIMD_SIZE_E, /* an eighth */
    SIMD_SIZE_D, /* MOVDDUP: 8 or 32 */
    SIMD_SIZE_Y, /* 8 in 64-bit mode with REX.W or VEX.W, else 4 */
    SIMD_SIZE_S, /* an FMA scalar: 8 with VEX.W, else 4 */
    SIMD_SIZE_COUNT,
};

enum {
    SIMD_ROW_FP = 1 << 0,      /* may raise a SIMD floating-point exception */
    SIMD_ROW_ALIGNED = 1 << 1, /* memory must be aligned with VEX too */
    SIMD_ROW_ANY = 1 << 2,     /* memory need not be aligned without VEX */
    SIMD_ROW_MEM = 1 << 3,     /* there is no register form */
    SIMD_ROW_REG = 1 << 4,     /* this row is only for the register form */
    SIMD_ROW_W0 = 1 << 5,      /* VEX.W must be 0 */
    SIMD_ROW_W1 = 1 << 6,
    SIMD_ROW_MM_REG = 1 << 7, /* uses MMX only in its register form: CVTPI2PD */
};

enum { SIMD_GROUP_ANY = 8 };

struct simd_row {
    uint8_t opcode;
    uint8_t group;                  /* modrm.reg, or SIMD_GROUP_ANY */
    uint8_t pp;                     /* enum simd_pp */
    uint8_t form;                   /* enum simd_form */
    uint8_t size;                   /* enum simd_size */
    uint8_t legacy, vex128, vex256; /* enum insn_feature; NONE: there is no such encoding */
    uint8_t flags;                  /* SIMD_ROW_* */
};

struct simd_map {
    const struct simd_row *row; /* by opcode, ascending */
    uint16_t count;
};

/* By number of the opcode map; 0 is empty. */
extern const struct simd_map simd_maps[4];

#endif
