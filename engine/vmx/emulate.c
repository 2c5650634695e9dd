/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * One instruction of the guest by the emulator (x86_step): accesses to what is not RAM, string I/O, task
 * switches, control and debug registers, whatever else comes to us and is not worth a way of its own. There is
 * no second decoder, and what such an instruction means is written once.
 *
 * The instruction is fetched as the guest would, through its tables, and what is executed is what was decoded
 * and checked, whatever other vCPUs write meanwhile (bad-inputs C3). It need not be the one that the exit was
 * for; then it is executed all the same, as any instruction may be.
 *
 * If the exit came while an event was being delivered, it is the event that is carried on with: the instruction
 * at RIP has not begun.
 *
 * Before: all state that instructions can see is fetched, and the emulator's own translations are dropped, as
 * the guest has run without them. After: groups that are not what they were are handed over; most often that is
 * general registers alone.
 */
#include "engine/vmx/vmx_private.h"
#include "x86/mem.h"
#include "x86/step.h"

/* What every instruction may look at; the others are fetched when it is known which it is. */
#define SEEN                                                                                                           \
    (ENGINE_STATE_GPR | ENGINE_STATE_SEGMENTS | ENGINE_STATE_CONTROL | ENGINE_STATE_DEBUG | ENGINE_STATE_EVENTS)

/* --- what an instruction may change ------------------------------------------------------------ */

/* Only general registers, flags, memory. */
static bool is_simple(enum insn_group group)
{
    const uint32_t simple = BIT(INSN_GROUP_ALU) | BIT(INSN_GROUP_SHIFT) | BIT(INSN_GROUP_BIT) | BIT(INSN_GROUP_MUL) |
                            BIT(INSN_GROUP_MOV) | BIT(INSN_GROUP_STRING) | BIT(INSN_GROUP_ATOMIC) | BIT(INSN_GROUP_IO);

    return simple >> group & 1;
}

/* What handing over costs, to compare. */
struct before {
    bool noted;
    struct x86_segment seg[SEG_COUNT], ldtr, tr;
    struct x86_table gdtr, idtr;
    uint64_t cr0, cr3, cr4, efer, pdpte[4];
    uint64_t dr[4], dr7;
    uint64_t tsc_offset, xcr0;
    struct x86_msrs msr;
};

static void note(const struct x86_cpu *cpu, struct before *b)
{
    b->noted = true;
    memcpy(b->seg, cpu->seg, sizeof(b->seg));
    b->ldtr = cpu->ldtr;
    b->tr = cpu->tr;
    b->gdtr = cpu->gdtr;
    b->idtr = cpu->idtr;
    b->cr0 = cpu->cr0;
    b->cr3 = cpu->cr3;
    b->cr4 = cpu->cr4;
    b->efer = cpu->efer;
    memcpy(b->pdpte, cpu->pdpte, sizeof(b->pdpte));
    memcpy(b->dr, cpu->dr, sizeof(b->dr));
    b->dr7 = cpu->dr7;
    b->tsc_offset = cpu->tsc_offset;
    b->xcr0 = cpu->xcr0;
    b->msr = cpu->msr;
}

static bool same_segment(const struct x86_segment *a, const struct x86_segment *b)
{
    return a->base == b->base && a->limit == b->limit && a->attr == b->attr && a->selector == b->selector;
}

static bool same_segments(const struct x86_cpu *cpu, const struct before *b)
{
    for (unsigned int s = 0; s < SEG_COUNT; s++) {
        if (!same_segment(&cpu->seg[s], &b->seg[s]))
            return false;
    }
    return same_segment(&cpu->ldtr, &b->ldtr) && same_segment(&cpu->tr, &b->tr) && cpu->gdtr.base == b->gdtr.base &&
           cpu->gdtr.limit == b->gdtr.limit && cpu->idtr.base == b->idtr.base && cpu->idtr.limit == b->idtr.limit;
}

static bool same_control(const struct x86_cpu *cpu, const struct before *b)
{
    return cpu->cr0 == b->cr0 && cpu->cr3 == b->cr3 && cpu->cr4 == b->cr4 && cpu->efer == b->efer &&
           memcmp(cpu->pdpte, b->pdpte, sizeof(b->pdpte)) == 0;
}

/* How segments are handed over depends on the mode: so with control registers they are, too. RFLAGS.VM never
 * changes without them. */
