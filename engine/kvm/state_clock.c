/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * Time: the TSC, TSC_ADJUST, KVM's clock, and the local APIC, whose timer is a point in time.
 *
 * All time of a VM derives from its VM clock (x86/msr.c: TSC = VM clock * rate + tsc_offset). KVM
 * has a TSC and a clock that run by themselves, so they are set to what the VM clock says at the
 * moment of setting, and tsc_offset is computed back from the TSC when state is fetched. The VM
 * clock is read first and the TSC after it: what passes in between can only move the guest's time
 * forward.
 *
 * Several vCPUs. Each is set by the same formula at a slightly different time; KVM takes writes of
 * the TSC that agree to within a second for an attempt to set all vCPUs alike, and gives them the
 * same offset to the tick. That works from Linux 5.10 on, where the attribute that would set an
 * offset itself (KVM_VCPU_TSC_OFFSET, 5.16) does not exist.
 *
 * TSC_ADJUST is set after the TSC: KVM, like a processor, lets a guest's write of one move the
 * other, but not the host's.
 */
#include "core/err.h"
#include "engine/kvm/kvm_private.h"
#include "isa/x86.h"
#include "x86/lapic.h"
#include "x86/msr.h"

int kvm_get_clock(struct x86_cpu *cpu)
{
    uint64_t before = x86_tsc(cpu) - cpu->tsc_offset; /* the VM clock in ticks */
    uint64_t tsc;
    int err = kvm_get_msr(cpu, MSR_TSC, &tsc);

    if (!err)
        err = kvm_get_msr(cpu, MSR_TSC_ADJUST, &cpu->msr.tsc_adjust);
    if (!err)
        cpu->tsc_offset = tsc - before;
    return err;
}

/* KVM's clock is the VM's, not a vCPU's: set with the boot processor's. */
int kvm_set_clock(const struct x86_cpu *cpu)
{
    struct kvm_clock_data clock = {.clock = vm_clock_ns(cpu->vcpu.vm)};
    int err;

    if (cpu->vcpu.id == 0 && kvm_ioctl(kvm_vm_of(cpu->vcpu.vm)->fd, KVM_SET_CLOCK, &clock) < 0)
        return ERR_UNSUPPORTED;
    err = kvm_set_msr(cpu, MSR_TSC, x86_tsc(cpu));
    if (!err)
        err = kvm_set_msr(cpu, MSR_TSC_ADJUST, cpu->msr.tsc_adjust);
    if (!err && cpu->msr.kvm_system_time & 1) /* time stood still: no soft lockup is to be seen */
        (void)kvm_ioctl_value(kvm_vcpu_of(cpu)->fd, KVM_KVMCLOCK_CTRL, 0);
    return err;
}

int kvm_get_apic(struct x86_cpu *cpu, uint64_t apic_base)
{
    struct kvm_lapic_state state;
    uint64_t deadline = 0;
    int fd = kvm_vcpu_of(cpu)->fd;

    _Static_assert(sizeof(state) == LAPIC_PAGE_SIZE, "the page's used part");
    if (kvm_ioctl(fd, KVM_GET_LAPIC, &state) < 0 ||
        kvm_get_msr(cpu, MSR_TSC_DEADLINE, &deadline) != OK)
        return ERR_UNSUPPORTED;
    lapic_set_page(cpu, (const uint8_t *)state.regs, apic_base, deadline);
    return OK;
}

int kvm_set_apic(const struct x86_cpu *cpu)
{
    struct kvm_lapic_state state;
    uint64_t deadline = lapic_get_tsc_deadline(cpu);

    lapic_get_page(cpu, (uint8_t *)state.regs);
    if (kvm_ioctl(kvm_vcpu_of(cpu)->fd, KVM_SET_LAPIC, &state) < 0)
        return ERR_UNSUPPORTED;
    return deadline ? kvm_set_msr(cpu, MSR_TSC_DEADLINE, deadline) : OK;
}
