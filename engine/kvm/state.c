/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * Moves a vCPU's state between KVM and struct x86_cpu, group by group.
 *
 * The order of setting is not free: CPUID first, since KVM judges everything else by it; control
 * registers before MSRs; APIC_BASE (in the segment group's structure) before the APIC's page; the
 * TSC before its deadline; events last, for they say what is still to happen in the state set.
 * State that KVM takes only in one piece (segments, control registers and APIC_BASE) is moved in
 * one piece.
 *
 * An event in flight. An exit can come while an exception or interrupt is being delivered (its
 * stack lay on a page that KVM had to fetch): it has left the APIC or its instruction and has not
 * reached the guest. It is part of the state (struct x86_in_flight), and the next engine delivers
 * it. Software interrupts are not: RIP still points at their instruction, which will do it again.
 */
#include <string.h>

#include "core/err.h"
#include "engine/kvm/kvm_private.h"
#include "isa/x86.h"
#include "x86/lapic.h"

/* --- registers -------------------------------------------------------------------------------- */

/* KVM's order of general registers: rax rbx rcx rdx rsi rdi rsp rbp r8 .. r15. */
static const uint8_t order[16] = {RAX, RBX, RCX, RDX, RSI, RDI, RSP, RBP,
                                  R8,  R9,  R10, R11, R12, R13, R14, R15};

static int get_registers(struct x86_cpu *cpu)
{
    struct kvm_regs r;
    int result = kvm_ioctl(kvm_vcpu_of(cpu)->fd, KVM_GET_REGS, &r);
    uint64_t value[16];

    _Static_assert(offsetof(struct kvm_regs, rip) == sizeof(value), "sixteen registers, then RIP");
    if (result < 0)
        return kvm_err(result);
    memcpy(value, &r, sizeof(value));
    for (unsigned int i = 0; i < 16; i++)
        cpu->gpr[order[i]] = value[i];
    cpu->rip = r.rip;
    cpu->rflags = r.rflags;
    return OK;
}

/* Through the shared page: KVM takes them at the next entry, without a system call. */
static void set_registers(const struct x86_cpu *cpu)
{
    struct kvm_run *run = kvm_vcpu_of(cpu)->run;
    uint64_t value[16];

    for (unsigned int i = 0; i < 16; i++)
        value[i] = cpu->gpr[order[i]];
    memcpy(&run->s.regs.regs, value, sizeof(value));
    run->s.regs.regs.rip = cpu->rip;
    run->s.regs.regs.rflags = cpu->rflags;
    run->kvm_dirty_regs |= KVM_SYNC_X86_REGS;
}

/* --- segments, tables, control registers -------------------------------------------------------
 */

static void segment_from(struct x86_segment *s, const struct kvm_segment *k)
{
    s->base = k->base;
    s->limit = k->limit;
    s->selector = k->selector;
    s->attr = k->type | (uint32_t)k->s << 4 | (uint32_t)k->dpl << X86_ATTR_DPL_SHIFT |
              (k->present ? X86_ATTR_P : 0) | (k->avl ? X86_ATTR_AVL : 0) |
              (k->l ? X86_ATTR_L : 0) | (k->db ? X86_ATTR_DB : 0) | (k->g ? X86_ATTR_G : 0);
    if (k->unusable)
        s->attr |= X86_ATTR_UNUSABLE;
}

static struct kvm_segment segment_to(const struct x86_segment *s)
{
    return (struct kvm_segment){
        .base = s->base,
        .limit = s->limit,
        .selector = s->selector,
        .type = s->attr & X86_ATTR_TYPE,
        .s = (s->attr & X86_ATTR_S) != 0,
        .dpl = s->attr >> X86_ATTR_DPL_SHIFT & 3,
        .present = (s->attr & X86_ATTR_P) != 0 && !(s->attr & X86_ATTR_UNUSABLE),
        .avl = (s->attr & X86_ATTR_AVL) != 0,
        .l = (s->attr & X86_ATTR_L) != 0,
        .db = (s->attr & X86_ATTR_DB) != 0,
        .g = (s->attr & X86_ATTR_G) != 0,
        .unusable = (s->attr & X86_ATTR_UNUSABLE) != 0,
    };
}

/* The members that struct kvm_sregs and struct kvm_sregs2 have under the same names. */
#define EACH_SEGMENT(cpu, k, x)                                                                    \
    x(&(cpu)->seg[SEG_CS], &(k)->cs) x(&(cpu)->seg[SEG_DS], &(k)->ds)                              \
        x(&(cpu)->seg[SEG_ES], &(k)->es) x(&(cpu)->seg[SEG_FS], &(k)->fs)                          \
            x(&(cpu)->seg[SEG_GS], &(k)->gs) x(&(cpu)->seg[SEG_SS], &(k)->ss)                      \
                x(&(cpu)->tr, &(k)->tr) x(&(cpu)->ldtr, &(k)->ldt)
#define FROM(s, k) segment_from(s, k);
#define TO(s, k)   *(k) = segment_to(s);

static int get_system(struct x86_cpu *cpu, uint64_t *apic_base)
{
    const struct kvm_vm *kvm = kvm_vm_of(cpu->vcpu.vm);
    struct kvm_sregs2 s = {0};
    struct kvm_xcrs x;
    int fd = kvm_vcpu_of(cpu)->fd;
    int result;

    /* The newer structure is the older with another end. */
    _Static_assert(offsetof(struct kvm_sregs2, apic_base) == offsetof(struct kvm_sregs, apic_base),
                   "common beginning");
    if (kvm->has_sregs2) {
        result = kvm_ioctl(fd, KVM_GET_SREGS2, &s);
    } else {
        struct kvm_sregs old;

        result = kvm_ioctl(fd, KVM_GET_SREGS, &old);
        memcpy(&s, &old, offsetof(struct kvm_sregs2, flags));
    }
    if (result >= 0)
        result = kvm_ioctl(fd, KVM_GET_XCRS, &x);
    if (result < 0)
        return kvm_err(result);
    EACH_SEGMENT(cpu, &s, FROM)
    cpu->gdtr = (struct x86_table){s.gdt.base, s.gdt.limit};
    cpu->idtr = (struct x86_table){s.idt.base, s.idt.limit};
    cpu->cr0 = s.cr0;
    cpu->cr2 = s.cr2;
    cpu->cr3 = s.cr3;
    cpu->cr4 = s.cr4;
    cpu->efer = s.efer;
    if (s.flags & KVM_SREGS2_FLAGS_PDPTRS_VALID)
        memcpy(cpu->pdpte, s.pdptrs, sizeof(cpu->pdpte));
    cpu->xcr0 = x.nr_xcrs > 0 ? x.xcrs[0].value : X86_XCR0_X87;
    *apic_base = s.apic_base;
    return OK;
}

static bool has_pae_paging(const struct x86_cpu *cpu)
{
    return cpu->cr0 & X86_CR0_PG && cpu->cr4 & X86_CR4_PAE && !(cpu->efer & X86_EFER_LMA);
}

static int set_system(const struct x86_cpu *cpu)
{
    const struct kvm_vm *kvm = kvm_vm_of(cpu->vcpu.vm);
    struct kvm_sregs2 s = {
        .gdt = {.base = cpu->gdtr.base, .limit = cpu->gdtr.limit},
        .idt = {.base = cpu->idtr.base, .limit = cpu->idtr.limit},
        .cr0 = cpu->cr0,
        .cr2 = cpu->cr2,
        .cr3 = cpu->cr3,
        .cr4 = cpu->cr4,
        .cr8 = lapic_get_cr8(cpu),
        .efer = cpu->efer,
        .apic_base = lapic_base_msr(cpu),
    };
    struct kvm_xcrs x = {.nr_xcrs = 1, .xcrs = {{.xcr = 0, .value = cpu->xcr0}}};
    int fd = kvm_vcpu_of(cpu)->fd;
    int result;

    EACH_SEGMENT(cpu, &s, TO)
    if (kvm->has_sregs2) {
        if (has_pae_paging(cpu)) {
            s.flags = KVM_SREGS2_FLAGS_PDPTRS_VALID;
            memcpy(s.pdptrs, cpu->pdpte, sizeof(cpu->pdpte));
        }
        result = kvm_ioctl(fd, KVM_SET_SREGS2, &s);
    } else {
        struct kvm_sregs old = {0};

        memcpy(&old, &s, offsetof(struct kvm_sregs2, flags));
        result = kvm_ioctl(fd, KVM_SET_SREGS, &old);
    }
    if (result >= 0)
        result = kvm_ioctl(fd, KVM_SET_XCRS, &x);
    return result < 0 ? kvm_err(result) : OK;
}

/* --- vectors and x87, debug registers -----------------------------------------------------------
 */

static int get_fpu(struct x86_cpu *cpu)
{
    struct kvm_xsave area;
    int result = kvm_ioctl(kvm_vcpu_of(cpu)->fd, KVM_GET_XSAVE, &area);

    if (result < 0)
        return kvm_err(result);
    memcpy(&cpu->fpu, area.region, sizeof(cpu->fpu));
    return OK;
}

static int set_fpu(const struct x86_cpu *cpu)
{
    struct kvm_xsave area;
    int result;

    memset(&area, 0, sizeof(area));
    memcpy(area.region, &cpu->fpu, sizeof(cpu->fpu));
    result = kvm_ioctl(kvm_vcpu_of(cpu)->fd, KVM_SET_XSAVE, &area);
    return result < 0 ? kvm_err(result) : OK;
}

static int get_debug(struct x86_cpu *cpu)
{
    struct kvm_debugregs d;
    int result = kvm_ioctl(kvm_vcpu_of(cpu)->fd, KVM_GET_DEBUGREGS, &d);

    if (result < 0)
        return kvm_err(result);
    memcpy(cpu->dr, d.db, sizeof(cpu->dr));
    cpu->dr6 = d.dr6;
    cpu->dr7 = d.dr7;
    return OK;
}

static int set_debug(const struct x86_cpu *cpu)
{
    struct kvm_debugregs d = {.dr6 = cpu->dr6, .dr7 = cpu->dr7};
    int result;

    memcpy(d.db, cpu->dr, sizeof(d.db));
    result = kvm_ioctl(kvm_vcpu_of(cpu)->fd, KVM_SET_DEBUGREGS, &d);
    return result < 0 ? kvm_err(result) : OK;
}

/* --- events ------------------------------------------------------------------------------------
 */

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
}

