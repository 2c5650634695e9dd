/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/* Which of our operations Zydis means. Included by decoder_zydis.c alone. */
#ifndef LODGE_TESTS_UNIT_DECODER_ZYDIS_OPS_H
#define LODGE_TESTS_UNIT_DECODER_ZYDIS_OPS_H

#include "tests/unit/decoder_zydis.h"

#include <string.h>

/* --- operations --------------------------------------------------------------------------------
 */

/* Zydis's mnemonics that are not our operations' names. Those of one class are not told apart here;
 * the comparison of operands does. */
static const struct alias {
    const char *mnemonic;
    enum insn_op op;
} aliases[] = {
    {"movsxd", INSN_MOVSX},
    {"cwde", INSN_CBW},
    {"cdqe", INSN_CBW},
    {"cdq", INSN_CWD},
    {"cqo", INSN_CWD},
    {"iretd", INSN_IRET},
    {"iretq", INSN_IRET},
    {"les", INSN_LDS},
    {"lss", INSN_LDS},
    {"lfs", INSN_LDS},
    {"lgs", INSN_LDS},
    {"pushad", INSN_PUSHA},
    {"popad", INSN_POPA},
    {"pushfd", INSN_PUSHF},
    {"pushfq", INSN_PUSHF},
    {"popfd", INSN_POPF},
    {"popfq", INSN_POPF},
    {"fxsave64", INSN_FXSAVE},
    {"fxrstor64", INSN_FXRSTOR},
    {"xsave64", INSN_XSAVE},
    {"xrstor64", INSN_XRSTOR},
    {"ud0", INSN_UD},
    {"ud1", INSN_UD},
    {"ud2", INSN_UD},
    {"jecxz", INSN_JCXZ},
    {"jrcxz", INSN_JCXZ},
    {"xsaveopt64", INSN_XSAVEOPT},
    {"prefetchnta", INSN_NOP},
    {"prefetcht0", INSN_NOP},
    {"prefetcht1", INSN_NOP},
    {"prefetcht2", INSN_NOP},
    {"prefetchw", INSN_NOP},
    {"prefetch", INSN_NOP},
    {"prefetchwt1", INSN_NOP},
    {"vldmxcsr", INSN_LDMXCSR},
    {"vstmxcsr", INSN_STMXCSR},
    {"fwait", INSN_FWAIT},
    {"movsb", INSN_MOVS},
    {"movsw", INSN_MOVS},
    {"movsq", INSN_MOVS},
    {"cmpsb", INSN_CMPS},
    {"cmpsw", INSN_CMPS},
    {"cmpsq", INSN_CMPS},
    {"stosb", INSN_STOS},
    {"stosw", INSN_STOS},
    {"stosd", INSN_STOS},
    {"stosq", INSN_STOS},
    {"lodsb", INSN_LODS},
    {"lodsw", INSN_LODS},
    {"lodsd", INSN_LODS},
    {"lodsq", INSN_LODS},
    {"scasb", INSN_SCAS},
    {"scasw", INSN_SCAS},
    {"scasd", INSN_SCAS},
    {"scasq", INSN_SCAS},
    {"insb", INSN_INS},
    {"insw", INSN_INS},
    {"insd", INSN_INS},
    {"outsb", INSN_OUTS},
    {"outsw", INSN_OUTS},
    {"outsd", INSN_OUTS},
};

static const char *const conditions[16] = {"o", "no", "b", "nb", "z", "nz", "be", "nbe",
                                           "s", "ns", "p", "np", "l", "nl", "le", "nle"};

/* Operations that share a mnemonic. */
static inline enum insn_op op_class(enum insn_op op)
{
    static const uint8_t classes[INSN_OP_COUNT] = {
        [INSN_IMUL2] = INSN_IMUL,       [INSN_SAL] = INSN_SHL,
        [INSN_MOV_FROM_SEG] = INSN_MOV, [INSN_MOV_TO_SEG] = INSN_MOV,
        [INSN_MOV_FROM_CR] = INSN_MOV,  [INSN_MOV_TO_CR] = INSN_MOV,
        [INSN_MOV_FROM_DR] = INSN_MOV,  [INSN_MOV_TO_DR] = INSN_MOV,
        [INSN_PUSH_SEG] = INSN_PUSH,    [INSN_POP_SEG] = INSN_POP,
        [INSN_JMP_RM] = INSN_JMP,       [INSN_JMP_FAR] = INSN_JMP,
        [INSN_JMP_FAR_RM] = INSN_JMP,   [INSN_CALL_RM] = INSN_CALL,
        [INSN_CALL_FAR] = INSN_CALL,    [INSN_CALL_FAR_RM] = INSN_CALL,
        [INSN_RET_FAR] = INSN_RET,      [INSN_IN_DX] = INSN_IN,
        [INSN_OUT_DX] = INSN_OUT,
    };
    return classes[op] ? (enum insn_op)classes[op] : op;
}

static inline enum insn_op op_of_condition(const char *name, uint8_t *condition)
{
    static const struct alias kinds[] = {
        {"j", INSN_JCC}, {"set", INSN_SETCC}, {"cmov", INSN_CMOVCC}};
    for (size_t k = 0; k < sizeof(kinds) / sizeof(kinds[0]); k++) {
        size_t n = strlen(kinds[k].mnemonic);
        for (uint8_t c = 0; c < 16; c++) {
            if (strncmp(name, kinds[k].mnemonic, n) == 0 && strcmp(name + n, conditions[c]) == 0) {
                *condition = c;
                return kinds[k].op;
            }
        }
    }
    return INSN_INVALID;
}

struct mnemonic {
    uint8_t op;        /* its class; INSN_INVALID if we have no name for it */
    uint8_t condition; /* of Jcc, SETcc, CMOVcc */
};

static inline void map_mnemonic(struct mnemonic *m, const char *name)
{
    char upper[32] = "";
    for (size_t n = 0; name[n] && n + 1 < sizeof(upper); n++)
        upper[n] = (char)(name[n] >= 'a' && name[n] <= 'z' ? name[n] - 32 : name[n]);
    for (unsigned int op = 1; op < INSN_SIMD; op++)
        if (strcmp(upper, insn_op_name((enum insn_op)op)) == 0)
            m->op = (uint8_t)op_class((enum insn_op)op);
    for (size_t n = 0; n < sizeof(aliases) / sizeof(aliases[0]); n++)
        if (strcmp(name, aliases[n].mnemonic) == 0)
            m->op = (uint8_t)aliases[n].op;
    if (m->op == INSN_INVALID)
        m->op = (uint8_t)op_of_condition(name, &m->condition);
}

static inline enum insn_op expected_op(const struct mnemonic *map, const struct pair *p)
{
    if (p->z.mnemonic == ZYDIS_MNEMONIC_MOVSD && p->z.meta.category == ZYDIS_CATEGORY_STRINGOP)
        return INSN_MOVS;
    if (p->z.mnemonic == ZYDIS_MNEMONIC_CMPSD && p->z.meta.category == ZYDIS_CATEGORY_STRINGOP)
        return INSN_CMPS;
    enum insn_op op = (enum insn_op)map[p->z.mnemonic].op;
    if (op != INSN_INVALID)
        return op;
    bool escape = p->z.opcode_map == ZYDIS_OPCODE_MAP_DEFAULT && (p->z.opcode & 0xF8) == 0xD8;
    return escape ? INSN_X87 : INSN_SIMD;
}

#endif
