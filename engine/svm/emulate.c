/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * Single instructions by the emulator, and the lengths of those that need not be emulated.
 *
 * Executing one instruction from the state fetched is always right, whatever made the guest exit: it is what the
 * processor would have done next. So everything that is rare or many-sided goes that way (accesses to what is not
 * RAM, control and debug registers, string I/O, IRET after an NMI), and nothing hangs on the instruction being
 * still the one that exited when another vCPU rewrites it.
 *
 * What is frequent and simple (CPUID, MSRs, HLT, hypercalls) is answered from the exit, and RIP moved on. Where
 * the processor does not say to where (no next RIP), the instruction is looked for in the guest's memory, at RIP:
 * if the bytes there are the plain encoding of what exited, that is its length; if not (prefixes, rewritten, page
 * end, no 64-bit code) it is emulated. The walk to those bytes is remembered with the page-table entries that it
 * went by; as long as they have their values, it need not be done again. A wrong answer would hurt nobody but the
 * guest.
 *
 * The software TLB knows nothing of what the guest did to its page tables meanwhile: it is flushed for each emulated
 * instruction.
 */
#include "engine/svm/svm_private.h"
#include "x86/level.h"
#include "x86/mmu.h"
#include "x86/step.h"

enum { STEP_STATE = ENGINE_STATE_GPR | ENGINE_STATE_SEGMENTS | ENGINE_STATE_CONTROL | ENGINE_STATE_DEBUG |
                    ENGINE_STATE_EVENTS };


/* --- lengths ------------------------------------------------------------------------------------------- */

static always_inline bool is_unchanged(const struct svm_code *c)
{
    return *(const volatile uint64_t *)c->entry[0] == c->value[0] &&
           *(const volatile uint64_t *)c->entry[1] == c->value[1] &&
           *(const volatile uint64_t *)c->entry[2] == c->value[2] &&
           *(const volatile uint64_t *)c->entry[3] == c->value[3];
}

/* Walks anew. NULL: not by four levels, or not all in RAM. */
static noinline_cold const uint8_t *find_code(struct x86_cpu *cpu, struct svm_code *c, uint64_t linear)
{
    struct mmu_walk w = {.linear = linear & PAGE_MASK};

    c->page = 1;
    svm_fetch(cpu, STEP_STATE);
    if (cpu->paging != X86_PAGING_4LEVEL || !mmu_walk(cpu, &w))
        return NULL;
    for (uint32_t i = 0; i < SVM_WALK; i++) {
        const struct mmu_entry *from = &w.entry[i < w.depth ? i : w.depth - 1];

        c->entry[i] = from->host;
        c->value[i] = from->value;
        if (!c->entry[i])
            return NULL;
    }
    c->host = guest_mem_ptr(&cpu->vcpu.vm->mem, gpa(w.physical), PAGE_SIZE);
    if (!c->host)
        return NULL;
    c->page = w.linear;
    c->cr3 = svm_vcpu_of(cpu)->vmcb->save.cr3;
    return c->host;
}

static always_inline const uint8_t *code_page(struct x86_cpu *cpu, struct svm_vcpu *s, uint64_t linear)
{
    struct svm_code *c = &s->code[linear >> PAGE_SHIFT & (SVM_CODE_PAGES - 1)];

    if (likely(c->page == (linear & PAGE_MASK) && c->cr3 == s->vmcb->save.cr3 && is_unchanged(c)))
        return c->host;
    return find_code(cpu, c, linear);
}

static always_inline uint32_t length_by_bytes(struct x86_cpu *cpu, struct svm_vcpu *s, uint32_t bytes, uint32_t length)
{
    const struct vmcb_save *v = &s->vmcb->save;
    uint32_t offset = (uint32_t)(v->rip & ~PAGE_MASK);
    const uint8_t *page;

    if (!(v->efer & X86_EFER_LMA) || !(v->cs.attr & BIT(9)) || offset > PAGE_SIZE - 4)
        return 0;
    page = code_page(cpu, s, v->rip);
    if (!page || (*(const volatile x86_u32 *)(const void *)(page + offset) ^ bytes) << (32 - 8 * length))
        return 0;
    return length;
}

