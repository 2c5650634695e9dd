/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * System instructions that need little more than a check of privilege; the choice of handlers for
 * the whole group. Control registers are in op_system_cr.c, invalidation and barriers in
 * op_system_tlb.c.
 *
 * Order of checks: what is not there at all is #UD (x86_select for features of the level, the
 * handler for bad forms), then privilege, then operands.
 *
 * PAUSE. An interpreter that spins burns the host's time, and under overcommit the very pCPU that
 * the lock's holder needs. Many PAUSEs with little else between them are a spin loop: then the
 * thread gives up its pCPU for a moment. Where they stand does not matter, since a loop may have
 * several. A VM with one vCPU never does.
 */
#include "x86/op_system.h"

#include "x86/lapic.h"
#include "x86/level.h"
#include "x86/mem.h"
#include "x86/msr.h"

enum {
    PAUSES_BEFORE_YIELD = 32, /* a few microseconds of spinning */
    SPIN_INSNS = 128,         /* more than this (and a block) between two PAUSEs is work */
};

static bool is_privileged(const struct x86_cpu *cpu)
{
    return cpu->cpl == 0;
}

/* A 32-bit result: clears the upper half. */
static void set32(struct x86_cpu *cpu, unsigned int r, uint64_t v)
{
    cpu->gpr[r] = (uint32_t)v;
}

/* --- interrupts and halting --- */

static unsigned int iopl(const struct x86_cpu *cpu)
{
    return (unsigned int)(cpu->rflags >> X86_FLAG_IOPL_SHIFT) & 3;
}

enum if_rule { IF_REAL, IF_VIRTUAL, IF_DENIED };

/* Which flag do CLI and STI work on (SDM 2A CLI, table 3-7)? Virtual-8086 mode is CPL 3. */
static enum if_rule interrupt_flag_rule(const struct x86_cpu *cpu)
{
    if (cpu->cpl <= iopl(cpu))
        return IF_REAL;
    uint64_t virtual_if = cpu->v86 ? X86_CR4_VME : X86_CR4_PVI;
    return cpu->cpl == 3 && cpu->cr4 & virtual_if ? IF_VIRTUAL : IF_DENIED;
}

static int op_cli(struct x86_cpu *cpu, const struct insn *i)
{
    (void)i;
    switch (interrupt_flag_rule(cpu)) {
    case IF_REAL:
        cpu->rflags &= ~X86_FLAG_IF;
        return X86_OK;
    case IF_VIRTUAL:
        cpu->rflags &= ~X86_FLAG_VIF;
        return X86_OK;
    case IF_DENIED:
    default:
        return x86_fault(cpu, X86_GP, 0);
    }
}

static int op_sti(struct x86_cpu *cpu, const struct insn *i)
{
    (void)i;
    switch (interrupt_flag_rule(cpu)) {
    case IF_REAL:
        if (cpu->rflags & X86_FLAG_IF)
            return X86_OK;
        cpu->rflags |= X86_FLAG_IF;
        cpu->shadow |= X86_SHADOW_STI;
        return X86_JUMP;
    case IF_VIRTUAL:
        if (cpu->rflags & X86_FLAG_VIP)
            return x86_fault(cpu, X86_GP, 0);
        cpu->rflags |= X86_FLAG_VIF;
        return X86_OK;
    case IF_DENIED:
    default:
        return x86_fault(cpu, X86_GP, 0);
    }
}

static int op_hlt(struct x86_cpu *cpu, const struct insn *i)
{
    (void)i;
    if (!is_privileged(cpu))
        return x86_fault(cpu, X86_GP, 0);
    if (vcpu_take_requests(&cpu->vcpu, VCPU_REQ_PV_KICK))
        cpu->pv_kick = true;
    if (cpu->pv_kick) { /* KVM_HC_KICK_CPU came before the halt that it was to end */
        cpu->pv_kick = false;
        return X86_JUMP;
    }
    cpu->activity = X86_HALTED;
    return X86_EXIT;
}

static int op_pause(struct x86_cpu *cpu, const struct insn *i)
{
    (void)i;
    if (cpu->vcpu.vm->vcpu_count <= 1)
        return X86_OK;
    if (cpu->instructions - cpu->pause_instructions > SPIN_INSNS)
        cpu->pause_count = 0;
    cpu->pause_instructions = cpu->instructions;
    if (++cpu->pause_count < PAUSES_BEFORE_YIELD)
        return X86_OK;
    cpu->pause_count = 0;
    seam_yield();
    return X86_JUMP;
}

