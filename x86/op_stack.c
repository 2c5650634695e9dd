/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * The stack (SDM 2: PUSH POP PUSHA POPA PUSHF POPF ENTER LEAVE).
 *
 * The items are as wide as the operand, the stack pointer as cpu->stack_size says; x86_push and
 * x86_pop know both. 64-bit PUSH and POP have handlers of their own (operand size 8 exists in
 * 64-bit mode only). A handler that moves the stack pointer more than once puts it back on a fault;
 * what PUSHA and ENTER have stored below it by then stays, as on a processor.
 */
#include "x86/operand.h"

/* --- PUSH --- */

static int push_reg64(struct x86_cpu *cpu, const struct insn *i)
{
    return operand_push64(cpu, cpu->gpr[i->rm & 15]);
}

static int push_imm64(struct x86_cpu *cpu, const struct insn *i)
{
    return operand_push64(cpu, i->imm);
}

static int push_reg(struct x86_cpu *cpu, const struct insn *i)
{
    return x86_push(cpu, i->opsize, operand_get_reg(cpu, i->rm, i->opsize));
}

static int push_imm(struct x86_cpu *cpu, const struct insn *i)
{
    return x86_push(cpu, i->opsize, i->imm);
}

static int push_mem(struct x86_cpu *cpu, const struct insn *i)
{
    uint64_t v;
    int s = operand_load(cpu, i, i->opsize, &v);
    return s == X86_OK ? x86_push(cpu, i->opsize, v) : s;
}

static x86_op_fn *select_push(const struct insn *i)
{
    if (i->flags & INSN_MEM)
        return push_mem;
    if (i->form == INSN_FORM_IMM)
        return i->opsize == 8 ? push_imm64 : push_imm;
    return i->opsize == 8 ? push_reg64 : push_reg;
}

/* --- POP --- */

static int pop_reg(struct x86_cpu *cpu, const struct insn *i)
{
    uint64_t v;
    int s = x86_pop(cpu, i->opsize, &v);
    if (s == X86_OK)
        operand_set_reg(cpu, i->rm, i->opsize, v);
    return s;
}

static int pop_reg64(struct x86_cpu *cpu, const struct insn *i)
{
    uint64_t v;
    if (unlikely(!operand_try_top64(cpu, &v)))
        return pop_reg(cpu, i);
    cpu->gpr[RSP] += 8;
    cpu->gpr[i->rm & 15] = v;
    return X86_OK;
}

/* An address with rSP as base is computed after the increment (SDM 2B POP). */
static int pop_mem(struct x86_cpu *cpu, const struct insn *i)
{
    uint64_t v, sp = cpu->gpr[RSP];
    int s = x86_pop(cpu, i->opsize, &v);
    if (s != X86_OK)
        return s;
    s = operand_store(cpu, i, i->opsize, v);
    if (s != X86_OK)
        cpu->gpr[RSP] = sp;
    return s;
}

static x86_op_fn *select_pop(const struct insn *i)
{
    if (i->flags & INSN_MEM)
        return pop_mem;
    return i->opsize == 8 ? pop_reg64 : pop_reg;
}

/* --- PUSHA, POPA: not in 64-bit mode --- */

static int pusha(struct x86_cpu *cpu, const struct insn *i)
{
    uint64_t sp = cpu->gpr[RSP];
    for (unsigned n = RAX; n <= RDI; n++) {
        int s = x86_push(cpu, i->opsize, n == RSP ? sp : cpu->gpr[n]);
        if (s != X86_OK) {
            cpu->gpr[RSP] = sp;
            return s;
        }
    }
    return X86_OK;
}

static int popa(struct x86_cpu *cpu, const struct insn *i)
{
    uint64_t v[8], sp = cpu->gpr[RSP];
    for (unsigned n = 0; n < 8; n++) {
        int s = x86_pop(cpu, i->opsize, &v[7 - n]);
        if (s != X86_OK) {
            cpu->gpr[RSP] = sp;
            return s;
        }
    }
    for (uint8_t n = RAX; n <= RDI; n++) {
        if (n != RSP)
            operand_set_reg(cpu, n, i->opsize, v[n]);
    }
    return X86_OK;
}

/* --- PUSHF, POPF --- */

static uint64_t stack_iopl(const struct x86_cpu *cpu)
{
    return cpu->rflags >> X86_FLAG_IOPL_SHIFT & 3;
}

/* In virtual-8086 mode with IOPL < 3 the 16-bit forms work on VIF if CR4.VME is set, everything
 * else is #GP(0) (SDM 3B 20.2.7, 20.3). */
static bool stack_flags_are_virtual(const struct x86_cpu *cpu)
{
    return cpu->v86 && stack_iopl(cpu) < 3;
}

static int pushf(struct x86_cpu *cpu, const struct insn *i)
{
    uint64_t flags = cpu->rflags & ~(X86_FLAG_VM | X86_FLAG_RF);
    if (stack_flags_are_virtual(cpu)) {
        if (i->opsize != 2 || !(cpu->cr4 & X86_CR4_VME))
            return x86_fault(cpu, X86_GP, 0);
        flags = (flags & ~X86_FLAG_IF) | X86_FLAG_IOPL;
        if (cpu->rflags & X86_FLAG_VIF)
            flags |= X86_FLAG_IF;
    }
    return x86_push(cpu, i->opsize, flags);
}

/* Writes the flags in mask. A change of these ends the block: an interrupt may be due, a trap, or
 * another TLB context. */
