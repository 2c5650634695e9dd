/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * From a decoded instruction to the function that executes it.
 *
 * Selection happens once per decoded instruction, execution many times. So all that is known from
 * the instruction alone (operation, sizes, form, whether the level has it) is decided here, and the
 * handler finds nothing left to decide but what depends on the processor's state.
 */
#include "x86/level.h"
#include "x86/cpu.h"

static int raise_ud(struct x86_cpu *cpu, const struct insn *i)
{
    (void)i;
    return x86_fault(cpu, X86_UD, 0);
}

static x86_op_fn *select_by_group(const struct insn *i)
{
    static x86_op_fn *(*const table[INSN_GROUP_COUNT])(const struct insn *) = {
        [INSN_GROUP_ALU] = x86_select_alu,
        [INSN_GROUP_SHIFT] = x86_select_shift,
        [INSN_GROUP_BIT] = x86_select_bit,
        [INSN_GROUP_MUL] = x86_select_mul,
        [INSN_GROUP_MOV] = x86_select_mov,
        [INSN_GROUP_STACK] = x86_select_stack,
        [INSN_GROUP_BRANCH] = x86_select_branch,
        [INSN_GROUP_STRING] = x86_select_string,
        [INSN_GROUP_ATOMIC] = x86_select_atomic,
        [INSN_GROUP_IO] = x86_select_io,
        [INSN_GROUP_SEG] = x86_select_seg,
        [INSN_GROUP_CONTROL] = x86_select_control,
        [INSN_GROUP_SYSTEM] = x86_select_system,
        [INSN_GROUP_FPSTATE] = x86_select_fpstate,
        [INSN_GROUP_X87] = x86_select_x87,
        [INSN_GROUP_SIMD] = x86_select_simd,
    };
    return table[insn_op_group((enum insn_op)i->op)](i);
}

/* VEX-encoded instructions on general registers do not exist in real and virtual-8086 mode (SDM 2A
 * 2.7.11); in 16- and 32-bit code the mode is known only when they are executed. */
static int vex_legacy(struct x86_cpu *cpu, const struct insn *i)
{
    if (!cpu->protected_mode)
        return x86_fault(cpu, X86_UD, 0);
    return select_by_group(i)(cpu, i);
}

/* TZCNT and LZCNT are BSF and BSR with a prefix that processors without them ignore. */
static x86_op_fn *select_bit_scan(const struct insn *i)
{
    struct insn scan = *i;
    scan.op = i->op == INSN_TZCNT ? INSN_BSF : INSN_BSR;
    return x86_select_bit(&scan);
}

x86_op_fn *x86_select(const struct x86_cpu *cpu, const struct insn *i)
{
    if (i->op == INSN_INVALID || i->op >= INSN_OP_COUNT)
        return raise_ud;
    if (!x86_level_has(cpu->level, (enum insn_feature)i->feature))
        return raise_ud;
    if ((i->op == INSN_TZCNT && !x86_level_has(cpu->level, INSN_FEATURE_BMI1)) ||
        (i->op == INSN_LZCNT && !x86_level_has(cpu->level, INSN_FEATURE_LZCNT)))
        return select_bit_scan(i);
    if ((i->flags & INSN_VEX) && i->addrsize != 8)
        return vex_legacy;
    x86_op_fn *fn = select_by_group(i);
    return fn ? fn : raise_ud;
}
