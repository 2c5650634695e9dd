/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * Time of a vCPU: the TSC's offset and TSC_ADJUST, and the local APIC, whose timer is a point in
 * time. clock.c has the VM's side, which sets the TSC itself.
 *
 * TSC_ADJUST is set by itself: KVM, like a processor, lets a guest's write of TSC or TSC_ADJUST
 * move the other, but not the host's. So the guest's writes are seen there, and the distance
 * between tsc_offset and TSC_ADJUST stays what it was when the TSC was set.
 */
#include "core/err.h"
#include "engine/kvm/kvm_private.h"
#include "isa/x86.h"
#include "x86/lapic.h"

int kvm_get_clock(struct x86_cpu *cpu)
{
    int err = kvm_get_msr(cpu, MSR_TSC_ADJUST, &cpu->msr.tsc_adjust);

    if (!err)
        cpu->tsc_offset = kvm_vcpu_of(cpu)->tsc_skew + cpu->msr.tsc_adjust;
    return err;
}

int kvm_set_clock(const struct x86_cpu *cpu)
{
    uint64_t skew = cpu->tsc_offset - cpu->msr.tsc_adjust;
    int err = kvm_set_msr(cpu, MSR_TSC_ADJUST, cpu->msr.tsc_adjust);

    if (!err && skew != kvm_vcpu_of(cpu)->tsc_skew) /* set while the VM clock runs */
        err = kvm_set_tsc(cpu);
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

/* Twice: KVM clears the initial count when the timer's mode changes from or to TSC-deadline, also
 * if what it changes to came with a count. The second time the mode is the same. */
int kvm_set_apic(const struct x86_cpu *cpu)
{
    struct kvm_lapic_state state;
    uint64_t deadline = lapic_get_tsc_deadline(cpu);

    for (int i = 0; i < 2; i++) {
        lapic_get_page(cpu, (uint8_t *)state.regs);
        if (kvm_ioctl(kvm_vcpu_of(cpu)->fd, KVM_SET_LAPIC, &state) < 0)
            return ERR_UNSUPPORTED;
    }
    return kvm_set_msr(cpu, MSR_TSC_DEADLINE, deadline); /* 0: there may be an old one */
}
