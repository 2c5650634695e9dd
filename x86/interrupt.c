/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * Events: exceptions raised by instructions, software interrupts, and what arrives from outside
 * (SDM 3A, chapter 6). This file decides which event is taken when, what becomes of an exception
 * that meets another one on its way, and delivers through the real-mode vector table; the IDT is
 * x86/gate.c's.
 *
 * Requests come from other threads as atomic bits (core/vcpu.h) and are taken here, on the vCPU's
 * own thread, between instructions. VCPU_REQ_INTR stays set while an interrupt is pending that only
 * RFLAGS.IF or a shadow keeps out, so that the run loop comes back by itself; an interrupt that its
 * priority keeps out is the local APIC's to announce again.
 *
 * Not done: SMM and machine checks, which this machine does not have; CR4.VME's redirection of INT
 * n in virtual-8086 mode, which no level offers.
 */
#include "core/assert.h"
#include "x86/far.h"
#include "x86/lapic.h"

/* --- delivery ------------------------------------------------------------------------------------
 */

/* The interrupt vector table (SDM 3B, 20.1.4). There are no error codes in real mode. */
static int deliver_real(struct x86_cpu *cpu, const struct x86_event *ev)
{
    uint32_t entry = (uint32_t)ev->vector * 4;
    uint32_t pointer;
    struct x86_stack st;
    if (entry + 3 > cpu->idtr.limit)
        return x86_fault(cpu, X86_GP, x86_event_idt_error(ev));
    int s = x86_system_read(cpu, cpu->idtr.base + entry, &pointer, 4);
    if (s != X86_OK)
        return s;
    if ((pointer & 0xFFFF) > cpu->seg[SEG_CS].limit)
        return x86_fault(cpu, X86_GP, ev->ext);
    x86_stack_current(cpu, ev->ext, &st);
    s = x86_stack_check(cpu, &st, 3, 2);
    if (s == X86_OK)
        s = x86_stack_push(cpu, &st, 2, x86_event_flags(cpu, ev));
    if (s == X86_OK)
        s = x86_stack_push(cpu, &st, 2, cpu->seg[SEG_CS].selector);
    if (s == X86_OK)
        s = x86_stack_push(cpu, &st, 2, cpu->rip);
    if (s != X86_OK)
        return s;
    x86_stack_commit(cpu, &st);
    cpu->rflags &= ~(X86_FLAG_IF | X86_FLAG_TF | X86_FLAG_AC | X86_FLAG_RF);
    x86_segment_set_real(cpu, &cpu->seg[SEG_CS], (uint16_t)(pointer >> 16));
    cpu->rip = pointer & 0xFFFF;
    return x86_far_done(cpu);
}

int x86_deliver(struct x86_cpu *cpu, enum x86_event_kind kind, uint8_t vector, bool has_error,
                uint32_t error)
{
    struct x86_event ev = {.kind = kind, .vector = vector, .has_error = has_error, .error = error};
    ev.ext = kind == X86_EVENT_INT_N || kind == X86_EVENT_INT3 ? 0 : (uint32_t)X86_ERROR_EXT;
    if (cpu->long_mode)
        return x86_gate_deliver_long(cpu, &ev);
    if (!cpu->protected_mode && !cpu->v86)
        return deliver_real(cpu, &ev);
    int s = x86_gate_deliver(cpu, &ev);
    /* A fault of the new task after INT n through a task gate is not a fault of the INT: the run
     * loop must not put RIP back. Other callers go through x86_raise in any case. */
    bool instruction = kind >= X86_EVENT_INT_N;
    if (s == X86_FAULT && ev.switched && instruction)
        return x86_raise(cpu);
    return s;
}

/* --- exceptions that meet exceptions
 * -------------------------------------------------------------- */

enum fault_class { BENIGN, CONTRIBUTORY, PAGE_FAULT, DOUBLE_FAULT };

static enum fault_class class_of(uint8_t vector) /* SDM 3A, table 6-4 */
{
    switch (vector) {
    case X86_DE:
    case X86_TS:
    case X86_NP:
    case X86_SS:
    case X86_GP:
        return CONTRIBUTORY;
    case X86_PF:
        return PAGE_FAULT;
    case X86_DF:
        return DOUBLE_FAULT;
    default:
        return BENIGN;
    }
}

/* The exception that is to be delivered when `second` arises while `first` is delivered (SDM 3A,
 * table 6-5). False: shutdown. */
static bool combine(const struct x86_fault *first, struct x86_fault *second)
{
    enum fault_class a = class_of(first->vector), b = class_of(second->vector);
    if (a == BENIGN || b == BENIGN || (a == CONTRIBUTORY && b == PAGE_FAULT))
        return true;
    if (a == DOUBLE_FAULT)
        return false;
    *second = (struct x86_fault){.vector = X86_DF, .has_error = true};
    return true;
}

/* What the exception leaves in registers before its handler is looked for. */
static void apply_payload(struct x86_cpu *cpu, const struct x86_fault *f)
{
    if (f->vector == X86_PF) {
        cpu->cr2 = f->payload;
    } else if (f->vector == X86_DB) {
        /* B0-B3 say what this exception was about, the others gather (SDM 3B, 17.2.3) */
        cpu->dr6 = (cpu->dr6 & ~(uint64_t)0xF) | f->payload;
        cpu->dr7 &= ~X86_DR7_GD;
    }
}

