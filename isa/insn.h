/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * A decoded instruction, and the decoder: a pure function from bytes to this structure (Intel SDM
 * volume 2, chapter 2 and appendix A).
 *
 * The decoder normalises, so that handlers see few shapes:
 *  - Operands are "rm" (a register, or memory if INSN_MEM), "reg" (always a register) and imm.
 *    Registers that an opcode byte names (PUSH, POP, BSWAP, XCHG, MOV r,imm, INC/DEC 40-4F) and
 *    implicit accumulators (ADD AL,Ib; TEST; MOV AL,moffs; XCHG rAX) become rm or reg like others.
 *  - `form` says which is the destination and which the source.
 *  - A register number of a byte operand without REX that means AH CH DH BH is 16..19.
 *  - Shift by 1 is shift by imm 1. Immediates are sign-extended where the instruction does so;
 *    otherwise zero-extended. Group-opcode operations have names of their own. Sign extension ends
 *    at the operand size (bits above are 0), but displacements of branches have 64 bits.
 *  - Address and operand size have all prefixes, defaults and forced 64-bit sizes applied
 *    (PUSH in 64-bit mode has opsize 8).
 *  - moffs addresses (A0-A3) are memory operands without base and index; the address is in imm.
 *  - Implicit memory operands (strings, XLAT, MONITOR) set no INSN_MEM; seg is the effective segment
 *    of the one that an override applies to.
 *  - VEX.pp sets the flags that the same mandatory prefix would set. In 64-bit mode an override with
 *    CS, DS, ES or SS has no effect, and none on the flags.
 *  - LOCK on an instruction or form that does not take it decodes to INSN_INVALID.
 */
#ifndef LODGE_ISA_INSN_H
#define LODGE_ISA_INSN_H

#include "isa/ops.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { INSN_MAX_LENGTH = 15, INSN_NO_REG = 0xFF };

/* Values of `mode`: the code segment's default size. */
enum insn_mode { INSN_MODE_16, INSN_MODE_32, INSN_MODE_64 };

enum {
    INSN_MEM = 1 << 0,    /* the rm operand is memory */
    INSN_LOCK = 1 << 1,   /* LOCK prefix */
    INSN_REPE = 1 << 2,   /* F3, where it means REP or REPE (not when mandatory or ignored) */
    INSN_REPNE = 1 << 3,  /* F2, likewise */
    INSN_MOFFS = 1 << 4,  /* memory address is imm */
    INSN_RIPREL = 1 << 5, /* memory address is relative to the next instruction */
    INSN_VEX = 1 << 6,
    INSN_REX_W = 1 << 7,  /* REX.W or VEX.W */
    INSN_VEX_L = 1 << 8,  /* 256-bit */
    INSN_REX = 1 << 9,    /* any REX prefix */
    INSN_OPSIZE_PREFIX = 1 << 10, /* 66 is there (also when mandatory) */
    INSN_ENDS = 1 << 11,  /* control transfer or serialising: last of a block */
    INSN_SEG_OVERRIDE = 1 << 12,  /* seg comes from a prefix */
    INSN_PREFIX_F3 = 1 << 13, /* F3 is there and effective (also when mandatory) */
    INSN_PREFIX_F2 = 1 << 14, /* F2 likewise; the later of F2 and F3 wins */
};

enum insn_form {
    INSN_FORM_NONE,       /* implicit operands, or as the operation says */
    INSN_FORM_RM,         /* one operand: rm */
    INSN_FORM_RM_REG,     /* rm <- rm op reg */
    INSN_FORM_REG_RM,     /* reg <- reg op rm */
    INSN_FORM_RM_IMM,     /* rm <- rm op imm */
    INSN_FORM_REG_RM_IMM, /* reg <- rm op imm (IMUL, RORX) */
    INSN_FORM_RM_CL,      /* shifts by CL */
    INSN_FORM_RM_REG_IMM, /* SHLD, SHRD by imm */
    INSN_FORM_RM_REG_CL,  /* SHLD, SHRD by CL */
    INSN_FORM_REG_VVVV_RM, /* ANDN, PDEP, PEXT, MULX: reg <- vvvv, rm */
    INSN_FORM_REG_RM_VVVV, /* BEXTR, BZHI, SARX...: reg <- rm, vvvv */
    INSN_FORM_VVVV_RM,     /* BLSR, BLSI, BLSMSK: vvvv <- rm */
    INSN_FORM_IMM,         /* imm alone: PUSH imm, INT, RET imm, Jcc, IN, OUT */
};

enum insn_seg { SEG_ES, SEG_CS, SEG_SS, SEG_DS, SEG_FS, SEG_GS, SEG_COUNT };

/* How memory and general registers take part in a SIMD or x87 instruction (isa/simd.c). */
enum {
    SIMD_MEM_READ = 1 << 0,
    SIMD_MEM_WRITE = 1 << 1,
    SIMD_ALIGNED = 1 << 2,   /* #GP(0) if the memory operand is not aligned to its size */
    SIMD_REG_GPR_W = 1 << 3, /* modrm.reg names a general register that is written */
    SIMD_RM_GPR_R = 1 << 4,  /* modrm.rm (register form) names a general register that is read */
    SIMD_RM_GPR_W = 1 << 5,  /* ... that is written */
    SIMD_GPR_64 = 1 << 6,    /* that general register is 64 bits wide, else 32 (zero-extended) */
    SIMD_FLAGS = 1 << 7,     /* writes RFLAGS (COMISS, PTEST, PCMPxSTRx) */
    SIMD_MMX = 1 << 8,       /* touches MMX registers: x87 state, needs TOP = 0 and the tag word */
    SIMD_SPECIAL = 1 << 9,   /* has a handler of its own (MASKMOV, gathers, VPMASKMOV, PCMPxSTRx) */
    SIMD_NO_FP = 1 << 10,    /* raises no SIMD floating-point exception: no MXCSR handling needed */
    SIMD_UNALIGNED_OK = 1 << 11, /* legacy SSE, memory form, but no alignment check */
    SIMD_REG_MM = 1 << 12, /* modrm.reg names an MMX register */
    SIMD_RM_MM = 1 << 13,  /* modrm.rm (register form) names an MMX register */
};

