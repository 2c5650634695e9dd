/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * Handlers of group SEG: segment registers (MOV, PUSH, POP, LDS and its kin), the bases of FS and
 * GS, and the selection of all handlers of the group. Those of the descriptor tables are in
 * x86/op_seg_table.c.
 *
 * MOV and POP to SS keep interrupts and debug traps out for one instruction (SDM 3A, 6.8.3); LSS
 * does not. Loads return X86_JUMP where decoding or data access of what follows may change.
 */
#include "x86/op_seg.h"
#include "x86/segment.h"

/* --- reads
 * ---------------------------------------------------------------------------------------- */

/* Selector-sized results: 16 bits to memory, zero-extended to the operand size in a register. */
int x86_seg_store16(struct x86_cpu *cpu, const struct insn *i, uint16_t v)
{
    uint64_t linear;
    if (!(i->flags & INSN_MEM)) {
        x86_set_gpr(cpu, i->rm, i->opsize, v);
        return X86_OK;
    }
    int s = x86_operand(cpu, i, 2, X86_WRITE, &linear);
    return s == X86_OK ? x86_write16(cpu, linear, v) : s;
}

int x86_seg_load16(struct x86_cpu *cpu, const struct insn *i, uint16_t *v)
{
    uint64_t linear;
    if (!(i->flags & INSN_MEM)) {
        *v = (uint16_t)cpu->gpr[i->rm & 15];
        return X86_OK;
    }
    int s = x86_operand(cpu, i, 2, X86_READ, &linear);
    return s == X86_OK ? x86_read16(cpu, linear, v) : s;
}

static int op_mov_from_seg(struct x86_cpu *cpu, const struct insn *i)
{
    return x86_seg_store16(cpu, i, cpu->seg[i->reg].selector);
}

static int op_push_seg(struct x86_cpu *cpu, const struct insn *i)
{
    uint16_t selector = cpu->seg[i->reg].selector;
    if (i->opsize != 4)
        return x86_push(cpu, i->opsize, selector);
    /* 32-bit operand size: the slot is four bytes, the store two (SDM 2B, PUSH) */
    struct x86_stack st;
    x86_stack_current(cpu, 0, &st);
    int s = x86_stack_check(cpu, &st, 1, 4);
    if (s != X86_OK)
        return s;
    x86_stack_skip(&st, (uint64_t)-2);
    s = x86_stack_push(cpu, &st, 2, selector);
    if (s == X86_OK)
        x86_stack_commit(cpu, &st);
    return s;
}

/* --- loads
 * ---------------------------------------------------------------------------------------- */

/* After a load that succeeded. In 64-bit mode DS, ES, SS have no effect on what follows, and bases
 * of FS and GS are read anew by each access. */
static int loaded(const struct x86_cpu *cpu)
{
    return cpu->mode == INSN_MODE_64 ? X86_OK : X86_JUMP;
}

static int op_mov_to_seg(struct x86_cpu *cpu, const struct insn *i)
{
    uint16_t selector = 0;
    int s = x86_seg_load16(cpu, i, &selector);
    if (s == X86_OK)
        s = x86_segment_load(cpu, i->reg, selector);
    return s == X86_OK ? loaded(cpu) : s;
}

static int op_mov_to_ss(struct x86_cpu *cpu, const struct insn *i)
{
    int s = op_mov_to_seg(cpu, i);
    if (s == X86_FAULT)
        return s;
    cpu->shadow = X86_SHADOW_MOV_SS;
    return X86_JUMP;
}

static int op_pop_seg(struct x86_cpu *cpu, const struct insn *i)
{
    struct x86_stack st;
    uint64_t v;
    x86_stack_current(cpu, 0, &st);
    int s = x86_stack_pop(cpu, &st, i->opsize, &v);
    if (s == X86_OK)
        s = x86_segment_load(cpu, i->reg, (uint16_t)v);
    if (s != X86_OK)
        return s;
    x86_stack_commit(cpu, &st);
    if (i->reg == SEG_SS) {
        cpu->shadow = X86_SHADOW_MOV_SS;
        return X86_JUMP;
    }
    return loaded(cpu);
}

static int op_lds(struct x86_cpu *cpu, const struct insn *i)
{
    uint64_t linear, offset, selector;
    uint32_t size = i->opsize + 2u;
    int s = x86_operand(cpu, i, size, X86_READ, &linear);
    if (s == X86_OK)
        s = x86_read_size(cpu, linear, i->opsize, &offset);
    if (s == X86_OK)
        s = x86_read_size(cpu, x86_linear_add(cpu, linear, i->opsize), 2, &selector);
    if (s == X86_OK)
        s = x86_segment_load(cpu, (uint8_t)i->imm2, (uint16_t)selector);
    if (s != X86_OK)
        return s;
    x86_set_gpr(cpu, i->reg, i->opsize, offset);
    return loaded(cpu);
}

/* --- bases of FS and GS
 * --------------------------------------------------------------------------- */

