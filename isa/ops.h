/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * Every operation that the decoder can name, by group. A group is one file (or two) of handlers in
 * x86/, which maps a decoded instruction to the handler for its size and form.
 *
 *   X(name, group, feature): feature is the level's feature that must be there, else #UD
 *   (enum insn_feature without its prefix); SIMD and X87 instructions carry theirs in struct insn.
 *
 * The order inside ALU's first eight, SHIFT's first eight and BIT's first four is that of the
 * opcode maps, and code relies on it.
 */
#ifndef LODGE_ISA_OPS_H
#define LODGE_ISA_OPS_H

#define INSN_OPS(X)                                                                                \
    X(INVALID, CONTROL, NONE) /* not an instruction: #UD */                                        \
    /* ALU: /0../7 of 80-83, 00-3F */                                                              \
    X(ADD, ALU, NONE)                                                                              \
    X(OR, ALU, NONE)                                                                               \
    X(ADC, ALU, NONE)                                                                              \
    X(SBB, ALU, NONE)                                                                              \
    X(AND, ALU, NONE)                                                                              \
    X(SUB, ALU, NONE)                                                                              \
    X(XOR, ALU, NONE)                                                                              \
    X(CMP, ALU, NONE)                                                                              \
    X(TEST, ALU, NONE)                                                                             \
    X(INC, ALU, NONE)                                                                              \
    X(DEC, ALU, NONE)                                                                              \
    X(NOT, ALU, NONE)                                                                              \
    X(NEG, ALU, NONE)                                                                              \
    X(ADCX, ALU, ADX)                                                                              \
    X(ADOX, ALU, ADX)                                                                              \
    /* SHIFT: /0../7 of C0-C1, D0-D3 */                                                            \
    X(ROL, SHIFT, NONE)                                                                            \
    X(ROR, SHIFT, NONE)                                                                            \
    X(RCL, SHIFT, NONE)                                                                            \
    X(RCR, SHIFT, NONE)                                                                            \
    X(SHL, SHIFT, NONE)                                                                            \
    X(SHR, SHIFT, NONE)                                                                            \
    X(SAL, SHIFT, NONE) /* /6, the same as SHL */                                                  \
    X(SAR, SHIFT, NONE)                                                                            \
    X(SHLD, SHIFT, NONE)                                                                           \
    X(SHRD, SHIFT, NONE)                                                                           \
    X(RORX, SHIFT, BMI2)                                                                           \
    X(SARX, SHIFT, BMI2)                                                                           \
    X(SHLX, SHIFT, BMI2)                                                                           \
    X(SHRX, SHIFT, BMI2)                                                                           \
    /* BIT */                                                                                      \
    X(BT, BIT, NONE)                                                                               \
    X(BTS, BIT, NONE)                                                                              \
    X(BTR, BIT, NONE)                                                                              \
    X(BTC, BIT, NONE)                                                                              \
    X(BSF, BIT, NONE)                                                                              \
    X(BSR, BIT, NONE)                                                                              \
    X(TZCNT, BIT, NONE) /* BSF where the level has no BMI1 */                                      \
    X(LZCNT, BIT, NONE) /* BSR where the level has no LZCNT */                                     \
    X(POPCNT, BIT, POPCNT)                                                                         \
    X(ANDN, BIT, BMI1)                                                                             \
    X(BEXTR, BIT, BMI1)                                                                            \
    X(BLSR, BIT, BMI1)                                                                             \
    X(BLSMSK, BIT, BMI1)                                                                           \
    X(BLSI, BIT, BMI1)                                                                             \
    X(BZHI, BIT, BMI2)                                                                             \
    X(PDEP, BIT, BMI2)                                                                             \
    X(PEXT, BIT, BMI2)                                                                             \
    X(CRC32, BIT, SSE42)                                                                           \
    /* MUL */                                                                                      \
    X(MUL, MUL, NONE)                                                                              \
    X(IMUL, MUL, NONE)                                                                             \
    X(IMUL2, MUL, NONE) /* IMUL r, rm  and  IMUL r, rm, imm */                                     \
    X(DIV, MUL, NONE)                                                                              \
    X(IDIV, MUL, NONE)                                                                             \
    X(MULX, MUL, BMI2)                                                                             \
    X(AAA, MUL, NONE)                                                                              \
    X(AAS, MUL, NONE)                                                                              \
    X(AAM, MUL, NONE)                                                                              \
    X(AAD, MUL, NONE)                                                                              \
    X(DAA, MUL, NONE)                                                                              \
    X(DAS, MUL, NONE)                                                                              \
    /* MOV */                                                                                      \
    X(MOV, MOV, NONE)                                                                              \
    X(MOVZX, MOV, NONE)                                                                            \
    X(MOVSX, MOV, NONE) /* also MOVSXD */                                                          \
    X(MOVBE, MOV, MOVBE)                                                                           \
    X(LEA, MOV, NONE)                                                                              \
    X(XCHG, MOV, NONE)                                                                             \
    X(BSWAP, MOV, NONE)                                                                            \
    X(CMOVCC, MOV, NONE)                                                                           \
    X(SETCC, MOV, NONE)                                                                            \
    X(CBW, MOV, NONE) /* CBW, CWDE, CDQE by operand size */                                        \
    X(CWD, MOV, NONE) /* CWD, CDQ, CQO by operand size */                                          \
    X(XLAT, MOV, NONE)                                                                             \
    X(LAHF, MOV, NONE)                                                                             \
    X(SAHF, MOV, NONE)                                                                             \
    X(SALC, MOV, NONE)                                                                             \
    X(CMC, MOV, NONE)                                                                              \
    X(CLC, MOV, NONE)                                                                              \
    X(STC, MOV, NONE)                                                                              \
    X(CLD, MOV, NONE)                                                                              \
    X(STD, MOV, NONE)                                                                              \
    X(NOP, MOV, NONE) /* also PREFETCHh, ENDBR, hint NOPs: operand not touched */                  \
    X(MOVNTI, MOV, SSE2)                                                                           \
    /* STACK */                                                                                    \
    X(PUSH, STACK, NONE)                                                                           \
    X(POP, STACK, NONE)                                                                            \
    X(PUSHA, STACK, NONE)                                                                          \
    X(POPA, STACK, NONE)                                                                           \
    X(PUSHF, STACK, NONE)                                                                          \
    X(POPF, STACK, NONE)                                                                           \
    X(ENTER, STACK, NONE) /* imm: size, imm2: level */                                             \
    X(LEAVE, STACK, NONE)                                                                          \
    /* BRANCH: near; imm is the sign-extended displacement */                                      \
    X(JCC, BRANCH, NONE)                                                                           \
    X(JMP, BRANCH, NONE)     /* relative */                                                        \
    X(JMP_RM, BRANCH, NONE)  /* FF /4 */                                                           \
    X(CALL, BRANCH, NONE)    /* relative */                                                        \
    X(CALL_RM, BRANCH, NONE) /* FF /2 */                                                           \
    X(RET, BRANCH, NONE)     /* imm: bytes to release */                                           \
    X(LOOPNE, BRANCH, NONE)                                                                        \
    X(LOOPE, BRANCH, NONE)                                                                         \
    X(LOOP, BRANCH, NONE)                                                                          \
    X(JCXZ, BRANCH, NONE)                                                                          \
    /* STRING */                                                                                   \
    X(MOVS, STRING, NONE)                                                                          \
    X(CMPS, STRING, NONE)                                                                          \
    X(STOS, STRING, NONE)                                                                          \
    X(LODS, STRING, NONE)                                                                          \
    X(SCAS, STRING, NONE)                                                                          \
    X(INS, STRING, NONE)                                                                           \
    X(OUTS, STRING, NONE)                                                                          \
    /* ATOMIC */                                                                                   \
    X(XADD, ATOMIC, NONE)                                                                          \
    X(CMPXCHG, ATOMIC, NONE)                                                                       \
    X(CMPXCHG8B, ATOMIC, CX8)                                                                      \
    X(CMPXCHG16B, ATOMIC, CX16)                                                                    \
    /* IO: imm (IN, OUT: port) or DX (IN_DX, OUT_DX); opsize 1, 2, 4 */                            \
    X(IN, IO, NONE)                                                                                \
    X(OUT, IO, NONE)                                                                               \
    X(IN_DX, IO, NONE)                                                                             \
    X(OUT_DX, IO, NONE)                                                                            \
    /* SEG: segment registers and descriptor tables */                                             \
    X(MOV_FROM_SEG, SEG, NONE) /* 8C: reg is the segment register number */                        \
    X(MOV_TO_SEG, SEG, NONE)   /* 8E */                                                            \
    X(PUSH_SEG, SEG, NONE)     /* reg is the segment register number */                            \
    X(POP_SEG, SEG, NONE)                                                                          \
    X(LDS, SEG, NONE) /* LES LDS LSS LFS LGS: imm2 is the segment register number */               \
    X(LGDT, SEG, NONE)                                                                             \
    X(LIDT, SEG, NONE)                                                                             \
    X(SGDT, SEG, NONE)                                                                             \
    X(SIDT, SEG, NONE)                                                                             \
    X(LLDT, SEG, NONE)                                                                             \
    X(LTR, SEG, NONE)                                                                              \
    X(SLDT, SEG, NONE)                                                                             \
    X(STR, SEG, NONE)                                                                              \
    X(VERR, SEG, NONE)                                                                             \
    X(VERW, SEG, NONE)                                                                             \
    X(LAR, SEG, NONE)                                                                              \
    X(LSL, SEG, NONE)                                                                              \
    X(ARPL, SEG, NONE)                                                                             \
    X(SWAPGS, SEG, NONE)                                                                           \
    X(RDFSBASE, SEG, FSGSBASE)                                                                     \
    X(RDGSBASE, SEG, FSGSBASE)                                                                     \
    X(WRFSBASE, SEG, FSGSBASE)                                                                     \
    X(WRGSBASE, SEG, FSGSBASE)                                                                     \
    /* CONTROL: far transfers, software interrupts, system calls */                                \
    X(JMP_FAR, CONTROL, NONE) /* imm: offset, imm2: selector */                                    \
    X(CALL_FAR, CONTROL, NONE)                                                                     \
    X(JMP_FAR_RM, CONTROL, NONE) /* m16:16/32/64 */                                                \
    X(CALL_FAR_RM, CONTROL, NONE)                                                                  \
    X(RET_FAR, CONTROL, NONE) /* imm: bytes to release */                                          \
    X(IRET, CONTROL, NONE)                                                                         \
    X(INT, CONTROL, NONE)  /* imm: vector */                                                       \
    X(INT3, CONTROL, NONE)                                                                         \
    X(INT1, CONTROL, NONE)                                                                         \
    X(INTO, CONTROL, NONE)                                                                         \
    X(BOUND, CONTROL, NONE)                                                                        \
    X(UD, CONTROL, NONE) /* UD0 UD1 UD2 */                                                         \
    X(SYSCALL, CONTROL, NONE)                                                                      \
    X(SYSRET, CONTROL, NONE)                                                                       \
    X(SYSENTER, CONTROL, SEP)                                                                      \
    X(SYSEXIT, CONTROL, SEP)                                                                       \
    X(RSM, CONTROL, NONE) /* #UD outside SMM, which there is not */                                \
    /* SYSTEM */                                                                                   \
    X(MOV_FROM_CR, SYSTEM, NONE) /* rm: general register, reg: CR number */                        \
    X(MOV_TO_CR, SYSTEM, NONE)                                                                     \
    X(MOV_FROM_DR, SYSTEM, NONE)                                                                   \
    X(MOV_TO_DR, SYSTEM, NONE)                                                                     \
    X(LMSW, SYSTEM, NONE)                                                                          \
    X(SMSW, SYSTEM, NONE)                                                                          \
    X(CLTS, SYSTEM, NONE)                                                                          \
    X(INVLPG, SYSTEM, NONE)                                                                        \
    X(INVPCID, SYSTEM, INVPCID)                                                                    \
    X(INVD, SYSTEM, NONE)                                                                          \
    X(WBINVD, SYSTEM, NONE)                                                                        \
    X(HLT, SYSTEM, NONE)                                                                           \
    X(CLI, SYSTEM, NONE)                                                                           \
    X(STI, SYSTEM, NONE)                                                                           \
    X(CLAC, SYSTEM, SMAP)                                                                          \
    X(STAC, SYSTEM, SMAP)                                                                          \
    X(RDMSR, SYSTEM, NONE)                                                                         \
    X(WRMSR, SYSTEM, NONE)                                                                         \
    X(RDTSC, SYSTEM, NONE)                                                                         \
    X(RDTSCP, SYSTEM, RDTSCP)                                                                      \
    X(RDPMC, SYSTEM, NONE)                                                                         \
    X(RDPID, SYSTEM, RDPID)                                                                        \
    X(CPUID, SYSTEM, NONE)                                                                         \
    X(MONITOR, SYSTEM, MONITOR)                                                                    \
    X(MWAIT, SYSTEM, MONITOR)                                                                      \
    X(PAUSE, SYSTEM, NONE)                                                                         \
    X(VMCALL, SYSTEM, NONE)                                                                        \
    X(VMMCALL, SYSTEM, NONE)                                                                       \
    X(RDRAND, SYSTEM, RDRAND)                                                                      \
    X(RDSEED, SYSTEM, RDSEED)                                                                      \
    X(CLFLUSH, SYSTEM, CLFSH)                                                                      \
    X(CLFLUSHOPT, SYSTEM, CLFLUSHOPT)                                                              \
    X(CLWB, SYSTEM, CLWB)                                                                          \
    X(LFENCE, SYSTEM, NONE)                                                                        \
    X(MFENCE, SYSTEM, NONE)                                                                        \
    X(SFENCE, SYSTEM, NONE)                                                                        \
    /* FPSTATE: state of x87 and vector units as a whole */                                        \
    X(FWAIT, FPSTATE, NONE)                                                                        \
    X(FXSAVE, FPSTATE, FXSR)                                                                       \
    X(FXRSTOR, FPSTATE, FXSR)                                                                      \
    X(XSAVE, FPSTATE, XSAVE)                                                                       \
    X(XSAVEOPT, FPSTATE, XSAVEOPT)                                                                 \
    X(XRSTOR, FPSTATE, XSAVE)                                                                      \
    X(XGETBV, FPSTATE, XSAVE)                                                                      \
    X(XSETBV, FPSTATE, XSAVE)                                                                      \
    X(LDMXCSR, FPSTATE, SSE) /* with VEX: AVX */                                                   \
    X(STMXCSR, FPSTATE, SSE)                                                                       \
    X(VZEROUPPER, FPSTATE, AVX)                                                                    \
    X(VZEROALL, FPSTATE, AVX)                                                                      \
    /* Executed natively in a prepared frame; described by struct insn_simd */                     \
    X(X87, X87, NONE)                                                                              \
    X(SIMD, SIMD, NONE)

