/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * What of the guest's stays in the processor while its thread has it: vector registers, x87, XCR0, and breakpoints.
 *
 * They stay in the processor from exit to exit: the hypervisor has no use for them. They move to struct x86_cpu
 * when the thread is switched out (hw_on_switch), before the vCPU counts as resting (others may then read them),
 * when somebody asks for them, and before an instruction that uses them is emulated, since x86/native.c executes
 * it on the processor's own.
 *
 * While no guest's are there, XCR0 has all components that Lodge knows, x87 is empty and MXCSR as at reset, on
 * every CPU: an instruction that is being emulated may find itself on another one, and after another guest,
 * when it has waited for a device.
 *
 * XCR0 is the level's mask while registers are loaded, so that all components come, and the guest's while it
 * runs. It is read back with them: XSETBV exits, but QEMU's TCG lets a guest execute it all the same
 * (docs/rig.md).
 *
 * AMD's XRSTOR leaves FOP, FIP and FDP of the last owner where no x87 exception is pending (APM 5, FXRSTOR), unless
 * CPUID 80000008H EBX[2] says otherwise. They would tell one guest about another: they are overwritten first.
 *
 * DR0 to DR3 VMRUN does not switch, and the hypervisor has no use for them; DR7, without which they do nothing, it
 * does. A guest's first access to a debug register exits; then they are loaded, and it accesses them as it likes
 * until its thread is switched out.
 */
#include "core/mem.h"
#include "engine/svm/svm_private.h"
#include "x86/fpu.h"
#include "x86/level.h"

static void set_xcr0(uint64_t value)
{
    __asm__ volatile("xsetbv" : : "a"((uint32_t)value), "d"((uint32_t)(value >> 32)), "c"(0) : "memory");
}

static uint64_t get_xcr0(void)
{
    uint32_t low, high;

    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return (uint64_t)high << 32 | low;
}

/* An x87 load sets them, to addresses of ours that say nothing: a constant's. */
static void overwrite_pointers(void)
{
    static const uint32_t zero;
    uint16_t status;

    __asm__ volatile("fnstsw %0" : "=a"(status));
    if (status & 0x80) /* ES: the load would raise it */
        __asm__ volatile("fnclex");
    __asm__ volatile("emms\n\tfildl %0" : : "m"(zero));
}

/* The thread is switched out: all that is in the processor alone. */
static void leave(void *owner)
{
    svm_leave(owner);
}

void svm_fpu_load(struct x86_cpu *cpu)
{
    struct svm_vcpu *s = svm_vcpu_of(cpu);
    uint64_t mask = cpu->level->xcr0_mask;

    set_xcr0(mask);
    if (svm_vm_of(cpu->vcpu.vm)->fxsave_leak)
        overwrite_pointers();
    cpu->fpu.xstate_bv = mask;
    __asm__ volatile("xrstor64 %0" : : "m"(cpu->fpu), "a"((uint32_t)mask), "d"((uint32_t)(mask >> 32)));
    cpu->fpu.xstate_bv = 0;
    set_xcr0(cpu->xcr0);
    s->todo &= ~(uint32_t)SVM_LOAD;
    hw_on_switch(leave, cpu);
}

/* What compiled code, and x86/native.c, may expect (System V ABI). */
static void set_defaults(void)
{
    static const uint32_t mxcsr = X86_MXCSR_RESET;

    __asm__ volatile("fninit\n\tldmxcsr %0" : : "m"(mxcsr));
}

void svm_fpu_host(const struct svm_cpu *c)
{
    set_xcr0(c->xcr0);
    set_defaults();
}

void svm_fpu_store(struct x86_cpu *cpu)
{
    struct svm_vcpu *s = svm_vcpu_of(cpu);
    uint64_t mask = cpu->level->xcr0_mask;

    if (s->todo & SVM_LOAD)
        return;
    cpu->xcr0 = get_xcr0() & mask;
    set_xcr0(s->on->xcr0);
    cpu->fpu.xstate_bv = 0;
    __asm__ volatile("xsave64 %0" : "+m"(cpu->fpu) : "a"((uint32_t)mask), "d"((uint32_t)(mask >> 32)));
    x86_fpu_fill_in(&cpu->fpu);
    cpu->fpu.xstate_bv = 0;
    set_defaults();
    s->todo |= SVM_LOAD;
    hw_on_switch(NULL, NULL);
}

/* --- DR0 to DR3 -------------------------------------------------------------------------------------------- */

void svm_debug_load(struct x86_cpu *cpu)
{
    struct svm_vcpu *s = svm_vcpu_of(cpu);

    __asm__ volatile("mov %0, %%dr0\n\tmov %1, %%dr1\n\tmov %2, %%dr2\n\tmov %3, %%dr3"
                     :
                     : "r"(cpu->dr[0]), "r"(cpu->dr[1]), "r"(cpu->dr[2]), "r"(cpu->dr[3]));
    svm_intercept(s, VMCB_DR, VMCB_DR_ALL, false);
    s->debug_here = true;
}

void svm_debug_fetch(struct x86_cpu *cpu)
{
    __asm__ volatile("mov %%dr0, %0\n\tmov %%dr1, %1\n\tmov %%dr2, %2\n\tmov %%dr3, %3"
                     : "=r"(cpu->dr[0]), "=r"(cpu->dr[1]), "=r"(cpu->dr[2]), "=r"(cpu->dr[3]));
}

void svm_debug_store(struct x86_cpu *cpu)
{
    struct svm_vcpu *s = svm_vcpu_of(cpu);

    if (!s->debug_here)
        return;
    if (!(s->changed & ENGINE_STATE_DEBUG)) /* else the emulator has written one since */
        svm_debug_fetch(cpu);
    svm_intercept(s, VMCB_DR, VMCB_DR_ALL, true);
    s->debug_here = false;
}

void svm_leave(struct x86_cpu *cpu)
{
    svm_debug_store(cpu);
    svm_fpu_store(cpu);
}
