/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * What VT-x does not switch and the hypervisor has no use for: vector and x87 registers, XCR0, SYSCALL's MSRs,
 * KERNEL_GS_BASE, TSC_AUX. They stay in the CPU from exit to exit, and are saved when the thread leaves it
 * (vmx_unload) and before the emulator runs an instruction, whose native fragments use the host's vector
 * registers (x86/native.c).
 *
 * XSAVE saves what both XCR0 and its mask name, so XCR0 is set to all that the level has before it, and to the
 * guest's after XRSTOR: registers that the guest has switched off keep their contents, as on a processor of its
 * own. Levels without AVX use FXSAVE where the processor has no XSAVE: what lies beyond those registers no
 * guest of such a level can see.
 *
 * While no guest's registers are in a CPU, its XCR0 has all that Lodge knows, and x87 and MXCSR are as C finds them: an
 * instruction that is emulated may be interrupted (it waits for a device's lock) and go on where another vCPU has just been
 * emulated.
 *
 * Without CR0.TS there is nothing lazy about it: a register of another VM is never in the CPU while a guest runs.
 *
 * And what stands between VMs on one CPU: vmx_switch_barriers.
 */
#include "engine/speculation.h"
#include "engine/vmx/vmx_private.h"
#include "x86/level.h"

/* --- vector registers and XCR0 ----------------------------------------------------------------- */

static void set_xcr0(uint64_t value)
{
    if (vmx_xgetbv() != value)
        vmx_xsetbv(value);
}

uint64_t vmx_xcr0_known(void)
{
    uint32_t r[4];

    vmx_cpuid(0xD, 0, r);
    return r[0] & (X86_XCR0_X87 | X86_XCR0_SSE | X86_XCR0_AVX);
}

void vmx_fpu_host(const struct vmx_cpu *c)
{
    if (c->xcr0)
        set_xcr0(c->xcr0);
    vmx_fninit(X86_MXCSR_RESET);
}

/* XSAVE writes every component that it is asked for, also one in its initial configuration (SDM 1, 13.7). */
void vmx_fpu_fetch(struct x86_cpu *cpu)
{
    const struct vmx_vcpu *v = vmx_vcpu_of(cpu);
    uint64_t mask = v->fpu_mask;

    if (v->has_xsave) {
        set_xcr0(mask);
        vmx_xsave(&cpu->fpu, mask);
    } else {
        vmx_fxsave(&cpu->fpu);
    }
    vmx_fpu_host(vmx_this_cpu());
}

/* The header is not state (x86/cpu.h): all components are in use. MXCSR has no reserved bit set (x86/cpu_state.c). */
void vmx_fpu_load(struct x86_cpu *cpu)
{
    const struct vmx_vcpu *v = vmx_vcpu_of(cpu);
    uint64_t mask = v->fpu_mask;

    if (!v->has_xsave) {
        vmx_fxrstor(&cpu->fpu);
        return;
    }
    cpu->fpu.xstate_bv = mask;
    cpu->fpu.xcomp_bv = 0;
    memset(cpu->fpu.reserved2, 0, sizeof(cpu->fpu.reserved2));
    set_xcr0(mask);
    vmx_xrstor(&cpu->fpu, mask);
    set_xcr0(cpu->xcr0);
}

void vmx_xcr0_changed(struct x86_cpu *cpu)
{
    const struct vmx_vcpu *v = vmx_vcpu_of(cpu);

    if (v->fpu_live && v->has_xsave)
        set_xcr0(cpu->xcr0);
}

/* --- MSRs -------------------------------------------------------------------------------------- */

void vmx_msr_fetch(struct x86_cpu *cpu)
{
    cpu->msr.star = vmx_rdmsr(MSR_STAR);
    cpu->msr.lstar = vmx_rdmsr(MSR_LSTAR);
    cpu->msr.cstar = vmx_rdmsr(MSR_CSTAR);
    cpu->msr.sfmask = vmx_rdmsr(MSR_SFMASK) & UINT32_MAX;
    cpu->msr.kernel_gs_base = vmx_rdmsr(MSR_KERNEL_GS_BASE);
    if (vmx_this_cpu()->caps.rdtscp)
        cpu->msr.tsc_aux = vmx_rdmsr(MSR_TSC_AUX) & UINT32_MAX;
}

/* All values are such as WRMSR takes (x86/msr.c; x86/cpu_state.c, of those that the level has not): none faults. */
void vmx_msr_load(const struct x86_cpu *cpu)
{
    vmx_wrmsr(MSR_STAR, cpu->msr.star);
    vmx_wrmsr(MSR_LSTAR, cpu->msr.lstar);
    vmx_wrmsr(MSR_CSTAR, cpu->msr.cstar);
    vmx_wrmsr(MSR_SFMASK, cpu->msr.sfmask);
    vmx_wrmsr(MSR_KERNEL_GS_BASE, cpu->msr.kernel_gs_base);
    if (vmx_this_cpu()->caps.rdtscp)
        vmx_wrmsr(MSR_TSC_AUX, cpu->msr.tsc_aux);
}

/* --- barriers ---------------------------------------------------------------------------------- */

/* Another guest comes to this CPU: its branches are not to be predicted by what the last one has trained (IBPB). And
 * whatever another thread left in the L1 cache is not to be read through a table entry without P (L1TF; SDM 4,
 * IA32_FLUSH_CMD). Buffers are overwritten at each entry (VERW, enter.S). */
void vmx_switch_barriers(bool other_vm)
{
    enum { L1D = 1 };
    const struct speculation *plan = hw_speculation();

    if (plan->ibpb && other_vm)
        vmx_wrmsr(MSR_PRED_CMD, X86_PRED_CMD_IBPB);
    if (plan->flush_l1d)
        vmx_wrmsr(MSR_FLUSH_CMD, L1D);
}