enum insn_op {
#define X(name, group, feature) INSN_##name,
    INSN_OPS(X)
#undef X
        INSN_OP_COUNT
};

enum insn_group {
    INSN_GROUP_ALU,
    INSN_GROUP_SHIFT,
    INSN_GROUP_BIT,
    INSN_GROUP_MUL,
    INSN_GROUP_MOV,
    INSN_GROUP_STACK,
    INSN_GROUP_BRANCH,
    INSN_GROUP_STRING,
    INSN_GROUP_ATOMIC,
    INSN_GROUP_IO,
    INSN_GROUP_SEG,
    INSN_GROUP_CONTROL,
    INSN_GROUP_SYSTEM,
    INSN_GROUP_FPSTATE,
    INSN_GROUP_X87,
    INSN_GROUP_SIMD,
    INSN_GROUP_COUNT,
};

/* What a level may lack. One bit each in struct x86_level's insn_features (BIT(feature)). */
enum insn_feature {
    INSN_FEATURE_NONE,
    INSN_FEATURE_X87,
    INSN_FEATURE_MMX,
    INSN_FEATURE_SSE,
    INSN_FEATURE_SSE2,
    INSN_FEATURE_SSE3,
    INSN_FEATURE_SSSE3,
    INSN_FEATURE_SSE41,
    INSN_FEATURE_SSE42,
    INSN_FEATURE_SSE4A,
    INSN_FEATURE_AES,
    INSN_FEATURE_PCLMUL,
    INSN_FEATURE_SHA,
    INSN_FEATURE_GFNI,
    INSN_FEATURE_AVX,
    INSN_FEATURE_AVX2,
    INSN_FEATURE_FMA,
    INSN_FEATURE_F16C,
    INSN_FEATURE_VAES,
    INSN_FEATURE_VPCLMUL,
    INSN_FEATURE_BMI1,
    INSN_FEATURE_BMI2,
    INSN_FEATURE_LZCNT,
    INSN_FEATURE_POPCNT,
    INSN_FEATURE_MOVBE,
    INSN_FEATURE_ADX,
    INSN_FEATURE_CX8,
    INSN_FEATURE_CX16,
    INSN_FEATURE_FSGSBASE,
    INSN_FEATURE_SEP,
    INSN_FEATURE_INVPCID,
    INSN_FEATURE_SMAP,
    INSN_FEATURE_RDTSCP,
    INSN_FEATURE_RDPID,
    INSN_FEATURE_MONITOR,
    INSN_FEATURE_RDRAND,
    INSN_FEATURE_RDSEED,
    INSN_FEATURE_CLFSH,
    INSN_FEATURE_CLFLUSHOPT,
    INSN_FEATURE_CLWB,
    INSN_FEATURE_FXSR,
    INSN_FEATURE_XSAVE,
    INSN_FEATURE_XSAVEOPT,
    INSN_FEATURE_COUNT,
};

_Static_assert(INSN_FEATURE_COUNT <= 64, "one bit each in a 64-bit mask");

#endif