static int op_swapgs(struct x86_cpu *cpu, const struct insn *i)
{
    (void)i;
    if (unlikely(cpu->mode != INSN_MODE_64))
        return x86_fault(cpu, X86_UD, 0);
    if (unlikely(cpu->cpl != 0))
        return x86_fault(cpu, X86_GP, 0);
    uint64_t base = cpu->seg[SEG_GS].base;
    cpu->seg[SEG_GS].base = cpu->msr.kernel_gs_base;
    cpu->msr.kernel_gs_base = base;
    return X86_OK;
}

static bool has_fsgsbase(const struct x86_cpu *cpu)
{
    return cpu->mode == INSN_MODE_64 && cpu->cr4 & X86_CR4_FSGSBASE;
}

static uint8_t base_segment(const struct insn *i)
{
    return i->op == INSN_RDFSBASE || i->op == INSN_WRFSBASE ? SEG_FS : SEG_GS;
}

static int op_rdbase(struct x86_cpu *cpu, const struct insn *i)
{
    if (!has_fsgsbase(cpu))
        return x86_fault(cpu, X86_UD, 0);
    x86_set_gpr(cpu, i->rm, i->opsize, cpu->seg[base_segment(i)].base);
    return X86_OK;
}

static int op_wrbase(struct x86_cpu *cpu, const struct insn *i)
{
    if (!has_fsgsbase(cpu))
        return x86_fault(cpu, X86_UD, 0);
    uint64_t base = x86_get_gpr(cpu, i->rm, i->opsize);
    if (!x86_is_canonical(base))
        return x86_fault(cpu, X86_GP, 0);
    cpu->seg[base_segment(i)].base = base;
    return X86_OK;
}

/* --- selection
 * ------------------------------------------------------------------------------------ */

static int op_undefined(struct x86_cpu *cpu, const struct insn *i)
{
    (void)i;
    return x86_fault(cpu, X86_UD, 0);
}

/* table */
static x86_op_fn *const handlers[] = {
    [INSN_MOV_FROM_SEG - INSN_MOV_FROM_SEG] = op_mov_from_seg,
    [INSN_MOV_TO_SEG - INSN_MOV_FROM_SEG] = op_mov_to_seg,
    [INSN_PUSH_SEG - INSN_MOV_FROM_SEG] = op_push_seg,
    [INSN_POP_SEG - INSN_MOV_FROM_SEG] = op_pop_seg,
    [INSN_LDS - INSN_MOV_FROM_SEG] = op_lds,
    [INSN_LGDT - INSN_MOV_FROM_SEG] = x86_op_load_table,
    [INSN_LIDT - INSN_MOV_FROM_SEG] = x86_op_load_table,
    [INSN_SGDT - INSN_MOV_FROM_SEG] = x86_op_store_table,
    [INSN_SIDT - INSN_MOV_FROM_SEG] = x86_op_store_table,
    [INSN_LLDT - INSN_MOV_FROM_SEG] = x86_op_lldt,
    [INSN_LTR - INSN_MOV_FROM_SEG] = x86_op_ltr,
    [INSN_SLDT - INSN_MOV_FROM_SEG] = x86_op_store_selector,
    [INSN_STR - INSN_MOV_FROM_SEG] = x86_op_store_selector,
    [INSN_VERR - INSN_MOV_FROM_SEG] = x86_op_verify,
    [INSN_VERW - INSN_MOV_FROM_SEG] = x86_op_verify,
    [INSN_LAR - INSN_MOV_FROM_SEG] = x86_op_lar,
    [INSN_LSL - INSN_MOV_FROM_SEG] = x86_op_lsl,
    [INSN_ARPL - INSN_MOV_FROM_SEG] = x86_op_arpl,
    [INSN_SWAPGS - INSN_MOV_FROM_SEG] = op_swapgs,
    [INSN_RDFSBASE - INSN_MOV_FROM_SEG] = op_rdbase,
    [INSN_RDGSBASE - INSN_MOV_FROM_SEG] = op_rdbase,
    [INSN_WRFSBASE - INSN_MOV_FROM_SEG] = op_wrbase,
    [INSN_WRGSBASE - INSN_MOV_FROM_SEG] = op_wrbase,
};

/* Does the instruction name a segment register that exists, and that it may load? */
static bool has_valid_segment(const struct insn *i)
{
    switch (i->op) {
    case INSN_MOV_TO_SEG:
    case INSN_POP_SEG:
        return i->reg < SEG_COUNT && i->reg != SEG_CS;
    case INSN_MOV_FROM_SEG:
    case INSN_PUSH_SEG:
        return i->reg < SEG_COUNT;
    case INSN_LDS:
        return i->imm2 < SEG_COUNT && i->imm2 != SEG_CS && i->flags & INSN_MEM;
    default:
        return true;
    }
}

x86_op_fn *x86_select_seg(const struct insn *i)
{
    unsigned int n = i->op - (unsigned int)INSN_MOV_FROM_SEG;
    if (n >= ARRAY_SIZE(handlers) || !has_valid_segment(i))
        return op_undefined;
    if (i->op == INSN_MOV_TO_SEG && i->reg == SEG_SS)
        return op_mov_to_ss;
    return handlers[n];
}
