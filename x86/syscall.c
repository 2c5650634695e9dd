/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * SYSCALL, SYSRET, SYSENTER, SYSEXIT (SDM 2B; 3A, 5.8.7 and 5.8.8): they load flat segments from
 * constants and MSRs and look at no descriptor.
 *
 * The level says Intel and behaves like it: SYSCALL and SYSRET exist in 64-bit mode only, SYSENTER
 * and SYSEXIT also in long mode, and SYSRET to a non-canonical address faults at CPL 0 with the
 * user's RSP already in place, which is for system software to avoid.
 */
#include "x86/far.h"

/* Flat segments of that privilege level; the selector's RPL is set to it. */
static void set_flat(struct x86_segment *s, uint16_t selector, uint8_t dpl, uint32_t attr)
{
    s->base = 0;
    s->limit = 0xFFFFFFFF;
    s->attr = attr | (uint32_t)dpl << X86_ATTR_DPL_SHIFT;
    s->selector = (uint16_t)((selector & 0xFFFC) | dpl);
}

static void set_flat_code(struct x86_cpu *cpu, uint16_t selector, uint8_t dpl, bool wide)
{
    uint32_t size = wide ? X86_ATTR_L : X86_ATTR_DB;
    set_flat(&cpu->seg[SEG_CS], selector, dpl, X86_ATTR_CODE_FLAT | size);
}

static void set_flat_stack(struct x86_cpu *cpu, uint16_t selector, uint8_t dpl)
{
    set_flat(&cpu->seg[SEG_SS], selector, dpl, X86_ATTR_DATA_FLAT);
}

/* Whether SYSCALL and SYSRET take a single-step trap depends on TF as they leave it, unlike for
 * other instructions: else a user could have the kernel's entry trapped. */
static void note_step(struct x86_cpu *cpu, uint64_t flags_before)
{
    if (unlikely(flags_before & ~cpu->rflags & X86_FLAG_TF))
        cpu->no_step = true;
}

int x86_syscall(struct x86_cpu *cpu, const struct insn *i)
{
    (void)i;
    if (unlikely(cpu->mode != INSN_MODE_64 || !(cpu->efer & X86_EFER_SCE)))
        return x86_fault(cpu, X86_UD, 0);
    uint16_t selector = (uint16_t)(cpu->msr.star >> 32);
    uint64_t flags = cpu->rflags;
    cpu->gpr[RCX] = cpu->rip;
    cpu->gpr[R11] = flags & ~X86_FLAG_RF;
    cpu->rip = cpu->msr.lstar;
    cpu->rflags = (flags & ~(cpu->msr.sfmask | X86_FLAG_RF)) | X86_FLAG_ONE;
    note_step(cpu, flags);
    set_flat_code(cpu, selector, 0, true);
    set_flat_stack(cpu, (uint16_t)(selector + 8), 0);
    cpu->seg[SEG_SS].selector = (uint16_t)(selector + 8); /* as it is (SDM 2B, SYSCALL) */
    return x86_far_done(cpu);
}

int x86_sysret(struct x86_cpu *cpu, const struct insn *i)
{
    /* Bits of R11 that become RFLAGS: not RF, not VM, nothing reserved. */
    const uint64_t flags_mask = 0x3C7FD7;
    if (unlikely(cpu->mode != INSN_MODE_64 || !(cpu->efer & X86_EFER_SCE)))
        return x86_fault(cpu, X86_UD, 0);
    if (unlikely(cpu->cpl != 0))
        return x86_fault(cpu, X86_GP, 0);
    bool wide = i->opsize == 8;
    if (unlikely(wide && !x86_is_canonical(cpu->gpr[RCX])))
        return x86_fault(cpu, X86_GP, 0);
    uint16_t selector = (uint16_t)(cpu->msr.star >> 48);
    uint64_t flags = cpu->rflags;
    cpu->rip = wide ? cpu->gpr[RCX] : (uint32_t)cpu->gpr[RCX];
    cpu->rflags = (cpu->gpr[R11] & flags_mask) | X86_FLAG_ONE;
    note_step(cpu, flags);
    set_flat_code(cpu, (uint16_t)(selector + (wide ? 16 : 0)), 3, wide);
    set_flat_stack(cpu, (uint16_t)(selector + 8), 3);
    return x86_far_done(cpu);
}

int x86_sysenter(struct x86_cpu *cpu, const struct insn *i)
{
    (void)i;
    uint16_t selector = (uint16_t)cpu->msr.sysenter_cs;
    if (!(cpu->cr0 & X86_CR0_PE) || x86_selector_is_null(selector))
        return x86_fault(cpu, X86_GP, 0);
    bool wide = cpu->long_mode;
    cpu->rflags &= ~(X86_FLAG_VM | X86_FLAG_IF | X86_FLAG_RF);
    cpu->gpr[RSP] = wide ? cpu->msr.sysenter_esp : (uint32_t)cpu->msr.sysenter_esp;
    cpu->rip = wide ? cpu->msr.sysenter_eip : (uint32_t)cpu->msr.sysenter_eip;
    set_flat_code(cpu, selector, 0, wide);
    set_flat_stack(cpu, (uint16_t)(selector + 8), 0);
    return x86_far_done(cpu);
}

int x86_sysexit(struct x86_cpu *cpu, const struct insn *i)
{
    uint16_t selector = (uint16_t)cpu->msr.sysenter_cs;
    if (!cpu->protected_mode || x86_selector_is_null(selector) || cpu->cpl != 0)
        return x86_fault(cpu, X86_GP, 0);
    bool wide = i->opsize == 8;
    if (wide && (!x86_is_canonical(cpu->gpr[RCX]) || !x86_is_canonical(cpu->gpr[RDX])))
        return x86_fault(cpu, X86_GP, 0);
    cpu->gpr[RSP] = wide ? cpu->gpr[RCX] : (uint32_t)cpu->gpr[RCX];
    cpu->rip = wide ? cpu->gpr[RDX] : (uint32_t)cpu->gpr[RDX];
    set_flat_code(cpu, (uint16_t)(selector + (wide ? 32 : 16)), 3, wide);
    set_flat_stack(cpu, (uint16_t)(selector + (wide ? 40 : 24)), 3);
    return x86_far_done(cpu);
}
