/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * The vmx engine: guest code runs on Intel's VT-x (SDM 3C, chapters 24 to 28), natively. Here: the engine's
 * operations, and each CPU's switch for it.
 *
 *   caps.c       what the processor can do; forced controls apart from policy
 *   vmcs.c       the VMCS: controls, the host's half, on which CPU it is; VPIDs, EPT pointer, MSR bitmap
 *   enter.S      into the guest and back
 *   run.c        the loop, requests, kicks
 *   exits.c      what each exit means
 *   emulate.c    one instruction by the emulator: MMIO, string I/O, task switches, control registers
 *   state.c      registers between VMCS and struct x86_cpu, by groups
 *   interrupt.c  which event is delivered next, windows, events that an exit cut short
 *   fpu.c        vector registers and MSRs that stay in the CPU; barriers between VMs
 *   clock.c      the TSC
 *   level.c      levels against this processor
 *
 * What is asked of the processor: EPT with large pages, unrestricted guests (so that real mode is no matter of
 * ours), virtual NMIs. The local APIC is x86/lapic.c's, without APICv. The host's own timer ends a slice,
 * as any interrupt ends a guest's stay; the preemption timer only sees to it that a stay does end (vmcs.c).
 *
 * Nested tables are made of the memory slots, whole, before the guest runs (engine/nested.c), so an EPT
 * violation is always an access to what is not RAM.
 *
 * Locking: none. A VM's part is changed with the VM at rest, a vCPU's by its own thread or with the VM at rest,
 * a CPU's by that CPU.
 *
 * Not done: TSC scaling, APICv, dirty tracking, VMCS shadowing (guests have no VT-x), SGX, PT, CET.
 */
#include "core/err.h"
#include "core/fmt.h"
#include "engine/vmx/vmx_level.h"
#include "engine/vmx/vmx_private.h"
#include "x86/lapic.h"
#include "x86/level.h"
#include "x86/msr.h"

enum {
    CPU_PAGES = (sizeof(struct vmx_cpu) + PAGE_SIZE - 1) / PAGE_SIZE,
    VM_PAGES = (sizeof(struct vmx_vm) + PAGE_SIZE - 1) / PAGE_SIZE,
    VCPU_PAGES = (sizeof(struct vmx_vcpu) + PAGE_SIZE - 1) / PAGE_SIZE,
};

/* --- each CPU's switch ------------------------------------------------------------------------- */

static int vmx_cpu_probe(char *why, size_t why_size, char *notes, size_t notes_size)
{
    enum { VMX = 5 };
    struct vmx_caps caps;
    uint32_t r[4];
    uint64_t feature;

    if (notes_size)
        notes[0] = '\0';
    vmx_cpuid(1, 0, r);
    if (!(r[2] >> VMX & 1)) {
        (void)fmt(why, why_size, "this processor has no VT-x");
        return ERR_UNSUPPORTED;
    }
    feature = vmx_rdmsr(MSR_FEATURE_CONTROL);
    if (feature & VMX_FEATURE_LOCKED && !(feature & VMX_FEATURE_OUTSIDE)) {
        (void)fmt(why, why_size, "VT-x is switched off in the firmware's settings");
        return ERR_UNSUPPORTED;
    }
    vmx_caps_read(&caps);
    return vmx_caps_check(&caps, why, why_size, notes, notes_size);
}

/* Firmware that leaves the register unlocked leaves it to us (24.7). */
static void allow_vmxon(void)
{
    uint64_t feature = vmx_rdmsr(MSR_FEATURE_CONTROL);

    if (!(feature & VMX_FEATURE_LOCKED))
        vmx_wrmsr(MSR_FEATURE_CONTROL, feature | VMX_FEATURE_LOCKED | VMX_FEATURE_OUTSIDE);
}

/* Control registers as VMX operation wants them (24.8), and so that guests' vector registers can be moved. */
static void set_control_registers(const struct vmx_caps *caps)
{
    enum { XSAVE = 26 };
    uint64_t cr0 = vmx_read_cr0() & ~(X86_CR0_EM | X86_CR0_TS);
    uint64_t cr4 = vmx_read_cr4() | X86_CR4_OSFXSR | X86_CR4_OSXMMEXCPT | VMX_CR4_VMXE;
    uint32_t r[4];

    vmx_cpuid(1, 0, r);
    if (r[2] >> XSAVE & 1)
        cr4 |= X86_CR4_OSXSAVE;
    vmx_write_cr0((cr0 | X86_CR0_MP | X86_CR0_NE | caps->cr0_fixed0) & caps->cr0_fixed1);
    vmx_write_cr4((cr4 | caps->cr4_fixed0) & caps->cr4_fixed1);
}