/* Not the SIPI's vector: the boot processor may have sent one already when this thread hands over
 * its first state, and KVM keeps it with the vector; none is pending in a state that is set. */
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

static int get_events(struct x86_cpu *cpu)
{
    struct kvm_vcpu *k = kvm_vcpu_of(cpu);
    struct kvm_vcpu_events v = {0};
    struct kvm_mp_state mp;
    int result = kvm_ioctl(k->fd, KVM_GET_VCPU_EVENTS, &v);

    if (result >= 0)
        result = kvm_ioctl(k->fd, KVM_GET_MP_STATE, &mp);
    if (result < 0)
        return kvm_err(result);
    events_from(cpu, &v);
    switch (mp.mp_state) {
    case KVM_MP_STATE_HALTED:
    case KVM_MP_STATE_AP_RESET_HOLD:
        cpu->activity = X86_HALTED;
        break;
    case KVM_MP_STATE_SIPI_RECEIVED:
        atomic_store(&cpu->vcpu.sipi_vector, v.sipi_vector);
        vcpu_request(&cpu->vcpu, VCPU_REQ_SIPI);
        cpu->activity = X86_WAIT_SIPI;
        break;
    case KVM_MP_STATE_UNINITIALIZED:
    case KVM_MP_STATE_INIT_RECEIVED:
        cpu->activity = X86_WAIT_SIPI;
        break;
    default:
        cpu->activity = X86_RUNNING;
    }
    return OK;
}

