/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * The processor's side: whether it has what is needed, its switch, and what each one keeps.
 *
 * Three pages for each CPU: the first is the processor's (VM_HSAVE_PA, 15.30.4), in the second VMSAVE has put the
 * host's segments and MSRs for VMLOAD to bring back, in the third lies struct svm_cpu. VM_HSAVE_PA is how they are
 * found.
 *
 * ASIDs (15.16). Each vCPU has one on the CPU where it runs, good in one generation. When all have been handed out
 * a new generation begins, with a flush of everything at whichever entry comes first. A vCPU that comes from
 * another CPU takes a new one: what this CPU may have kept under its old one is older than what the guest has done
 * to its page tables elsewhere. Without flushes by ASID (an old processor, or QEMU), a flush of a guest's
 * translations is a new ASID, too.
 *
 * Speculation (engine/speculation.h): an IBPB when another VM runs than did before; VERW and what is done to the stack
 * of return addresses are enter.S's.
 *
 * All on the CPU in question, interrupts off, so without locks.
 */
#include "core/fmt.h"
#include "core/mem.h"
#include "engine/speculation.h"
#include "engine/svm/svm_private.h"
#include "x86/level.h"

enum { HOST_PAGES = 3 };

#define CR0_WANTED     (X86_CR0_MP | X86_CR0_NE)
#define CR0_UNWANTED   (X86_CR0_EM | X86_CR0_TS)
#define CR4_WANTED     (X86_CR4_OSFXSR | X86_CR4_OSXMMEXCPT | X86_CR4_OSXSAVE)
#define TSC_RATIO_ONE  BIT(32)

/* --- probing ---------------------------------------------------------------------------------------- */

static uint32_t highest_extended_leaf(void)
{
    uint32_t out[4];

    svm_cpuid(0x80000000, 0, out);
    return out[0];
}

static const char *missing(void)
{
    uint32_t out[4];

    if (highest_extended_leaf() < 0x8000000A)
        return "this processor has no AMD-V";
    svm_cpuid(0x80000001, 0, out);
    if (!(out[2] & BIT(2)))
        return "this processor has no AMD-V";
    if (svm_read_msr(MSR_VM_CR) & VM_CR_SVMDIS)
        return "AMD-V is switched off: look for SVM in the firmware's set-up";
    svm_cpuid(0x8000000A, 0, out);
    if (!(out[3] & SVM_NESTED_PAGING))
        return "this processor's AMD-V has no nested paging";
    if (out[1] < 2)
        return "this processor's AMD-V has no ASIDs";
    svm_cpuid(1, 0, out);
    return out[2] & BIT(26) ? NULL : "this processor has no XSAVE";
}

/* table */
static const struct {
    uint32_t bit;
    const char *name;
} optional[] = {
    {SVM_NEXT_RIP, "next RIP"},
    {SVM_DECODE_ASSISTS, "decode assists"},
    {SVM_CLEAN_BITS, "VMCB clean bits"},
    {SVM_FLUSH_BY_ASID, "flushes by ASID"},
    {SVM_TSC_RATE, "TSC scaling"},
    {SVM_PAUSE_FILTER, "pause filter"},
};

int svm_cpu_probe(char *why, size_t why_size, char *notes, size_t notes_size)
{
    const char *reason = missing();
    uint32_t out[4];
    size_t used = 0;

    if (notes_size > 0)
        notes[0] = '\0';
    if (reason) {
        (void)fmt(why, why_size, "%s", reason);
        return ERR_UNSUPPORTED;
    }
    svm_cpuid(0x8000000A, 0, out);
    for (size_t i = 0; i < ARRAY_SIZE(optional); i++) {
        if (!(out[3] & optional[i].bit) && used < notes_size)
            used += fmt(notes + used, notes_size - used, "%s%s", used ? ", " : "AMD-V without ", optional[i].name);
    }
    return OK;
}

/* --- on and off --------------------------------------------------------------------------------------- */

static void set_control_registers(void)
{
    uint64_t value;

    __asm__ volatile("mov %%cr0, %0" : "=r"(value));
    value = (value & ~(uint64_t)CR0_UNWANTED) | CR0_WANTED;
    __asm__ volatile("mov %0, %%cr0" : : "r"(value) : "memory");
    __asm__ volatile("mov %%cr4, %0" : "=r"(value));
    __asm__ volatile("mov %0, %%cr4" : : "r"(value | CR4_WANTED) : "memory");
}

static struct svm_cpu *behind(uint8_t *pages)
{
    return (struct svm_cpu *)(void *)(pages + 2 * PAGE_SIZE);
}

