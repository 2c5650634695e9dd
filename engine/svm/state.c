/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * Registers between struct x86_cpu and the VMCB, group by group.
 *
 * Two masks say who has what: `changed`, groups that struct x86_cpu has the newer of, handed over before the next
 * entry; `fetched`, groups that it has as well, since the last exit. RAX goes both ways at every entry, and the
 * other general registers but RSP live in struct x86_cpu anyway.
 *
 * What the guest cannot change without an exit is not in the VMCB to be fetched: CR4, XCR0, PAT, the SYSENTER MSRs
 * (the processor has 32 bits of them at most, Intel's guests want 64), DR0 to DR3, the TSC's offset. Two bits of
 * CR0 and one of CR4 the processor has otherwise than the guest: CD and NW are never set, MCE always. Then reading
 * them exits, too.
 *
 * PAE paging: AMD's processors read the four PDPTEs from memory when they walk (APM 2, 15.25.10), so they are fetched
 * from there.
 *
 * An event that is about to be injected, or was about to be delivered when an exit came, is in EVENTINJ, and becomes
 * struct x86_in_flight when events are fetched.
 */
#include "engine/svm/svm_private.h"
#include "core/mem.h"
#include "x86/lapic.h"
#include "x86/level.h"

enum { DR7_ZERO = 0xD800 }; /* bits 11, 12, 14, 15 (SDM 3B 17.2.4) */

#define CR0_HIDDEN (X86_CR0_CD | X86_CR0_NW)

/* --- segments ------------------------------------------------------------------------------------------ */

/* Attributes: bits 7:0 stay, bits 15:12 of ours are 11:8 of the VMCB's. */
static void get_segment(struct x86_segment *s, const struct vmcb_segment *v)
{
    s->base = v->base;
    s->limit = v->limit;
    s->selector = v->selector;
    s->attr = (v->attr & 0xFFu) | (uint32_t)(v->attr & 0xF00) << 4;
    if (!(v->attr & X86_ATTR_P))
        s->attr |= X86_ATTR_UNUSABLE;
}

static void put_segment(struct vmcb_segment *v, const struct x86_segment *s)
{
    uint32_t attr = s->attr & X86_ATTR_UNUSABLE ? s->attr & ~(uint32_t)X86_ATTR_P : s->attr;

    *v = (struct vmcb_segment){
        .selector = s->selector,
        .attr = (uint16_t)((attr & 0xFF) | (attr >> 4 & 0xF00)),
        .limit = s->limit,
        .base = s->base,
    };
}

static void get_segments(struct x86_cpu *cpu, const struct vmcb_save *v)
{
    get_segment(&cpu->seg[SEG_ES], &v->es);
    get_segment(&cpu->seg[SEG_CS], &v->cs);
    get_segment(&cpu->seg[SEG_SS], &v->ss);
    get_segment(&cpu->seg[SEG_DS], &v->ds);
    get_segment(&cpu->seg[SEG_FS], &v->fs);
    get_segment(&cpu->seg[SEG_GS], &v->gs);
    get_segment(&cpu->ldtr, &v->ldtr);
    get_segment(&cpu->tr, &v->tr);
    cpu->gdtr = (struct x86_table){v->gdtr.base, (uint16_t)v->gdtr.limit};
    cpu->idtr = (struct x86_table){v->idtr.base, (uint16_t)v->idtr.limit};
}

static void put_segments(const struct x86_cpu *cpu, struct svm_vcpu *s)
{
    struct vmcb_save *v = &s->vmcb->save;

    put_segment(&v->es, &cpu->seg[SEG_ES]);
    put_segment(&v->cs, &cpu->seg[SEG_CS]);
    put_segment(&v->ss, &cpu->seg[SEG_SS]);
    put_segment(&v->ds, &cpu->seg[SEG_DS]);
    put_segment(&v->fs, &cpu->seg[SEG_FS]);
    put_segment(&v->gs, &cpu->seg[SEG_GS]);
    put_segment(&v->ldtr, &cpu->ldtr);
    put_segment(&v->tr, &cpu->tr);
    v->gdtr = (struct vmcb_segment){.limit = cpu->gdtr.limit, .base = cpu->gdtr.base};
    v->idtr = (struct vmcb_segment){.limit = cpu->idtr.limit, .base = cpu->idtr.base};
    v->cpl = cpu->cpl;
    svm_dirty(s, CLEAN_SEGMENTS | CLEAN_TABLES);
}

/* --- control registers --------------------------------------------------------------------------------- */

static void get_pdptes(struct x86_cpu *cpu)
{
    const struct guest_mem *m = &cpu->vcpu.vm->mem;

    if (cpu->cr0 & X86_CR0_PG && cpu->cr4 & X86_CR4_PAE && !(cpu->efer & X86_EFER_LMA) &&
        guest_mem_read(m, gpa(cpu->cr3 & 0xFFFFFFE0), cpu->pdpte, sizeof(cpu->pdpte)) != OK)
        memset(cpu->pdpte, 0, sizeof(cpu->pdpte));
}

static void get_control(struct x86_cpu *cpu, const struct svm_vcpu *s)
{
    const struct vmcb_save *v = &s->vmcb->save;

    cpu->cr0 = v->cr0 | s->hidden;
    cpu->cr2 = v->cr2;
    cpu->cr3 = v->cr3 & (BIT(cpu->level->physical_bits) - 1);
    cpu->efer = v->efer & cpu->level->efer_mask;
    get_pdptes(cpu);
}

static void put_control(const struct x86_cpu *cpu, struct svm_vcpu *s)
{
    struct vmcb_save *v = &s->vmcb->save;
    uint64_t cr0 = (cpu->cr0 & ~CR0_HIDDEN) | X86_CR0_ET, cr4 = cpu->cr4 | X86_CR4_MCE;
    uint64_t efer = cpu->efer | EFER_SVME;

    if (((cr0 ^ v->cr0) & ~(X86_CR0_TS | X86_CR0_MP)) | (cr4 ^ v->cr4) | (efer ^ v->efer) | (cpu->cr3 ^ v->cr3))
        s->todo |= SVM_FLUSH;
    s->hidden = cpu->cr0 & CR0_HIDDEN;
    svm_intercept(s, VMCB_CR, VMCB_CR_READ(0), s->hidden != 0);
    svm_intercept(s, VMCB_CR, VMCB_CR_READ(4), !(cpu->cr4 & X86_CR4_MCE));
    v->cr0 = cr0;
    v->cr2 = cpu->cr2;
    v->cr3 = cpu->cr3;
    v->cr4 = cr4;
    v->efer = efer;
    svm_dirty(s, CLEAN_CR | CLEAN_CR2);
}

/* --- the rest ------------------------------------------------------------------------------------------ */

static void get_registers(struct x86_cpu *cpu, const struct vmcb_save *v)
{
    cpu->gpr[RSP] = v->rsp;
    cpu->rip = v->rip;
    cpu->rflags = v->rflags;
}

static void put_registers(const struct x86_cpu *cpu, struct vmcb_save *v)
{
    v->rsp = cpu->gpr[RSP];
    v->rip = cpu->rip;
    v->rflags = cpu->rflags;
}

static void get_msrs(struct x86_cpu *cpu, const struct vmcb_save *v)
{
    cpu->msr.star = v->star;
    cpu->msr.lstar = v->lstar;
    cpu->msr.cstar = v->cstar;
    cpu->msr.sfmask = v->sfmask & UINT32_MAX;
    cpu->msr.kernel_gs_base = v->kernel_gs_base;
}

static void put_msrs(const struct x86_cpu *cpu, struct svm_vcpu *s)
{
    struct vmcb_save *v = &s->vmcb->save;

    v->star = cpu->msr.star;
    v->lstar = cpu->msr.lstar;
    v->cstar = cpu->msr.cstar;
    v->sfmask = cpu->msr.sfmask;
    v->kernel_gs_base = cpu->msr.kernel_gs_base;
    v->sysenter_cs = cpu->msr.sysenter_cs;
    v->sysenter_esp = cpu->msr.sysenter_esp;
    v->sysenter_eip = cpu->msr.sysenter_eip;
    v->pat = cpu->msr.pat;
    v->spec_ctrl = cpu->msr.spec_ctrl;
    svm_dirty(s, CLEAN_NESTED);
    s->todo |= SVM_SWITCH; /* TSC_AUX */
}

uint64_t svm_event_from(const struct x86_in_flight *in)
{
    switch ((enum x86_flight)in->kind) {
    case X86_FLIGHT_INTERRUPT:
        return EVENT_VALID | EVENT_INTERRUPT << EVENT_TYPE_SHIFT | in->vector;
    case X86_FLIGHT_NMI:
        return EVENT_VALID | EVENT_NMI << EVENT_TYPE_SHIFT | X86_NMI;
    case X86_FLIGHT_EXCEPTION:
        return EVENT_VALID | EVENT_EXCEPTION << EVENT_TYPE_SHIFT | in->vector |
               (in->has_error ? EVENT_HAS_ERROR | (uint64_t)in->error << 32 : 0);
    case X86_FLIGHT_NONE:
    case X86_FLIGHT_FAULT: /* svm_land's */
    default:
        return 0;
    }
}

/* Software's own events are not in flight: RIP still points at their instruction, which will do it again. */
struct x86_in_flight svm_event_to(uint64_t event)
{
    uint8_t vector = (uint8_t)event;

    if (!(event & EVENT_VALID))
        return (struct x86_in_flight){.kind = X86_FLIGHT_NONE};
    switch (event >> EVENT_TYPE_SHIFT & 7) {
    case EVENT_INTERRUPT:
        return (struct x86_in_flight){.kind = X86_FLIGHT_INTERRUPT, .vector = vector};
    case EVENT_NMI:
        return (struct x86_in_flight){.kind = X86_FLIGHT_NMI, .vector = X86_NMI};
    case EVENT_EXCEPTION:
        if (vector == X86_BP || vector == X86_OF)
            break;
        return (struct x86_in_flight){.kind = X86_FLIGHT_EXCEPTION,
                                      .vector = vector,
                                      .has_error = (event & EVENT_HAS_ERROR) != 0,
                                      .error = (uint32_t)(event >> 32)};
    default:
        break;
    }
    return (struct x86_in_flight){.kind = X86_FLIGHT_NONE};
}

static void get_events(struct x86_cpu *cpu, const struct svm_vcpu *s)
{
    cpu->shadow = s->vmcb->control.shadow & 1 ? X86_SHADOW_STI : 0;
    cpu->event = svm_event_to(s->vmcb->control.inject);
}

static void put_events(struct x86_cpu *cpu, struct svm_vcpu *s)
{
    s->vmcb->control.shadow = cpu->shadow != 0;
    s->vmcb->control.inject = svm_event_from(&cpu->event);
    if (s->vmcb->control.inject)
        cpu->event = (struct x86_in_flight){.kind = X86_FLIGHT_NONE};
    svm_intercept(s, VMCB_MISC1, INTERCEPT_IRET, cpu->nmi_masked);
}

static void get_debug(struct x86_cpu *cpu, const struct svm_vcpu *s)
{
    if (s->debug_here)
        svm_debug_fetch(cpu);
    cpu->dr6 = s->vmcb->save.dr6;
    cpu->dr7 = (s->vmcb->save.dr7 & ~(uint64_t)DR7_ZERO) | X86_DR7_FIXED;
}

static void put_debug(struct x86_cpu *cpu, struct svm_vcpu *s)
{
    s->vmcb->save.dr6 = cpu->dr6;
    s->vmcb->save.dr7 = cpu->dr7;
    if (s->debug_here)
        svm_debug_load(cpu);
    svm_dirty(s, CLEAN_DR);
}

static void put_tpr(const struct x86_cpu *cpu, struct svm_vcpu *s)
{
    uint32_t *word = &s->vmcb->control.interrupt;

    *word = (*word & ~(uint32_t)INT_TPR_MASK) | lapic_get_cr8(cpu);
    svm_dirty(s, CLEAN_TPR);
}

static void put_clock(const struct x86_cpu *cpu, struct svm_vcpu *s)
{
    s->vmcb->control.tsc_offset = svm_vm_of(cpu->vcpu.vm)->tsc_base + cpu->tsc_offset;
    svm_dirty(s, CLEAN_INTERCEPTS);
}

/* --- all of it ----------------------------------------------------------------------------------------- */

enum { MODE = ENGINE_STATE_GPR | ENGINE_STATE_SEGMENTS | ENGINE_STATE_CONTROL };

void svm_fetch(struct x86_cpu *cpu, uint32_t groups)
{
    struct svm_vcpu *s = svm_vcpu_of(cpu);
    const struct vmcb_save *v = &s->vmcb->save;

    groups &= ~(s->changed | s->fetched);
    s->fetched |= groups;
    if (groups & ENGINE_STATE_GPR)
        get_registers(cpu, v);
    if (groups & ENGINE_STATE_SEGMENTS)
        get_segments(cpu, v);
    if (groups & ENGINE_STATE_CONTROL)
        get_control(cpu, s);
    if (groups & ENGINE_STATE_DEBUG)
        get_debug(cpu, s);
    if (groups & ENGINE_STATE_MSR)
        get_msrs(cpu, v);
    if (groups & ENGINE_STATE_EVENTS)
        get_events(cpu, s);
    if (groups & MODE)
        x86_update_mode(cpu);
}

int svm_vcpu_get_state(struct x86_cpu *cpu, uint32_t groups)
{
    if (groups & ENGINE_STATE_FPU)
        svm_fpu_store(cpu);
    svm_fetch(cpu, groups);
    if (groups & ENGINE_STATE_DEBUG)
        svm_debug_store(cpu);
    return OK;
}

void svm_changed(struct x86_cpu *cpu, uint32_t groups)
{
    svm_vcpu_of(cpu)->changed |= groups;
}

/* A vector register that is newer in the processor is not needed any more. */
int svm_vcpu_set_state(struct x86_cpu *cpu, uint32_t groups)
{
    struct svm_vcpu *s = svm_vcpu_of(cpu);

    if (groups & ENGINE_STATE_FPU && !(s->todo & SVM_LOAD)) {
        s->todo |= SVM_LOAD;
        hw_on_switch(NULL, NULL);
    }
    s->todo |= SVM_ATTEND;
    svm_changed(cpu, groups);
    return OK;
}

void svm_forget_code(struct svm_vcpu *s)
{
    for (uint32_t i = 0; i < SVM_CODE_PAGES; i++)
        s->code[i].page = 1;
}

static void forget_cpuid(struct svm_vcpu *s)
{
    for (uint32_t i = 0; i < SVM_CPUID_ANSWERS; i++)
        s->cpuid[i].valid = false;
}

void svm_vcpu_state_changed(struct x86_cpu *cpu)
{
    struct svm_vcpu *s = svm_vcpu_of(cpu);

    x86_update_mode(cpu);
    svm_forget_code(s);
    forget_cpuid(s);
    s->todo |= SVM_FLUSH;
    s->todo |= SVM_ATTEND;
}

/* CPUID shows OSXSAVE, and what XCR0 needs; the vCPU's APIC id it has for ever. */
void svm_hand_over(struct x86_cpu *cpu)
{
    struct svm_vcpu *s = svm_vcpu_of(cpu);
    uint32_t groups = s->changed;

    if (groups & ENGINE_STATE_GPR)
        put_registers(cpu, &s->vmcb->save);
    if (groups & ENGINE_STATE_SEGMENTS)
        put_segments(cpu, s);
    if (groups & ENGINE_STATE_CONTROL) {
        put_control(cpu, s);
        forget_cpuid(s);
    }
    if (groups & ENGINE_STATE_DEBUG)
        put_debug(cpu, s);
    if (groups & ENGINE_STATE_MSR)
        put_msrs(cpu, s);
    if (groups & ENGINE_STATE_APIC)
        put_tpr(cpu, s);
    if (groups & ENGINE_STATE_EVENTS)
        put_events(cpu, s);
    if (groups & ENGINE_STATE_CLOCK)
        put_clock(cpu, s);
    s->fetched |= groups; /* the two are alike until the next entry */
    s->changed = 0;
}