static int vmx_cpu_on(void)
{
    void **slot = hw_engine_slot();
    struct vmx_cpu *c = *slot ? *slot : seam_pages_alloc(CPU_PAGES);

    if (!c)
        return ERR_NO_MEMORY;
    *slot = c;
    vmx_caps_read(&c->caps);
    c->next_vpid = c->generation = 1;
    c->guest_ticks = hw_guest_ticks();
    store_u32(c->region, (uint32_t)c->caps.basic & VMX_BASIC_REVISION);
    allow_vmxon();
    set_control_registers(&c->caps);
    c->xcr0 = vmx_read_cr4() & X86_CR4_OSXSAVE ? vmx_xcr0_known() : 0;
    vmx_fpu_host(c);
    c->on = vmx_on(hw_phys(c->region));
    return c->on ? OK : ERR_UNSUPPORTED;
}

/* In a panic, too: whatever VMCS is current is given up. INIT is blocked in VMX operation. */
static void vmx_cpu_off(void)
{
    struct vmx_cpu *c = vmx_this_cpu();

    if (!c || !c->on)
        return;
    c->on = false;
    vmx_off();
    vmx_write_cr4(vmx_read_cr4() & ~VMX_CR4_VMXE);
}

/* --- VMs --------------------------------------------------------------------------------------- */

static int vmx_probe(const struct x86_level *level, bool closely, char *why, size_t size)
{
    const char *lacks = vmx_level_lacks(vmx_cpuid, level);
    (void)closely;

    if (!lacks)
        return OK;
    (void)fmt(why, size, "this processor lacks %s, which level %s needs", lacks, level->name);
    return ERR_UNSUPPORTED;
}

static void vmx_adapt_profile(struct x86_level *level)
{
    enum { ARCH_CAPABILITIES = 29 };
    uint32_t r[4];
    uint64_t value = 0;

    vmx_cpuid(0, 0, r);
    if (r[0] >= 7) {
        vmx_cpuid(7, 0, r);
        if (r[3] >> ARCH_CAPABILITIES & 1)
            value = vmx_rdmsr(MSR_ARCH_CAPABILITIES);
    }
    vmx_level_adapt(vmx_cpuid, value, level);
}

/* Write-back tables, a walk of four levels, no accessed and dirty bits (25.6.11). */
static uint64_t ept_pointer(const struct nested *n)
{
    enum { WRITE_BACK = 6, WALK_4 = 3 << 3 };

    return nested_root(n) | WRITE_BACK | WALK_4;
}

static void vmx_vm_destroy(struct vm *vm)
{
    struct vmx_vm *x = vmx_vm_of(vm);

    if (!x)
        return;
    nested_destroy(&x->nested);
    seam_pages_free(x->msr_bitmap, x->msr_bitmap ? 1 : 0);
    seam_pages_free(x, VM_PAGES);
    vm->engine = NULL;
}

static int vmx_vm_create(struct vm *vm)
{
    struct vmx_vm *x = seam_pages_alloc(VM_PAGES);
    struct vmx_caps caps;
    int err;

    if (!x)
        return ERR_NO_MEMORY;
    vm->engine = x;
    atomic_store(&x->memory_epoch, 1);
    x->msr_bitmap = seam_pages_alloc(1);
    vmx_caps_read(&caps);
    err = ERR_NO_MEMORY;
    if (x->msr_bitmap)
        err = nested_create(&x->nested, &nested_ept, caps.ept_vpid & VMX_EPT_1G, &vm->mem);
    if (err) {
        vmx_vm_destroy(vm);
        return err;
    }
    vmx_make_msr_bitmap(x->msr_bitmap);
    x->ept_pointer = ept_pointer(&x->nested);
    return OK;
}

static int vmx_vm_memory_changed(struct vm *vm)
{
    struct vmx_vm *x = vmx_vm_of(vm);
    int err = nested_rebuild(&x->nested, &vm->mem);

    if (err)
        return err;
    x->ept_pointer = ept_pointer(&x->nested);
    atomic_fetch_add(&x->memory_epoch, 1);
    return OK;
}

static uint32_t vmx_tsc_khz(const struct vm *vm)
{
    (void)vm;
    return hw_tsc_khz();
}

/* --- vCPUs ------------------------------------------------------------------------------------- */

