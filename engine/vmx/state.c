/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * A vCPU's state between struct x86_cpu and the processor, group by group.
 *
 * Each group is newest in one of two places, or the same in both: `have` says which groups struct x86_cpu has,
 * `changed` which of those the processor has not. After an exit the processor has what the guest may have
 * changed by itself; it is fetched when somebody asks, and handed over before the next entry only if somebody
 * changed it. A vCPU that leaves the engine or rests fetches everything, since who reads it then may do so from
 * another CPU, where no VMREAD can reach.
 *
 * Where things are: RIP, RSP, RFLAGS, segments, tables, CR0, CR3, CR4, EFER, PDPTEs, DR7, SYSENTER's MSRs and
 * PAT in the VMCS; other general registers are stored by enter.S at each exit; vector registers and SYSCALL's
 * MSRs in the CPU (fpu.c). CR2 and DR0 to DR3 too are the CPU's: CR2 is taken at each exit (run.c), the DRs are
 * loaded only while a breakpoint is enabled. DR6 is never the CPU's, since each #DB and each MOV DR comes to
 * us. APIC, clock and all other MSRs live here.
 *
 * Bits that the guest may change without an exit are those of CR0 and CR4 that mean the same to the processor
 * as to the guest, and that the level has; reads of others give the shadow. NE and VMXE are set in the real
 * registers as VT-x wants (SDM 3C 24.8), whatever the guest sees.
 *
 * What a guest brought itself into beyond its level stays behind when it is fetched: bits of CR3 that the level's
 * physical addresses do not have.
 */
#include "core/err.h"
#include "engine/vmx/vmx_private.h"
#include "x86/lapic.h"
#include "x86/level.h"

/* What the guest cannot change without an exit. */
#define STAYS (ENGINE_STATE_DEBUG | ENGINE_STATE_APIC | ENGINE_STATE_CLOCK)

#define OWN_CR0 (X86_CR0_MP | X86_CR0_EM | X86_CR0_TS | X86_CR0_WP | X86_CR0_AM)
#define OWN_CR4                                                                                                        \
    (X86_CR4_VME | X86_CR4_PVI | X86_CR4_TSD | X86_CR4_DE | X86_CR4_PGE | X86_CR4_OSFXSR | X86_CR4_OSXMMEXCPT)

static uint64_t own_cr4(const struct x86_cpu *cpu)
{
    return OWN_CR4 & cpu->level->cr4_mask;
}

/* --- segments (SDM 3C 25.4.1, 27.3.1.2) -------------------------------------------------------- */

enum { LDTR_INDEX = 6, TR_INDEX = 7 }; /* in the VMCS's order; the others are in ours */

static struct x86_segment *segment_at(struct x86_cpu *cpu, unsigned int s)
{
    return s == LDTR_INDEX ? &cpu->ldtr : s == TR_INDEX ? &cpu->tr : &cpu->seg[s];
}

static enum vmcs_field field_at(enum vmcs_field first, unsigned int s)
{
    return (enum vmcs_field)((unsigned int)first + 2 * s);
}

/* Access rights that VM entry takes: ours have the same bits. The granularity must fit the limit, which is in
 * bytes; CPL is SS's DPL; in long mode a TSS is a 64-bit one; segments in virtual-8086 mode are all alike. */
uint32_t vmx_segment_attr(const struct x86_cpu *cpu, unsigned int s, const struct x86_segment *g)
{
    uint32_t attr = g->attr & (0xF0FF | X86_ATTR_UNUSABLE);
    bool system = s >= LDTR_INDEX;

    if (cpu->v86 && !system)
        return 0xF3;
    if (!(attr & X86_ATTR_P) && s != SEG_CS && s != TR_INDEX)
        attr |= X86_ATTR_UNUSABLE;
    if (g->limit > 0xFFFFF)
        attr |= X86_ATTR_G;
    else if ((g->limit & 0xFFF) != 0xFFF)
        attr &= ~(uint32_t)X86_ATTR_G;
    if (s == SEG_SS)
        attr = (attr & ~(3u << X86_ATTR_DPL_SHIFT)) | (uint32_t)cpu->cpl << X86_ATTR_DPL_SHIFT;
    if (s == SEG_CS && !cpu->long_mode)
        attr &= ~(uint32_t)X86_ATTR_L;
    if (s == TR_INDEX)
        attr = (attr & ~(uint32_t)X86_ATTR_UNUSABLE) | (cpu->long_mode ? 0xB : 0x3) | X86_ATTR_P;
    if (!system && !(attr & X86_ATTR_UNUSABLE))
        attr |= 1; /* accessed */
    return attr;
}