/* Which XMM, YMM and MMX registers a SIMD instruction reads and writes, by operand; general
 * registers and memory are not in here. `simd_regs` of struct insn. */
enum {
    SIMD_READ_REG = 1 << 0,
    SIMD_READ_RM = 1 << 1,
    SIMD_READ_VVVV = 1 << 2,
    SIMD_READ_IS4 = 1 << 3,  /* bits 7:4 of the immediate */
    SIMD_READ_XMM0 = 1 << 4, /* implicit */
    SIMD_WRITE_REG = 1 << 5,
    SIMD_WRITE_RM = 1 << 6,
    SIMD_WRITE_VVVV = 1 << 7,
};

struct insn {
    uint64_t imm;     /* immediate, displacement of a near branch, or moffs address */
    int32_t disp;     /* displacement of the memory operand */
    uint16_t op;      /* enum insn_op */
    uint16_t flags;   /* INSN_* above */
    uint16_t imm2;    /* far selector, ENTER's level, LDS's segment register */
    uint16_t simd;    /* SIMD_* above; INSN_SIMD, INSN_X87 only */
    uint8_t length;   /* bytes, 1..15 */
    uint8_t form;     /* enum insn_form */
    uint8_t opsize;   /* operand size in bytes: 1, 2, 4, 8 */
    uint8_t addrsize; /* 2, 4, 8 */
    uint8_t seg;      /* segment of the memory operand, default applied */
    uint8_t reg;      /* modrm.reg with REX.R or as above */
    uint8_t rm;       /* register form: modrm.rm with REX.B, or as above */
    uint8_t base;     /* memory form: register number or INSN_NO_REG */
    uint8_t index;    /* likewise; already INSN_NO_REG where SIB says none. VSIB: vector register */
    uint8_t scale;    /* 0..3: shift count */
    uint8_t vvvv;     /* VEX.vvvv, un-inverted, 0..15 */
    uint8_t opcode;   /* last opcode byte; its low nibble is the condition of Jcc, SETcc, CMOVcc */
    uint8_t map;      /* 0: one byte, 1: 0F, 2: 0F38, 3: 0F3A */
    uint8_t modrm;    /* raw byte; 0 if there is none */
    uint8_t memsize;  /* bytes of the memory operand of SIMD and X87 (0 if none) and of LEA-like 0 */
    uint8_t feature;  /* enum insn_feature that the level must have */
    uint8_t srcsize;  /* MOVZX, MOVSX, CRC32: size of rm in bytes; else opsize */
    uint8_t simd_regs; /* SIMD_READ_*, SIMD_WRITE_*; INSN_SIMD only */
    uint8_t reserved[2];
};

enum insn_decode_result {
    INSN_DECODE_OK = 0,        /* also for INSN_INVALID: length bytes are #UD */
    INSN_DECODE_SHORT = -1,    /* more bytes are needed than were given */
    INSN_DECODE_TOO_LONG = -2, /* over 15 bytes: #GP(0) */
};

/*
 * Decodes one instruction from at most `available` bytes at `bytes`. Reads no more bytes than the
 * instruction has. On INSN_DECODE_OK *out is complete; else it is unspecified. Never writes
 * elsewhere, keeps no state.
 */
int insn_decode(struct insn *out, const uint8_t *bytes, size_t available, enum insn_mode mode);

/* "ADD", as in isa/ops.h; for messages and tests. */
const char *insn_op_name(enum insn_op op);
/* The operation's own feature (struct insn's `feature` also covers SIMD and X87). */
enum insn_feature insn_op_feature(enum insn_op op);
enum insn_group insn_op_group(enum insn_op op);

/* isa/effects.c. Which general registers, by bit, an instruction of 64-bit code may write. False: not
 * known. */
bool insn_gpr_writes(const struct insn *i, uint16_t *written);
/* What an instruction of 64-bit code that writes one general register adds to all 64 bits of it; 0: it
 * does something else. */
int64_t insn_gpr_step(const struct insn *i);

/*
 * isa/simd.c, for the decoder: map, opcode, modrm, prefixes, VEX fields, flags of *i are set.
 * simd_decode fills simd, simd_regs, memsize, feature (and op INSN_SIMD) and returns whether that
 * encoding exists (false: INSN_INVALID). x87_decode does the same for D8-DF (op INSN_X87).
 */
bool simd_decode(struct insn *i, enum insn_mode mode);
bool x87_decode(struct insn *i);

/* Of an instruction outside of the one-byte map: the prefix that is part of its opcode, or 0. */
static inline uint8_t insn_mandatory_prefix(const struct insn *i)
{
    if (i->flags & INSN_PREFIX_F3)
        return 0xF3;
    if (i->flags & INSN_PREFIX_F2)
        return 0xF2;
    return i->flags & INSN_OPSIZE_PREFIX ? 0x66 : 0;
}

/* Of an instruction on vector registers, VEX or not (SDM 2A, appendix A). */
static inline bool insn_simd_has_imm8(const struct insn *i)
{
    if (i->map != 1)
        return i->map == 3;
    return (i->opcode >= 0x70 && i->opcode <= 0x73) || i->opcode == 0xC2 ||
           (i->opcode >= 0xC4 && i->opcode <= 0xC6);
}

#endif
