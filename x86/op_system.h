/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/* Handlers of group SYSTEM that are not in op_system.c, where they are chosen. */
#ifndef LODGE_X86_OP_SYSTEM_H
#define LODGE_X86_OP_SYSTEM_H

#include "x86/cpu.h"

/* op_system_cr.c */
x86_op_fn op_mov_from_cr, op_mov_to_cr, op_mov_from_dr, op_mov_to_dr;
x86_op_fn op_lmsw, op_smsw, op_clts;

/* op_system_tlb.c */
x86_op_fn op_invlpg, op_invpcid, op_clflush, op_wbinvd;
x86_op_fn op_lfence, op_mfence, op_sfence;

#endif
