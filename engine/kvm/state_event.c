/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * Events and run state of a vCPU, between KVM and struct x86_cpu (state.c has the rest).
 *
 * An event in flight. An exit can come while an exception or interrupt is being delivered (its
 * stack lay on a page that KVM had to fetch): it has left the APIC or its instruction and has not
 * reached the guest. It is part of the state (struct x86_in_flight), and the next engine delivers
 * it. Software interrupts are not: RIP still points at their instruction, which will do it again.
 *
 * Kicks of halted vCPUs (PV_UNHALT). KVM does not say whether a vCPU has one in store for its next
 * HLT. Lost, it would leave the guest halted; so each vCPU that might have one gets one: a HLT that
 * ends for no reason its guest must expect, of one that asks for kicks. KVM takes one by an
 * interrupt message whose delivery mode no hardware has.
 *
 * What has no place in KVM: a data breakpoint or single step that waits behind MOV SS
 * (debug_pending), and an ExtINT that came as a message.
 */
#include "core/err.h"
#include "engine/kvm/kvm_private.h"
#include "isa/x86.h"
#include "x86/cpuid_bits.h"
#include "x86/level.h"

enum { DELIVERY_PV_KICK = 3 };

static struct x86_in_flight exception_from(const struct kvm_vcpu_events *v)
{
    return (struct x86_in_flight){
        .kind = v->exception.injected ? X86_FLIGHT_EXCEPTION : X86_FLIGHT_FAULT,
        .vector = v->exception.nr,
        .has_error = v->exception.has_error_code != 0,
        .error = v->exception.error_code,
        .payload = v->exception_has_payload ? v->exception_payload : 0,
        .has_payload = v->exception_has_payload != 0,
    };
}

/* #BP and #OF come of instructions that RIP still points at. */
static bool is_software(uint8_t vector)
{
    return vector == X86_BP || vector == X86_OF;
}

static void events_from(struct x86_cpu *cpu, const struct kvm_vcpu_events *v)
{
    bool exception = v->exception.injected || v->exception.pending;

    cpu->event = (struct x86_in_flight){.kind = X86_FLIGHT_NONE};
    if (exception && !is_software(v->exception.nr))
        cpu->event = exception_from(v);
    else if (v->nmi.injected)
        cpu->event = (struct x86_in_flight){.kind = X86_FLIGHT_NMI, .vector = X86_NMI};
    else if (v->interrupt.injected && !v->interrupt.soft)
        cpu->event =
            (struct x86_in_flight){.kind = X86_FLIGHT_INTERRUPT, .vector = v->interrupt.nr};
    cpu->shadow =
        (uint8_t)((v->interrupt.shadow & KVM_X86_SHADOW_INT_STI ? X86_SHADOW_STI : 0) |
                  (v->interrupt.shadow & KVM_X86_SHADOW_INT_MOV_SS ? X86_SHADOW_MOV_SS : 0));
    cpu->nmi_masked = v->nmi.masked != 0;
    cpu->nmi_pending = v->nmi.pending != 0;
    if (v->nmi.pending > 1) /* KVM counts to two while none is masked */
        vcpu_request(&cpu->vcpu, VCPU_REQ_NMI);
}

/* Not the SIPI's vector: none is pending in a state that is set. */
static struct kvm_vcpu_events events_to(const struct x86_cpu *cpu)
{
    const struct x86_in_flight *in = &cpu->event;
    struct kvm_vcpu_events v = {
        .flags = KVM_VCPUEVENT_VALID_NMI_PENDING | KVM_VCPUEVENT_VALID_SHADOW |
                 KVM_VCPUEVENT_VALID_PAYLOAD,
        .nmi = {.masked = cpu->nmi_masked, .pending = cpu->nmi_pending},
        .interrupt = {.shadow =
                          (uint8_t)((cpu->shadow & X86_SHADOW_STI ? KVM_X86_SHADOW_INT_STI : 0) |
                                    (cpu->shadow & X86_SHADOW_MOV_SS ? KVM_X86_SHADOW_INT_MOV_SS
                                                                     : 0))},
    };

    switch ((enum x86_flight)in->kind) {
    case X86_FLIGHT_NONE:
        break;
    case X86_FLIGHT_FAULT:
    case X86_FLIGHT_EXCEPTION:
        v.exception.injected = in->kind == X86_FLIGHT_EXCEPTION;
        v.exception.pending = in->kind == X86_FLIGHT_FAULT;
        v.exception.nr = in->vector;
        v.exception.has_error_code = in->has_error;
        v.exception.error_code = in->error;
        v.exception_has_payload = in->has_payload;
        v.exception_payload = in->payload;
        break;
    case X86_FLIGHT_NMI:
        v.nmi.injected = 1;
        break;
    case X86_FLIGHT_INTERRUPT:
        v.interrupt.injected = 1;
        v.interrupt.nr = in->vector;
        break;
    }
    return v;
}