static void fetch_segments(struct x86_cpu *cpu)
{
    for (unsigned int s = 0; s <= TR_INDEX; s++) {
        struct x86_segment *g = segment_at(cpu, s);

        g->selector = (uint16_t)vmx_read(field_at(VMCS_GUEST_ES_SELECTOR, s));
        g->limit = (uint32_t)vmx_read(field_at(VMCS_GUEST_ES_LIMIT, s));
        g->attr = (uint32_t)vmx_read(field_at(VMCS_GUEST_ES_ATTR, s)) & (0xF0FF | X86_ATTR_UNUSABLE);
        g->base = vmx_read(field_at(VMCS_GUEST_ES_BASE, s));
    }
    cpu->gdtr.base = vmx_read(VMCS_GUEST_GDTR_BASE);
    cpu->gdtr.limit = (uint16_t)vmx_read(VMCS_GUEST_GDTR_LIMIT);
    cpu->idtr.base = vmx_read(VMCS_GUEST_IDTR_BASE);
    cpu->idtr.limit = (uint16_t)vmx_read(VMCS_GUEST_IDTR_LIMIT);
}

static void flush_segments(struct x86_cpu *cpu)
{
    for (unsigned int s = 0; s <= TR_INDEX; s++) {
        const struct x86_segment *g = segment_at(cpu, s);
        bool flat = cpu->v86 && s < LDTR_INDEX;

        vmx_write(field_at(VMCS_GUEST_ES_SELECTOR, s), g->selector);
        vmx_write(field_at(VMCS_GUEST_ES_LIMIT, s), flat ? 0xFFFF : g->limit);
        vmx_write(field_at(VMCS_GUEST_ES_ATTR, s), vmx_segment_attr(cpu, s, g));
        vmx_write(field_at(VMCS_GUEST_ES_BASE, s), flat ? (uint64_t)g->selector << 4 : g->base);
    }
    vmx_write(VMCS_GUEST_GDTR_BASE, cpu->gdtr.base);
    vmx_write(VMCS_GUEST_GDTR_LIMIT, cpu->gdtr.limit);
    vmx_write(VMCS_GUEST_IDTR_BASE, cpu->idtr.base);
    vmx_write(VMCS_GUEST_IDTR_LIMIT, cpu->idtr.limit);
}

/* --- control registers ------------------------------------------------------------------------- */

static bool has_pae_paging(const struct x86_cpu *cpu)
{
    return cpu->cr0 & X86_CR0_PG && cpu->cr4 & X86_CR4_PAE && !(cpu->efer & X86_EFER_LMA);
}

static void fetch_control(struct x86_cpu *cpu)
{
    cpu->cr0 = (vmx_read(VMCS_GUEST_CR0) & OWN_CR0) | (vmx_read(VMCS_CR0_SHADOW) & ~OWN_CR0);
    cpu->cr4 = (vmx_read(VMCS_GUEST_CR4) & own_cr4(cpu)) | (vmx_read(VMCS_CR4_SHADOW) & ~own_cr4(cpu));
    cpu->cr3 = vmx_read(VMCS_GUEST_CR3) & (BIT(cpu->level->physical_bits) - 1);
    if (has_pae_paging(cpu)) {
        for (unsigned int i = 0; i < 4; i++)
            cpu->pdpte[i] = vmx_read(field_at(VMCS_GUEST_PDPTE0, i));
    }
}

