/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * What the exits of SVM are (APM 2, 15.9 to 15.14 and appendix C): small handlers by exit code, which translate into
 * struct exit where the rest of the system is needed and have it handled without leaving the run loop.
 *
 * Handlers fetch what they need of the guest's state and no more; the frequent ones nothing, as general registers
 * are at hand and the rest is read from the VMCB. Whatever has no handler of its own is executed by the emulator,
 * which knows what the level has: an instruction that only this processor has is undefined there.
 *
 * An exit in the middle of a delivery (EXITINTINFO) to what is not RAM, or by an exception that is intercepted,
 * has the event delivered by the emulator, which finds the same exceptions and what becomes of two
 * (x86/interrupt.c). After other exits the event is injected again.
 */
#include "engine/svm/svm_private.h"
#include "x86/level.h"
#include "x86/mem.h"

static enum svm_verdict verdict_of(int err)
{
    return likely(err == OK) ? SVM_GO_ON : SVM_STOP;
}

enum { LEAF_XSTATE = 0xD };

/* --- frequent ones --------------------------------------------------------------------------------------- */

static always_inline struct svm_cpuid *answer_to(struct svm_vcpu *s, uint32_t leaf, uint32_t subleaf)
{
    return &s->cpuid[(leaf ^ leaf >> 28 ^ subleaf) & (SVM_CPUID_ANSWERS - 1)];
}

static noinline_cold enum svm_verdict ask_cpuid(struct x86_cpu *cpu, struct svm_cpuid *a, struct exit *e)
{
    int err;

    if ((uint32_t)cpu->gpr[RAX] == LEAF_XSTATE)
        svm_fpu_store(cpu); /* XCR0 is read back */
    a->leaf = (uint32_t)cpu->gpr[RAX];
    a->subleaf = (uint32_t)cpu->gpr[RCX];
    *e = (struct exit){.reason = EXIT_CPUID, .cpuid = {.eax = a->leaf, .ecx = a->subleaf}};
    err = vcpu_handle_exit(&cpu->vcpu, e);
    a->out[0] = e->cpuid.eax;
    a->out[1] = e->cpuid.ebx;
    a->out[2] = e->cpuid.ecx;
    a->out[3] = e->cpuid.edx;
    a->valid = a->leaf != LEAF_XSTATE;
    return verdict_of(err);
}

/* The answers change only with CR4, and are kept until then (state.c); but that of leaf 0DH, which says what
 * XCR0 needs. */
static enum svm_verdict on_cpuid(struct x86_cpu *cpu, struct exit *e)
{
    struct svm_vcpu *s = svm_vcpu_of(cpu);
    struct svm_cpuid *a = answer_to(s, (uint32_t)cpu->gpr[RAX], (uint32_t)cpu->gpr[RCX]);
    uint32_t length = svm_length(cpu, 0xA20F, 2);
    enum svm_verdict verdict = SVM_GO_ON;

    if (unlikely(!length))
        return svm_emulate(cpu);
    if (likely(a->valid && a->leaf == (uint32_t)cpu->gpr[RAX] && a->subleaf == (uint32_t)cpu->gpr[RCX]))
        cpu->vcpu.exits[EXIT_CPUID]++;
    else
        verdict = ask_cpuid(cpu, a, e);
    cpu->gpr[RAX] = a->out[0];
    cpu->gpr[RBX] = a->out[1];
    cpu->gpr[RCX] = a->out[2];
    cpu->gpr[RDX] = a->out[3];
    svm_skip_to(s, s->vmcb->save.rip + length);
    return verdict;
}

/* What the MSR is part of, of that which VMCB or processor have as well. */
static uint32_t groups_of_msr(uint32_t index)
{
    switch (index) {
    case MSR_EFER:
        return ENGINE_STATE_CONTROL;
    case MSR_SYSENTER_CS:
    case MSR_SYSENTER_ESP:
    case MSR_SYSENTER_EIP:
    case MSR_PAT:
    case MSR_TSC_AUX:
    case MSR_SPEC_CTRL:
        return ENGINE_STATE_MSR;
    case MSR_TSC:
    case MSR_TSC_ADJUST:
        return ENGINE_STATE_CLOCK;
    case MSR_APIC_BASE:
    case MSR_X2APIC_FIRST + 8: /* TPR */
        return ENGINE_STATE_APIC;
    default:
        return 0;
    }
}

