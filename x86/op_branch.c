/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * Near branches (SDM 2: Jcc JMP CALL RET LOOPcc JCXZ).
 *
 * Operand size 8 is 64-bit mode and nothing else (the decoder gives near branches 64 bits there),
 * so each has two handlers: one for 64-bit mode, where a target must be canonical, and one for 16-
 * and 32-bit code, where it is cut to the operand size and must lie within CS. Either way a bad
 * target is #GP(0) of the branch itself, before anything has changed.
 *
 * A handler returns X86_JUMP when it has set RIP, X86_OK when the branch is not taken.
 */
#include "x86/operand.h"

/* --- targets --- */

static always_inline bool branch_is_canonical(uint64_t a)
{
    return likely((uint64_t)((int64_t)(a << 16) >> 16) == a);
}

static always_inline int branch_to64(struct x86_cpu *cpu, uint64_t target)
{
    if (!branch_is_canonical(target))
        return x86_fault(cpu, X86_GP, 0);
    cpu->rip = target;
    return X86_JUMP;
}

/* Cuts *target as 16- and 32-bit code does, or checks it in 64-bit mode. X86_OK or X86_FAULT. */
static int branch_check(struct x86_cpu *cpu, uint8_t opsize, uint64_t *target)
{
    if (opsize == 8)
        return branch_is_canonical(*target) ? X86_OK : x86_fault(cpu, X86_GP, 0);
    *target &= x86_size_mask(opsize);
    return *target <= cpu->seg[SEG_CS].limit ? X86_OK : x86_fault(cpu, X86_GP, 0);
}

static int branch_to(struct x86_cpu *cpu, uint8_t opsize, uint64_t target)
{
    int s = branch_check(cpu, opsize, &target);
    if (s != X86_OK)
        return s;
    cpu->rip = target;
    return X86_JUMP;
}

/* --- Jcc, JMP relative --- */

static int branch_legacy(struct x86_cpu *cpu, const struct insn *i, bool condition)
{
    return condition ? branch_to(cpu, i->opsize, cpu->rip + i->imm) : X86_OK;
}

