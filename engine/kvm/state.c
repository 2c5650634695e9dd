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
 * What a guest has set beyond its level stays behind when state is fetched, as it means nothing: else
 * the guest could bring itself into a state that no engine loads. KVM lets it have EFER.LMSLE on
 * AMD's processors, bit 11 of DR7, upper halves of 32-bit MSRs, and, under nested paging, bits of
 * CR3 that the level's physical addresses do not have.
 *
 * Getting begins with the run state: KVM takes a pending INIT or SIPI when it is asked for that,
 * and then other registers are not what they were. Events are in state_event.c.
 */
#include <string.h>

#include "core/err.h"
#include "engine/kvm/kvm_private.h"
#include "isa/x86.h"
#include "x86/fpu.h"
#include "x86/lapic.h"

enum { DR7_ZERO = 0xD800 }; /* bits 11, 12, 14, 15 (SDM 3B 17.2.4) */

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
    cpu->cr3 = s.cr3 & (BIT(cpu->level->physical_bits) - 1);
    cpu->cr4 = s.cr4;
    cpu->efer = s.efer & cpu->level->efer_mask;
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
    /* KVM takes CPL from SS under AMD-V, and wants no L where there is no long mode. */
    s.ss.dpl = cpu->cpl;
    s.cs.l = s.cs.l && cpu->efer & X86_EFER_LMA;
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
    x86_fpu_fill_in(&cpu->fpu);
    return OK;
}

static int set_fpu(const struct x86_cpu *cpu)
{
    struct kvm_xsave area;
    struct x86_fpu all = cpu->fpu;
    int result;

    all.xstate_bv = cpu->level->xcr0_mask;
    memset(&area, 0, sizeof(area));
    memcpy(area.region, &all, sizeof(all));
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
    cpu->dr7 = (d.dr7 & ~(uint64_t)DR7_ZERO) | X86_DR7_FIXED;
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
    if (groups & ENGINE_STATE_EVENTS)
        err = kvm_get_run_state(cpu);
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
        err = kvm_get_events(cpu);
    if (groups & (SYSTEM | ENGINE_STATE_GPR))
        x86_update_mode(cpu);
    return err;
}

int kvm_vcpu_set_state(struct x86_cpu *cpu, uint32_t groups)
{
    struct kvm_vcpu *k = kvm_vcpu_of(cpu);

    k->changed |= groups;
    if (groups & ENGINE_STATE_APIC)
        lapic_hold_timer(cpu);
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
        err = kvm_set_events(cpu);
    if (!err && groups & ENGINE_STATE_DEBUG)
        err = set_debug(cpu);
    if (!err && groups & ENGINE_STATE_GPR)
        set_registers(cpu);
    if (!err)
        k->changed = 0;
    return err;
}

/* As KVM_RUN would, but at once: what came in between would be overwritten then. */
static int take_shared_page(struct kvm_vcpu *k)
{
    int result = 0;

    if (k->run->kvm_dirty_regs & KVM_SYNC_X86_REGS)
        result = kvm_ioctl(k->fd, KVM_SET_REGS, &k->run->s.regs.regs);
    if (result >= 0 && k->run->kvm_dirty_regs & KVM_SYNC_X86_EVENTS)
        result = kvm_ioctl(k->fd, KVM_SET_VCPU_EVENTS, &k->run->s.regs.events);
    k->run->kvm_dirty_regs = 0;
    return result < 0 ? kvm_err(result) : OK;
}

int kvm_flush_all(const struct vm *vm)
{
    int err = OK;

    for (uint32_t id = 0; id < vm->vcpu_count && !err; id++) {
        struct x86_cpu *cpu = x86_cpu_of(vm->vcpu[id]);
        struct kvm_vcpu *k = kvm_vcpu_of(cpu);

        k->run->ready_for_interrupt_injection = 0; /* said of another state */
        if (k->changed == ENGINE_STATE_ALL && k->configured) /* a new life: reset, load */
            err = kvm_forget_events(cpu);
        if (!err)
            err = kvm_flush_state(cpu);
        if (!err)
            err = take_shared_page(k);
    }
    return err;
}
