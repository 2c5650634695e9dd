/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * The decoder's tables: one row per opcode (Intel SDM volume 2, appendix A). Private to
 * isa/decode*.c and isa/tables*.c.
 *
 * A row either describes an instruction or (select != SELECT_NONE) names a sub-table of eight rows,
 * from which the ModRM byte, the mandatory prefix or the mode chooses. Every opcode with a
 * sub-table has a ModRM byte.
 */
#ifndef LODGE_ISA_TABLES_H
#define LODGE_ISA_TABLES_H

#include "isa/insn.h"

enum insn_select {
    SELECT_NONE,
    SELECT_REG,    /* by modrm.reg */
    SELECT_RM,     /* by modrm.rm */
    SELECT_MOD,    /* 0: memory, 1: register */
    SELECT_PREFIX, /* 0: none, 1: 66, 2: F3, 3: F2; as VEX.pp */
    SELECT_MODE64, /* 0: 16- and 32-bit modes, 1: 64-bit mode */
};

/* Where the operands come from. */
enum insn_where {
    WHERE_NONE,
    WHERE_MODRM,      /* as the ModRM byte says */
    WHERE_MODRM_REG,  /* ModRM, but always the register form (MOV CRn) */
    WHERE_OPCODE,     /* rm is the register in the opcode's low three bits */
    WHERE_OPCODE_ACC, /* the same, and reg is the accumulator */
    WHERE_ACC,        /* rm is the accumulator */
    WHERE_MOFFS,      /* rm is memory at an address in the instruction, reg the accumulator */
    WHERE_SEG,        /* reg is the segment register in bits 3 to 5 of the opcode */
};

/* Operand size by rule; decode.c has the sizes. Letters as in the manual where it has them. */
enum insn_size {
    SIZE_SAME, /* as source: the destination's */
    SIZE_B,
    SIZE_W,
    SIZE_D,
    SIZE_V,      /* 2, 4, 8 */
    SIZE_Z,      /* 2, 4; 4 with REX.W */
    SIZE_Y,      /* 4, 8 by REX.W or VEX.W; no 66 */
    SIZE_D64,    /* V, but 64-bit mode's default is 8 and there is no 4 (stack operations) */
    SIZE_F64,    /* V, but always 8 in 64-bit mode (near branches, descriptor tables) */
    SIZE_NATIVE, /* 4, 8 in 64-bit mode */
    SIZE_COUNT,
};

enum insn_imm {
    IMM_NONE,
    IMM_8,       /* zero-extended */
    IMM_8S,      /* sign-extended to the operand size */
    IMM_16,      /* zero-extended */
    IMM_16_8,    /* ENTER */
    IMM_Z,       /* 2 or 4 bytes, sign-extended to the operand size */
    IMM_V,       /* 2, 4 or 8 bytes */
    IMM_FAR,     /* offset of 2 or 4 bytes, then selector */
    IMM_ADDRESS, /* moffs: as wide as the address size */
    IMM_REL_8,   /* branch displacement, sign-extended to 64 bits */
    IMM_REL_Z,
    IMM_ONE, /* no bytes; the value 1 (shifts by one) */
};

/* What a row cannot say: a function in decode.c. */
enum insn_fix {
    FIX_NONE,
    FIX_SEG_STORE,
    FIX_SEG_LOAD,
    FIX_LDS,
    FIX_CR,
    FIX_DR,
    FIX_NOP,
    FIX_STRING,
    FIX_CMPXCHG8B,
    FIX_VZERO,
    FIX_COUNT,
};

enum {
    ATTR_LOCK = 1 << 0,     /* LOCK is allowed if the destination is memory */
    ATTR_MEM_ONLY = 1 << 1, /* register form: #UD */
    ATTR_REG_ONLY = 1 << 2, /* memory form: #UD */
    ATTR_NO64 = 1 << 3,     /* #UD in 64-bit mode */
    ATTR_ONLY64 = 1 << 4,   /* #UD elsewhere */
    ATTR_ENDS = 1 << 5,     /* INSN_ENDS */
    ATTR_NP = 1 << 6,       /* 66, F2, F3: #UD */
    ATTR_MEM16 = 1 << 7,    /* memory form has operand size 2 */
    ATTR_VSIB = 1 << 8,     /* SIB's index is a vector register */
};

