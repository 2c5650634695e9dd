/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * Handlers of group CONTROL: far transfers, software interrupts, BOUND, system calls, and what is
 * no instruction at all. They take operands apart and check what concerns the instruction; the
 * transfer itself is in x86/far.h's files.
 */
#include "x86/far.h"

static int op_undefined(struct x86_cpu *cpu, const struct insn *i)
{
    (void)i;
    return x86_fault(cpu, X86_UD, 0);
}

/* --- far transfers
 * -------------------------------------------------------------------------------- */

static int op_jmp_far(struct x86_cpu *cpu, const struct insn *i)
{
    return x86_far_jump(cpu, i->opsize, i->imm2, i->imm);
}

static int op_call_far(struct x86_cpu *cpu, const struct insn *i)
{
    return x86_far_call(cpu, i->opsize, i->imm2, i->imm);
}

/* m16:16, m16:32, m16:64 */
static int far_pointer(struct x86_cpu *cpu, const struct insn *i, uint16_t *selector,
                       uint64_t *offset)
{
    uint64_t linear, v = 0;
    int s = x86_operand(cpu, i, i->opsize + 2u, X86_READ, &linear);
    if (s == X86_OK)
        s = x86_read_size(cpu, linear, i->opsize, offset);
    if (s == X86_OK)
        s = x86_read_size(cpu, x86_linear_add(cpu, linear, i->opsize), 2, &v);
    *selector = (uint16_t)v;
    return s;
}

static int op_jmp_far_rm(struct x86_cpu *cpu, const struct insn *i)
{
    uint16_t selector;
    uint64_t offset;
    int s = far_pointer(cpu, i, &selector, &offset);
    return s == X86_OK ? x86_far_jump(cpu, i->opsize, selector, offset) : s;
}

static int op_call_far_rm(struct x86_cpu *cpu, const struct insn *i)
{
    uint16_t selector;
    uint64_t offset;
    int s = far_pointer(cpu, i, &selector, &offset);
    return s == X86_OK ? x86_far_call(cpu, i->opsize, selector, offset) : s;
}

static int op_ret_far(struct x86_cpu *cpu, const struct insn *i)
{
    return x86_far_return(cpu, i->opsize, (uint16_t)i->imm);
}

static int op_iret(struct x86_cpu *cpu, const struct insn *i)
{
    return x86_iret(cpu, i->opsize);
}

/* --- software interrupts
 * --------------------------------------------------------------------------- */

/* Delivery clears TF, and the trap of the instruction itself is not taken in its handler (SDM 3B,
 * 17.3.1.4). */
static int deliver(struct x86_cpu *cpu, enum x86_event_kind kind, uint8_t vector)
{
    bool step = cpu->rflags & X86_FLAG_TF;
    int s = x86_deliver(cpu, kind, vector, false, 0);
    if (unlikely(step) && s == X86_JUMP)
        cpu->no_step = true;
    return s;
}

static int op_int(struct x86_cpu *cpu, const struct insn *i)
{
    /* In virtual-8086 mode INT n is sensitive to IOPL, INT3, INTO and INT1 are not. */
    if (cpu->v86 && (cpu->rflags & X86_FLAG_IOPL) != X86_FLAG_IOPL)
        return x86_fault(cpu, X86_GP, 0);
    return deliver(cpu, X86_EVENT_INT_N, (uint8_t)i->imm);
}

static int op_int3(struct x86_cpu *cpu, const struct insn *i)
{
    (void)i;
    return deliver(cpu, X86_EVENT_INT3, X86_BP);
}

static int op_int1(struct x86_cpu *cpu, const struct insn *i)
{
    (void)i;
    return deliver(cpu, X86_EVENT_INT1, X86_DB);
}

static int op_into(struct x86_cpu *cpu, const struct insn *i)
{
    if (cpu->mode == INSN_MODE_64)
        return op_undefined(cpu, i);
    if (!(cpu->rflags & X86_FLAG_OF))
        return X86_OK;
    return deliver(cpu, X86_EVENT_INT3, X86_OF);
}

/* Signed index against two signed bounds in memory. */
static int op_bound(struct x86_cpu *cpu, const struct insn *i)
{
    uint64_t linear, low, high;
    uint8_t size = i->opsize;
    if (cpu->mode == INSN_MODE_64 || !(i->flags & INSN_MEM))
        return op_undefined(cpu, i);
    int s = x86_operand(cpu, i, size * 2u, X86_READ, &linear);
    if (s == X86_OK)
        s = x86_read_size(cpu, linear, size, &low);
    if (s == X86_OK)
        s = x86_read_size(cpu, x86_linear_add(cpu, linear, size), size, &high);
    if (s != X86_OK)
        return s;
    unsigned int shift = 64 - size * 8u;
    int64_t index = (int64_t)(cpu->gpr[i->reg & 15] << shift);
    if (index < (int64_t)(low << shift) || index > (int64_t)(high << shift))
        return x86_fault(cpu, X86_BR, 0);
    return X86_OK;
}

/* --- selection
 * ------------------------------------------------------------------------------------- */

/* table */
static x86_op_fn *const handlers[] = {
    [INSN_JMP_FAR - INSN_JMP_FAR] = op_jmp_far,
    [INSN_CALL_FAR - INSN_JMP_FAR] = op_call_far,
    [INSN_JMP_FAR_RM - INSN_JMP_FAR] = op_jmp_far_rm,
    [INSN_CALL_FAR_RM - INSN_JMP_FAR] = op_call_far_rm,
    [INSN_RET_FAR - INSN_JMP_FAR] = op_ret_far,
    [INSN_IRET - INSN_JMP_FAR] = op_iret,
    [INSN_INT - INSN_JMP_FAR] = op_int,
    [INSN_INT3 - INSN_JMP_FAR] = op_int3,
    [INSN_INT1 - INSN_JMP_FAR] = op_int1,
    [INSN_INTO - INSN_JMP_FAR] = op_into,
    [INSN_BOUND - INSN_JMP_FAR] = op_bound,
    [INSN_UD - INSN_JMP_FAR] = op_undefined,
    [INSN_SYSCALL - INSN_JMP_FAR] = x86_syscall,
    [INSN_SYSRET - INSN_JMP_FAR] = x86_sysret,
    [INSN_SYSENTER - INSN_JMP_FAR] = x86_sysenter,
    [INSN_SYSEXIT - INSN_JMP_FAR] = x86_sysexit,
    [INSN_RSM - INSN_JMP_FAR] = op_undefined,
};

x86_op_fn *x86_select_control(const struct insn *i)
{
    unsigned int n = i->op - (unsigned int)INSN_JMP_FAR;
    return n < ARRAY_SIZE(handlers) ? handlers[n] : op_undefined;
}