/* CD and NW are not loaded from the guest's CR0 by an entry (27.3.2.1): guests run cached. */
static void flush_control(struct x86_cpu *cpu)
{
    const struct vmx_caps *caps = &vmx_this_cpu()->caps;
    struct vmx_vcpu *v = vmx_vcpu_of(cpu);
    uint64_t free0 = X86_CR0_PE | X86_CR0_PG; /* unrestricted guests may have these clear */
    uint32_t entry = v->entry & ~(uint32_t)VMX_ENTRY_LONG_MODE;

    vmx_write(VMCS_GUEST_CR0, (cpu->cr0 & ~(X86_CR0_CD | X86_CR0_NW)) | (caps->cr0_fixed0 & ~free0));
    vmx_write(VMCS_CR0_SHADOW, cpu->cr0);
    vmx_write(VMCS_CR0_MASK, ~OWN_CR0);
    vmx_write(VMCS_GUEST_CR4, cpu->cr4 | caps->cr4_fixed0);
    vmx_write(VMCS_CR4_SHADOW, cpu->cr4);
    vmx_write(VMCS_CR4_MASK, ~own_cr4(cpu));
    vmx_write(VMCS_GUEST_CR3, cpu->cr3);
    vmx_write(VMCS_GUEST_EFER, cpu->efer);
    for (unsigned int i = 0; i < 4 && has_pae_paging(cpu); i++)
        vmx_write(field_at(VMCS_GUEST_PDPTE0, i), cpu->pdpte[i]);
    if (cpu->efer & X86_EFER_LMA)
        entry |= VMX_ENTRY_LONG_MODE;
    if (entry != v->entry)
        vmx_write(VMCS_ENTRY_CONTROLS, entry);
    v->entry = entry;
    v->flush = true; /* what the processor does by itself when the guest changes these */
}

/* --- interruptibility (25.4.2) ----------------------------------------------------------------- */

static void fetch_events(struct x86_cpu *cpu)
{
    uint64_t blocked = vmx_read(VMCS_GUEST_INTERRUPTIBILITY);
    uint64_t pending = vmx_read(VMCS_GUEST_PENDING_DEBUG);

    cpu->shadow = (uint8_t)((blocked & VMX_BLOCK_STI ? X86_SHADOW_STI : 0) |
                            (blocked & VMX_BLOCK_MOV_SS ? X86_SHADOW_MOV_SS : 0));
    cpu->nmi_masked = blocked & VMX_BLOCK_NMI;
    cpu->debug_pending = pending & VMX_PENDING_ENABLED ? pending & 0xF : 0;
    if (pending & X86_DR6_BS && !cpu->shadow)
        cpu->debug_pending |= X86_DR6_BS;
}

/* With a shadow, BS is pending exactly if TF is set (27.3.1.5); RFLAGS are newest in struct x86_cpu. */
static void flush_events(const struct x86_cpu *cpu)
{
    uint64_t blocked = cpu->nmi_masked ? VMX_BLOCK_NMI : 0;
    uint64_t pending = cpu->debug_pending & (0xF | X86_DR6_BS);

    if (cpu->shadow & X86_SHADOW_MOV_SS)
        blocked |= VMX_BLOCK_MOV_SS;
    else if (cpu->shadow & X86_SHADOW_STI && cpu->rflags & X86_FLAG_IF)
        blocked |= VMX_BLOCK_STI;
    if (pending & 0xF)
        pending |= VMX_PENDING_ENABLED;
    if (blocked & (VMX_BLOCK_STI | VMX_BLOCK_MOV_SS)) {
        pending &= ~X86_DR6_BS;
        if (cpu->rflags & X86_FLAG_TF)
            pending |= X86_DR6_BS;
    }
    vmx_write(VMCS_GUEST_INTERRUPTIBILITY, blocked);
    vmx_write(VMCS_GUEST_PENDING_DEBUG, pending);
}

/* --- MSRs in the VMCS -------------------------------------------------------------------------- */

static void flush_msrs(struct x86_cpu *cpu)
{
    vmx_write(VMCS_GUEST_SYSENTER_CS, cpu->msr.sysenter_cs);
    vmx_write(VMCS_GUEST_SYSENTER_ESP, cpu->msr.sysenter_esp);
    vmx_write(VMCS_GUEST_SYSENTER_EIP, cpu->msr.sysenter_eip);
    vmx_write(VMCS_GUEST_PAT, cpu->msr.pat);
    vmx_msr_load(cpu);
    vmx_vcpu_of(cpu)->msr_live = true;
}

static void fetch_msrs(struct x86_cpu *cpu)
{
    cpu->msr.sysenter_cs = vmx_read(VMCS_GUEST_SYSENTER_CS);
    cpu->msr.sysenter_esp = vmx_read(VMCS_GUEST_SYSENTER_ESP);
    cpu->msr.sysenter_eip = vmx_read(VMCS_GUEST_SYSENTER_EIP);
    if (vmx_vcpu_of(cpu)->msr_live)
        vmx_msr_fetch(cpu);
}