static void barrier(const struct svm_vcpu *s, const struct exit *e)
{
    if (e->msr.index == MSR_PRED_CMD && e->msr.value & X86_PRED_CMD_IBPB && s->on->has_ibpb)
        svm_write_msr(MSR_PRED_CMD, X86_PRED_CMD_IBPB);
}

static void finish_msr(struct x86_cpu *cpu, const struct exit *e, uint32_t groups, uint32_t length)
{
    struct svm_vcpu *s = svm_vcpu_of(cpu);

    if (e->msr.fault) {
        svm_inject(cpu, X86_GP, true, 0);
        return;
    }
    if (e->msr.write) {
        svm_changed(cpu, groups);
        barrier(s, e);
    } else {
        cpu->gpr[RAX] = (uint32_t)e->msr.value;
        cpu->gpr[RDX] = e->msr.value >> 32;
    }
    svm_skip_to(s, s->vmcb->save.rip + length);
}

static enum svm_verdict on_msr(struct x86_cpu *cpu, struct exit *e)
{
    bool write = svm_vcpu_of(cpu)->vmcb->control.exit_info1 & 1;
    uint32_t length = svm_length(cpu, write ? 0x300F : 0x320F, 2);
    uint32_t groups = groups_of_msr((uint32_t)cpu->gpr[RCX]);
    int err;

    if (unlikely(!length))
        return svm_emulate(cpu);
    if (groups & ENGINE_STATE_CONTROL) /* EFER's write derives the mode from all of it */
        svm_fetch(cpu, ENGINE_STATE_GPR | ENGINE_STATE_SEGMENTS | ENGINE_STATE_CONTROL);
    svm_fetch(cpu, groups & ENGINE_STATE_MSR);
    *e = (struct exit){.reason = EXIT_MSR,
                       .msr = {.index = (uint32_t)cpu->gpr[RCX],
                               .write = write,
                               .value = cpu->gpr[RDX] << 32 | (uint32_t)cpu->gpr[RAX]}};
    err = vcpu_handle_exit(&cpu->vcpu, e);
    finish_msr(cpu, e, groups, length);
    return verdict_of(err);
}

/* EXITINFO2 has the next RIP on every processor. */
static enum svm_verdict on_io(struct x86_cpu *cpu, struct exit *e)
{
    struct svm_vcpu *s = svm_vcpu_of(cpu);
    const struct vmcb *v = s->vmcb;
    uint32_t info = (uint32_t)v->control.exit_info1;
    uint8_t size = (uint8_t)(info >> IO_SIZE_SHIFT & 7);
    uint64_t next = v->control.exit_info2;
    int err;

    if (unlikely(info & IO_STRING || v->save.rflags & X86_FLAG_TF || v->save.dr7 & 0xFF))
        return svm_emulate(cpu);
    *e = (struct exit){.reason = EXIT_PORT,
                       .port = {.port = (uint16_t)(info >> IO_PORT_SHIFT),
                                .size = size,
                                .write = !(info & IO_IN),
                                .value = info & IO_IN ? 0 : cpu->gpr[RAX] & x86_size_mask(size)}};
    err = vcpu_handle_exit(&cpu->vcpu, e);
    if (info & IO_IN)
        x86_set_gpr(cpu, RAX, size, e->port.value);
    svm_skip_to(s, next);
    return verdict_of(err);
}

static enum svm_verdict on_hlt(struct x86_cpu *cpu, struct exit *e)
{
    struct svm_vcpu *s = svm_vcpu_of(cpu);
    uint32_t length = svm_length(cpu, 0xF4, 1);

    (void)e;
    if (!length)
        return svm_emulate(cpu);
    svm_skip_to(s, s->vmcb->save.rip + length);
    if (vcpu_take_requests(&cpu->vcpu, VCPU_REQ_PV_KICK))
        cpu->pv_kick = true;
    if (cpu->pv_kick) { /* KVM_HC_KICK_CPU came before the halt that it was to end */
        cpu->pv_kick = false;
        return SVM_GO_ON;
    }
    cpu->activity = X86_HALTED;
    s->todo |= SVM_ATTEND;
    return SVM_GO_ON;
}

