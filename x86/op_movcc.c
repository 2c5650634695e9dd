/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * CMOVcc and SETcc: one handler for each condition, size and place of the operand, so that testing
 * the flags is straight code.
 *
 * CMOVcc reads its source and clears the upper half of a 32-bit destination whatever the condition
 * says (SDM 2A).
 */
#include "x86/operand.h"

#define MOVCC_HANDLER(name, expr)                                                                  \
    static int name(struct x86_cpu *cpu, const struct insn *i)                                     \
    {                                                                                              \
        return expr;                                                                               \
    }

/* --- CMOVcc --- */

static always_inline int cmov_reg(struct x86_cpu *cpu, const struct insn *i, uint8_t size,
                                  bool condition)
{
    /* Arithmetic, so that the compiler does not make it a branch, which would be mispredicted. */
    unsigned n = i->reg ^ ((i->reg ^ i->rm) & (0u - condition));
    operand_set_reg(cpu, i->reg, size, cpu->gpr[n & 15]);
    return X86_OK;
}

static int cmov_mem_slow(struct x86_cpu *cpu, const struct insn *i, uint8_t size, bool condition)
{
    uint64_t v;
    int s = operand_load(cpu, i, size, &v);
    if (s == X86_OK)
        operand_set_reg(cpu, i->reg, size, condition ? v : cpu->gpr[i->reg & 15]);
    return s;
}

static always_inline int cmov_mem(struct x86_cpu *cpu, const struct insn *i, uint8_t size,
                                  bool condition)
{
    uint64_t v;
    if (unlikely(!operand_try_load(cpu, i, size, OPERAND_ANY, &v)))
        return cmov_mem_slow(cpu, i, size, condition);
    operand_set_reg(cpu, i->reg, size, condition ? v : cpu->gpr[i->reg & 15]);
    return X86_OK;
}

#define DEFINE_CMOV(number, cc, test)                                                              \
    MOVCC_HANDLER(cmov##cc##_reg16, cmov_reg(cpu, i, 2, x86_condition_##cc(cpu)))                  \
    MOVCC_HANDLER(cmov##cc##_reg32, cmov_reg(cpu, i, 4, x86_condition_##cc(cpu)))                  \
    MOVCC_HANDLER(cmov##cc##_reg64, cmov_reg(cpu, i, 8, x86_condition_##cc(cpu)))                  \
    MOVCC_HANDLER(cmov##cc##_mem16, cmov_mem(cpu, i, 2, x86_condition_##cc(cpu)))                  \
    MOVCC_HANDLER(cmov##cc##_mem32, cmov_mem(cpu, i, 4, x86_condition_##cc(cpu)))                  \
    MOVCC_HANDLER(cmov##cc##_mem64, cmov_mem(cpu, i, 8, x86_condition_##cc(cpu)))

X86_CONDITIONS(DEFINE_CMOV)

#define CMOV_ROW(number, cc, test)                                                                 \
    [number] = {{cmov##cc##_reg16, cmov##cc##_reg32, cmov##cc##_reg64},                            \
                {cmov##cc##_mem16, cmov##cc##_mem32, cmov##cc##_mem64}},

x86_op_fn *x86_select_cmovcc(const struct insn *i)
{
    static x86_op_fn *const table[16][2][3] = {X86_CONDITIONS(CMOV_ROW)};
    unsigned size = operand_size_index(i->opsize) - 1; /* never one byte */
    return table[i->opcode & 15][i->flags & INSN_MEM ? 1 : 0][size];
}

/* --- SETcc --- */

static always_inline int setcc_reg(struct x86_cpu *cpu, const struct insn *i, bool condition)
{
    operand_set_reg(cpu, i->rm, 1, condition);
    return X86_OK;
}

static always_inline int setcc_mem(struct x86_cpu *cpu, const struct insn *i, bool condition)
{
    return operand_store(cpu, i, 1, condition);
}

#define DEFINE_SETCC(number, cc, test)                                                             \
    MOVCC_HANDLER(set##cc##_reg, setcc_reg(cpu, i, x86_condition_##cc(cpu)))                       \
    MOVCC_HANDLER(set##cc##_mem, setcc_mem(cpu, i, x86_condition_##cc(cpu)))

X86_CONDITIONS(DEFINE_SETCC)

#define SETCC_ROW(number, cc, test) [number] = {set##cc##_reg, set##cc##_mem},

x86_op_fn *x86_select_setcc(const struct insn *i)
{
    static x86_op_fn *const table[16][2] = {X86_CONDITIONS(SETCC_ROW)};
    return table[i->opcode & 15][i->flags & INSN_MEM ? 1 : 0];
}