/* --- groups ------------------------------------------------------------------------------------ */

static void fetch_gpr(struct x86_cpu *cpu)
{
    cpu->rip = vmx_read(VMCS_GUEST_RIP);
    cpu->gpr[RSP] = vmx_read(VMCS_GUEST_RSP);
    cpu->rflags = vmx_read(VMCS_GUEST_RFLAGS);
}

static void flush_gpr(struct x86_cpu *cpu)
{
    vmx_write(VMCS_GUEST_RIP, cpu->rip);
    vmx_write(VMCS_GUEST_RSP, cpu->gpr[RSP]);
    vmx_write(VMCS_GUEST_RFLAGS, cpu->rflags);
}

#define MODE (ENGINE_STATE_GPR | ENGINE_STATE_SEGMENTS | ENGINE_STATE_CONTROL)

void vmx_fetch(struct x86_cpu *cpu, uint32_t groups)
{
    struct vmx_vcpu *v = vmx_vcpu_of(cpu);

    groups &= ~v->have;
    if (!groups || vmx_load(cpu) != OK)
        return;
    if (groups & ENGINE_STATE_GPR)
        fetch_gpr(cpu);
    if (groups & ENGINE_STATE_SEGMENTS)
        fetch_segments(cpu);
    if (groups & ENGINE_STATE_CONTROL)
        fetch_control(cpu);
    if (groups & ENGINE_STATE_EVENTS)
        fetch_events(cpu);
    if (groups & ENGINE_STATE_MSR)
        fetch_msrs(cpu);
    if (groups & ENGINE_STATE_FPU && v->fpu_live) {
        vmx_fpu_fetch(cpu);
        v->fpu_live = false;
    }
    v->have |= groups;
    if (groups & MODE && (v->have & MODE) == MODE)
        x86_update_mode(cpu);
}

void vmx_changed(struct x86_cpu *cpu, uint32_t groups)
{
    struct vmx_vcpu *v = vmx_vcpu_of(cpu);

    v->have |= groups;
    v->changed |= groups;
    if (groups & ENGINE_STATE_FPU)
        v->fpu_live = false;
    if (groups & ENGINE_STATE_MSR)
        v->msr_live = false;
}

/* Segments depend on the mode, events on RFLAGS: those are there with them, as both were fetched to be changed. */
void vmx_flush(struct x86_cpu *cpu)
{
    struct vmx_vcpu *v = vmx_vcpu_of(cpu);
    uint32_t groups = v->changed;

    if (groups & ENGINE_STATE_GPR)
        flush_gpr(cpu);
    if (groups & ENGINE_STATE_SEGMENTS)
        flush_segments(cpu);
    if (groups & ENGINE_STATE_CONTROL)
        flush_control(cpu);
    if (groups & ENGINE_STATE_EVENTS)
        flush_events(cpu);
    if (groups & ENGINE_STATE_DEBUG)
        vmx_write(VMCS_GUEST_DR7, cpu->dr7);
    if (groups & ENGINE_STATE_CLOCK)
        vmx_write(VMCS_TSC_OFFSET, vmx_tsc_offset(cpu));
    if (groups & ENGINE_STATE_MSR)
        flush_msrs(cpu);
    if (!v->msr_live) {
        vmx_msr_load(cpu);
        v->msr_live = true;
    }
    if (!v->fpu_live) {
        vmx_fpu_load(cpu);
        v->fpu_live = true;
    }
    v->changed = 0;
}

void vmx_forget(struct x86_cpu *cpu)
{
    vmx_vcpu_of(cpu)->have = STAYS;
}

/* --- the engine's operations ------------------------------------------------------------------- */

/* Own thread, or at rest, when struct x86_cpu has everything. */
int vmx_vcpu_get_state(struct x86_cpu *cpu, uint32_t groups)
{
    vmx_fetch(cpu, groups);
    if (groups & MODE)
        x86_update_mode(cpu);
    return OK;
}

/* Only noted: the next entry hands it over. */
int vmx_vcpu_set_state(struct x86_cpu *cpu, uint32_t groups)
{
    uint32_t all = groups;

    if (groups & MODE) /* they judge each other */
        all |= MODE | ENGINE_STATE_EVENTS;
    vmx_changed(cpu, all);
    return OK;
}