#define DEFINE_JCC(number, cc, test)                                                               \
    static int j##cc##64(struct x86_cpu * cpu, const struct insn *i)                               \
    {                                                                                              \
        return x86_condition_##cc(cpu) ? branch_to64(cpu, cpu->rip + i->imm) : X86_OK;             \
    }                                                                                              \
    static int j##cc##_legacy(struct x86_cpu *cpu, const struct insn *i)                           \
    {                                                                                              \
        return branch_legacy(cpu, i, x86_condition_##cc(cpu));                                     \
    }

X86_CONDITIONS(DEFINE_JCC)

#define JCC_ROW(number, cc, test) [number] = {j##cc##_legacy, j##cc##64},

static x86_op_fn *select_jcc(const struct insn *i)
{
    static x86_op_fn *const table[16][2] = {X86_CONDITIONS(JCC_ROW)};
    return table[i->opcode & 15][i->opsize == 8];
}

static int jmp64(struct x86_cpu *cpu, const struct insn *i)
{
    return branch_to64(cpu, cpu->rip + i->imm);
}

static int jmp_legacy(struct x86_cpu *cpu, const struct insn *i)
{
    return branch_legacy(cpu, i, true);
}

/* --- CALL relative --- */

static int call64(struct x86_cpu *cpu, const struct insn *i)
{
    uint64_t target = cpu->rip + i->imm;
    if (!branch_is_canonical(target))
        return x86_fault(cpu, X86_GP, 0);
    int s = operand_push64(cpu, cpu->rip);
    if (unlikely(s != X86_OK))
        return s;
    cpu->rip = target;
    return X86_JUMP;
}

static int call_to(struct x86_cpu *cpu, uint8_t opsize, uint64_t target)
{
    int s = branch_check(cpu, opsize, &target);
    if (s != X86_OK)
        return s;
    s = x86_push(cpu, opsize, cpu->rip);
    if (s != X86_OK)
        return s;
    cpu->rip = target;
    return X86_JUMP;
}

static int call_legacy(struct x86_cpu *cpu, const struct insn *i)
{
    return call_to(cpu, i->opsize, cpu->rip + i->imm);
}

/* --- JMP and CALL through a register or memory --- */

static int jmp_reg64(struct x86_cpu *cpu, const struct insn *i)
{
    return branch_to64(cpu, cpu->gpr[i->rm & 15]);
}

static int call_reg64(struct x86_cpu *cpu, const struct insn *i)
{
    uint64_t target = cpu->gpr[i->rm & 15];
    if (!branch_is_canonical(target))
        return x86_fault(cpu, X86_GP, 0);
    int s = operand_push64(cpu, cpu->rip);
    if (unlikely(s != X86_OK))
        return s;
    cpu->rip = target;
    return X86_JUMP;
}

static int branch_operand(struct x86_cpu *cpu, const struct insn *i, uint64_t *target)
{
    if (i->flags & INSN_MEM)
        return operand_load(cpu, i, i->opsize, target);
    *target = operand_get_reg(cpu, i->rm, i->opsize);
    return X86_OK;
}

static int jmp_rm(struct x86_cpu *cpu, const struct insn *i)
{
    uint64_t target;
    int s = branch_operand(cpu, i, &target);
    return s == X86_OK ? branch_to(cpu, i->opsize, target) : s;
}

static int call_rm(struct x86_cpu *cpu, const struct insn *i)
{
    uint64_t target;
    int s = branch_operand(cpu, i, &target);
    return s == X86_OK ? call_to(cpu, i->opsize, target) : s;
}

static x86_op_fn *select_jmp_rm(const struct insn *i)
{
    return i->opsize == 8 && !(i->flags & INSN_MEM) ? jmp_reg64 : jmp_rm;
}

static x86_op_fn *select_call_rm(const struct insn *i)
{
    return i->opsize == 8 && !(i->flags & INSN_MEM) ? call_reg64 : call_rm;
}

/* --- RET --- */

static int ret_slow(struct x86_cpu *cpu, const struct insn *i)
{
    uint64_t target, sp = cpu->gpr[RSP];
    int s = x86_pop(cpu, i->opsize, &target);
    if (s != X86_OK)
        return s;
    s = branch_check(cpu, i->opsize, &target);
    if (s != X86_OK) {
        cpu->gpr[RSP] = sp;
        return s;
    }
    operand_add_sp(cpu, i->imm);
    cpu->rip = target;
    return X86_JUMP;
}

static int ret64(struct x86_cpu *cpu, const struct insn *i)
{
    uint64_t target;
    if (unlikely(!operand_try_top64(cpu, &target)))
        return ret_slow(cpu, i);
    if (!branch_is_canonical(target))
        return x86_fault(cpu, X86_GP, 0);
    cpu->gpr[RSP] += 8 + i->imm;
    cpu->rip = target;
    return X86_JUMP;
}

/* --- LOOPcc, JCXZ: the count is as wide as an address --- */

static always_inline int branch_loop(struct x86_cpu *cpu, const struct insn *i, bool condition)
{
    uint64_t count = (cpu->gpr[RCX] - 1) & x86_size_mask(i->addrsize);
    int s = X86_OK;
    if (count != 0 && condition)
        s = branch_to(cpu, i->opsize, cpu->rip + i->imm);
    if (s != X86_FAULT)
        operand_set_reg(cpu, RCX, i->addrsize, count);
    return s;
}

static int loop_always(struct x86_cpu *cpu, const struct insn *i)
{
    return branch_loop(cpu, i, true);
}

static int loop_equal(struct x86_cpu *cpu, const struct insn *i)
{
    return branch_loop(cpu, i, x86_condition_e(cpu));
}

static int loop_not_equal(struct x86_cpu *cpu, const struct insn *i)
{
    return branch_loop(cpu, i, x86_condition_ne(cpu));
}

static int jcxz(struct x86_cpu *cpu, const struct insn *i)
{
    if (cpu->gpr[RCX] & x86_size_mask(i->addrsize))
        return X86_OK;
    return branch_to(cpu, i->opsize, cpu->rip + i->imm);
}

x86_op_fn *x86_select_branch(const struct insn *i)
{
    static const struct {
        x86_op_fn *legacy, *in64;
        x86_op_fn *(*select)(const struct insn *i);
    } table[INSN_JCXZ - INSN_JCC + 1] = {
        [INSN_JCC - INSN_JCC] = {.select = select_jcc},
        [INSN_JMP - INSN_JCC] = {jmp_legacy, jmp64, NULL},
        [INSN_JMP_RM - INSN_JCC] = {.select = select_jmp_rm},
        [INSN_CALL - INSN_JCC] = {call_legacy, call64, NULL},
        [INSN_CALL_RM - INSN_JCC] = {.select = select_call_rm},
        [INSN_RET - INSN_JCC] = {ret_slow, ret64, NULL},
        [INSN_LOOPNE - INSN_JCC] = {loop_not_equal, loop_not_equal, NULL},
        [INSN_LOOPE - INSN_JCC] = {loop_equal, loop_equal, NULL},
        [INSN_LOOP - INSN_JCC] = {loop_always, loop_always, NULL},
        [INSN_JCXZ - INSN_JCC] = {jcxz, jcxz, NULL},
    };
    unsigned n = (unsigned)(i->op - INSN_JCC);
    if (table[n].select)
        return table[n].select(i);
    return i->opsize == 8 ? table[n].in64 : table[n].legacy;
}