uint32_t svm_length(struct x86_cpu *cpu, uint32_t bytes, uint32_t length)
{
    struct svm_vcpu *s = svm_vcpu_of(cpu);
    const struct vmcb *v = s->vmcb;
    uint64_t says;

    if (unlikely(v->save.rflags & X86_FLAG_TF)) /* a single step is to be taken after it */
        return 0;
    if (!s->has_next_rip)
        return length_by_bytes(cpu, s, bytes, length);
    says = v->control.next_rip - v->save.rip;
    return says <= INSN_MAX_LENGTH ? (uint32_t)says : 0;
}

/* --- emulating ----------------------------------------------------------------------------------------- */

/* Groups of state that an instruction may have changed, unless it faulted. */
static uint32_t state_changed_by(enum insn_group group)
{
    switch ((uint32_t)group) {
    case INSN_GROUP_ALU:
    case INSN_GROUP_SHIFT:
    case INSN_GROUP_BIT:
    case INSN_GROUP_MUL:
    case INSN_GROUP_MOV:
    case INSN_GROUP_STRING:
    case INSN_GROUP_ATOMIC:
    case INSN_GROUP_IO:
        return ENGINE_STATE_GPR | ENGINE_STATE_EVENTS | ENGINE_STATE_APIC;
    default:
        return ENGINE_STATE_ALL & ~(uint32_t)ENGINE_STATE_FPU;
    }
}

/* Instructions after which a translation may be another though no register says so. */
static bool invalidates(const struct insn *i)
{
    return i->op == INSN_INVLPG || i->op == INSN_INVPCID || (i->op == INSN_MOV_TO_CR && (i->reg == 3 || i->reg == 4));
}

/* One instruction by itself; *owner, an enum insn_group, says of which kind, if it was fetched. */
static int step(struct x86_cpu *cpu, void *owner)
{
    enum insn_group *group = owner;
    struct insn i;
    int status = x86_step_fetch(cpu, &i);

    if (status != X86_OK)
        return status;
    *group = x86_group_of(&i);
    if (x86_uses_vectors(*group))
        svm_fpu_store(cpu);
    if (invalidates(&i))
        svm_vcpu_of(cpu)->todo |= SVM_FLUSH;
    if (state_changed_by(*group) & ENGINE_STATE_MSR)
        svm_fetch(cpu, ENGINE_STATE_MSR);
    return x86_step_execute(cpu, &i);
}

enum svm_verdict svm_emulate(struct x86_cpu *cpu)
{
    struct svm_vcpu *s = svm_vcpu_of(cpu);
    enum insn_group group = INSN_GROUP_SYSTEM;
    int status;

    s->emulated++;
    svm_fetch(cpu, STEP_STATE);
    x86_tlb_flush(cpu);
    cpu->code_page = ~(uint64_t)0;
    status = x86_step_attended(cpu, step, &group);
    if (status == X86_FAULT) {
        (void)x86_raise(cpu);
        svm_fetch(cpu, ENGINE_STATE_MSR);
        group = INSN_GROUP_SYSTEM;
    }
    svm_changed(cpu, state_changed_by(group));
    if (cpu->activity != X86_RUNNING || cpu->nmi_pending || cpu->debug_pending)
        s->todo |= SVM_ATTEND;
    return SVM_GO_ON;
}

void svm_land(struct x86_cpu *cpu)
{
    struct x86_in_flight in;
    int status = X86_FAULT;

    svm_fetch(cpu, STEP_STATE);
    x86_tlb_flush(cpu);
    in = cpu->event;
    cpu->event = (struct x86_in_flight){.kind = X86_FLIGHT_NONE};
    cpu->activity = X86_RUNNING;
    if (in.kind == X86_FLIGHT_NMI) {
        cpu->nmi_masked = true;
        status = x86_deliver(cpu, X86_EVENT_NMI, X86_NMI, false, 0);
    } else if (in.kind == X86_FLIGHT_INTERRUPT) {
        status = x86_deliver(cpu, X86_EVENT_EXTERNAL, in.vector, false, 0);
    } else {
        cpu->fault = (struct x86_fault){in.vector, in.has_error, in.error, in.payload};
        if (in.kind == X86_FLIGHT_EXCEPTION) /* what it sets is set: set the same again */
            cpu->fault.payload = in.vector == X86_PF ? cpu->cr2 : 0;
    }
    if (status == X86_FAULT)
        (void)x86_raise(cpu);
    svm_changed(cpu, STEP_STATE);
    svm_vcpu_of(cpu)->todo |= SVM_ATTEND;
}
