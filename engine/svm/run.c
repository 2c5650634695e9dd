/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * The svm engine's run loop: see to requests and events, enter the guest, have the exit seen to, go on.
 *
 * Kicks. Another thread sets bits in vcpu->requests and wants the vCPU to look at them soon. The vCPU, with
 * interrupts off, writes down on which CPU it is about to be in guest code (`inside`), and only then looks at the
 * requests; who kicks has set the bits, and only then looks at `inside`. All four are sequentially consistent:
 * either the vCPU sees the bits and does not enter, or the kick sees the CPU and sends it an interrupt. That
 * interrupt comes before VMRUN, and stays pending through it as interrupts are off until GIF is clear, so VMRUN
 * ends at once; or it comes after, and ends the guest; or after the exit, when it is taken at the next preemption
 * point and has done nothing. A thread changes CPU only where `inside` says that it is not. So none is lost, and
 * none costs an interrupt unless the vCPU is in guest code.
 *
 * Events. Local APICs are x86/lapic.c's; what is to be delivered goes into EVENTINJ, one at an entry (APM 2,
 * 15.20), in the order: what was on its way when an exit came; NMI; interrupt. VCPU_REQ_INTR is taken when it is
 * seen. If the guest cannot take its interrupt now, a virtual one that ignores the TPR is made pending (V_IRQ),
 * whose intercept ends the guest as soon as it could take one (15.21.4): then the local APIC is asked again. The
 * vector is taken from it, or from the 8259, only when it is put into EVENTINJ, where it stays until an entry, as
 * struct x86_in_flight for who looks.
 *
 * An interrupt that the guest can take at once is not left in EVENTINJ over VMRUN: it is made a virtual one (15.21.4) there, and
 * EVENTINJ's again if an exit came before it was taken. To the guest that is the same. But an emulated processor may deliver what
 * is in EVENTINJ twice (docs/rig.md), of which Linux dies.
 *
 * An NMI is masked until the guest's next IRET, which is then executed by the emulator, so that nothing can come
 * between it and the end of masking. One that arrives behind STI or MOV SS has the instruction in the shadow
 * emulated.
 *
 * A vCPU that halts leaves with EXIT_HALT; machine/run.c has it sleep. Before it counts as resting, what only the
 * processor had of it is in struct x86_cpu (fpu.c).
 */
#include "engine/svm/svm_private.h"
#include "x86/lapic.h"
#include "x86/level.h"
#include "x86/msr.h"

/* --- kicks --------------------------------------------------------------------------------------------- */

void svm_vcpu_kick(struct x86_cpu *cpu)
{
    uint32_t where = atomic_load(&svm_vcpu_of(cpu)->inside);

    if (where < HW_CPUS)
        hw_kick_cpu(where);
}

/* A virtual interrupt, whatever the TPR says (15.21.4). */
#define VIRTUAL_BITS ((uint32_t)INT_IRQ | INT_PRIORITY_MAX | INT_IGNORE_TPR)

/* --- what goes into EVENTINJ --------------------------------------------------------------------------- */

static void put_event(struct svm_vcpu *s, uint64_t event)
{
    s->vmcb->control.inject = event;
    s->fetched &= ~(uint32_t)ENGINE_STATE_EVENTS;
    s->injected++;
}

void svm_inject(struct x86_cpu *cpu, uint8_t vector, bool has_error, uint32_t error)
{
    const struct x86_in_flight in = {
        .kind = X86_FLIGHT_EXCEPTION, .vector = vector, .has_error = has_error, .error = error};

    put_event(svm_vcpu_of(cpu), svm_event_from(&in));
}

void svm_open_window(struct svm_vcpu *s, bool open)
{
    uint32_t *word = &s->vmcb->control.interrupt;

    if (s->window == open)
        return;
    s->window = open;
    *word = open ? *word | VIRTUAL_BITS : *word & ~VIRTUAL_BITS;
    svm_intercept(s, VMCB_MISC1, INTERCEPT_VINTR, open);
    svm_dirty(s, CLEAN_TPR);
}

