/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * The vmx engine's run loop: see to requests, choose an event, enter the guest, translate why it came out, go on.
 *
 * Kicks. Another thread sets bits in vcpu->requests and then looks at `inside`, which names the CPU that may be
 * in this vCPU's guest; it sends that CPU an interrupt. The vCPU sets `inside` and only then looks at the
 * requests; both sides are sequentially consistent: either it sees the bits, or its CPU gets the interrupt.
 * Interrupts are off here, so the interrupt stays pending and ends the guest's stay as soon as it has begun. So
 * none is lost, and none is sent in vain while handlers run.
 *
 * Whatever may wait (the 8259's lock, a handler, rest) comes before `inside` is set; from there to the entry
 * nothing lets another thread run.
 *
 * A vCPU that rests or leaves has all of its state in struct x86_cpu first: whoever has the VM at rest may read
 * and change it there, from any CPU.
 */
#include "core/err.h"
#include "engine/speculation.h"
#include "engine/vmx/vmx_private.h"
#include "x86/lapic.h"
#include "x86/msr.h"

/* --- kicks ------------------------------------------------------------------------------------- */

void vmx_vcpu_kick(struct x86_cpu *cpu)
{
    uint32_t inside = atomic_load(&vmx_vcpu_of(cpu)->inside);

    if (inside)
        hw_kick_cpu(inside - 1);
}

/* --- requests ---------------------------------------------------------------------------------- */

static void rest(struct x86_cpu *cpu)
{
    vmx_fetch(cpu, ENGINE_STATE_ALL);
    vcpu_rest(&cpu->vcpu);
}

/* x86_take_events may deliver other events too, by the emulator: on state that is all here. */
static void take_startup(struct x86_cpu *cpu)
{
    vmx_fetch(cpu, ENGINE_STATE_ALL);
    (void)x86_take_events(cpu);
    vmx_changed(cpu, ENGINE_STATE_ALL);
}

static enum vmx_verdict attend(struct x86_cpu *cpu, struct exit *e, uint32_t requests)
{
    struct vcpu *v = &cpu->vcpu;

    if (requests & VCPU_REQ_REST) {
        rest(cpu);
        requests = vcpu_requests(v); /* it may not be to go on */
    }
    if (requests & (VCPU_REQ_STOP | VCPU_REQ_KICK)) {
        e->reason = EXIT_KICK;
        return VMX_REPORT;
    }
    (void)vcpu_take_requests(v, VCPU_REQ_INTR); /* the APIC is looked at before each entry */
    if (requests & VCPU_REQ_SIPI && !(requests & VCPU_REQ_INIT) && cpu->activity != X86_WAIT_SIPI)
        (void)vcpu_take_requests(v, VCPU_REQ_SIPI);
    else if (requests & (VCPU_REQ_INIT | VCPU_REQ_SIPI))
        take_startup(cpu);
    if (vcpu_take_requests(v, VCPU_REQ_NMI))
        cpu->nmi_pending = true;
    if (vcpu_take_requests(v, VCPU_REQ_PV_KICK)) {
        if (cpu->activity == X86_HALTED)
            cpu->activity = X86_RUNNING;
        else
            cpu->pv_kick = true;
    }
    return VMX_GO_ON;
}

/* Halted, waiting for SIPI, or shut down by what the emulator met. */
static enum vmx_verdict stand(struct x86_cpu *cpu, struct exit *e)
{
    if (cpu->activity == X86_HALTED && (cpu->pv_kick || vmx_event_waits(cpu))) {
        cpu->pv_kick = false;
        cpu->activity = X86_RUNNING;
        return VMX_GO_ON;
    }
    e->reason = cpu->activity == X86_SHUTDOWN ? EXIT_SHUTDOWN : EXIT_HALT;
    return VMX_REPORT;
}

/* --- entering ---------------------------------------------------------------------------------- */

/* What neither the VMCS nor enter.S moves. Breakpoints are armed by DR7, which exits clear. */
static void load_the_rest(const struct x86_cpu *cpu)
{
    if (vmx_read_cr2() != cpu->cr2)
        vmx_write_cr2(cpu->cr2);
    if (unlikely(cpu->dr7 & 0xFF))
        vmx_write_breakpoints(cpu->dr);
}

static int enter(struct x86_cpu *cpu)
{
    const struct vmx_caps *caps = &vmx_this_cpu()->caps;
    const struct speculation *plan = hw_speculation();
    struct vmx_vcpu *v = vmx_vcpu_of(cpu);
    uint64_t host_spec_ctrl = 0, spec_ctrl = caps->spec_ctrl ? cpu->msr.spec_ctrl : 0;
    uint32_t flags = v->launched ? VMX_ENTER_RESUME : 0;
    uint64_t began;
    int result;

    if (plan->verw)
        flags |= VMX_ENTER_VERW;
    if (plan->stuff_rsb)
        flags |= VMX_ENTER_STUFF_RSB;
    load_the_rest(cpu);
    if (spec_ctrl) {
        host_spec_ctrl = vmx_rdmsr(MSR_SPEC_CTRL);
        vmx_wrmsr(MSR_SPEC_CTRL, spec_ctrl | host_spec_ctrl);
    }
    began = __builtin_ia32_rdtsc();
    result = vmx_enter(cpu->gpr, flags, &v->host_rsp);
    hw_count_guest(vmx_this_cpu()->guest_ticks, began);
    if (spec_ctrl)
        vmx_wrmsr(MSR_SPEC_CTRL, host_spec_ctrl);
    if (result == VMX_ENTER_OK) {
        cpu->cr2 = vmx_read_cr2();
        v->entries++;
    }
    return result;
}

static enum vmx_verdict entry_failed(struct x86_cpu *cpu, struct exit *e, int result)
{
    if (result == VMX_ENTER_INVALID)
        return vmx_fail(cpu, e, "VT-x has no current VMCS", 0);
    return vmx_fail(cpu, e, "VT-x does not take the VMCS, error number", vmx_read(VMCS_INSTRUCTION_ERROR));
}

/* A refused entry has changed nothing but the exit's fields (SDM 3C 27.8). */
static void look_around(struct x86_cpu *cpu)
{
    struct vmx_vcpu *v = vmx_vcpu_of(cpu);

    v->reason = (uint32_t)vmx_read(VMCS_EXIT_REASON);
    if (unlikely(v->reason & VMX_REASON_ENTRY_FAILED))
        return;
    v->launched = true;
    vmx_forget(cpu);
    vmx_recover_event(cpu);
}

static enum vmx_verdict enter_and_handle(struct x86_cpu *cpu, struct exit *e)
{
    struct vmx_vcpu *v = vmx_vcpu_of(cpu);
    int result;

    vmx_flush(cpu);
    vmx_flush_translations(cpu);
    atomic_store(&v->inside, hw_cpu() + 1);
    if (unlikely(vcpu_requests(&cpu->vcpu))) {
        atomic_store(&v->inside, 0);
        return VMX_GO_ON;
    }
    vmx_inject(cpu);
    result = enter(cpu);
    atomic_store_explicit(&v->inside, 0, memory_order_release);
    if (unlikely(result != VMX_ENTER_OK))
        return entry_failed(cpu, e, result);
    look_around(cpu);
    return vmx_handle_exit(cpu, e);
}

/* One round: what is to be done before the guest is entered, or the entry. */
static enum vmx_verdict go_round(struct x86_cpu *cpu, struct exit *e)
{
    uint32_t requests = vcpu_requests(&cpu->vcpu);

    if (requests)
        return attend(cpu, e, requests);
    if (cpu->activity != X86_RUNNING)
        return stand(cpu, e);
    vmx_choose_event(cpu);
    if (vmx_load(cpu) != OK) {
        *e = (struct exit){.reason = EXIT_ENGINE_FAILURE,
                           .failure = {"VT-x cannot load the VMCS", 0, EXIT_CAUSE_ENGINE}};
        return VMX_REPORT;
    }
    return enter_and_handle(cpu, e);
}

int vmx_vcpu_run(struct x86_cpu *cpu, struct exit *e)
{
    enum vmx_verdict verdict = VMX_GO_ON;

    *e = (struct exit){.reason = EXIT_NONE};
    x86_kvm_refresh(cpu); /* steal time: a thread that slept may have waited to go on */
    while (verdict == VMX_GO_ON)
        verdict = go_round(cpu, e);
    vmx_fetch(cpu, ENGINE_STATE_ALL);
    return verdict == VMX_STOP ? ERR_STOPPED : OK;
}
