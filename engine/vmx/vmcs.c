/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * The VMCS of a vCPU: its controls, the host's half, and on which CPU it is (SDM 3C, chapters 25 and 26.5).
 *
 * A VMCS lives in a processor's caches from VMPTRLD to VMCLEAR, and may be used on one CPU at a time. So a
 * vCPU's thread loads it when it first needs it on a CPU and leaves word with hw_on_switch, by which the CPU is
 * rid of it before anything else runs there: VMCS, vector registers, MSRs. Whatever may let another thread run
 * (a handler that waits for a lock, a preemption point) may so take it away; who wants fields of it after that
 * calls vmx_load again, which is a compare where nothing has happened. The fields themselves live through it,
 * those of the last exit too.
 *
 * Host state is this CPU's, read from the CPU itself when the VMCS comes there: descriptor tables, CR3, GS
 * base. RSP is enter.S's matter.
 *
 * MSRs: none reaches the processor but a few that are switched with the thread (fpu.c) or lie in the VMCS
 * (default-deny; bad-inputs C7). Ports: none does, so that there is no bitmap for them.
 *
 * VPIDs are given out per CPU, a new one each time a vCPU comes to another CPU; when they are used up, all
 * translations are dropped and a new generation begins. So no vCPU finds there what it left long ago, and
 * nobody counts VMs.
 */
#include "engine/vmx/vmx_private.h"

#include "core/assert.h"
#include "core/err.h"
#include "x86/level.h"

enum { VPIDS = 0x10000 };

/* --- MSR bitmap (SDM 3C 25.6.9) ---------------------------------------------------------------- */

enum { LOW_MSRS = 0x2000, BITMAP_HIGH = 1024, BITMAP_WRITE = 2048 };
#define HIGH_MSR UINT32_C(0xC0000000)

void vmx_open_msr(uint8_t bitmap[PAGE_SIZE], uint32_t index, bool write)
{
    uint32_t n = index & (LOW_MSRS - 1);
    uint32_t at = n / 8;

    if (index >= HIGH_MSR)
        at += BITMAP_HIGH;
    if (write)
        at += BITMAP_WRITE;

    bitmap[at] &= (uint8_t)~(1u << n % 8);
}

/* What a guest may read and write without us: kept apart for each thread by fpu.c, or by the VMCS. */
void vmx_make_msr_bitmap(uint8_t bitmap[PAGE_SIZE])
{
    static const uint32_t open[] = {
        /* table */
        MSR_SYSENTER_CS, MSR_SYSENTER_ESP, MSR_SYSENTER_EIP, MSR_STAR,    MSR_LSTAR,
        MSR_CSTAR,       MSR_SFMASK,       MSR_FS_BASE,      MSR_GS_BASE, MSR_KERNEL_GS_BASE,
    };

    memset(bitmap, 0xFF, PAGE_SIZE);
    for (size_t i = 0; i < ARRAY_SIZE(open); i++) {
        vmx_open_msr(bitmap, open[i], false);
        vmx_open_msr(bitmap, open[i], true);
    }
    vmx_open_msr(bitmap, MSR_TSC, false); /* with the offset, as RDTSC */
}

/* --- controls ---------------------------------------------------------------------------------- */

static uint32_t adjust(const struct vmx_caps *caps, enum vmx_controls set, uint32_t wanted)
{
    const struct vmx_choice *choice[VMX_CONTROLS] = {
        &caps->pin, &caps->primary, &caps->secondary, &caps->exit, &caps->entry,
    };
    uint32_t value, missing;
    int err = vmx_adjust(choice[set], vmx_forced(set), wanted, &value, &missing);

    return NEVER(err != OK) ? 0 : value; /* cpu_probe has seen to it */
}

/* Policy: what the level has, and what saves time. */
static uint32_t wanted_secondary(const struct x86_cpu *cpu)
{
    uint32_t wanted = VMX2_VPID;

    if (x86_level_has(cpu->level, INSN_FEATURE_RDTSCP) || x86_level_has(cpu->level, INSN_FEATURE_RDPID))
        wanted |= VMX2_RDTSCP;
    if (x86_level_has(cpu->level, INSN_FEATURE_INVPCID))
        wanted |= VMX2_INVPCID;
    if (cpu->vcpu.vm->vcpu_count > 1)
        wanted |= VMX2_PAUSE_LOOP;
    return wanted;
}

/* #DB and #AC always: their delivery may raise them again for ever, in the processor's microcode (bad-inputs
 * C6). #UD for the other vendor's hypercall. Machine checks are the host's. */
#define EXCEPTIONS (BIT(X86_DB) | BIT(X86_AC) | BIT(X86_UD) | BIT(X86_MC))

/*
 * No guest stays longer than this without an exit, whatever becomes of interrupts: Bochs 2.7 keeps one that is
 * pending at an entry from a guest with IF clear, for as long as that stays so. The counter begins anew at each
 * entry, as exits do not save it.
 */