static void init_cpu(struct svm_cpu *c, uint64_t host_vmcb)
{
    const struct speculation *plan = hw_speculation();
    uint32_t out[4];

    svm_cpuid(0x8000000A, 0, out);
    c->asid_count = out[1];
    c->asid_next = c->asid_count; /* the first one begins a generation */
    c->asid_generation = 1;
    c->flushes_by_asid = (out[3] & SVM_FLUSH_BY_ASID) != 0;
    c->tsc_ratio = TSC_RATIO_ONE;
    svm_write_msr(MSR_TSC_AUX, 0);
    c->has_ibpb = plan->ibpb;
    c->spec_ctrl = plan->spec_ctrl;
    c->enter_flags = (plan->verw ? SVM_ENTER_VERW : 0) | (plan->stuff_rsb ? SVM_ENTER_STUFF_RSB : 0);
    svm_cpuid(0xD, 0, out);
    c->xcr0 = out[0] & (X86_XCR0_X87 | X86_XCR0_SSE | X86_XCR0_AVX);
    svm_fpu_host(c);
    c->host_vmcb = host_vmcb;
    c->guest_ticks = hw_guest_ticks();
    __asm__ volatile("vmsave %%rax" : : "a"(host_vmcb) : "memory");
}

int svm_cpu_on(void)
{
    uint8_t *pages = seam_pages_alloc(HOST_PAGES);

    if (!pages)
        return ERR_NO_MEMORY;
    set_control_registers();
    svm_write_msr(MSR_EFER, svm_read_msr(MSR_EFER) | EFER_SVME);
    svm_write_msr(MSR_VM_HSAVE_PA, hw_phys(pages));
    init_cpu(behind(pages), hw_phys(pages) + PAGE_SIZE);
    return OK;
}

/* The pages stay: whoever is about to stop the machine frees nothing. */
void svm_cpu_off(void)
{
    if (!(svm_read_msr(MSR_EFER) & EFER_SVME))
        return;
    __asm__ volatile("stgi" : : : "memory");
    svm_write_msr(MSR_EFER, svm_read_msr(MSR_EFER) & ~EFER_SVME);
}

struct svm_cpu *svm_this_cpu(void)
{
    return behind(hw_virt(svm_read_msr(MSR_VM_HSAVE_PA)));
}

/* --- a vCPU comes ------------------------------------------------------------------------------------- */

static void take_asid(struct svm_vcpu *s)
{
    struct svm_cpu *c = s->on;

    if (c->asid_next >= c->asid_count) {
        c->asid_generation++;
        c->asid_next = 1; /* 0 is the host's */
        c->flush_all = true;
    }
    s->vmcb->control.tlb_control = c->flush_all ? TLB_FLUSH_ALL : TLB_NOTHING;
    s->vmcb->control.asid = c->asid_next++;
    s->asid_generation = c->asid_generation;
    svm_dirty(s, CLEAN_ASID);
}

static void come_from_elsewhere(struct svm_vcpu *s)
{
    s->on_index = hw_cpu();
    s->on = svm_this_cpu();
    s->asid_generation = 0;
    s->vmcb->control.clean = 0;
}

static void set_cached_msr(uint32_t index, uint64_t *cached, uint64_t value)
{
    if (*cached != value)
        svm_write_msr(index, value);
    *cached = value;
}

void svm_switch_in(struct x86_cpu *cpu)
{
    const struct svm_vm *vm = svm_vm_of(cpu->vcpu.vm);
    struct svm_vcpu *s = svm_vcpu_of(cpu);

    if (s->on_index != hw_cpu())
        come_from_elsewhere(s);
    if (s->asid_generation != s->on->asid_generation)
        take_asid(s);
    if (s->on->last_vm != cpu->vcpu.vm && s->on->has_ibpb)
        svm_write_msr(MSR_PRED_CMD, X86_PRED_CMD_IBPB);
    s->on->last_vm = cpu->vcpu.vm;
    set_cached_msr(MSR_TSC_AUX, &s->on->tsc_aux, cpu->msr.tsc_aux);
    set_cached_msr(MSR_AMD_TSC_RATIO, &s->on->tsc_ratio, vm->tsc_ratio);
    s->on->last = s;
    s->todo &= ~(uint32_t)SVM_SWITCH;
}

void svm_flush_translations(struct svm_vcpu *s)
{
    s->todo &= ~(uint32_t)SVM_FLUSH;
    if (s->vmcb->control.tlb_control != TLB_NOTHING)
        return; /* they go already */
    if (s->on->flushes_by_asid)
        s->vmcb->control.tlb_control = TLB_FLUSH_GUEST;
    else
        take_asid(s);
}