static int stack_set_flags(struct x86_cpu *cpu, uint64_t flags, uint64_t mask)
{
    uint64_t old = cpu->rflags;
    cpu->rflags = (old & ~mask) | (flags & mask);
    uint64_t changed = old ^ cpu->rflags;
    if (changed & X86_FLAG_AC)
        x86_update_mode(cpu);
    return changed & (X86_FLAG_IF | X86_FLAG_TF | X86_FLAG_AC) ? X86_JUMP : X86_OK;
}

#define POPF_ALWAYS (X86_FLAGS_STATUS | X86_FLAG_TF | X86_FLAG_DF | X86_FLAG_NT)

static int popf_virtual(struct x86_cpu *cpu, const struct insn *i)
{
    uint64_t flags, sp = cpu->gpr[RSP];
    if (i->opsize != 2 || !(cpu->cr4 & X86_CR4_VME))
        return x86_fault(cpu, X86_GP, 0);
    int s = x86_pop(cpu, 2, &flags);
    if (s != X86_OK)
        return s;
    if ((flags & X86_FLAG_TF) || ((flags & X86_FLAG_IF) && (cpu->rflags & X86_FLAG_VIP))) {
        cpu->gpr[RSP] = sp;
        return x86_fault(cpu, X86_GP, 0);
    }
    if (flags & X86_FLAG_IF)
        flags |= X86_FLAG_VIF;
    return stack_set_flags(cpu, flags, POPF_ALWAYS | X86_FLAG_VIF);
}

static int popf(struct x86_cpu *cpu, const struct insn *i)
{
    uint64_t flags, mask = POPF_ALWAYS;
    if (stack_flags_are_virtual(cpu))
        return popf_virtual(cpu, i);
    int s = x86_pop(cpu, i->opsize, &flags);
    if (s != X86_OK)
        return s;
    if (cpu->cpl <= stack_iopl(cpu))
        mask |= X86_FLAG_IF;
    if (cpu->cpl == 0)
        mask |= X86_FLAG_IOPL;
    if (i->opsize > 2) {
        mask |= X86_FLAG_AC | X86_FLAG_ID | X86_FLAG_RF;
        flags &= ~X86_FLAG_RF;
    }
    return stack_set_flags(cpu, flags, mask);
}

/* --- ENTER, LEAVE --- */

/* Copies the frame pointers of the outer levels; rBP is walked in a copy. */
static int enter_levels(struct x86_cpu *cpu, const struct insn *i, uint16_t level, uint64_t frame)
{
    uint64_t bp = cpu->gpr[RBP];
    for (uint16_t n = 1; n < level; n++) {
        uint64_t linear, v;
        bp = (bp - i->opsize) & x86_size_mask(cpu->stack_size);
        int s = x86_linear(cpu, SEG_SS, bp, i->opsize, X86_READ, &linear);
        if (s == X86_OK)
            s = x86_read_size(cpu, linear, i->opsize, &v);
        if (s == X86_OK)
            s = x86_push(cpu, i->opsize, v);
        if (s != X86_OK)
            return s;
    }
    return x86_push(cpu, i->opsize, frame);
}

/* SDM 2A ENTER: "... or if a write using the final value of the stack pointer would cause a page
 * fault". */
static int enter_probe(struct x86_cpu *cpu, const struct insn *i)
{
    uint64_t linear, sp = cpu->gpr[RSP] & x86_size_mask(cpu->stack_size);
    void *host;
    int s = x86_linear(cpu, SEG_SS, sp, i->opsize, X86_WRITE, &linear);
    return s == X86_OK ? x86_mem_host(cpu, linear, i->opsize, X86_WRITE, &host) : s;
}

static int enter(struct x86_cpu *cpu, const struct insn *i)
{
    uint64_t sp = cpu->gpr[RSP];
    uint16_t level = i->imm2 % 32;
    int s = x86_push(cpu, i->opsize, operand_get_reg(cpu, RBP, i->opsize));
    if (s != X86_OK)
        return s;
    uint64_t frame = cpu->gpr[RSP];
    if (level > 0)
        s = enter_levels(cpu, i, level, frame);
    if (s == X86_OK) {
        operand_add_sp(cpu, 0 - i->imm);
        s = enter_probe(cpu, i);
    }
    if (s != X86_OK)
        cpu->gpr[RSP] = sp;
    else
        operand_set_reg(cpu, RBP, i->opsize, frame);
    return s;
}

static int leave(struct x86_cpu *cpu, const struct insn *i)
{
    uint64_t v, sp = cpu->gpr[RSP];
    operand_set_reg(cpu, RSP, cpu->stack_size, cpu->gpr[RBP]);
    int s = x86_pop(cpu, i->opsize, &v);
    if (s == X86_OK)
        operand_set_reg(cpu, RBP, i->opsize, v);
    else
        cpu->gpr[RSP] = sp;
    return s;
}

x86_op_fn *x86_select_stack(const struct insn *i)
{
    static x86_op_fn *const table[INSN_LEAVE - INSN_PUSH + 1] = {
        [INSN_PUSHA - INSN_PUSH] = pusha, [INSN_POPA - INSN_PUSH] = popa,
        [INSN_PUSHF - INSN_PUSH] = pushf, [INSN_POPF - INSN_PUSH] = popf,
        [INSN_ENTER - INSN_PUSH] = enter, [INSN_LEAVE - INSN_PUSH] = leave,
    };
    if (i->op == INSN_PUSH)
        return select_push(i);
    if (i->op == INSN_POP)
        return select_pop(i);
    return table[i->op - INSN_PUSH];
}
