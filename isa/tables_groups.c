/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * Opcodes that a ModRM byte or a mandatory prefix extends (Intel SDM volume 2, table A-6), and the
 * few opcodes of maps 0F38 and 0F3A and of the VEX maps that are not SIMD (tables ).
 *
 * Where a select by prefix has 66 beside "none", both are named: 66 is the operand size there.
 * VMX, SVM, SGX, CET, TSX, WAITPKG, MOVDIR and PKU are in no level, so their encodings are absent
 * (INSN_INVALID), unless a hint NOP's place makes them NOPs.
 */
#include "isa/tables.h"

/* The eight operations of group 1 or 2 in one form; they have the opcode's order in enum insn_op.
 */
#define GROUP_1_ROW(name, size, imm, attr_) MODRM_IMM(name, RM_IMM, size, imm, .attr = attr_)
#define GROUP_1(size, imm)                                                                         \
    {                                                                                              \
        GROUP_1_ROW(ADD, size, imm, ATTR_LOCK), GROUP_1_ROW(OR, size, imm, ATTR_LOCK),             \
            GROUP_1_ROW(ADC, size, imm, ATTR_LOCK), GROUP_1_ROW(SBB, size, imm, ATTR_LOCK),        \
            GROUP_1_ROW(AND, size, imm, ATTR_LOCK), GROUP_1_ROW(SUB, size, imm, ATTR_LOCK),        \
            GROUP_1_ROW(XOR, size, imm, ATTR_LOCK), GROUP_1_ROW(CMP, size, imm, 0)                 \
    }
#define GROUP_2(form, size, imm)                                                                   \
    {                                                                                              \
        MODRM_IMM(ROL, form, size, imm), MODRM_IMM(ROR, form, size, imm),                          \
            MODRM_IMM(RCL, form, size, imm), MODRM_IMM(RCR, form, size, imm),                      \
            MODRM_IMM(SHL, form, size, imm), MODRM_IMM(SHR, form, size, imm),                      \
            MODRM_IMM(SAL, form, size, imm), MODRM_IMM(SAR, form, size, imm)                       \
    }
#define GROUP_3(size, imm)                                                                         \
    {                                                                                              \
        MODRM_IMM(TEST, RM_IMM, size, imm), MODRM_IMM(TEST, RM_IMM, size, imm),                    \
            MODRM(NOT, RM, size, .attr = ATTR_LOCK), MODRM(NEG, RM, size, .attr = ATTR_LOCK),      \
            MODRM(MUL, RM, size), MODRM(IMUL, RM, size), MODRM(DIV, RM, size),                     \
            MODRM(IDIV, RM, size)                                                                  \
    }