static bool is_busy(const struct svm_vcpu *s)
{
    return (s->vmcb->control.inject & EVENT_VALID) != 0;
}

static bool is_shadowed(const struct svm_vcpu *s)
{
    return s->vmcb->control.shadow & 1;
}

static void attend_nmi(struct x86_cpu *cpu, struct svm_vcpu *s)
{
    bool was_halted = cpu->activity == X86_HALTED;

    if (cpu->nmi_masked)
        return;
    if (is_shadowed(s) && cpu->activity == X86_RUNNING) {
        (void)svm_emulate(cpu);
        s->todo |= SVM_ATTEND;
        return;
    }
    if (is_busy(s)) { /* that goes first: come out again right after it (exit.c, on_interrupt) */
        hw_kick_cpu(hw_cpu());
        return;
    }
    cpu->nmi_pending = false;
    cpu->nmi_masked = true;
    cpu->activity = X86_RUNNING;
    svm_intercept(s, VMCB_MISC1, INTERCEPT_IRET, true);
    put_event(s, EVENT_VALID | EVENT_NMI << EVENT_TYPE_SHIFT | X86_NMI);
    if (was_halted) /* the request may have been dropped when HLT went to sleep with IF clear */
        vcpu_request(&cpu->vcpu, VCPU_REQ_INTR);
}

/* The bit is taken before looking: what comes later sets it again. */
static void attend_interrupt(struct x86_cpu *cpu, struct svm_vcpu *s)
{
    bool enabled = s->vmcb->save.rflags & X86_FLAG_IF;
    int vector;

    (void)vcpu_take_requests(&cpu->vcpu, VCPU_REQ_INTR);
    if (!lapic_has_interrupt(cpu)) {
        svm_open_window(s, false);
        return;
    }
    if (!enabled && cpu->activity == X86_HALTED)
        return;
    if (!enabled || is_shadowed(s) || is_busy(s)) {
        svm_open_window(s, true);
        return;
    }
    vector = lapic_take_interrupt(cpu);
    if (vector >= 0) {
        cpu->activity = X86_RUNNING;
        x86_kvm_tick(cpu);
        put_event(s, EVENT_VALID | EVENT_INTERRUPT << EVENT_TYPE_SHIFT | (uint8_t)vector);
    }
    svm_open_window(s, lapic_has_interrupt(cpu));
}

/* --- what is seen to before an entry ------------------------------------------------------------------- */

enum svm_verdict svm_fail(struct x86_cpu *cpu, struct exit *e, const char *reason, uint64_t detail)
{
    (void)svm_vcpu_get_state(cpu, ENGINE_STATE_ALL);
    *e = (struct exit){.reason = EXIT_ENGINE_FAILURE, .failure = {reason, detail, EXIT_CAUSE_ENGINE}};
    return SVM_REPORT;
}

/* INIT and SIPI change everything: on the state fetched, as under soft. */
static void start_up(struct x86_cpu *cpu, struct svm_vcpu *s)
{
    (void)svm_vcpu_get_state(cpu, ENGINE_STATE_ALL);
    (void)x86_take_events(cpu);
    (void)svm_vcpu_set_state(cpu, ENGINE_STATE_ALL);
    svm_vcpu_state_changed(cpu);
    svm_open_window(s, false);
}

static void take_kick(struct x86_cpu *cpu)
{
    if (!vcpu_take_requests(&cpu->vcpu, VCPU_REQ_PV_KICK))
        return;
    if (cpu->activity == X86_HALTED)
        cpu->activity = X86_RUNNING;
    else
        cpu->pv_kick = true;
}

static enum svm_verdict report_activity(const struct x86_cpu *cpu, struct svm_vcpu *s, struct exit *e)
{
    s->todo |= SVM_ATTEND;
    *e = (struct exit){.reason = cpu->activity == X86_SHUTDOWN ? EXIT_SHUTDOWN : EXIT_HALT};
    return SVM_REPORT;
}

