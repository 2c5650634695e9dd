/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * Events: what the next entry delivers, and what becomes of one that an exit cut short.
 *
 * The local APIC is x86/lapic.c's. Which event comes next is decided before the entry, when nothing is in
 * flight: an NMI first, then an interrupt that the APIC and RFLAGS.IF let through. It leaves its source at once
 * and becomes cpu->event, which is the neutral form of an event in flight (x86/cpu.h): so a vCPU that is
 * stopped between here and the entry, or saved, has lost nothing. vmx_inject puts it into the VMCS (SDM 3C
 * 25.8.3, 27.6), and the processor delivers it as if it had come from outside, with its own gates, stacks and
 * double faults.
 *
 * What is pending and cannot go in yet asks for a window: an exit as soon as the guest could take it (25.6.2,
 * 26.2). NMIs are virtual (25.6.1): the processor keeps count of whether the guest's handler is still in one.
 *
 * If the delivery itself meets an exit (its stack lies on a device's page, say), the VMCS says what was being
 * delivered (28.2.4). It goes back into cpu->event and is delivered again, or by the emulator. Not so software
 * interrupts and INT3, INTO, INT1: RIP still points at their instruction, which does it again.
 */
#include "engine/vmx/vmx_private.h"
#include "x86/lapic.h"
#include "x86/msr.h"

/* --- forms ------------------------------------------------------------------------------------- */

/* An error code goes with the vectors that have one, and with none in real mode (27.2.1.3). */
uint32_t vmx_event_info(const struct x86_in_flight *in, bool protected_mode)
{
    uint32_t info = (uint32_t)VMX_INT_VALID | in->vector;

    switch ((enum x86_flight)in->kind) {
    case X86_FLIGHT_NONE:
        return 0;
    case X86_FLIGHT_FAULT:
    case X86_FLIGHT_EXCEPTION:
        info |= VMX_INT_HARDWARE << VMX_INT_TYPE_SHIFT;
        return in->has_error && protected_mode ? info | VMX_INT_HAS_ERROR : info;
    case X86_FLIGHT_NMI:
        return (uint32_t)VMX_INT_VALID | X86_NMI | VMX_INT_NMI << VMX_INT_TYPE_SHIFT;
    case X86_FLIGHT_INTERRUPT:
        return info | VMX_INT_EXTERNAL << VMX_INT_TYPE_SHIFT;
    }
    return 0;
}

struct x86_in_flight vmx_event_from(uint32_t info, uint32_t error)
{
    struct x86_in_flight in = {.kind = X86_FLIGHT_NONE};

    if (!(info & VMX_INT_VALID))
        return in;
    switch ((info & VMX_INT_TYPE) >> VMX_INT_TYPE_SHIFT) {
    case VMX_INT_EXTERNAL:
        in.kind = X86_FLIGHT_INTERRUPT;
        break;
    case VMX_INT_NMI:
        in.kind = X86_FLIGHT_NMI;
        break;
    case VMX_INT_HARDWARE:
        in.kind = X86_FLIGHT_EXCEPTION;
        in.has_error = info & VMX_INT_HAS_ERROR;
        in.error = in.has_error ? error : 0;
        break;
    default: /* its instruction does it again */
        return in;
    }
    in.vector = (uint8_t)info;
    return in;
}

/* --- before an entry --------------------------------------------------------------------------- */

/* The registers and shadows that decide are fetched only when there is something to decide. */
static bool nmi_is_open(struct x86_cpu *cpu)
{
    vmx_fetch(cpu, ENGINE_STATE_EVENTS);
    return !cpu->nmi_masked && !cpu->shadow;
}

static bool interrupts_are_open(struct x86_cpu *cpu)
{
    vmx_fetch(cpu, ENGINE_STATE_EVENTS | ENGINE_STATE_GPR);
    return cpu->rflags & X86_FLAG_IF && !cpu->shadow;
}

bool vmx_event_waits(struct x86_cpu *cpu)
{
    if (cpu->event.kind != X86_FLIGHT_NONE || (cpu->nmi_pending && nmi_is_open(cpu)) ||
        (lapic_has_interrupt(cpu) && interrupts_are_open(cpu)))
        return true;
    vmx_fetch(cpu, ENGINE_STATE_EVENTS);
    return cpu->debug_pending != 0; /* HLT itself was stepped */
}

static void choose(struct x86_cpu *cpu)
{
    int vector;

    if (cpu->nmi_pending && nmi_is_open(cpu)) {
        cpu->nmi_pending = false;
        cpu->event = (struct x86_in_flight){.kind = X86_FLIGHT_NMI, .vector = X86_NMI};
        return;
    }
    if (!lapic_has_interrupt(cpu) || !interrupts_are_open(cpu))
        return;
    vector = lapic_take_interrupt(cpu); /* of the 8259: takes its lock */
    if (vector < 0)
        return;
    cpu->event = (struct x86_in_flight){.kind = X86_FLIGHT_INTERRUPT, .vector = (uint8_t)vector};
    x86_kvm_tick(cpu);
}

void vmx_choose_event(struct x86_cpu *cpu)
{
    if (cpu->event.kind == X86_FLIGHT_NONE)
        choose(cpu);
}

/* What a fault sets before its handler is looked for (as x86_raise does), once. */
static void apply_payload(struct x86_cpu *cpu, struct x86_in_flight *in)
{
    if (in->kind != X86_FLIGHT_FAULT)
        return;
    in->kind = X86_FLIGHT_EXCEPTION;
    if (in->vector == X86_PF && in->has_payload) {
        cpu->cr2 = in->payload;
    } else if (in->vector == X86_DB) {
        cpu->dr6 = (cpu->dr6 & ~(uint64_t)0xF) | (in->has_payload ? in->payload : 0);
        cpu->dr7 &= ~X86_DR7_GD;
        vmx_write(VMCS_GUEST_DR7, cpu->dr7);
    }
}

/* An NMI masks the next by itself; what is delivered ends the shadow of the instruction before. */
void vmx_inject(struct x86_cpu *cpu)
{
    struct vmx_vcpu *v = vmx_vcpu_of(cpu);
    struct x86_in_flight in = cpu->event;
    bool protected_mode;

    vmx_set_windows(cpu, lapic_has_interrupt(cpu), cpu->nmi_pending);
    if (likely(in.kind == X86_FLIGHT_NONE))
        return;
    apply_payload(cpu, &in);
    protected_mode = vmx_read(VMCS_GUEST_CR0) & X86_CR0_PE;
    if (in.has_error)
        vmx_write(VMCS_ENTRY_ERROR_CODE, in.error & 0xFFFF);
    if (vmx_read(VMCS_GUEST_INTERRUPTIBILITY) & (VMX_BLOCK_STI | VMX_BLOCK_MOV_SS))
        vmx_write(VMCS_GUEST_INTERRUPTIBILITY, vmx_read(VMCS_GUEST_INTERRUPTIBILITY) &
                                                   ~(uint64_t)(VMX_BLOCK_STI | VMX_BLOCK_MOV_SS));
    vmx_write(VMCS_ENTRY_INTERRUPTION, vmx_event_info(&in, protected_mode));
    cpu->event.kind = X86_FLIGHT_NONE;
    v->injected++;
}

/* --- after an exit ----------------------------------------------------------------------------- */

/* Entries clear the valid bit of what they have delivered. An NMI in flight has masked NMIs already; it is not
 * to find itself masked when it is delivered again (28.2.4). */
void vmx_recover_event(struct x86_cpu *cpu)
{
    uint32_t info = (uint32_t)vmx_read(VMCS_VECTORING);

    if (likely(!(info & VMX_INT_VALID)))
        return;
    cpu->event = vmx_event_from(info, (uint32_t)vmx_read(VMCS_VECTORING_ERROR_CODE));
    if (cpu->event.kind == X86_FLIGHT_NMI)
        vmx_write(VMCS_GUEST_INTERRUPTIBILITY,
                  vmx_read(VMCS_GUEST_INTERRUPTIBILITY) & ~(uint64_t)VMX_BLOCK_NMI);
}

/* It takes the place of what was being delivered, which the processor drops in such a case too (SDM 3A, table
 * 6-5: all that are raised here are benign). */
void vmx_raise(struct x86_cpu *cpu, uint8_t vector, uint32_t error)
{
    (void)x86_fault(cpu, vector, error);
    cpu->event = (struct x86_in_flight){
        .kind = X86_FLIGHT_FAULT,
        .vector = vector,
        .has_error = cpu->fault.has_error,
        .error = cpu->fault.error,
    };
}
