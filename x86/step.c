/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * One instruction, from fetch to completion, with nothing cached: the reference for every faster
 * path, and the path for what those leave out (instructions across a page end, code that is not
 * in memory, single step).
 */
#include "x86/step.h"

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

/* What an instruction leaves of RF, which was set before it (SDM 3B 17.3.1.1): it suppresses an
 * instruction breakpoint for one instruction, all iterations of a REP included. It was clear while
 * the instruction ran, so one that loads RFLAGS (IRET, a task switch) has the last word. */
static void keep_resume(struct x86_cpu *cpu, int status)
{
    if (status == X86_FAULT || cpu->repeats)
        cpu->rflags |= X86_FLAG_RF;
}

int x86_step_attended(struct x86_cpu *cpu, int (*step)(struct x86_cpu *cpu, void *owner), void *owner)
{
    uint8_t shadow = cpu->shadow;
    bool trap = (cpu->rflags & X86_FLAG_TF) != 0;
    bool resume = (cpu->rflags & X86_FLAG_RF) != 0;
    bool armed = trap || (cpu->dr7 & X86_DR7_ENABLES) != 0;
    int status = X86_OK;
    if (armed && shadow != X86_SHADOW_MOV_SS)
        status = x86_debug_before(cpu);
    if (status == X86_OK) {
        cpu->rflags &= ~X86_FLAG_RF;
        cpu->repeats = false;
        status = step(cpu, owner);
        if (resume)
            keep_resume(cpu, status);
    }
    if (status == X86_FAULT)
        return status;
    if (cpu->shadow == shadow)
        cpu->shadow = 0; /* held for this one instruction */
    if ((armed || cpu->debug_pending) && cpu->shadow != X86_SHADOW_MOV_SS &&
        x86_debug_after(cpu, trap) == X86_FAULT) {
        if (cpu->activity == X86_HALTED)
            cpu->activity = X86_RUNNING; /* a trap of HLT itself ends the halt */
        return X86_FAULT;
    }
    return status;
}