static enum svm_verdict on_hypercall(struct x86_cpu *cpu, struct exit *e)
{
    struct svm_vcpu *s = svm_vcpu_of(cpu);
    const struct vmcb_save *v = &s->vmcb->save;
    uint32_t length = svm_length(cpu, 0xD9010F, 3);
    bool wide = v->efer & X86_EFER_LMA && v->cs.attr & BIT(9);
    uint64_t mask = wide ? UINT64_MAX : UINT32_MAX;
    int err;

    if (unlikely(!length))
        return svm_emulate(cpu);
    cpu->cpl = v->cpl;
    *e = (struct exit){
        .reason = EXIT_HYPERCALL,
        .hypercall = {.number = cpu->gpr[RAX] & mask,
                      .arg = {cpu->gpr[RBX] & mask, cpu->gpr[RCX] & mask, cpu->gpr[RDX] & mask, cpu->gpr[RSI] & mask}}};
    err = vcpu_handle_exit(&cpu->vcpu, e);
    cpu->gpr[RAX] = e->hypercall.result & mask;
    svm_skip_to(s, s->vmcb->save.rip + length);
    return verdict_of(err);
}

static enum svm_verdict on_pause(struct x86_cpu *cpu, struct exit *e)
{
    struct svm_vcpu *s = svm_vcpu_of(cpu);
    uint32_t length = svm_length(cpu, 0x90F3, 2);

    (void)e;
    if (length)
        svm_skip_to(s, s->vmcb->save.rip + length);
    else
        (void)svm_emulate(cpu);
    seam_yield();
    return SVM_GO_ON;
}

/* --- events ---------------------------------------------------------------------------------------------- */

/* A physical interrupt; or one of our own to come back for an NMI that had to wait (run.c). */
static enum svm_verdict on_interrupt(struct x86_cpu *cpu, struct exit *e)
{
    (void)e;
    hw_preempt_point();
    if (cpu->nmi_pending)
        svm_vcpu_of(cpu)->todo |= SVM_ATTEND;
    return SVM_GO_ON;
}

/* A physical NMI, which came in when GIF was set; or INIT, which does not come back from there. */
static enum svm_verdict on_nothing(struct x86_cpu *cpu, struct exit *e)
{
    (void)cpu;
    (void)e;
    return SVM_GO_ON;
}

static enum svm_verdict on_window(struct x86_cpu *cpu, struct exit *e)
{
    struct svm_vcpu *s = svm_vcpu_of(cpu);

    (void)e;
    svm_open_window(s, false);
    s->todo |= SVM_ATTEND;
    return SVM_GO_ON;
}

/* DR6 and DR7 are as the guest's handler has to find them (15.12.2). */
static enum svm_verdict on_debug(struct x86_cpu *cpu, struct exit *e)
{
    (void)e;
    svm_inject(cpu, X86_DB, false, 0);
    return SVM_GO_ON;
}

static enum svm_verdict on_alignment(struct x86_cpu *cpu, struct exit *e)
{
    (void)e;
    svm_inject(cpu, X86_AC, true, 0);
    return SVM_GO_ON;
}

/* It is the host's: its handler knows what to do. */
static enum svm_verdict on_machine_check(struct x86_cpu *cpu, struct exit *e)
{
    (void)cpu;
    (void)e;
    __asm__ volatile("int $18" : : : "memory");
    return SVM_GO_ON;
}

/* An x87 exception with CR0.NE clear, which a PC reports by IRQ 13; ours has no such wire. */
static enum svm_verdict on_ferr(struct x86_cpu *cpu, struct exit *e)
{
    (void)e;
    svm_inject(cpu, X86_MF, false, 0);
    return SVM_GO_ON;
}

static enum svm_verdict on_shutdown(struct x86_cpu *cpu, struct exit *e)
{
    (void)svm_vcpu_get_state(cpu, ENGINE_STATE_ALL);
    cpu->activity = X86_SHUTDOWN;
    *e = (struct exit){.reason = EXIT_SHUTDOWN};
    return SVM_REPORT;
}

/* --- the emulator's -------------------------------------------------------------------------------------- */

static enum svm_verdict on_instruction(struct x86_cpu *cpu, struct exit *e)
{
    (void)e;
    return svm_emulate(cpu);
}

/* XCR0 is loaded together with vector registers. */
static enum svm_verdict on_xsetbv(struct x86_cpu *cpu, struct exit *e)
{
    (void)e;
    svm_fpu_store(cpu);
    return svm_emulate(cpu);
}