int x86_raise(struct x86_cpu *cpu)
{
    /* Benign exceptions can follow one another for ever, e.g. #AC on a misaligned stack of CPL 3
     * whose #AC handler has CPL 3 too: hardware hangs then, we call it a shutdown. */
    enum { ROUNDS = 16 };
    struct x86_fault f = cpu->fault;
    for (int round = 0; round < ROUNDS; round++) {
        apply_payload(cpu, &f);
        if (x86_deliver(cpu, X86_EVENT_EXCEPTION, f.vector, f.has_error, f.error) == X86_JUMP)
            return X86_JUMP;
        struct x86_fault second = cpu->fault;
        if (second.vector == X86_PF)
            cpu->cr2 = second.payload;
        if (!combine(&f, &second))
            break;
        f = second;
    }
    cpu->activity = X86_SHUTDOWN;
    return X86_EXIT;
}

/* --- what arrives from outside -------------------------------------------------------------------
 */

static int deliver_or_raise(struct x86_cpu *cpu, enum x86_event_kind kind, uint8_t vector)
{
    int s = x86_deliver(cpu, kind, vector, false, 0);
    return s == X86_FAULT ? x86_raise(cpu) : s;
}

/*
 * INIT and SIPI: X86_OK if there was nothing.
 *
 * A SIPI that is pending together with an INIT is taken after it. Hardware drops a SIPI unless it
 * waits for one, so one that came before the INIT would be lost; but a vCPU's thread that had no
 * pCPU for a while finds both requests at once also when the SIPI followed the INIT, which is how
 * every system starts processors. Bits have no order. Dropping would lose a start-up, and the
 * sender need not try again; taking an older one, which no sane sender has under way, starts a
 * processor that its INIT meant to stop.
 */
static int take_startup(struct x86_cpu *cpu)
{
    struct vcpu *v = &cpu->vcpu;
    if (vcpu_take_requests(v, VCPU_REQ_INIT)) {
        x86_cpu_init(cpu);
        return X86_EXIT;
    }
    if (vcpu_take_requests(v, VCPU_REQ_SIPI) && cpu->activity == X86_WAIT_SIPI) {
        x86_cpu_sipi(cpu, (uint8_t)atomic_load(&v->sipi_vector));
        return X86_EXIT;
    }
    return X86_OK;
}

static int take_nmi(struct x86_cpu *cpu)
{
    bool was_halted = cpu->activity == X86_HALTED;
    cpu->nmi_pending = false;
    cpu->activity = X86_RUNNING;
    int s = deliver_or_raise(cpu, X86_EVENT_NMI, X86_NMI);
    cpu->nmi_masked = true;
    /* The request bit may have been dropped when HLT went to sleep with IF clear. */
    if (was_halted && lapic_has_interrupt(cpu))
        vcpu_request(&cpu->vcpu, VCPU_REQ_INTR);
    return s;
}

/* Maskable interrupts. X86_OK: none, or none that is let in now. */
static int take_interrupt(struct x86_cpu *cpu)
{
    struct vcpu *v = &cpu->vcpu;
    bool open = cpu->rflags & X86_FLAG_IF && !cpu->shadow;
    bool asleep = cpu->activity == X86_HALTED;
    if (!open && !asleep && lapic_has_interrupt(cpu))
        return X86_OK; /* the bit stays until IF is set */
    /* The bit is taken before looking: what comes later sets it again. Asleep with IF clear it
     * would only keep the vCPU from sleeping; see take_nmi. */
    vcpu_take_requests(v, VCPU_REQ_INTR);
    if (!lapic_has_interrupt(cpu) || (!open && asleep))
        return X86_OK;
    int vector = open ? lapic_take_interrupt(cpu) : -1;
    int s = X86_OK;
    if (vector >= 0) {
        cpu->activity = X86_RUNNING;
        s = deliver_or_raise(cpu, X86_EVENT_EXTERNAL, (uint8_t)vector);
    }
    /* One delivery per call: if there are more, be called again. */
    if (lapic_has_interrupt(cpu))
        vcpu_request(v, VCPU_REQ_INTR);
    return s;
}

int x86_take_events(struct x86_cpu *cpu)
{
    struct vcpu *v = &cpu->vcpu;
    uint32_t requests = vcpu_requests(v);
    if (requests & (VCPU_REQ_INIT | VCPU_REQ_SIPI)) {
        int s = take_startup(cpu);
        if (s != X86_OK)
            return s;
    }
    if (requests & VCPU_REQ_NMI && vcpu_take_requests(v, VCPU_REQ_NMI))
        cpu->nmi_pending = true;
    if (requests & VCPU_REQ_PV_KICK && vcpu_take_requests(v, VCPU_REQ_PV_KICK))
        cpu->pv_kick = true;
    if (cpu->activity >= X86_WAIT_SIPI)
        return X86_EXIT;

    if (cpu->nmi_pending && !cpu->nmi_masked && !cpu->shadow)
        return take_nmi(cpu);
    int s = take_interrupt(cpu);
    if (s != X86_OK || cpu->activity == X86_RUNNING)
        return s;
    if (cpu->pv_kick) {
        cpu->pv_kick = false;
        cpu->activity = X86_RUNNING;
    }
    return X86_EXIT;
}
