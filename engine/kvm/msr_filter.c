/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * Which MSRs KVM answers by itself. Everything else comes out as an exit and is x86/msr.c's, which
 * faults what it does not know: so a guest sees the same MSRs under every engine, whatever the
 * host's KVM has learned since (bad-inputs C7).
 *
 * In the list is what KVM has to know to run a guest (EFER, SYSCALL and SYSENTER, bases, PAT, the
 * TSC and what belongs to the local APIC), its own paravirtual MSRs, and memory types, which
 * guests write by the dozen while they boot. x2APIC MSRs KVM lets no filter touch. Not so the wall
 * clock's: KVM would write the host's into the guest's memory, also whenever a state is set.
 *
 * IA32_SPEC_CTRL and IA32_PRED_CMD are KVM's if the level, as adapted to this host, has them.
 */
#include <string.h>

#include "engine/kvm/kvm_private.h"
#include "isa/x86.h"

enum { LOW_COUNT = 0x800, HIGH_COUNT = 0x200, KVM_COUNT = 16 };
#define HIGH_BASE 0xC0000000u
#define KVM_BASE  0x4B564D00u

/* table: first, last */
static const uint32_t kept[][2] = {
    {MSR_TSC, MSR_TSC},
    {MSR_APIC_BASE, MSR_APIC_BASE},
    {MSR_TSC_ADJUST, MSR_TSC_ADJUST},
    {MSR_MTRRCAP, MSR_MTRRCAP},
    {MSR_SYSENTER_CS, MSR_SYSENTER_EIP},
    {MSR_MTRR_PHYSBASE0, MSR_MTRR_PHYSBASE0 + 15},
    {MSR_MTRR_FIX64K, MSR_MTRR_FIX64K},
    {MSR_MTRR_FIX16K_80000, MSR_MTRR_FIX16K_A0000},
    {MSR_MTRR_FIX4K_C0000, MSR_MTRR_FIX4K_C0000 + 7},
    {MSR_PAT, MSR_PAT},
    {MSR_MTRR_DEF_TYPE, MSR_MTRR_DEF_TYPE},
    {MSR_TSC_DEADLINE, MSR_TSC_DEADLINE},
    {MSR_KVM_SYSTEM_TIME_NEW, MSR_KVM_SYSTEM_TIME_NEW},
    {MSR_KVM_STEAL_TIME, MSR_KVM_STEAL_TIME},
    {MSR_EFER, MSR_SFMASK},
    {MSR_FS_BASE, MSR_TSC_AUX},
};

struct window {
    uint32_t base, count;
    uint8_t *bits;
};

static void allow(const struct window *w, size_t windows, uint32_t index)
{
    for (size_t i = 0; i < windows; i++) {
        uint32_t n = index - w[i].base;

        if (index >= w[i].base && n < w[i].count)
            w[i].bits[n / 8] |= (uint8_t)(1u << n % 8);
    }
}

int kvm_set_msr_filter(const struct vm *vm, bool spec_ctrl)
{
    const struct kvm_vm *kvm = kvm_vm_of(vm);
    uint8_t low[LOW_COUNT / 8] = {0}, high[HIGH_COUNT / 8] = {0}, own[KVM_COUNT / 8] = {0};
    const struct window windows[] = {
        {0, LOW_COUNT, low}, {HIGH_BASE, HIGH_COUNT, high}, {KVM_BASE, KVM_COUNT, own}};
    struct kvm_msr_filter filter = {.flags = KVM_MSR_FILTER_DEFAULT_DENY};
    int result;

    for (size_t i = 0; i < ARRAY_SIZE(kept); i++) {
        for (uint32_t index = kept[i][0]; index <= kept[i][1]; index++)
            allow(windows, ARRAY_SIZE(windows), index);
    }
    if (spec_ctrl) {
        allow(windows, ARRAY_SIZE(windows), MSR_SPEC_CTRL);
        allow(windows, ARRAY_SIZE(windows), MSR_PRED_CMD);
    }
    for (size_t i = 0; i < ARRAY_SIZE(windows); i++) {
        filter.ranges[i] = (struct kvm_msr_filter_range){
            .flags = KVM_MSR_FILTER_READ | KVM_MSR_FILTER_WRITE,
            .nmsrs = windows[i].count,
            .base = windows[i].base,
            .bitmap = windows[i].bits,
        };
    }
    result = kvm_ioctl(kvm->fd, KVM_X86_SET_MSR_FILTER, &filter);
    return result < 0 ? kvm_err(result) : OK;
}