int kvm_get_events(struct x86_cpu *cpu)
{
    struct kvm_vcpu_events v = {0};
    int result = kvm_ioctl(kvm_vcpu_of(cpu)->fd, KVM_GET_VCPU_EVENTS, &v);

    if (result < 0)
        return kvm_err(result);
    events_from(cpu, &v);
    return OK;
}

/* Does it offer kicks of halted vCPUs? */
static bool has_kicks(const struct x86_level *level)
{
    const struct x86_cpuid_row *r = x86_level_row(level, 0x40000001, 0);

    return r && r->eax & CPUID_KVM_PV_UNHALT;
}

int kvm_get_run_state(struct x86_cpu *cpu)
{
    struct kvm_mp_state mp;
    int result = kvm_ioctl(kvm_vcpu_of(cpu)->fd, KVM_GET_MP_STATE, &mp);

    if (result < 0)
        return kvm_err(result);
    switch (mp.mp_state) {
    case KVM_MP_STATE_HALTED:
    case KVM_MP_STATE_AP_RESET_HOLD:
        cpu->activity = X86_HALTED;
        break;
    case KVM_MP_STATE_UNINITIALIZED:
    case KVM_MP_STATE_INIT_RECEIVED: /* and no SIPI: that would have been taken just now */
        cpu->activity = X86_WAIT_SIPI;
        break;
    default:
        cpu->activity = X86_RUNNING;
    }
    cpu->pv_kick = cpu->activity == X86_RUNNING && has_kicks(cpu->level);
    return OK;
}

/* First the events: an SMI that is requested becomes a pending one only when they are asked for, and
 * while one is pending, KVM takes no state that waits for SIPI. They take a latched INIT with them;
 * a SIPI is taken by one that waits for it, when it is asked for its state. */
int kvm_forget_events(const struct x86_cpu *cpu)
{
    const struct kvm_vcpu *k = kvm_vcpu_of(cpu);
    struct kvm_mp_state mp = {.mp_state = KVM_MP_STATE_INIT_RECEIVED};
    struct kvm_vcpu_events v = {0};
    int result = kvm_ioctl(k->fd, KVM_GET_VCPU_EVENTS, &v);

    v = (struct kvm_vcpu_events){.flags = KVM_VCPUEVENT_VALID_SMM};
    if (result >= 0)
        result = kvm_ioctl(k->fd, KVM_SET_VCPU_EVENTS, &v);
    if (result >= 0)
        result = kvm_ioctl(k->fd, KVM_SET_MP_STATE, &mp);
    if (result >= 0)
        result = kvm_ioctl(k->fd, KVM_GET_MP_STATE, &mp);
    return result < 0 ? kvm_err(result) : OK;
}

/* A SIPI that came before its INIT was taken belongs after it (x86/interrupt.c says why). */
int kvm_take_saved_requests(struct x86_cpu *cpu)
{
    uint32_t requests =
        vcpu_take_requests(&cpu->vcpu, VCPU_REQ_INIT | VCPU_REQ_SIPI | VCPU_REQ_PV_KICK);
    int err = kvm_vcpu_get_state(cpu, ENGINE_STATE_ALL);

    if (err)
        return err;
    if (requests & VCPU_REQ_INIT)
        x86_cpu_init(cpu);
    if (requests & VCPU_REQ_SIPI)
        x86_cpu_sipi(cpu, (uint8_t)atomic_load(&cpu->vcpu.sipi_vector));
    if (requests & VCPU_REQ_PV_KICK && cpu->activity == X86_HALTED)
        cpu->activity = X86_RUNNING;
    return kvm_vcpu_set_state(cpu, ENGINE_STATE_ALL);
}

/* Events go through the shared page as general registers do, and are taken after them: taking
 * registers forgets a pending exception. */
int kvm_set_events(const struct x86_cpu *cpu)
{
    const struct apic_message kick = {.destination = cpu->vcpu.id, .delivery = DELIVERY_PV_KICK};
    struct kvm_vcpu *k = kvm_vcpu_of(cpu);
    struct kvm_mp_state mp = {.mp_state = KVM_MP_STATE_RUNNABLE};
    int result;

    if (cpu->activity == X86_HALTED)
        mp.mp_state = KVM_MP_STATE_HALTED;
    else if (cpu->activity == X86_WAIT_SIPI)
        mp.mp_state = KVM_MP_STATE_INIT_RECEIVED;
    result = kvm_ioctl(k->fd, KVM_SET_MP_STATE, &mp);
    if (result < 0)
        return kvm_err(result);
    k->run->s.regs.events = events_to(cpu);
    k->run->kvm_dirty_regs |= KVM_SYNC_X86_EVENTS;
    if (cpu->pv_kick)
        (void)kvm_send_message(cpu->vcpu.vm, &kick);
    return OK;
}