/* The monitored line is not watched: MWAIT may always end early (SDM 2B MWAIT), and does. */
static int op_monitor(struct x86_cpu *cpu, const struct insn *i)
{
    if (!is_privileged(cpu))
        return x86_fault(cpu, X86_UD, 0);
    if ((uint32_t)cpu->gpr[RCX] != 0)
        return x86_fault(cpu, X86_GP, 0);
    uint64_t linear;
    void *host;
    uint64_t offset = cpu->gpr[RAX] & x86_size_mask(i->addrsize);
    int status = x86_linear(cpu, i->seg, offset, 1, X86_READ, &linear);
    return status == X86_OK ? x86_mem_host(cpu, linear, 1, X86_READ, &host) : status;
}

static int op_mwait(struct x86_cpu *cpu, const struct insn *i)
{
    (void)i;
    if (!is_privileged(cpu))
        return x86_fault(cpu, X86_UD, 0);
    if ((uint32_t)cpu->gpr[RCX] & ~1u)
        return x86_fault(cpu, X86_GP, 0);
    return X86_JUMP;
}

/* --- SMAP's flag --- */

static int op_clac(struct x86_cpu *cpu, const struct insn *i)
{
    (void)i;
    if (!is_privileged(cpu))
        return x86_fault(cpu, X86_UD, 0);
    cpu->rflags &= ~X86_FLAG_AC;
    x86_update_mode(cpu);
    return X86_OK; /* handlers look at cpu->tlb anew for each access */
}

static int op_stac(struct x86_cpu *cpu, const struct insn *i)
{
    (void)i;
    if (!is_privileged(cpu))
        return x86_fault(cpu, X86_UD, 0);
    cpu->rflags |= X86_FLAG_AC;
    x86_update_mode(cpu);
    return X86_OK;
}

/* --- MSRs, counters, identity --- */

static int op_rdmsr(struct x86_cpu *cpu, const struct insn *i)
{
    (void)i;
    uint64_t value;
    if (!is_privileged(cpu))
        return x86_fault(cpu, X86_GP, 0);
    int status = x86_msr_read(cpu, (uint32_t)cpu->gpr[RCX], &value);
    if (status != X86_OK)
        return status;
    set32(cpu, RAX, value);
    set32(cpu, RDX, value >> 32);
    return X86_OK;
}

static int op_wrmsr(struct x86_cpu *cpu, const struct insn *i)
{
    (void)i;
    if (!is_privileged(cpu))
        return x86_fault(cpu, X86_GP, 0);
    uint64_t value = cpu->gpr[RDX] << 32 | (uint32_t)cpu->gpr[RAX];
    int status = x86_msr_write(cpu, (uint32_t)cpu->gpr[RCX], value);
    return status == X86_OK ? X86_JUMP : status;
}

static bool tsc_is_denied(const struct x86_cpu *cpu)
{
    return cpu->cr4 & X86_CR4_TSD && cpu->cpl != 0;
}

static int op_rdtsc(struct x86_cpu *cpu, const struct insn *i)
{
    (void)i;
    if (tsc_is_denied(cpu))
        return x86_fault(cpu, X86_GP, 0);
    uint64_t tsc = x86_tsc(cpu);
    set32(cpu, RAX, tsc);
    set32(cpu, RDX, tsc >> 32);
    return X86_OK;
}

static int op_rdtscp(struct x86_cpu *cpu, const struct insn *i)
{
    int status = op_rdtsc(cpu, i);
    if (status == X86_OK)
        set32(cpu, RCX, cpu->msr.tsc_aux);
    return status;
}

/* There are no performance counters, so no index is valid. */
static int op_rdpmc(struct x86_cpu *cpu, const struct insn *i)
{
    (void)i;
    return x86_fault(cpu, X86_GP, 0);
}

static int op_rdpid(struct x86_cpu *cpu, const struct insn *i)
{
    cpu->gpr[i->rm & 15] = cpu->msr.tsc_aux;
    return X86_OK;
}