static uint32_t groups_that_differ(const struct x86_cpu *cpu, const struct before *b)
{
    uint32_t groups = ENGINE_STATE_GPR | ENGINE_STATE_EVENTS;

    if (!b->noted)
        return groups;
    if (!same_control(cpu, b))
        groups |= ENGINE_STATE_CONTROL | ENGINE_STATE_SEGMENTS;
    else if (!same_segments(cpu, b))
        groups |= ENGINE_STATE_SEGMENTS;
    if (memcmp(cpu->dr, b->dr, sizeof(b->dr)) != 0 || cpu->dr7 != b->dr7)
        groups |= ENGINE_STATE_DEBUG;
    if (cpu->tsc_offset != b->tsc_offset)
        groups |= ENGINE_STATE_CLOCK;
    if (memcmp(&cpu->msr, &b->msr, sizeof(b->msr)) != 0)
        groups |= ENGINE_STATE_MSR;
    return groups;
}

/* --- one instruction --------------------------------------------------------------------------- */

static int step(struct x86_cpu *cpu, void *owner)
{
    struct before *b = owner;
    struct insn i;
    enum insn_group group;
    int status = x86_step_fetch(cpu, &i);

    if (status != X86_OK)
        return status;
    group = x86_group_of(&i);
    if (x86_uses_vectors(group))
        vmx_fetch(cpu, ENGINE_STATE_FPU); /* it may run on this CPU's vector registers (fpu.c), or on the image of the guest's */
    if (!is_simple(group)) {
        vmx_fetch(cpu, ENGINE_STATE_MSR);
        note(cpu, b);
    }
    return x86_step_execute(cpu, &i);
}

/* The event in flight. What it meets on its way follows the rules for exceptions that meet exceptions. */
static int deliver(struct x86_cpu *cpu)
{
    struct x86_in_flight in = cpu->event;
    int status = X86_FAULT;

    cpu->event = (struct x86_in_flight){.kind = X86_FLIGHT_NONE};
    switch ((enum x86_flight)in.kind) {
    case X86_FLIGHT_NONE:
        return X86_OK;
    case X86_FLIGHT_FAULT:
    case X86_FLIGHT_EXCEPTION:
        cpu->fault = (struct x86_fault){in.vector, in.has_error, in.error, in.payload};
        if (in.kind == X86_FLIGHT_EXCEPTION) /* what it sets is set: set the same again */
            cpu->fault.payload = in.vector == X86_PF ? cpu->cr2 : cpu->dr6 & 0xF;
        break;
    case X86_FLIGHT_NMI:
        cpu->nmi_masked = true;
        status = x86_deliver(cpu, X86_EVENT_NMI, X86_NMI, false, 0);
        break;
    case X86_FLIGHT_INTERRUPT:
        status = x86_deliver(cpu, X86_EVENT_EXTERNAL, in.vector, false, 0);
        break;
    }
    cpu->shadow = 0;
    return status == X86_FAULT ? x86_raise(cpu) : status;
}

/* A fault of the instruction is delivered by the processor, at the next entry. */
static void leave_fault(struct x86_cpu *cpu)
{
    cpu->event = (struct x86_in_flight){
        .kind = X86_FLIGHT_FAULT,
        .vector = cpu->fault.vector,
        .has_error = cpu->fault.has_error,
        .error = cpu->fault.error,
        .has_payload = cpu->fault.vector == X86_PF || cpu->fault.vector == X86_DB,
        .payload = cpu->fault.payload,
    };
}

void vmx_emulate(struct x86_cpu *cpu)
{
    struct before b;

    b.noted = false;
    vmx_vcpu_of(cpu)->emulated++;
    vmx_fetch(cpu, SEEN);
    x86_tlb_flush(cpu);
    cpu->code_page = ~(uint64_t)0;
    if (cpu->event.kind != X86_FLIGHT_NONE) { /* by a task gate, it may be anything */
        vmx_fetch(cpu, ENGINE_STATE_MSR);
        note(cpu, &b);
        (void)deliver(cpu);
    } else if (x86_step_attended(cpu, step, &b) == X86_FAULT) {
        leave_fault(cpu);
    }
    vmx_changed(cpu, groups_that_differ(cpu, &b));
    if (b.noted && cpu->xcr0 != b.xcr0) /* XSETBV: the registers stay */
        vmx_xcr0_changed(cpu);
}
