/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * The guest's TSC against the VM clock.
 *
 * All time of a VM derives from its VM clock (x86/msr.c: TSC = VM clock * rate + tsc_offset). The guest reads
 * the processor's TSC plus VMCS_TSC_OFFSET, which goes by itself. When the VM clock starts, the distance
 * between the two is taken at one moment of it, the same for all vCPUs (tsc_base), so their TSCs agree to the
 * tick; the seam says what the host's TSC was at that moment, so nothing has to be sampled. When the clock
 * stops, what the guest may have seen beyond the formula (rates are rounded to kHz) is added to it: no clock of
 * the guest goes back, under this engine or the next.
 *
 * kvm-clock is by the same TSC (x86/kvm_pv.c), and needs no care.
 *
 * Not done: TSC scaling. A definition that names another rate than the host's is refused (vmx.c).
 */
#include "core/err.h"
#include "engine/vmx/vmx_private.h"
#include "x86/msr.h"

/* The formula's TSC at a time of the VM clock, for tsc_offset 0. */
static uint64_t ticks_at(const struct vm *vm, uint64_t clock_ns)
{
    return scale_u64(clock_ns, x86_tsc_ratio(vm), UINT64_C(1) << 32);
}

uint64_t vmx_tsc_offset(const struct x86_cpu *cpu)
{
    return vmx_vm_of(cpu->vcpu.vm)->tsc_base + cpu->tsc_offset;
}

/* All vCPUs are at rest: their VMCSs get the new offset at their next entry. */
int vmx_vm_clock_started(struct vm *vm)
{
    uint64_t now = seam_time_ns();
    uint64_t clock_ns = now - atomic_load(&vm->clock.offset);

    vmx_vm_of(vm)->tsc_base = ticks_at(vm, clock_ns) - hw_tsc_at(now);
    for (uint32_t id = 0; id < vm->vcpu_count; id++)
        vmx_changed(x86_cpu_of(vm->vcpu[id]), ENGINE_STATE_CLOCK);
    return OK;
}

uint64_t vmx_vm_clock_lead(struct vm *vm)
{
    uint64_t now = seam_time_ns();
    uint64_t formula = ticks_at(vm, now - atomic_load(&vm->clock.offset));
    uint64_t seen = hw_tsc_at(now) + vmx_vm_of(vm)->tsc_base;
    int64_t ahead = (int64_t)(seen - formula);

    if (ahead <= 0)
        return 0;
    return scale_u64((uint64_t)ahead, UINT64_C(1) << 32, x86_tsc_ratio(vm)) + 1;
}
