/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * x87 instructions (D8 to DF): which exist, and their memory operands. SDM volume 2, appendix A.5
 * ("Escape opcode instructions"). The encodings that the manual leaves empty but that every x87
 * since the 80287 executes as aliases (FSTP1 D9 D8, FCOM2 DC D0, FCOMP3 DC D8, FXCH4 DD C8, FCOMP5
 * DE D0, FFREEP DF C0, FXCH7 DF C8, FSTP8 DF D0, FSTP9 DF D8) are here as well.
 */
#include "isa/insn.h"

enum {
    READ = SIMD_MEM_READ,
    WRITE = SIMD_MEM_WRITE,
    ENVIRONMENT = 0xFE, /* 14 or 28 bytes by operand size */
    WHOLE_STATE = 0xFF, /* 94 or 108 */
};

struct x87_memory {
    uint8_t size;   /* bytes; 0: there is no such instruction */
    uint8_t access; /* READ or WRITE */
};

/* By low three bits of the escape byte and modrm.reg. */
/* table */
static const struct x87_memory memory_forms[8][8] = {
    /* D8: FADD .. FDIVR m32 */
    {{4, READ}, {4, READ}, {4, READ}, {4, READ}, {4, READ}, {4, READ}, {4, READ}, {4, READ}},
    /* D9: FLD -- FST FSTP m32, FLDENV FLDCW FNSTENV FNSTCW */
    {{4, READ},
     {0, 0},
     {4, WRITE},
     {4, WRITE},
     {ENVIRONMENT, READ},
     {2, READ},
     {ENVIRONMENT, WRITE},
     {2, WRITE}},
    /* DA: FIADD .. FIDIVR m32 */
    {{4, READ}, {4, READ}, {4, READ}, {4, READ}, {4, READ}, {4, READ}, {4, READ}, {4, READ}},
    /* DB: FILD FISTTP FIST FISTP m32, -- FLD m80 -- FSTP m80 */
    {{4, READ}, {4, WRITE}, {4, WRITE}, {4, WRITE}, {0, 0}, {10, READ}, {0, 0}, {10, WRITE}},
    /* DC: FADD .. FDIVR m64 */
    {{8, READ}, {8, READ}, {8, READ}, {8, READ}, {8, READ}, {8, READ}, {8, READ}, {8, READ}},
    /* DD: FLD m64 FISTTP m64 FST FSTP m64, FRSTOR -- FNSAVE FNSTSW */
    {{8, READ},
     {8, WRITE},
     {8, WRITE},
     {8, WRITE},
     {WHOLE_STATE, READ},
     {0, 0},
     {WHOLE_STATE, WRITE},
     {2, WRITE}},
    /* DE: FIADD .. FIDIVR m16 */
    {{2, READ}, {2, READ}, {2, READ}, {2, READ}, {2, READ}, {2, READ}, {2, READ}, {2, READ}},
    /* DF: FILD FISTTP FIST FISTP m16, FBLD FILD m64 FBSTP FISTP m64 */
    {{2, READ}, {2, WRITE}, {2, WRITE}, {2, WRITE}, {10, READ}, {8, READ}, {10, WRITE}, {8, WRITE}},
};

/* Bit n: modrm C0 + n exists. */
static const uint64_t register_forms[8] = {
    0xFFFFFFFFFFFFFFFF, /* D8 */
    0xFFFF7F33FF01FFFF, /* D9: D1-D7, E2-E3, E6-E7, EF missing */
    0x00000200FFFFFFFF, /* DA: FCMOVcc, FUCOMPP */
    0x00FFFF1FFFFFFFFF, /* DB: FCMOVNcc, FENI FDISI FNCLEX FNINIT FSETPM, FUCOMI, FCOMI */
    0xFFFFFFFFFFFFFFFF, /* DC */
    0x0000FFFFFFFFFFFF, /* DD: FFREE, FXCH4, FST, FSTP, FUCOM, FUCOMP */
    0xFFFFFFFF02FFFFFF, /* DE: DA-DF, D8 missing (FCOMPP is D9) */
    0x00FFFF01FFFFFFFF, /* DF: FFREEP, FXCH7, FSTP8, FSTP9, FNSTSW AX, FUCOMIP, FCOMIP */
};

static bool decode_memory(struct insn *i, unsigned int escape, unsigned int reg)
{
    const struct x87_memory *m = &memory_forms[escape][reg];
    if (m->size == 0)
        return false;
    i->memsize = m->size;
    if (m->size == ENVIRONMENT)
        i->memsize = i->opsize == 2 ? 14 : 28;
    else if (m->size == WHOLE_STATE)
        i->memsize = i->opsize == 2 ? 94 : 108;
    i->simd = m->access;
    /* FISTTP is the only one that came later */
    bool truncates = reg == 1 && (escape == 3 || escape == 5 || escape == 7);
    i->feature = truncates ? INSN_FEATURE_SSE3 : INSN_FEATURE_X87;
    return true;
}

bool x87_decode(struct insn *i)
{
    unsigned int escape = i->opcode & 7, reg = i->modrm >> 3 & 7;
    i->op = INSN_X87;
    i->simd = 0;
    i->memsize = 0;
    i->feature = INSN_FEATURE_X87;
    if (i->flags & INSN_MEM)
        return decode_memory(i, escape, reg);
    /* FUCOMI, FCOMI (DB) and FUCOMIP, FCOMIP (DF) */
    if ((escape == 3 || escape == 7) && (reg == 5 || reg == 6))
        i->simd = SIMD_FLAGS;
    return register_forms[escape] >> (i->modrm & 63) & 1;
}