/* A SIPI that came before its INIT was taken belongs after it (x86/interrupt.c says why). */
void kvm_take_saved_requests(struct x86_cpu *cpu)
{
    uint32_t requests =
        vcpu_take_requests(&cpu->vcpu, VCPU_REQ_INIT | VCPU_REQ_SIPI | VCPU_REQ_PV_KICK);

    (void)kvm_vcpu_get_state(cpu, ENGINE_STATE_ALL);
    if (requests & VCPU_REQ_INIT)
        x86_cpu_init(cpu);
    if (requests & VCPU_REQ_SIPI)
        x86_cpu_sipi(cpu, (uint8_t)atomic_load(&cpu->vcpu.sipi_vector));
    if (requests & VCPU_REQ_PV_KICK && cpu->activity == X86_HALTED)
        cpu->activity = X86_RUNNING;
    (void)kvm_vcpu_set_state(cpu, ENGINE_STATE_ALL);
}

/* Events go through the shared page as general registers do, and are taken after them: taking
 * registers forgets a pending exception. */
static int set_events(const struct x86_cpu *cpu)
{
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
    return OK;
}

/* --- all of it ---------------------------------------------------------------------------------
 */

/* The groups that KVM keeps in one structure. */
enum { SYSTEM = ENGINE_STATE_SEGMENTS | ENGINE_STATE_CONTROL | ENGINE_STATE_APIC };