struct insn_row {
    uint8_t op;     /* enum insn_op; enum insn_group_table if select is set */
    uint8_t select; /* enum insn_select */
    uint8_t form;   /* enum insn_form */
    uint8_t where;  /* enum insn_where */
    uint8_t size;   /* enum insn_size, of the destination */
    uint8_t src;    /* enum insn_size, of the source */
    uint8_t imm;    /* enum insn_imm */
    uint8_t fix;    /* enum insn_fix */
    uint16_t attr;  /* ATTR_*; those of the rows on the way to a sub-table's row are added */
};

_Static_assert(INSN_OP_COUNT <= 256, "struct insn_row's op is a byte");

enum insn_group_table {
    GROUP_1_80,
    GROUP_1_81,
    GROUP_1_83,
    GROUP_1A,
    GROUP_2_C0,
    GROUP_2_C1,
    GROUP_2_D0,
    GROUP_2_D1,
    GROUP_2_D2,
    GROUP_2_D3,
    GROUP_3_F6,
    GROUP_3_F7,
    GROUP_4,
    GROUP_5,
    GROUP_6,
    GROUP_7,
    GROUP_7_MEM,
    GROUP_7_REG,
    GROUP_7_REG_0,
    GROUP_7_REG_1,
    GROUP_7_REG_2,
    GROUP_7_REG_3,
    GROUP_7_REG_7,
    GROUP_8,
    GROUP_9,
    GROUP_9_MEM,
    GROUP_9_REG,
    GROUP_9_REG_6,
    GROUP_9_REG_7,
    GROUP_11_C6,
    GROUP_11_C7,
    GROUP_15,
    GROUP_15_NP,
    GROUP_15_NP_MEM,
    GROUP_15_NP_REG,
    GROUP_15_66,
    GROUP_15_F3,
    GROUP_63,
    GROUP_0FB8,
    GROUP_0FBC,
    GROUP_0FBD,
    GROUP_0F3882,
    GROUP_0F38F0,
    GROUP_0F38F1,
    GROUP_0F38F6,
    GROUP_VEX_0FAE,
    GROUP_VEX_0F38F2,
    GROUP_VEX_0F38F3,
    GROUP_VEX_0F38F3_NP,
    GROUP_VEX_0F38F5,
    GROUP_VEX_0F38F6,
    GROUP_VEX_0F38F7,
    GROUP_VEX_0F3AF0,
    GROUP_COUNT,
};

extern const struct insn_row insn_map_one_byte[256];
extern const struct insn_row insn_map_0f[256];
extern const struct insn_row insn_groups[GROUP_COUNT][8];

/* The row of an opcode in maps 0F38 and 0F3A, and in all VEX maps: nearly all are SIMD. */
const struct insn_row *insn_row_extended(bool vex, unsigned int map, uint8_t opcode);

/* How rows are written. The variable arguments are further members (.attr, .src, .fix). */
#define ROW(name, form_, where_, size_, imm_, ...)                                                 \
    {                                                                                              \
        .op = INSN_##name, .form = INSN_FORM_##form_, .where = WHERE_##where_,                     \
        .size = SIZE_##size_, .imm = IMM_##imm_, __VA_ARGS__                                       \
    }
#define PLAIN(name, size_, ...)                  ROW(name, NONE, NONE, size_, NONE, __VA_ARGS__)
#define MODRM(name, form_, size_, ...)           ROW(name, form_, MODRM, size_, NONE, __VA_ARGS__)
#define MODRM_IMM(name, form_, size_, imm_, ...) ROW(name, form_, MODRM, size_, imm_, __VA_ARGS__)
#define WITH_IMM(name, size_, imm_, ...)         ROW(name, IMM, NONE, size_, imm_, __VA_ARGS__)
#define BRANCH(name, imm_)                       ROW(name, IMM, NONE, F64, imm_, .attr = ATTR_ENDS)
#define SUB(how, table, ...)                                                                       \
    {                                                                                              \
        .op = GROUP_##table, .select = SELECT_##how, __VA_ARGS__                                   \
    }
#define SIMD_ROW(imm_, ...) ROW(SIMD, NONE, MODRM, Y, imm_, __VA_ARGS__)

/* The same row for 8 or 16 opcodes in a row. */
#define ROWS_8(base, ...)  [base... base + 7] = __VA_ARGS__
#define ROWS_16(base, ...) [base... base + 15] = __VA_ARGS__

#endif
