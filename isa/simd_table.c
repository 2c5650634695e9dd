/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * Which SIMD instructions there are: SDM volume 2, appendix A (opcode maps) and the instruction
 * pages, for MMX to AVX2, FMA, F16C, AES, PCLMULQDQ, SHA and GFNI. Rows are sorted by opcode; an
 * opcode has one row for each mandatory prefix, and two where register and memory form differ.
 *
 * The columns: opcode, prefix, form, memory size, feature of the legacy encoding, of VEX.128, of
 * VEX.256 (NONE where there is none), flags. Scalar instructions ignore VEX.L and so have the same
 * feature twice. VEX encodings of AES, PCLMULQDQ and GFNI also want AVX; that is seen to by the
 * check of XCR0 that every VEX instruction makes.
 */
#include "isa/simd_table.h"

#define ROW_GROUP(opcode, group, pp, form, size, legacy, vex128, vex256, flags)                    \
    {                                                                                              \
        0x##opcode, group, SIMD_PP_##pp, SIMD_FORM_##form, SIMD_SIZE_##size,                       \
            INSN_FEATURE_##legacy, INSN_FEATURE_##vex128, INSN_FEATURE_##vex256, flags             \
    }
#define ROW(opcode, ...) ROW_GROUP(opcode, SIMD_GROUP_ANY, __VA_ARGS__)

/* Short names of flags, for the tables only. */
#define FP      SIMD_ROW_FP
#define ALIGNED SIMD_ROW_ALIGNED
#define ANYWAY  SIMD_ROW_ANY
#define MEM     SIMD_ROW_MEM
#define REG     SIMD_ROW_REG
#define W0      SIMD_ROW_W0
#define W1      SIMD_ROW_W1

/* Families of rows that differ in the opcode only. */

/* PS and PD, packed only */
#define PACKED(opcode, form, flags)                                                                \
    ROW(opcode, NP, form, V, SSE, AVX, AVX, flags), ROW(opcode, 66, form, V, SSE2, AVX, AVX, flags)
/* PS, PD, SS, SD */
#define ARITHMETIC(opcode)                                                                         \
    PACKED(opcode, VHW, FP), ROW(opcode, F3, VHW, 4, SSE, AVX, AVX, FP),                           \
        ROW(opcode, F2, VHW, 8, SSE2, AVX, AVX, FP)
/* Integers: MMX, SSE2, AVX, AVX2; those that MMX got with SSE or SSE2; SSSE3's; without MMX */
#define INTEGER_FROM(opcode, mmx)                                                                  \
    ROW(opcode, NP, PQ, V, mmx, NONE, NONE, 0), ROW(opcode, 66, VHW, V, SSE2, AVX, AVX2, 0)
#define INTEGER(opcode) INTEGER_FROM(opcode, MMX)
#define INTEGER_SSSE3(opcode)                                                                      \
    ROW(opcode, NP, PQ, V, SSSE3, NONE, NONE, 0), ROW(opcode, 66, VHW, V, SSSE3, AVX, AVX2, 0)
#define INTEGER_XMM(opcode, legacy) ROW(opcode, 66, VHW, V, legacy, AVX, AVX2, 0)
/* PUNPCKL: MMX reads half of its operand */
#define UNPACK_LOW(opcode)                                                                         \
    ROW(opcode, NP, PQ, H, MMX, NONE, NONE, 0), ROW(opcode, 66, VHW, V, SSE2, AVX, AVX2, 0)
/* Shifts by a count in a register or memory (always 16 bytes), and by an immediate */
#define SHIFT(opcode)                                                                              \
    ROW(opcode, NP, PQ, V, MMX, NONE, NONE, 0), ROW(opcode, 66, VHW, 16, SSE2, AVX, AVX2, 0)
#define SHIFT_IMM(opcode, group)                                                                   \
    ROW_GROUP(opcode, group, NP, QQ, NONE, MMX, NONE, NONE, 0), SHIFT_IMM_XMM(opcode, group)