/* See fpu.c: done again without an exit. */
static enum svm_verdict on_debug_register(struct x86_cpu *cpu, struct exit *e)
{
    (void)e;
    svm_debug_load(cpu);
    return SVM_GO_ON;
}

/* --- dispatch -------------------------------------------------------------------------------------------- */

typedef enum svm_verdict exit_handler(struct x86_cpu *cpu, struct exit *e);

/* table */
static exit_handler *const handlers[VMEXIT_TABLE] = {
    [VMEXIT_CR0_READ] = on_instruction,
    [VMEXIT_CR4_READ] = on_instruction,
    [VMEXIT_CR4_WRITE] = on_instruction,
    [VMEXIT_CR8_WRITE] = on_instruction,
    [VMEXIT_DR0_READ ... VMEXIT_DR7_WRITE] = on_debug_register,
    [VMEXIT_EXCEPTION + X86_DB] = on_debug,
    [VMEXIT_EXCEPTION + X86_UD] = on_instruction,
    [VMEXIT_EXCEPTION + X86_AC] = on_alignment,
    [VMEXIT_EXCEPTION + X86_MC] = on_machine_check,
    [VMEXIT_INTR] = on_interrupt,
    [VMEXIT_NMI] = on_nothing,
    [VMEXIT_INIT] = on_nothing,
    [VMEXIT_VINTR] = on_window,
    [VMEXIT_CR0_SELECTIVE] = on_instruction,
    [VMEXIT_RDPMC] = on_instruction,
    [VMEXIT_CPUID] = on_cpuid,
    [VMEXIT_IRET] = on_instruction,
    [VMEXIT_INVD] = on_instruction,
    [VMEXIT_PAUSE] = on_pause,
    [VMEXIT_HLT] = on_hlt,
    [VMEXIT_INVLPGA] = on_instruction,
    [VMEXIT_IO] = on_io,
    [VMEXIT_MSR] = on_msr,
    [VMEXIT_FERR_FREEZE] = on_ferr,
    [VMEXIT_SHUTDOWN] = on_shutdown,
    [VMEXIT_VMRUN] = on_instruction,
    [VMEXIT_VMMCALL] = on_hypercall,
    [VMEXIT_VMLOAD ... VMEXIT_SKINIT] = on_instruction,
    [VMEXIT_WBINVD] = on_instruction,
    [VMEXIT_MONITOR] = on_instruction,
    [VMEXIT_MWAIT] = on_instruction,
    [VMEXIT_XSETBV] = on_xsetbv,
    [VMEXIT_RDPRU] = on_instruction,
    [VMEXIT_INVLPGB] = on_instruction,
    [VMEXIT_INVPCID] = on_instruction,
    [VMEXIT_MCOMMIT] = on_instruction,
    [VMEXIT_TLBSYNC] = on_instruction,
};

/* Software's own events are done again with their instruction. True: it was delivered by the emulator. */
static noinline_cold bool take_back_event(struct x86_cpu *cpu, uint64_t code)
{
    struct svm_vcpu *s = svm_vcpu_of(cpu);
    struct x86_in_flight in = svm_event_to(s->vmcb->control.exit_event);

    if (in.kind == X86_FLIGHT_NONE || code == VMEXIT_SHUTDOWN)
        return false;
    s->vmcb->control.inject = svm_event_from(&in);
    if (code != VMEXIT_NPF && code - VMEXIT_EXCEPTION >= 32)
        return false;
    svm_fetch(cpu, ENGINE_STATE_EVENTS);
    s->vmcb->control.inject = 0;
    svm_land(cpu);
    return true;
}

enum svm_verdict svm_handle_exit(struct x86_cpu *cpu, struct exit *e)
{
    const struct vmcb_control *c = &svm_vcpu_of(cpu)->vmcb->control;
    uint64_t code = c->exit_code;

    if (unlikely(c->exit_event & EVENT_VALID) && (uint32_t)code != VMEXIT_INVALID && take_back_event(cpu, code))
        return SVM_GO_ON;
    if (likely(code < VMEXIT_TABLE && handlers[code]))
        return handlers[code](cpu, e);
    if (code == VMEXIT_NPF)
        return svm_emulate(cpu);
    if ((uint32_t)code == VMEXIT_INVALID)
        return svm_fail(cpu, e, "the processor refused to enter the guest", c->exit_info1);
    return svm_fail(cpu, e, "the processor left the guest for a reason that is not known", code);
}
