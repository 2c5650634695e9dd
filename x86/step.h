/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/* One instruction with what surrounds it (step.c), for all engines. x86_step itself is in x86/cpu.h. */
#ifndef LODGE_X86_STEP_H
#define LODGE_X86_STEP_H

#include "isa/insn.h"
#include "x86/cpu.h"

#define X86_DR7_ENABLES 0xFFu /* L0 to G3 (SDM 3B 17.2.4) */

/*
 * Has step(cpu, owner) execute one instruction, with all that surrounds it: interrupt shadow, RF, breakpoints, single
 * step. The result is step's, or X86_FAULT for the debug exception.
 */
int x86_step_attended(struct x86_cpu *cpu, int (*step)(struct x86_cpu *cpu, void *owner), void *owner);

/* Of what kind an instruction is that x86_step_fetch has found. */
static inline enum insn_group x86_group_of(const struct insn *i)
{
    return i->op < INSN_OP_COUNT ? insn_op_group((enum insn_op)i->op) : INSN_GROUP_SYSTEM;
}

/* May the emulator execute it on the processor's own vector or x87 registers (x86/native.h)? */
static inline bool x86_uses_vectors(enum insn_group group)
{
    return group == INSN_GROUP_SIMD || group == INSN_GROUP_X87 || group == INSN_GROUP_FPSTATE;
}

#endif
