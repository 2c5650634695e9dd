/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/* Between x86/op_seg.c and x86/op_seg_table.c: handlers, and 16-bit operands. */
#ifndef LODGE_X86_OP_SEG_H
#define LODGE_X86_OP_SEG_H

#include "x86/cpu.h"

x86_op_fn x86_op_load_table;  /* LGDT, LIDT */
x86_op_fn x86_op_store_table; /* SGDT, SIDT */
x86_op_fn x86_op_lldt;
x86_op_fn x86_op_ltr;
x86_op_fn x86_op_store_selector; /* SLDT, STR */
x86_op_fn x86_op_verify;         /* VERR, VERW */
x86_op_fn x86_op_lar;
x86_op_fn x86_op_lsl;
x86_op_fn x86_op_arpl;

/* rm as a 16-bit source; as a destination: 16 bits in memory, operand size in a register. */
int x86_seg_load16(struct x86_cpu *cpu, const struct insn *i, uint16_t *v);
int x86_seg_store16(struct x86_cpu *cpu, const struct insn *i, uint16_t v);

#endif