/* table */
/* clang-format off */
const struct insn_row insn_groups[GROUP_COUNT][8] = {
    [GROUP_1_80] = GROUP_1(B, 8),
    [GROUP_1_81] = GROUP_1(V, Z),
    [GROUP_1_83] = GROUP_1(V, 8S),
    [GROUP_1A] = { [0] = MODRM(POP, RM, D64) }, /* the others: XOP on some processors */
    [GROUP_2_C0] = GROUP_2(RM_IMM, B, 8),
    [GROUP_2_C1] = GROUP_2(RM_IMM, V, 8),
    [GROUP_2_D0] = GROUP_2(RM_IMM, B, ONE),
    [GROUP_2_D1] = GROUP_2(RM_IMM, V, ONE),
    [GROUP_2_D2] = GROUP_2(RM_CL, B, NONE),
    [GROUP_2_D3] = GROUP_2(RM_CL, V, NONE),
    [GROUP_3_F6] = GROUP_3(B, 8),
    [GROUP_3_F7] = GROUP_3(V, Z),
    [GROUP_4] = {
        [0] = MODRM(INC, RM, B, .attr = ATTR_LOCK),
        [1] = MODRM(DEC, RM, B, .attr = ATTR_LOCK),
    },
    [GROUP_5] = {
        [0] = MODRM(INC, RM, V, .attr = ATTR_LOCK),
        [1] = MODRM(DEC, RM, V, .attr = ATTR_LOCK),
        [2] = MODRM(CALL_RM, RM, F64, .attr = ATTR_ENDS),
        [3] = MODRM(CALL_FAR_RM, RM, V, .attr = ATTR_MEM_ONLY | ATTR_ENDS),
        [4] = MODRM(JMP_RM, RM, F64, .attr = ATTR_ENDS),
        [5] = MODRM(JMP_FAR_RM, RM, V, .attr = ATTR_MEM_ONLY | ATTR_ENDS),
        [6] = MODRM(PUSH, RM, D64),
    },
    [GROUP_6] = {
        [0] = MODRM(SLDT, RM, V, .attr = ATTR_MEM16),
        [1] = MODRM(STR, RM, V, .attr = ATTR_MEM16),
        [2] = MODRM(LLDT, RM, W, .attr = ATTR_ENDS),
        [3] = MODRM(LTR, RM, W, .attr = ATTR_ENDS),
        [4] = MODRM(VERR, RM, W),
        [5] = MODRM(VERW, RM, W),
    },
    [GROUP_7] = { SUB(REG, 7_MEM), SUB(REG, 7_REG) },
    [GROUP_7_MEM] = {
        [0] = MODRM(SGDT, RM, F64),
        [1] = MODRM(SIDT, RM, F64),
        [2] = MODRM(LGDT, RM, F64, .attr = ATTR_ENDS),
        [3] = MODRM(LIDT, RM, F64, .attr = ATTR_ENDS),
        [4] = MODRM(SMSW, RM, W),
        [6] = MODRM(LMSW, RM, W, .attr = ATTR_ENDS),
        [7] = MODRM(INVLPG, RM, B, .attr = ATTR_ENDS),
    },
    [GROUP_7_REG] = {
        [0] = SUB(RM, 7_REG_0),
        [1] = SUB(RM, 7_REG_1),
        [2] = SUB(RM, 7_REG_2),
        [3] = SUB(RM, 7_REG_3),
        [4] = MODRM(SMSW, RM, V),
        [6] = MODRM(LMSW, RM, W, .attr = ATTR_ENDS),
        [7] = SUB(RM, 7_REG_7),
    },
    [GROUP_7_REG_0] = { [1] = MODRM(VMCALL, NONE, NATIVE, .attr = ATTR_NP | ATTR_ENDS) },
    [GROUP_7_REG_1] = {
        [0] = MODRM(MONITOR, NONE, NATIVE, .attr = ATTR_NP),
        [1] = MODRM(MWAIT, NONE, NATIVE, .attr = ATTR_NP | ATTR_ENDS),
        [2] = MODRM(CLAC, NONE, NATIVE, .attr = ATTR_NP | ATTR_ENDS),
        [3] = MODRM(STAC, NONE, NATIVE, .attr = ATTR_NP | ATTR_ENDS),
    },
    [GROUP_7_REG_2] = {
        [0] = MODRM(XGETBV, NONE, NATIVE, .attr = ATTR_NP),
        [1] = MODRM(XSETBV, NONE, NATIVE, .attr = ATTR_NP | ATTR_ENDS),
    },
    [GROUP_7_REG_3] = { [1] = MODRM(VMMCALL, NONE, NATIVE, .attr = ATTR_ENDS) },
    [GROUP_7_REG_7] = {
        [0] = MODRM(SWAPGS, NONE, NATIVE, .attr = ATTR_ONLY64),
        [1] = MODRM(RDTSCP, NONE, NATIVE),
    },
    [GROUP_8] = {
        [4] = MODRM_IMM(BT, RM_IMM, V, 8),
        [5] = MODRM_IMM(BTS, RM_IMM, V, 8, .attr = ATTR_LOCK),
        [6] = MODRM_IMM(BTR, RM_IMM, V, 8, .attr = ATTR_LOCK),
        [7] = MODRM_IMM(BTC, RM_IMM, V, 8, .attr = ATTR_LOCK),
    },
    [GROUP_9] = { SUB(REG, 9_MEM), SUB(REG, 9_REG) },
    [GROUP_9_MEM] = {
        [1] = MODRM(CMPXCHG8B, RM, Y, .attr = ATTR_LOCK, .fix = FIX_CMPXCHG8B),
    },
    [GROUP_9_REG] = { [6] = SUB(PREFIX, 9_REG_6), [7] = SUB(PREFIX, 9_REG_7) },
    [GROUP_9_REG_6] = { MODRM(RDRAND, RM, V), MODRM(RDRAND, RM, V) },
    [GROUP_9_REG_7] = { MODRM(RDSEED, RM, V), MODRM(RDSEED, RM, V), MODRM(RDPID, RM, NATIVE) },
    [GROUP_11_C6] = { [0] = MODRM_IMM(MOV, RM_IMM, B, 8) },
    [GROUP_11_C7] = { [0] = MODRM_IMM(MOV, RM_IMM, V, Z) },
    [GROUP_15] = { SUB(MOD, 15_NP), SUB(REG, 15_66), SUB(REG, 15_F3) },
    [GROUP_15_NP] = { SUB(REG, 15_NP_MEM), SUB(REG, 15_NP_REG) },
    [GROUP_15_NP_MEM] = {
        [0] = MODRM(FXSAVE, RM, Y),
        [1] = MODRM(FXRSTOR, RM, Y),
        [2] = MODRM(LDMXCSR, RM, D),
        [3] = MODRM(STMXCSR, RM, D),
        [4] = MODRM(XSAVE, RM, Y),
        [5] = MODRM(XRSTOR, RM, Y),
        [6] = MODRM(XSAVEOPT, RM, Y),
        [7] = MODRM(CLFLUSH, RM, B),
    },
    [GROUP_15_NP_REG] = {
        [5] = MODRM(LFENCE, NONE, D),
        [6] = MODRM(MFENCE, NONE, D),
        [7] = MODRM(SFENCE, NONE, D),
    },
    [GROUP_15_66] = {
        [6] = MODRM(CLWB, RM, B, .attr = ATTR_MEM_ONLY),
        [7] = MODRM(CLFLUSHOPT, RM, B, .attr = ATTR_MEM_ONLY),
    },
    [GROUP_15_F3] = {
        [0] = MODRM(RDFSBASE, RM, Y, .attr = ATTR_ONLY64 | ATTR_REG_ONLY),
        [1] = MODRM(RDGSBASE, RM, Y, .attr = ATTR_ONLY64 | ATTR_REG_ONLY),
        [2] = MODRM(WRFSBASE, RM, Y, .attr = ATTR_ONLY64 | ATTR_REG_ONLY),
        [3] = MODRM(WRGSBASE, RM, Y, .attr = ATTR_ONLY64 | ATTR_REG_ONLY),
    },
    [GROUP_63] = {
        [0] = MODRM(ARPL, RM_REG, W),
        [1] = MODRM(MOVSX, REG_RM, V, .src = SIZE_Z), /* MOVSXD */
    },
    [GROUP_0FB8] = { [2] = MODRM(POPCNT, REG_RM, V) },
    [GROUP_0FBC] = {
        MODRM(BSF, REG_RM, V), MODRM(BSF, REG_RM, V),
        MODRM(TZCNT, REG_RM, V), MODRM(BSF, REG_RM, V),
    },
    [GROUP_0FBD] = {
        MODRM(BSR, REG_RM, V), MODRM(BSR, REG_RM, V),
        MODRM(LZCNT, REG_RM, V), MODRM(BSR, REG_RM, V),
    },
    [GROUP_0F3882] = { [1] = MODRM(INVPCID, REG_RM, NATIVE, .attr = ATTR_MEM_ONLY | ATTR_ENDS) },
    [GROUP_0F38F0] = {
        MODRM(MOVBE, REG_RM, V, .attr = ATTR_MEM_ONLY),
        MODRM(MOVBE, REG_RM, V, .attr = ATTR_MEM_ONLY),
        [3] = MODRM(CRC32, REG_RM, Y, .src = SIZE_B),
    },
    [GROUP_0F38F1] = {
        MODRM(MOVBE, RM_REG, V, .attr = ATTR_MEM_ONLY),
        MODRM(MOVBE, RM_REG, V, .attr = ATTR_MEM_ONLY),
        [3] = MODRM(CRC32, REG_RM, Y, .src = SIZE_V),
    },
    [GROUP_0F38F6] = { [1] = MODRM(ADCX, REG_RM, Y), [2] = MODRM(ADOX, REG_RM, Y) },
    [GROUP_VEX_0FAE] = {
        [2] = MODRM(LDMXCSR, RM, D, .attr = ATTR_MEM_ONLY | ATTR_NP),
        [3] = MODRM(STMXCSR, RM, D, .attr = ATTR_MEM_ONLY | ATTR_NP),
    },
    [GROUP_VEX_0F38F2] = { [0] = MODRM(ANDN, REG_VVVV_RM, Y) },
    [GROUP_VEX_0F38F3] = { [0] = SUB(REG, VEX_0F38F3_NP) },
    [GROUP_VEX_0F38F3_NP] = {
        [1] = MODRM(BLSR, VVVV_RM, Y),
        [2] = MODRM(BLSMSK, VVVV_RM, Y),
        [3] = MODRM(BLSI, VVVV_RM, Y),
    },
    [GROUP_VEX_0F38F5] = {
        [0] = MODRM(BZHI, REG_RM_VVVV, Y),
        [2] = MODRM(PEXT, REG_VVVV_RM, Y),
        [3] = MODRM(PDEP, REG_VVVV_RM, Y),
    },
    [GROUP_VEX_0F38F6] = { [3] = MODRM(MULX, REG_VVVV_RM, Y) },
    [GROUP_VEX_0F38F7] = {
        MODRM(BEXTR, REG_RM_VVVV, Y), MODRM(SHLX, REG_RM_VVVV, Y),
        MODRM(SARX, REG_RM_VVVV, Y), MODRM(SHRX, REG_RM_VVVV, Y),
    },
    [GROUP_VEX_0F3AF0] = { [3] = MODRM_IMM(RORX, REG_RM_IMM, Y, 8) },
};