static int op_cpuid(struct x86_cpu *cpu, const struct insn *i)
{
    (void)i;
    uint32_t out[4];
    x86_cpuid(cpu, (uint32_t)cpu->gpr[RAX], (uint32_t)cpu->gpr[RCX], out);
    set32(cpu, RAX, out[0]);
    set32(cpu, RBX, out[1]);
    set32(cpu, RCX, out[2]);
    set32(cpu, RDX, out[3]);
    return X86_OK;
}

/* RDRAND, RDSEED: always succeed. */
static int op_rdrand(struct x86_cpu *cpu, const struct insn *i)
{
    uint64_t value;
    seam_random(&value, sizeof(value));
    x86_set_gpr(cpu, i->rm, i->opsize, value & x86_size_mask(i->opsize));
    cpu->rflags = (cpu->rflags & ~X86_FLAGS_STATUS) | X86_FLAG_CF;
    return X86_OK;
}

/* --- hypercalls (Linux Documentation/virt/kvm/x86/hypercalls.rst) --- */

/* VMCALL and VMMCALL alike, so that a guest need not know whose hardware it might be on. */
static int op_vmcall(struct x86_cpu *cpu, const struct insn *i)
{
    (void)i;
    bool wide = cpu->mode == INSN_MODE_64;
    uint64_t mask = x86_size_mask(wide ? 8 : 4);
    uint64_t arg[4] = {cpu->gpr[RBX] & mask, cpu->gpr[RCX] & mask, cpu->gpr[RDX] & mask,
                       cpu->gpr[RSI] & mask};
    uint64_t result = x86_kvm_hypercall(cpu, cpu->gpr[RAX] & mask, arg);
    x86_set_gpr(cpu, RAX, wide ? 8 : 4, result);
    return X86_JUMP;
}

/* --- choice --- */

x86_op_fn *x86_select_system(const struct insn *i)
{
    enum { FIRST = INSN_MOV_FROM_CR };
    /* table */
    static x86_op_fn *const handlers[] = {
        [INSN_MOV_FROM_CR - FIRST] = op_mov_from_cr,
        [INSN_MOV_TO_CR - FIRST] = op_mov_to_cr,
        [INSN_MOV_FROM_DR - FIRST] = op_mov_from_dr,
        [INSN_MOV_TO_DR - FIRST] = op_mov_to_dr,
        [INSN_LMSW - FIRST] = op_lmsw,
        [INSN_SMSW - FIRST] = op_smsw,
        [INSN_CLTS - FIRST] = op_clts,
        [INSN_INVLPG - FIRST] = op_invlpg,
        [INSN_INVPCID - FIRST] = op_invpcid,
        [INSN_INVD - FIRST] = op_wbinvd,
        [INSN_WBINVD - FIRST] = op_wbinvd,
        [INSN_HLT - FIRST] = op_hlt,
        [INSN_CLI - FIRST] = op_cli,
        [INSN_STI - FIRST] = op_sti,
        [INSN_CLAC - FIRST] = op_clac,
        [INSN_STAC - FIRST] = op_stac,
        [INSN_RDMSR - FIRST] = op_rdmsr,
        [INSN_WRMSR - FIRST] = op_wrmsr,
        [INSN_RDTSC - FIRST] = op_rdtsc,
        [INSN_RDTSCP - FIRST] = op_rdtscp,
        [INSN_RDPMC - FIRST] = op_rdpmc,
        [INSN_RDPID - FIRST] = op_rdpid,
        [INSN_CPUID - FIRST] = op_cpuid,
        [INSN_MONITOR - FIRST] = op_monitor,
        [INSN_MWAIT - FIRST] = op_mwait,
        [INSN_PAUSE - FIRST] = op_pause,
        [INSN_VMCALL - FIRST] = op_vmcall,
        [INSN_VMMCALL - FIRST] = op_vmcall,
        [INSN_RDRAND - FIRST] = op_rdrand,
        [INSN_RDSEED - FIRST] = op_rdrand,
        [INSN_CLFLUSH - FIRST] = op_clflush,
        [INSN_CLFLUSHOPT - FIRST] = op_clflush,
        [INSN_CLWB - FIRST] = op_clflush,
        [INSN_LFENCE - FIRST] = op_lfence,
        [INSN_MFENCE - FIRST] = op_mfence,
        [INSN_SFENCE - FIRST] = op_sfence,
    };
    _Static_assert(ARRAY_SIZE(handlers) == INSN_SFENCE - FIRST + 1, "the group is contiguous");
    return handlers[i->op - FIRST];
}
