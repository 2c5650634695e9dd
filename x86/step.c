/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * One instruction, from fetch to completion, with nothing cached: the reference for every faster
 * path, and the path for what those leave out (instructions across a page end, code that is not
 * in memory, single step).
 */
#include "x86/mem.h"

int x86_step_fetch(struct x86_cpu *cpu, struct insn *i)
{
    uint8_t bytes[INSN_MAX_LENGTH];
    uint32_t got;
    int status = x86_fetch_bytes(cpu, bytes, &got);
    if (status != X86_OK)
        return status;
    switch (insn_decode(i, bytes, got, (enum insn_mode)cpu->mode)) {
    case INSN_DECODE_OK:
        return X86_OK;
    case INSN_DECODE_TOO_LONG:
        return x86_fault(cpu, X86_GP, 0);
    default: /* INSN_DECODE_SHORT: x86_fetch_bytes recorded why there is no more */
        return X86_FAULT;
    }
}

int x86_step_execute(struct x86_cpu *cpu, const struct insn *i)
{
    uint64_t start = cpu->rip;
    cpu->rip += i->length;
    if (cpu->mode != INSN_MODE_64)
        cpu->rip = (uint32_t)cpu->rip;
    int status = x86_select(cpu, i)(cpu, i);
    if (status == X86_FAULT)
        cpu->rip = start;
    return status;
}

int x86_step(struct x86_cpu *cpu)
{
    struct insn i;
    int status = x86_step_fetch(cpu, &i);
    return status == X86_OK ? x86_step_execute(cpu, &i) : status;
}
