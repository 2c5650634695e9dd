/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * The svm engine: guest code runs on the processor itself, by AMD-V with nested paging (APM 2, chapter 15). Native
 * only.
 *
 * What is whose. The processor executes, translates through the VM's nested tables, which have its RAM and nothing
 * else, and delivers what is put into EVENTINJ. Local APICs, CPUID, MSRs and devices are ours, as under every
 * engine. Access to what is not RAM ends the guest, and the instruction is executed by x86/'s emulator on the
 * state fetched.
 *
 * Where the registers are: general ones in struct x86_cpu; vectors in the processor (fpu.c); the rest in the VMCB,
 * and moved when somebody asks (state.c).
 *
 * A vCPU has two pages: its VMCB, and struct svm_vcpu. A VM has one, and its nested tables.
 *
 * Not done: AVIC, SEV, CET, debug-control MSRs, dirty-page tracking, RAM that comes late (struct guest_mem_late).
 */
#include "engine/svm/svm.h"

#include "core/fmt.h"
#include "engine/svm/svm_private.h"

enum { VM_PAGES = 1, VCPU_PAGES = 2 };

_Static_assert(sizeof(struct svm_vm) <= VM_PAGES * 4096, "a page");
_Static_assert(sizeof(struct svm_vcpu) <= 4096, "a page");

#define XSAVE_ERROR_POINTERS BIT(2) /* CPUID 80000008H EBX */
#define AMD_IBRS             BIT(14)

/* --- a VM ------------------------------------------------------------------------------------------------- */

static bool has_gib_pages(void)
{
    uint32_t out[4];

    svm_cpuid(0x80000001, 0, out);
    return out[3] & BIT(26);
}

static void find_features(struct svm_vm *v)
{
    uint32_t out[4];

    svm_cpuid(0x8000000A, 0, out);
    v->features = out[3];
    svm_cpuid(0x80000008, 0, out);
    v->spec_ctrl = (out[1] & AMD_IBRS) != 0;
    v->fxsave_leak = !(out[1] & XSAVE_ERROR_POINTERS);
}

static void vm_destroy(struct vm *vm)
{
    struct svm_vm *v = svm_vm_of(vm);

    if (!v)
        return;
    nested_destroy(&v->nested);
    seam_pages_free(v, VM_PAGES);
    vm->engine = NULL;
}

static int vm_create(struct vm *vm)
{
    struct svm_vm *v = seam_pages_alloc(VM_PAGES);
    int err;

    if (!v)
        return ERR_NO_MEMORY;
    vm->engine = v;
    find_features(v);
    err = nested_create(&v->nested, &nested_amd, has_gib_pages(), &vm->mem);
    if (err)
        vm_destroy(vm);
    return err;
}

static int vm_memory_changed(struct vm *vm)
{
    struct svm_vm *v = svm_vm_of(vm);
    int err = nested_rebuild(&v->nested, &vm->mem);

    for (uint32_t id = 0; id < vm->vcpu_count && !err; id++) {
        struct svm_vcpu *s = svm_vcpu_of(x86_cpu_of(vm->vcpu[id]));

        s->vmcb->control.nested_cr3 = nested_root(&v->nested);
        svm_dirty(s, CLEAN_NESTED);
        svm_forget_code(s);
        s->todo |= SVM_FLUSH;
    }
    return err;
}

/* --- a vCPU ----------------------------------------------------------------------------------------------- */

static int vcpu_create(struct x86_cpu *cpu)
{
    int err = svm_clock_create(cpu->vcpu.vm); /* the rate is known from now on */
    uint8_t *pages = err ? NULL : seam_pages_alloc(VCPU_PAGES);
    struct svm_vcpu *s;

    if (!pages)
        return err ? err : ERR_NO_MEMORY;
    s = (struct svm_vcpu *)(void *)(pages + PAGE_SIZE);
    s->vmcb = (struct vmcb *)(void *)pages;
    s->vmcb_physical = hw_phys(s->vmcb);
    s->on_index = HW_CPUS;
    atomic_init(&s->inside, HW_CPUS);
    s->changed = ENGINE_STATE_ALL;
    s->todo = SVM_ATTEND | SVM_LOAD;
    s->has_next_rip = svm_vm_of(cpu->vcpu.vm)->features & SVM_NEXT_RIP;
    svm_forget_code(s);
    cpu->engine = s;
    svm_vmcb_init(cpu);
    return OK;
}

static void vcpu_destroy(struct x86_cpu *cpu)
{
    struct svm_vcpu *s = svm_vcpu_of(cpu);

    if (!s)
        return;
    seam_pages_free(s->vmcb, VCPU_PAGES);
    cpu->engine = NULL;
}

static size_t vcpu_stats(const struct x86_cpu *cpu, char *buf, size_t size)
{
    const struct svm_vcpu *s = svm_vcpu_of(cpu);

    return fmt(buf, size, "vCPU %u: %lu exits, %lu instructions emulated, %lu events injected\n", cpu->vcpu.id,
               s->exits, s->emulated, s->injected);
}

const struct engine engine_svm = {
    .name = "svm",
    .description = "the processor's own virtualization (AMD-V)",
    .probe = svm_probe,
    .adapt_profile = svm_adapt_profile,
    .vm_create = vm_create,
    .tsc_khz = svm_tsc_khz,
    .vm_destroy = vm_destroy,
    .vm_memory_changed = vm_memory_changed,
    .vm_clock_started = svm_clock_started,
    .vm_clock_lead = svm_clock_lead,
    .vcpu_create = vcpu_create,
    .vcpu_destroy = vcpu_destroy,
    .vcpu_run = svm_vcpu_run,
    .vcpu_kick = svm_vcpu_kick,
    .vcpu_get_state = svm_vcpu_get_state,
    .vcpu_set_state = svm_vcpu_set_state,
    .vcpu_state_changed = svm_vcpu_state_changed,
    .vcpu_stats = vcpu_stats,
};

const struct hw_engine hw_svm = {
    .engine = &engine_svm,
    .cpu_probe = svm_cpu_probe,
    .cpu_on = svm_cpu_on,
    .cpu_off = svm_cpu_off,
};