static void write_timer(const struct vmx_caps *caps)
{
    enum { LONGEST_MS = 5 };

    vmx_write(VMCS_GUEST_PREEMPTION_TIMER,
              (uint64_t)hw_tsc_khz() * LONGEST_MS >> (caps->misc & VMX_MISC_TIMER_SHIFT));
}

static void write_controls(struct x86_cpu *cpu)
{
    enum { PLE_GAP = 128, PLE_WINDOW = 4096 }; /* ticks between two PAUSEs of one loop; of the loop */
    const struct vmx_caps *caps = &vmx_this_cpu()->caps;
    const struct vmx_vm *vm = vmx_vm_of(cpu->vcpu.vm);
    struct vmx_vcpu *v = vmx_vcpu_of(cpu);
    uint32_t secondary = adjust(caps, VMX_SECONDARY_SET, wanted_secondary(cpu));
    uint32_t pin = adjust(caps, VMX_PIN, VMX_PIN_PREEMPTION_TIMER);

    v->primary = adjust(caps, VMX_PRIMARY, 0);
    v->entry = adjust(caps, VMX_ENTRY, 0);
    vmx_write(VMCS_PIN_CONTROLS, pin);
    if (pin & VMX_PIN_PREEMPTION_TIMER)
        write_timer(caps);
    vmx_write(VMCS_PRIMARY_CONTROLS, v->primary);
    vmx_write(VMCS_SECONDARY_CONTROLS, secondary);
    vmx_write(VMCS_EXIT_CONTROLS, adjust(caps, VMX_EXIT, 0));
    vmx_write(VMCS_ENTRY_CONTROLS, v->entry);
    vmx_write(VMCS_EXCEPTION_BITMAP, EXCEPTIONS);
    vmx_write(VMCS_PF_ERROR_MASK, 0);
    vmx_write(VMCS_PF_ERROR_MATCH, 0);
    vmx_write(VMCS_CR3_TARGET_COUNT, 0);
    vmx_write(VMCS_EXIT_MSR_STORE_COUNT, 0);
    vmx_write(VMCS_EXIT_MSR_LOAD_COUNT, 0);
    vmx_write(VMCS_ENTRY_MSR_LOAD_COUNT, 0);
    vmx_write(VMCS_ENTRY_INTERRUPTION, 0);
    vmx_write(VMCS_MSR_BITMAP, hw_phys(vm->msr_bitmap));
    vmx_write(VMCS_EPT_POINTER, vm->ept_pointer);
    if (secondary & VMX2_PAUSE_LOOP) {
        vmx_write(VMCS_PLE_GAP, PLE_GAP);
        vmx_write(VMCS_PLE_WINDOW, PLE_WINDOW);
    }
    vmx_write(VMCS_LINK_POINTER, UINT64_MAX);
    vmx_write(VMCS_GUEST_DEBUGCTL, 0);
    vmx_write(VMCS_GUEST_ACTIVITY, 0); /* a halted vCPU is not entered */
    vmx_write(VMCS_HOST_RIP, (uint64_t)(uintptr_t)vmx_exit_point);
}

void vmx_set_windows(struct x86_cpu *cpu, bool interrupt, bool nmi)
{
    struct vmx_vcpu *v = vmx_vcpu_of(cpu);
    uint32_t primary = v->primary & ~(uint32_t)(VMX_INTERRUPT_WINDOW | VMX_NMI_WINDOW);

    if (interrupt)
        primary |= VMX_INTERRUPT_WINDOW;
    if (nmi)
        primary |= VMX_NMI_WINDOW;
    if (primary == v->primary)
        return;
    v->primary = primary;
    vmx_write(VMCS_PRIMARY_CONTROLS, primary);
}

/* --- the host's half (SDM 3C 25.5, 27.2.2) ----------------------------------------------------- */

/* RPL and TI of selectors must be clear (27.2.3). */
static void write_host_state(void)
{
    struct vmx_host_segments h;

    vmx_read_host_segments(&h);
    vmx_write(VMCS_HOST_CS_SELECTOR, h.cs);
    vmx_write(VMCS_HOST_SS_SELECTOR, h.ss);
    vmx_write(VMCS_HOST_DS_SELECTOR, h.ds & ~7u);
    vmx_write(VMCS_HOST_ES_SELECTOR, h.es & ~7u);
    vmx_write(VMCS_HOST_FS_SELECTOR, 0);
    vmx_write(VMCS_HOST_GS_SELECTOR, 0);
    vmx_write(VMCS_HOST_TR_SELECTOR, h.tr);
    vmx_write(VMCS_HOST_TR_BASE, h.tss_base);
    vmx_write(VMCS_HOST_GDTR_BASE, h.gdt_base);
    vmx_write(VMCS_HOST_IDTR_BASE, h.idt_base);
    vmx_write(VMCS_HOST_CR0, vmx_read_cr0());
    vmx_write(VMCS_HOST_CR3, vmx_read_cr3());
    vmx_write(VMCS_HOST_CR4, vmx_read_cr4());
    vmx_write(VMCS_HOST_FS_BASE, vmx_rdmsr(MSR_FS_BASE));
    vmx_write(VMCS_HOST_GS_BASE, vmx_rdmsr(MSR_GS_BASE));
    vmx_write(VMCS_HOST_SYSENTER_CS, 0);
    vmx_write(VMCS_HOST_SYSENTER_ESP, 0);
    vmx_write(VMCS_HOST_SYSENTER_EIP, 0);
    vmx_write(VMCS_HOST_PAT, vmx_rdmsr(MSR_PAT));
    vmx_write(VMCS_HOST_EFER, vmx_rdmsr(MSR_EFER));
}