int kvm_vcpu_get_state(struct x86_cpu *cpu, uint32_t groups)
{
    struct kvm_vcpu *k = kvm_vcpu_of(cpu);
    uint64_t apic_base = 0;
    int err = OK;

    groups &= ~k->changed; /* what was not handed over yet is newer here */
    if (!err && groups & ENGINE_STATE_GPR)
        err = get_registers(cpu);
    if (!err && groups & SYSTEM)
        err = get_system(cpu, &apic_base);
    if (!err && groups & ENGINE_STATE_DEBUG)
        err = get_debug(cpu);
    if (!err && groups & ENGINE_STATE_FPU)
        err = get_fpu(cpu);
    if (!err && groups & ENGINE_STATE_MSR)
        err = kvm_get_msrs(cpu);
    if (!err && groups & ENGINE_STATE_CLOCK)
        err = kvm_get_clock(cpu);
    if (!err && groups & ENGINE_STATE_APIC)
        err = kvm_get_apic(cpu, apic_base);
    if (!err && groups & ENGINE_STATE_EVENTS)
        err = get_events(cpu);
    if (groups & (SYSTEM | ENGINE_STATE_GPR))
        x86_update_mode(cpu);
    return err;
}

int kvm_vcpu_set_state(struct x86_cpu *cpu, uint32_t groups)
{
    struct kvm_vcpu *k = kvm_vcpu_of(cpu);

    k->changed |= groups;
    if (k->changed & SYSTEM)
        k->changed |= SYSTEM;
    return OK;
}

int kvm_flush_state(struct x86_cpu *cpu)
{
    struct kvm_vcpu *k = kvm_vcpu_of(cpu);
    uint32_t groups = k->changed;
    int err = OK;

    if (!k->configured)
        err = kvm_set_cpuid(cpu);
    k->configured = true;
    if (!err && groups & SYSTEM)
        err = set_system(cpu);
    if (!err && groups & ENGINE_STATE_FPU)
        err = set_fpu(cpu);
    if (!err && groups & ENGINE_STATE_MSR)
        err = kvm_set_msrs(cpu);
    if (!err && groups & ENGINE_STATE_CLOCK)
        err = kvm_set_clock(cpu);
    if (!err && groups & ENGINE_STATE_APIC)
        err = kvm_set_apic(cpu);
    if (!err && groups & ENGINE_STATE_EVENTS)
        err = set_events(cpu);
    if (!err && groups & ENGINE_STATE_DEBUG)
        err = set_debug(cpu);
    if (!err && groups & ENGINE_STATE_GPR)
        set_registers(cpu);
    if (!err)
        k->changed = 0;
    return err;
}