/* As under kvm: a host within 250 ppm is taken as it is. */
static int check_rate(const struct x86_cpu *cpu)
{
    int64_t host = hw_tsc_khz(), rate = x86_tsc_khz(cpu->vcpu.vm);
    int64_t apart = host < rate ? rate - host : host - rate;

    if (apart * 4000 <= host)
        return OK;
    (void)fmt(cpu->vcpu.vm->engine_why, VM_ENGINE_WHY,
              "this machine's TSC runs at %u kHz and is not scaled to the %u kHz of the definition: change or "
              "leave out tsc_khz",
              hw_tsc_khz(), x86_tsc_khz(cpu->vcpu.vm));
    return ERR_UNSUPPORTED;
}

static void open_level_msrs(const struct x86_cpu *cpu)
{
    uint8_t *bitmap = vmx_vm_of(cpu->vcpu.vm)->msr_bitmap;

    if (!x86_level_has(cpu->level, INSN_FEATURE_RDTSCP) && !x86_level_has(cpu->level, INSN_FEATURE_RDPID))
        return;
    vmx_open_msr(bitmap, MSR_TSC_AUX, false);
    vmx_open_msr(bitmap, MSR_TSC_AUX, true);
}

static void vmx_vcpu_destroy(struct x86_cpu *cpu)
{
    struct vmx_vcpu *v = vmx_vcpu_of(cpu);

    if (!v)
        return;
    if (v->cpu != VMX_NOWHERE && v->cpu == hw_cpu()) {
        vmx_unload(cpu);
        hw_on_switch(NULL, NULL);
    }
    cpu->engine = NULL;
    seam_pages_free(v->vmcs, v->vmcs ? 1 : 0);
    seam_pages_free(v, VCPU_PAGES);
}

static int vmx_vcpu_create(struct x86_cpu *cpu)
{
    enum { XSAVE = 26 };
    struct vmx_vcpu *v;
    uint32_t r[4];
    int err = check_rate(cpu);

    if (err)
        return err;
    v = seam_pages_alloc(VCPU_PAGES);
    if (!v)
        return ERR_NO_MEMORY;
    vmx_cpuid(1, 0, r);
    v->has_xsave = r[2] >> XSAVE & 1;
    v->fpu_mask = cpu->level->xcr0_mask;
    v->cpu = v->last_cpu = VMX_NOWHERE;
    v->have = v->changed = ENGINE_STATE_ALL;
    v->vmcs = seam_pages_alloc(1);
    cpu->engine = v;
    if (!v->vmcs) {
        vmx_vcpu_destroy(cpu);
        return ERR_NO_MEMORY;
    }
    open_level_msrs(cpu);
    return OK;
}

static void vmx_vcpu_state_changed(struct x86_cpu *cpu)
{
    x86_update_mode(cpu);
    vmx_changed(cpu, ENGINE_STATE_ALL);
}

static size_t vmx_vcpu_stats(const struct x86_cpu *cpu, char *buf, size_t size)
{
    const struct vmx_vcpu *v = vmx_vcpu_of(cpu);
    size_t n = fmt(buf, size,
                   "vCPU %u: vmx: %lu entries, %lu instructions emulated, %lu events injected; exits by "
                   "reason:",
                   cpu->vcpu.id, v->entries, v->emulated, v->injected);

    for (unsigned int i = 0; i < VMX_REASONS; i++) {
        if (v->exits[i] && n < size)
            n += fmt(buf + n, size - n, " %u: %lu", i, v->exits[i]);
    }
    if (n < size)
        n += fmt(buf + n, size - n, "\n");
    return n;
}

const struct engine engine_vmx = {
    .name = "vmx",
    .description = "Intel VT-x",
    .probe = vmx_probe,
    .adapt_profile = vmx_adapt_profile,
    .vm_create = vmx_vm_create,
    .tsc_khz = vmx_tsc_khz,
    .vm_destroy = vmx_vm_destroy,
    .vm_memory_changed = vmx_vm_memory_changed,
    .vm_clock_started = vmx_vm_clock_started,
    .vm_clock_lead = vmx_vm_clock_lead,
    .vcpu_create = vmx_vcpu_create,
    .vcpu_destroy = vmx_vcpu_destroy,
    .vcpu_run = vmx_vcpu_run,
    .vcpu_kick = vmx_vcpu_kick,
    .vcpu_get_state = vmx_vcpu_get_state,
    .vcpu_set_state = vmx_vcpu_set_state,
    .vcpu_state_changed = vmx_vcpu_state_changed,
    .vcpu_stats = vmx_vcpu_stats,
};

const struct hw_engine hw_vmx = {
    .engine = &engine_vmx,
    .cpu_probe = vmx_cpu_probe,
    .cpu_on = vmx_cpu_on,
    .cpu_off = vmx_cpu_off,
};