/* Opcodes of the extended maps that are not SIMD, or not as the rest of their map. table */
static const struct {
    bool vex;
    uint8_t map, opcode;
    struct insn_row row;
} insn_exceptions[] = {
    { false, 2, 0x82, SUB(PREFIX, 0F3882) },
    { false, 2, 0xF0, SUB(PREFIX, 0F38F0) },
    { false, 2, 0xF1, SUB(PREFIX, 0F38F1) },
    { false, 2, 0xF6, SUB(PREFIX, 0F38F6) },
    { true, 1, 0x70, SIMD_ROW(8) },
    { true, 1, 0x71, SIMD_ROW(8) },
    { true, 1, 0x72, SIMD_ROW(8) },
    { true, 1, 0x73, SIMD_ROW(8) },
    { true, 1, 0x77, PLAIN(VZEROUPPER, D, .attr = ATTR_NP, .fix = FIX_VZERO) },
    { true, 1, 0xAE, SUB(REG, VEX_0FAE) },
    { true, 1, 0xC2, SIMD_ROW(8) },
    { true, 1, 0xC4, SIMD_ROW(8) },
    { true, 1, 0xC5, SIMD_ROW(8) },
    { true, 1, 0xC6, SIMD_ROW(8) },
    { true, 2, 0x90, SIMD_ROW(NONE, .attr = ATTR_VSIB) },
    { true, 2, 0x91, SIMD_ROW(NONE, .attr = ATTR_VSIB) },
    { true, 2, 0x92, SIMD_ROW(NONE, .attr = ATTR_VSIB) },
    { true, 2, 0x93, SIMD_ROW(NONE, .attr = ATTR_VSIB) },
    { true, 2, 0xF2, SUB(PREFIX, VEX_0F38F2) },
    { true, 2, 0xF3, SUB(PREFIX, VEX_0F38F3) },
    { true, 2, 0xF5, SUB(PREFIX, VEX_0F38F5) },
    { true, 2, 0xF6, SUB(PREFIX, VEX_0F38F6) },
    { true, 2, 0xF7, SUB(PREFIX, VEX_0F38F7) },
    { true, 3, 0xF0, SUB(PREFIX, VEX_0F3AF0) },
};
/* clang-format on */

const struct insn_row *insn_row_extended(bool vex, unsigned int map, uint8_t opcode)
{
    static const struct insn_row simd = SIMD_ROW(NONE);
    static const struct insn_row simd_imm = SIMD_ROW(8); /* all of 0F3A has an immediate byte */

    for (size_t n = 0; n < sizeof(insn_exceptions) / sizeof(insn_exceptions[0]); n++)
        if (insn_exceptions[n].opcode == opcode && insn_exceptions[n].map == map &&
            insn_exceptions[n].vex == vex)
            return &insn_exceptions[n].row;
    return map == 3 ? &simd_imm : &simd;
}