static enum svm_verdict attend_events(struct x86_cpu *cpu, struct svm_vcpu *s, struct exit *e)
{
    struct vcpu *v = &cpu->vcpu;

    if (vcpu_requests(v) & (VCPU_REQ_INIT | VCPU_REQ_SIPI))
        start_up(cpu, s);
    svm_hand_over(cpu);
    s->todo &= ~(uint32_t)SVM_ATTEND;
    if (cpu->event.kind != X86_FLIGHT_NONE) { /* one that EVENTINJ cannot have */
        svm_land(cpu);
        return SVM_GO_ON;
    }
    if (vcpu_take_requests(v, VCPU_REQ_NMI))
        cpu->nmi_pending = true;
    take_kick(cpu);
    if (is_busy(s) && cpu->activity == X86_HALTED)
        cpu->activity = X86_RUNNING;
    if (cpu->activity >= X86_WAIT_SIPI)
        return report_activity(cpu, s, e);
    if (cpu->debug_pending && cpu->activity == X86_RUNNING)
        return svm_emulate(cpu);
    if (cpu->nmi_pending)
        attend_nmi(cpu, s);
    if (!s->changed)
        attend_interrupt(cpu, s);
    return cpu->activity == X86_RUNNING ? SVM_GO_ON : report_activity(cpu, s, e);
}

static noinline_cold enum svm_verdict attend(struct x86_cpu *cpu, struct svm_vcpu *s, struct exit *e)
{
    struct vcpu *v = &cpu->vcpu;
    uint32_t requests = vcpu_requests(v);

    if (requests & VCPU_REQ_REST) {
        svm_leave(cpu);
        vcpu_rest(v);
        return SVM_GO_ON; /* it may not be to go on, and others may have changed everything */
    }
    if (requests & (VCPU_REQ_STOP | VCPU_REQ_KICK)) {
        s->todo |= SVM_ATTEND;
        *e = (struct exit){.reason = EXIT_KICK};
        return SVM_REPORT;
    }
    return attend_events(cpu, s, e);
}

/* --- entering ------------------------------------------------------------------------------------------ */

/* Where the VMCB has no place for it. */
static noinline_cold void enter_with_spec_ctrl(struct x86_cpu *cpu, struct svm_vcpu *s)
{
    bool by_hand = !(svm_vm_of(cpu->vcpu.vm)->features & SVM_SPEC_CTRL);

    if (by_hand)
        svm_write_msr(MSR_SPEC_CTRL, cpu->msr.spec_ctrl | s->on->spec_ctrl);
    svm_enter(cpu->gpr, s->vmcb_physical, s->on->host_vmcb, s->on->enter_flags);
    if (by_hand)
        svm_write_msr(MSR_SPEC_CTRL, s->on->spec_ctrl);
}

static noinline_cold void flushed(struct svm_vcpu *s)
{
    if (s->vmcb->control.tlb_control == TLB_FLUSH_ALL)
        s->on->flush_all = false;
    s->vmcb->control.tlb_control = TLB_NOTHING;
}

/* The interrupt in EVENTINJ, if the guest can take it, becomes a virtual one, which it takes at once. True: it did. Where an NMI waits
 * for it the guest has to come out right after it, by an interrupt of the machine's, and that would go first. */
static bool offer_interrupt(const struct x86_cpu *cpu, struct svm_vcpu *s)
{
    struct vmcb *v = s->vmcb;
    uint64_t event = v->control.inject;

    if ((event >> EVENT_TYPE_SHIFT & 7) != EVENT_INTERRUPT || s->window || cpu->nmi_pending || is_shadowed(s) ||
        !(v->save.rflags & X86_FLAG_IF))
        return false;
    v->control.interrupt |= VIRTUAL_BITS;
    v->control.interrupt_vector = (uint8_t)event;
    v->control.inject = 0;
    svm_dirty(s, CLEAN_TPR);
    return true;
}