#define SHIFT_IMM_XMM(opcode, group) ROW_GROUP(opcode, group, 66, HW, NONE, SSE2, AVX, AVX2, 0)
#define EXTEND(opcode, size)         ROW(opcode, 66, VW, size, SSE41, AVX, AVX2, 0)
#define FMA_PACKED(opcode)           ROW(opcode, 66, VVHW, V, NONE, FMA, FMA, FP)
#define FMA_SCALAR(opcode)           ROW(opcode, 66, VVHW, S, NONE, FMA, FMA, FP)
/* The same eight of FMA3 for each order of operands, from x8 on */
#define FMA_EIGHT(x)                                                                               \
    FMA_PACKED(x##8), FMA_SCALAR(x##9), FMA_PACKED(x##A), FMA_SCALAR(x##B), FMA_PACKED(x##C),      \
        FMA_SCALAR(x##D), FMA_PACKED(x##E), FMA_SCALAR(x##F)

/* table */
static const struct simd_row rows_0f[] = {
    PACKED(10, VW, ANYWAY),                     /* MOVUPS */
    ROW(10, F3, VHW, NONE, SSE, AVX, AVX, REG), /* MOVSS: loads clear the rest, moves keep it */
    ROW(10, F3, VW, 4, SSE, AVX, AVX, MEM),
    ROW(10, F2, VHW, NONE, SSE2, AVX, AVX, REG), /* MOVSD */
    ROW(10, F2, VW, 8, SSE2, AVX, AVX, MEM),
    PACKED(11, WV, ANYWAY),
    ROW(11, F3, WHV, NONE, SSE, AVX, AVX, REG),
    ROW(11, F3, WV, 4, SSE, AVX, AVX, MEM),
    ROW(11, F2, WHV, NONE, SSE2, AVX, AVX, REG),
    ROW(11, F2, WV, 8, SSE2, AVX, AVX, MEM),
    ROW(12, NP, VHW, 8, SSE, AVX, NONE, 0), /* MOVLPS, MOVHLPS */
    ROW(12, 66, VHW, 8, SSE2, AVX, NONE, MEM),
    ROW(12, F3, VW, V, SSE3, AVX, AVX, 0), /* MOVSLDUP */
    ROW(12, F2, VW, D, SSE3, AVX, AVX, 0), /* MOVDDUP */
    ROW(13, NP, WV, 8, SSE, AVX, NONE, MEM),
    ROW(13, 66, WV, 8, SSE2, AVX, NONE, MEM),
    PACKED(14, VHW, 0),                     /* UNPCKLPS */
    PACKED(15, VHW, 0),                     /* UNPCKHPS */
    ROW(16, NP, VHW, 8, SSE, AVX, NONE, 0), /* MOVHPS, MOVLHPS */
    ROW(16, 66, VHW, 8, SSE2, AVX, NONE, MEM),
    ROW(16, F3, VW, V, SSE3, AVX, AVX, 0), /* MOVSHDUP */
    ROW(17, NP, WV, 8, SSE, AVX, NONE, MEM),
    ROW(17, 66, WV, 8, SSE2, AVX, NONE, MEM),
    PACKED(28, VW, ALIGNED), /* MOVAPS */
    PACKED(29, WV, ALIGNED),
    ROW(2A, NP, VQ, 8, SSE, NONE, NONE, FP), /* CVTPI2PS */
    ROW(2A, 66, VQ, 8, SSE2, NONE, NONE, SIMD_ROW_MM_REG),
    ROW(2A, F3, VHE, Y, SSE, AVX, AVX, FP), /* CVTSI2SS */
    ROW(2A, F2, VHE, Y, SSE2, AVX, AVX, FP),
    PACKED(2B, WV, MEM | ALIGNED),           /* MOVNTPS */
    ROW(2C, NP, PW, 8, SSE, NONE, NONE, FP), /* CVTTPS2PI */
    ROW(2C, 66, PW, 16, SSE2, NONE, NONE, FP),
    ROW(2C, F3, GW, 4, SSE, AVX, AVX, FP), /* CVTTSS2SI */
    ROW(2C, F2, GW, 8, SSE2, AVX, AVX, FP),
    ROW(2D, NP, PW, 8, SSE, NONE, NONE, FP), /* CVTPS2PI */
    ROW(2D, 66, PW, 16, SSE2, NONE, NONE, FP),
    ROW(2D, F3, GW, 4, SSE, AVX, AVX, FP), /* CVTSS2SI */
    ROW(2D, F2, GW, 8, SSE2, AVX, AVX, FP),
    ROW(2E, NP, CMP, 4, SSE, AVX, AVX, FP), /* UCOMISS */
    ROW(2E, 66, CMP, 8, SSE2, AVX, AVX, FP),
    ROW(2F, NP, CMP, 4, SSE, AVX, AVX, FP), /* COMISS */
    ROW(2F, 66, CMP, 8, SSE2, AVX, AVX, FP),
    ROW(50, NP, GW, NONE, SSE, AVX, AVX, 0), /* MOVMSKPS */
    ROW(50, 66, GW, NONE, SSE2, AVX, AVX, 0),
    PACKED(51, VW, FP), /* SQRTPS */
    ROW(51, F3, VHW, 4, SSE, AVX, AVX, FP),
    ROW(51, F2, VHW, 8, SSE2, AVX, AVX, FP),
    ROW(52, NP, VW, V, SSE, AVX, AVX, 0), /* RSQRTPS */
    ROW(52, F3, VHW, 4, SSE, AVX, AVX, 0),
    ROW(53, NP, VW, V, SSE, AVX, AVX, 0), /* RCPPS */
    ROW(53, F3, VHW, 4, SSE, AVX, AVX, 0),
    PACKED(54, VHW, 0),                     /* ANDPS */
    PACKED(55, VHW, 0),                     /* ANDNPS */
    PACKED(56, VHW, 0),                     /* ORPS */
    PACKED(57, VHW, 0),                     /* XORPS */
    ARITHMETIC(58),                         /* ADD */
    ARITHMETIC(59),                         /* MUL */
    ROW(5A, NP, VW, H, SSE2, AVX, AVX, FP), /* CVTPS2PD */
    ROW(5A, 66, VW, V, SSE2, AVX, AVX, FP),
    ROW(5A, F3, VHW, 4, SSE2, AVX, AVX, FP),
    ROW(5A, F2, VHW, 8, SSE2, AVX, AVX, FP),
    ROW(5B, NP, VW, V, SSE2, AVX, AVX, FP), /* CVTDQ2PS */
    ROW(5B, 66, VW, V, SSE2, AVX, AVX, FP), /* CVTPS2DQ */
    ROW(5B, F3, VW, V, SSE2, AVX, AVX, FP), /* CVTTPS2DQ */
    ARITHMETIC(5C),                         /* SUB */
    ARITHMETIC(5D),                         /* MIN */
    ARITHMETIC(5E),                         /* DIV */
    ARITHMETIC(5F),                         /* MAX */
    UNPACK_LOW(60),                         /* PUNPCKLBW */
    UNPACK_LOW(61),
    UNPACK_LOW(62),
    INTEGER(63), /* PACKSSWB */
    INTEGER(64), /* PCMPGTB */
    INTEGER(65),
    INTEGER(66),
    INTEGER(67), /* PACKUSWB */
    INTEGER(68), /* PUNPCKHBW */
    INTEGER(69),
    INTEGER(6A),
    INTEGER(6B),           /* PACKSSDW */
    INTEGER_XMM(6C, SSE2), /* PUNPCKLQDQ */
    INTEGER_XMM(6D, SSE2),
    ROW(6E, NP, PE, Y, MMX, NONE, NONE, 0), /* MOVD, MOVQ from a general register */
    ROW(6E, 66, VE, Y, SSE2, AVX, NONE, 0),
    ROW(6F, NP, PQ, V, MMX, NONE, NONE, 0),      /* MOVQ */
    ROW(6F, 66, VW, V, SSE2, AVX, AVX, ALIGNED), /* MOVDQA */
    ROW(6F, F3, VW, V, SSE2, AVX, AVX, ANYWAY),
    ROW(70, NP, PQ, V, SSE, NONE, NONE, 0), /* PSHUFW */
    ROW(70, 66, VW, V, SSE2, AVX, AVX2, 0),
    ROW(70, F3, VW, V, SSE2, AVX, AVX2, 0),
    ROW(70, F2, VW, V, SSE2, AVX, AVX2, 0),
    SHIFT_IMM(71, 2), /* group 12: PSRLW, PSRAW, PSLLW */
    SHIFT_IMM(71, 4),
    SHIFT_IMM(71, 6),
    SHIFT_IMM(72, 2), /* group 13: PSRLD, PSRAD, PSLLD */
    SHIFT_IMM(72, 4),
    SHIFT_IMM(72, 6),
    SHIFT_IMM(73, 2), /* group 14: PSRLQ, PSRLDQ, PSLLQ, PSLLDQ */
    SHIFT_IMM_XMM(73, 3),
    SHIFT_IMM(73, 6),
    SHIFT_IMM_XMM(73, 7),
    INTEGER(74), /* PCMPEQB */
    INTEGER(75),
    INTEGER(76),
    ROW(77, NP, NONE, NONE, MMX, NONE, NONE, 0), /* EMMS */
    ROW(7C, 66, VHW, V, SSE3, AVX, AVX, FP),     /* HADDPD */
    ROW(7C, F2, VHW, V, SSE3, AVX, AVX, FP),
    ROW(7D, 66, VHW, V, SSE3, AVX, AVX, FP), /* HSUBPD */
    ROW(7D, F2, VHW, V, SSE3, AVX, AVX, FP),
    ROW(7E, NP, EP, Y, MMX, NONE, NONE, 0), /* MOVD, MOVQ to a general register */
    ROW(7E, 66, EV, Y, SSE2, AVX, NONE, 0),
    ROW(7E, F3, VW, 8, SSE2, AVX, NONE, 0), /* MOVQ */
    ROW(7F, NP, QP, V, MMX, NONE, NONE, 0),
    ROW(7F, 66, WV, V, SSE2, AVX, AVX, ALIGNED),
    ROW(7F, F3, WV, V, SSE2, AVX, AVX, ANYWAY),
    ARITHMETIC(C2),                         /* CMP */
    ROW(C4, NP, PE, 2, SSE, NONE, NONE, 0), /* PINSRW */
    ROW(C4, 66, VHE, 2, SSE2, AVX, NONE, 0),
    ROW(C5, NP, GQ, NONE, SSE, NONE, NONE, 0), /* PEXTRW */
    ROW(C5, 66, GW, NONE, SSE2, AVX, NONE, 0),
    PACKED(C6, VHW, 0),                      /* SHUFPS */
    ROW(D0, 66, VHW, V, SSE3, AVX, AVX, FP), /* ADDSUBPD */
    ROW(D0, F2, VHW, V, SSE3, AVX, AVX, FP),
    SHIFT(D1), /* PSRLW */
    SHIFT(D2),
    SHIFT(D3),
    INTEGER_FROM(D4, SSE2),                     /* PADDQ */
    INTEGER(D5),                                /* PMULLW */
    ROW(D6, 66, WV, 8, SSE2, AVX, NONE, 0),     /* MOVQ */
    ROW(D6, F3, VQ, NONE, SSE2, NONE, NONE, 0), /* MOVQ2DQ */
    ROW(D6, F2, PW, NONE, SSE2, NONE, NONE, 0), /* MOVDQ2Q */
    ROW(D7, NP, GQ, NONE, SSE, NONE, NONE, 0),  /* PMOVMSKB */
    ROW(D7, 66, GW, NONE, SSE2, AVX, AVX2, 0),
    INTEGER(D8), /* PSUBUSB */
    INTEGER(D9),
    INTEGER_FROM(DA, SSE), /* PMINUB */
    INTEGER(DB),           /* PAND */
    INTEGER(DC),           /* PADDUSB */
    INTEGER(DD),
    INTEGER_FROM(DE, SSE), /* PMAXUB */
    INTEGER(DF),           /* PANDN */
    INTEGER_FROM(E0, SSE), /* PAVGB */
    SHIFT(E1),             /* PSRAW */
    SHIFT(E2),
    INTEGER_FROM(E3, SSE),                    /* PAVGW */
    INTEGER_FROM(E4, SSE),                    /* PMULHUW */
    INTEGER(E5),                              /* PMULHW */
    ROW(E6, 66, VW, V, SSE2, AVX, AVX, FP),   /* CVTTPD2DQ */
    ROW(E6, F3, VW, H, SSE2, AVX, AVX, 0),    /* CVTDQ2PD */
    ROW(E6, F2, VW, V, SSE2, AVX, AVX, FP),   /* CVTPD2DQ */
    ROW(E7, NP, QP, V, SSE, NONE, NONE, MEM), /* MOVNTQ */
    ROW(E7, 66, WV, V, SSE2, AVX, AVX, MEM | ALIGNED),
    INTEGER(E8), /* PSUBSB */
    INTEGER(E9),
    INTEGER_FROM(EA, SSE), /* PMINSW */
    INTEGER(EB),           /* POR */
    INTEGER(EC),           /* PADDSB */
    INTEGER(ED),
    INTEGER_FROM(EE, SSE),                            /* PMAXSW */
    INTEGER(EF),                                      /* PXOR */
    ROW(F0, F2, VW, V, SSE3, AVX, AVX, MEM | ANYWAY), /* LDDQU */
    SHIFT(F1),                                        /* PSLLW */
    SHIFT(F2),
    SHIFT(F3),
    INTEGER_FROM(F4, SSE2), /* PMULUDQ */
    INTEGER(F5),            /* PMADDWD */
    INTEGER_FROM(F6, SSE),  /* PSADBW */
    ROW(F7, NP, MASKMOVQ, NONE, SSE, NONE, NONE, 0),
    ROW(F7, 66, MASKMOV, NONE, SSE2, AVX, NONE, 0),
    INTEGER(F8), /* PSUBB */
    INTEGER(F9),
    INTEGER(FA),
    INTEGER_FROM(FB, SSE2),
    INTEGER(FC), /* PADDB */
    INTEGER(FD),
    INTEGER(FE),
};

/* table */
static const struct simd_row rows_0f38[] = {
    INTEGER_SSSE3(00), /* PSHUFB */
    INTEGER_SSSE3(01), /* PHADDW */
    INTEGER_SSSE3(02),
    INTEGER_SSSE3(03),
    INTEGER_SSSE3(04), /* PMADDUBSW */
    INTEGER_SSSE3(05), /* PHSUBW */
    INTEGER_SSSE3(06),
    INTEGER_SSSE3(07),
    INTEGER_SSSE3(08), /* PSIGNB */
    INTEGER_SSSE3(09),
    INTEGER_SSSE3(0A),
    INTEGER_SSSE3(0B),                       /* PMULHRSW */
    ROW(0C, 66, VHW, V, NONE, AVX, AVX, W0), /* VPERMILPS */
    ROW(0D, 66, VHW, V, NONE, AVX, AVX, W0),
    ROW(0E, 66, CMP, V, NONE, AVX, AVX, W0), /* VTESTPS */
    ROW(0F, 66, CMP, V, NONE, AVX, AVX, W0),
    ROW(10, 66, VWZ, V, SSE41, NONE, NONE, 0),     /* PBLENDVB */
    ROW(13, 66, VW, H, NONE, F16C, F16C, W0 | FP), /* VCVTPH2PS */
    ROW(14, 66, VWZ, V, SSE41, NONE, NONE, 0),     /* BLENDVPS */
    ROW(15, 66, VWZ, V, SSE41, NONE, NONE, 0),
    ROW(16, 66, VHW, V, NONE, NONE, AVX2, W0),    /* VPERMPS */
    ROW(17, 66, CMP, V, SSE41, AVX, AVX, 0),      /* PTEST */
    ROW(18, 66, VW, 4, NONE, AVX, AVX, W0 | MEM), /* VBROADCASTSS */
    ROW(18, 66, VW, NONE, NONE, AVX2, AVX2, W0 | REG),
    ROW(19, 66, VW, 8, NONE, NONE, AVX, W0 | MEM),
    ROW(19, 66, VW, NONE, NONE, NONE, AVX2, W0 | REG),
    ROW(1A, 66, VW, 16, NONE, NONE, AVX, W0 | MEM), /* VBROADCASTF128 */
    ROW(1C, NP, PQ, V, SSSE3, NONE, NONE, 0),       /* PABSB */
    ROW(1C, 66, VW, V, SSSE3, AVX, AVX2, 0),
    ROW(1D, NP, PQ, V, SSSE3, NONE, NONE, 0),
    ROW(1D, 66, VW, V, SSSE3, AVX, AVX2, 0),
    ROW(1E, NP, PQ, V, SSSE3, NONE, NONE, 0),
    ROW(1E, 66, VW, V, SSSE3, AVX, AVX2, 0),
    EXTEND(20, H), /* PMOVSXBW */
    EXTEND(21, Q),
    EXTEND(22, E),
    EXTEND(23, H),
    EXTEND(24, Q),
    EXTEND(25, H),
    INTEGER_XMM(28, SSE41),                              /* PMULDQ */
    INTEGER_XMM(29, SSE41),                              /* PCMPEQQ */
    ROW(2A, 66, VW, V, SSE41, AVX, AVX2, MEM | ALIGNED), /* MOVNTDQA */
    INTEGER_XMM(2B, SSE41),                              /* PACKUSDW */
    ROW(2C, 66, MASKLOAD, V, NONE, AVX, AVX, W0 | MEM),  /* VMASKMOVPS */
    ROW(2D, 66, MASKLOAD, V, NONE, AVX, AVX, W0 | MEM),
    ROW(2E, 66, MASKSTORE, V, NONE, AVX, AVX, W0 | MEM),
    ROW(2F, 66, MASKSTORE, V, NONE, AVX, AVX, W0 | MEM),
    EXTEND(30, H), /* PMOVZXBW */
    EXTEND(31, Q),
    EXTEND(32, E),
    EXTEND(33, H),
    EXTEND(34, Q),
    EXTEND(35, H),
    ROW(36, 66, VHW, V, NONE, NONE, AVX2, W0), /* VPERMD */
    INTEGER_XMM(37, SSE42),                    /* PCMPGTQ */
    INTEGER_XMM(38, SSE41),                    /* PMINSB */
    INTEGER_XMM(39, SSE41),
    INTEGER_XMM(3A, SSE41),
    INTEGER_XMM(3B, SSE41),
    INTEGER_XMM(3C, SSE41), /* PMAXSB */
    INTEGER_XMM(3D, SSE41),
    INTEGER_XMM(3E, SSE41),
    INTEGER_XMM(3F, SSE41),
    INTEGER_XMM(40, SSE41),                    /* PMULLD */
    ROW(41, 66, VW, V, SSE41, AVX, NONE, 0),   /* PHMINPOSUW */
    ROW(45, 66, VHW, V, NONE, AVX2, AVX2, 0),  /* VPSRLVD, VPSRLVQ */
    ROW(46, 66, VHW, V, NONE, AVX2, AVX2, W0), /* VPSRAVD */
    ROW(47, 66, VHW, V, NONE, AVX2, AVX2, 0),  /* VPSLLVD */
    ROW(58, 66, VW, 4, NONE, AVX2, AVX2, W0),  /* VPBROADCASTD */
    ROW(59, 66, VW, 8, NONE, AVX2, AVX2, W0),
    ROW(5A, 66, VW, 16, NONE, NONE, AVX2, W0 | MEM), /* VBROADCASTI128 */
    ROW(78, 66, VW, 1, NONE, AVX2, AVX2, W0),        /* VPBROADCASTB */
    ROW(79, 66, VW, 2, NONE, AVX2, AVX2, W0),
    ROW(8C, 66, MASKLOAD, V, NONE, AVX2, AVX2, MEM), /* VPMASKMOVD */
    ROW(8E, 66, MASKSTORE, V, NONE, AVX2, AVX2, MEM),
    ROW(90, 66, GATHER, S, NONE, AVX2, AVX2, MEM), /* VPGATHERDD, VPGATHERDQ */
    ROW(91, 66, GATHER, S, NONE, AVX2, AVX2, MEM), /* VPGATHERQD */
    ROW(92, 66, GATHER, S, NONE, AVX2, AVX2, MEM), /* VGATHERDPS */
    ROW(93, 66, GATHER, S, NONE, AVX2, AVX2, MEM), /* VGATHERQPS */
    FMA_PACKED(96),                                /* VFMADDSUB132PS */
    FMA_PACKED(97),
    FMA_EIGHT(9),
    FMA_PACKED(A6),
    FMA_PACKED(A7),
    FMA_EIGHT(A),
    FMA_PACKED(B6),
    FMA_PACKED(B7),
    FMA_EIGHT(B),
    ROW(C8, NP, VVW, V, SHA, NONE, NONE, 0), /* SHA1NEXTE */
    ROW(C9, NP, VVW, V, SHA, NONE, NONE, 0),
    ROW(CA, NP, VVW, V, SHA, NONE, NONE, 0),
    ROW(CB, NP, VWZ, V, SHA, NONE, NONE, 0), /* SHA256RNDS2 */
    ROW(CC, NP, VVW, V, SHA, NONE, NONE, 0),
    ROW(CD, NP, VVW, V, SHA, NONE, NONE, 0),
    ROW(CF, 66, VHW, V, GFNI, GFNI, GFNI, W0), /* GF2P8MULB */
    ROW(DB, 66, VW, V, AES, AES, NONE, 0),     /* AESIMC */
    ROW(DC, 66, VHW, V, AES, AES, VAES, 0),    /* AESENC */
    ROW(DD, 66, VHW, V, AES, AES, VAES, 0),
    ROW(DE, 66, VHW, V, AES, AES, VAES, 0),
    ROW(DF, 66, VHW, V, AES, AES, VAES, 0),
};

/* table */
static const struct simd_row rows_0f3a[] = {
    ROW(00, 66, VW, V, NONE, NONE, AVX2, W1), /* VPERMQ */
    ROW(01, 66, VW, V, NONE, NONE, AVX2, W1),
    ROW(02, 66, VHW, V, NONE, AVX2, AVX2, W0), /* VPBLENDD */
    ROW(04, 66, VW, V, NONE, AVX, AVX, W0),    /* VPERMILPS */
    ROW(05, 66, VW, V, NONE, AVX, AVX, W0),
    ROW(06, 66, VHW, V, NONE, NONE, AVX, W0), /* VPERM2F128 */
    ROW(08, 66, VW, V, SSE41, AVX, AVX, FP),  /* ROUNDPS */
    ROW(09, 66, VW, V, SSE41, AVX, AVX, FP),
    ROW(0A, 66, VHW, 4, SSE41, AVX, AVX, FP),
    ROW(0B, 66, VHW, 8, SSE41, AVX, AVX, FP),
    ROW(0C, 66, VHW, V, SSE41, AVX, AVX, 0), /* BLENDPS */
    ROW(0D, 66, VHW, V, SSE41, AVX, AVX, 0),
    INTEGER_XMM(0E, SSE41),                  /* PBLENDW */
    INTEGER_SSSE3(0F),                       /* PALIGNR */
    ROW(14, 66, EV, 1, SSE41, AVX, NONE, 0), /* PEXTRB */
    ROW(15, 66, EV, 2, SSE41, AVX, NONE, 0),
    ROW(16, 66, EV, Y, SSE41, AVX, NONE, 0),
    ROW(17, 66, EV, 4, SSE41, AVX, NONE, 0),       /* EXTRACTPS */
    ROW(18, 66, VHW, 16, NONE, NONE, AVX, W0),     /* VINSERTF128 */
    ROW(19, 66, WV, 16, NONE, NONE, AVX, W0),      /* VEXTRACTF128 */
    ROW(1D, 66, WV, H, NONE, F16C, F16C, W0 | FP), /* VCVTPS2PH */
    ROW(20, 66, VHE, 1, SSE41, AVX, NONE, 0),      /* PINSRB */
    ROW(21, 66, VHW, 4, SSE41, AVX, NONE, 0),      /* INSERTPS */
    ROW(22, 66, VHE, Y, SSE41, AVX, NONE, 0),
    ROW(38, 66, VHW, 16, NONE, NONE, AVX2, W0), /* VINSERTI128 */
    ROW(39, 66, WV, 16, NONE, NONE, AVX2, W0),
    ROW(40, 66, VHW, V, SSE41, AVX, AVX, FP), /* DPPS */
    ROW(41, 66, VHW, V, SSE41, AVX, NONE, FP),
    INTEGER_XMM(42, SSE41),                          /* MPSADBW */
    ROW(44, 66, VHW, V, PCLMUL, PCLMUL, VPCLMUL, 0), /* PCLMULQDQ */
    ROW(46, 66, VHW, V, NONE, NONE, AVX2, W0),       /* VPERM2I128 */
    ROW(4A, 66, VHWL, V, NONE, AVX, AVX, W0),        /* VBLENDVPS */
    ROW(4B, 66, VHWL, V, NONE, AVX, AVX, W0),
    ROW(4C, 66, VHWL, V, NONE, AVX, AVX2, W0),
    ROW(60, 66, PCMPSTR, V, SSE42, AVX, NONE, ANYWAY), /* PCMPESTRM */
    ROW(61, 66, PCMPSTR, V, SSE42, AVX, NONE, ANYWAY), /* PCMPESTRI */
    ROW(62, 66, PCMPSTR, V, SSE42, AVX, NONE, ANYWAY), /* PCMPISTRM */
    ROW(63, 66, PCMPSTR, V, SSE42, AVX, NONE, ANYWAY), /* PCMPISTRI */
    ROW(CC, NP, VVW, V, SHA, NONE, NONE, 0),           /* SHA1RNDS4 */
    ROW(CE, 66, VHW, V, GFNI, GFNI, GFNI, W1),         /* GF2P8AFFINEQB */
    ROW(CF, 66, VHW, V, GFNI, GFNI, GFNI, W1),
    ROW(DF, 66, VW, V, AES, AES, NONE, 0), /* AESKEYGENASSIST */
};

#define MAP(rows)                                                                                  \
    {                                                                                              \
        rows, sizeof(rows) / sizeof((rows)[0])                                                     \
    }

const struct simd_map simd_maps[4] = {
    {NULL, 0},
    MAP(rows_0f),
    MAP(rows_0f38),
    MAP(rows_0f3a),
};