/* --- translations ------------------------------------------------------------------------------ */

static void take_vpid(struct vmx_cpu *c, struct vmx_vcpu *v, bool moved)
{
    if (!(c->caps.secondary.may & VMX2_VPID))
        return; /* every entry and exit drops all */
    if (!moved && v->vpid_generation == c->generation)
        return;
    if (c->next_vpid == VPIDS) {
        vmx_invvpid(VMX_INVVPID_ALL, 0);
        c->next_vpid = 1;
        c->generation++;
    }
    v->vpid = c->next_vpid++;
    v->vpid_generation = c->generation;
    vmx_write(VMCS_VPID, v->vpid);
}

/* Translations of guest-physical addresses hang on the EPT pointer, and combined ones on that and the VPID:
 * INVEPT drops both (SDM 3C 28.4.3.1). A vCPU that comes to a CPU may find such of a VM that was there before
 * it, and had its tables in the same page. */
static void flush_memory(struct x86_cpu *cpu, bool moved)
{
    struct vmx_vcpu *v = vmx_vcpu_of(cpu);
    struct vmx_vm *vm = vmx_vm_of(cpu->vcpu.vm);
    uint32_t epoch = atomic_load(&vm->memory_epoch);

    if (!moved && v->memory_epoch == epoch)
        return;
    v->memory_epoch = epoch;
    vmx_write(VMCS_EPT_POINTER, vm->ept_pointer);
    vmx_invept(VMX_INVEPT_SINGLE, vm->ept_pointer);
}

void vmx_flush_translations(struct x86_cpu *cpu)
{
    struct vmx_vcpu *v = vmx_vcpu_of(cpu);

    flush_memory(cpu, false);
    if (!v->flush)
        return;
    v->flush = false;
    if (v->vpid)
        vmx_invvpid(VMX_INVVPID_SINGLE, v->vpid);
}

/* --- here and away ----------------------------------------------------------------------------- */

static void leave_cpu(void *owner)
{
    vmx_unload(owner);
}

void vmx_unload(struct x86_cpu *cpu)
{
    struct vmx_vcpu *v = vmx_vcpu_of(cpu);

    if (v->cpu == VMX_NOWHERE)
        return;
    /* Not if it is there already: then somebody may be changing it who has the VM at rest. */
    if (v->fpu_live && !(v->have & ENGINE_STATE_FPU)) {
        vmx_fpu_fetch(cpu);
        v->have |= ENGINE_STATE_FPU;
    } else if (v->fpu_live) {
        vmx_fpu_host(vmx_this_cpu());
    }
    if (v->msr_live && !(v->have & ENGINE_STATE_MSR))
        vmx_msr_fetch(cpu);
    v->fpu_live = v->msr_live = false;
    vmx_clear(hw_phys(v->vmcs));
    v->launched = false;
    v->cpu = VMX_NOWHERE;
}

/* A VMCS begins with the revision (SDM 3C 25.2), and VMCLEAR makes it one. */
static bool make_current(struct vmx_cpu *c, struct vmx_vcpu *v)
{
    uint64_t physical = hw_phys(v->vmcs);

    if (!v->configured) {
        store_u32(v->vmcs, (uint32_t)c->caps.basic & VMX_BASIC_REVISION);
        vmx_clear(physical);
    }
    return vmx_ptrld(physical);
}

int vmx_load(struct x86_cpu *cpu)
{
    struct vmx_vcpu *v = vmx_vcpu_of(cpu);
    struct vmx_cpu *c;

    if (likely(v->cpu != VMX_NOWHERE))
        return OK;
    c = vmx_this_cpu();
    if (!c || !c->on || !make_current(c, v))
        return ERR_UNSUPPORTED;
    v->cpu = hw_cpu();
    hw_on_switch(leave_cpu, cpu);
    if (!v->configured) {
        write_controls(cpu);
        v->configured = true;
    }
    write_host_state();
    bool moved = v->last_cpu != hw_cpu();
    v->last_cpu = hw_cpu();
    take_vpid(c, v, moved);
    flush_memory(cpu, moved);
    vmx_switch_barriers(moved || c->last_vm != cpu->vcpu.vm);
    c->last_vm = cpu->vcpu.vm;
    return OK;
}