/* After the exit, the offer is over. True: it was taken. */
static bool end_offer(struct svm_vcpu *s)
{
    struct vmcb_control *c = &s->vmcb->control;
    bool taken = !(c->interrupt & INT_IRQ) || (c->exit_event & EVENT_VALID);

    c->interrupt &= ~VIRTUAL_BITS;
    svm_dirty(s, CLEAN_TPR);
    return taken;
}

static always_inline void enter_as_it_is(struct x86_cpu *cpu, struct svm_vcpu *s)
{
    struct vmcb *v = s->vmcb;
    uint64_t began;

    v->save.rax = cpu->gpr[RAX];
    began = __builtin_ia32_rdtsc();
    if (unlikely(cpu->msr.spec_ctrl))
        enter_with_spec_ctrl(cpu, s);
    else
        svm_enter(cpu->gpr, s->vmcb_physical, s->on->host_vmcb, s->on->enter_flags);
    hw_count_guest(s->on->guest_ticks, began);
    atomic_store_explicit(&s->inside, HW_CPUS, memory_order_release);
    cpu->gpr[RAX] = v->save.rax;
    v->control.inject = 0;
    v->control.clean = CLEAN_ALL;
    if (unlikely(v->control.tlb_control))
        flushed(s);
    s->fetched = 0;
    s->exits++;
}

/* Not on the path of each entry. */
static noinline_cold void enter_with_event(struct x86_cpu *cpu, struct svm_vcpu *s)
{
    uint64_t event = s->vmcb->control.inject;
    bool offered = offer_interrupt(cpu, s);

    enter_as_it_is(cpu, s);
    if (offered && !end_offer(s))
        s->vmcb->control.inject = event;
}

static always_inline void enter(struct x86_cpu *cpu, struct svm_vcpu *s)
{
    if (unlikely(s->vmcb->control.inject))
        enter_with_event(cpu, s);
    else
        enter_as_it_is(cpu, s);
}

/* Something is to be done before the next entry: requests and events first. While SVM_LOAD is not set this is the CPU
 * that the vCPU was on, and no other has been there since: else its thread would have been switched out (fpu.c). */
static noinline_cold enum svm_verdict get_ready(struct x86_cpu *cpu, struct svm_vcpu *s, struct exit *e)
{
    if (s->todo & SVM_ATTEND)
        return attend(cpu, s, e);
    if (s->changed)
        svm_hand_over(cpu);
    if (s->todo & SVM_SWITCH || (s->todo & SVM_LOAD && (s->on_index != hw_cpu() || s->on->last != s)))
        svm_switch_in(cpu);
    if (s->todo & SVM_LOAD)
        svm_fpu_load(cpu);
    if (s->vmcb->save.dr7 & 0xFF && !s->debug_here)
        svm_debug_load(cpu);
    if (s->todo & SVM_FLUSH)
        svm_flush_translations(s);
    return SVM_GO_ON;
}

/* On the way into the guest; false: somebody wants something. */
static always_inline bool is_wanted_in(struct x86_cpu *cpu, struct svm_vcpu *s)
{
    atomic_store(&s->inside, s->on_index);
    if (likely(!atomic_load(&cpu->vcpu.requests)))
        return true;
    atomic_store(&s->inside, HW_CPUS);
    s->todo |= SVM_ATTEND;
    return false;
}

int svm_vcpu_run(struct x86_cpu *cpu, struct exit *e)
{
    struct svm_vcpu *s = svm_vcpu_of(cpu);
    enum svm_verdict verdict = SVM_GO_ON;

    *e = (struct exit){.reason = EXIT_NONE};
    s->todo |= SVM_ATTEND;
    x86_kvm_refresh(cpu); /* steal time: a thread that slept may have waited to go on */
    while (likely(verdict == SVM_GO_ON)) {
        if (unlikely(s->todo | s->changed)) {
            verdict = get_ready(cpu, s, e);
        } else if (is_wanted_in(cpu, s)) {
            enter(cpu, s);
            verdict = svm_handle_exit(cpu, e);
        }
    }
    svm_leave(cpu);
    return verdict == SVM_STOP ? ERR_STOPPED : OK;
}
