/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * A VM in KVM: what is switched on, and its memory.
 *
 * Intel's processors without "unrestricted guest" run real mode from a task and a page table of
 * KVM's own, for which it wants four pages that the guest has no use for: they lie in the hole
 * below 4 GiB, right under the firmware's place.
 */
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <unistd.h>

#include "core/err.h"
#include "core/mem.h"
#include "engine/kvm/kvm_private.h"
#include "x86/lapic.h"

#define IDENTITY_MAP_ADDRESS UINT64_C(0xFEFFC000)
#define TSS_ADDRESS          0xFEFFD000u

/* --- memory ---------------------------------------------------------------------------------- */

int kvm_set_slot(const struct kvm_vm *kvm, uint32_t slot, const struct guest_mem_slot *m)
{
    struct kvm_userspace_memory_region region = {.slot = slot};

    if (m) {
        region.guest_phys_addr = m->base;
        region.memory_size = m->size;
        region.userspace_addr = (uintptr_t)m->host;
        region.flags = (m->writable ? 0 : KVM_MEM_READONLY) |
                       (kvm->tracks_dirty ? KVM_MEM_LOG_DIRTY_PAGES : 0);
    }
    return kvm_ioctl(kvm->fd, KVM_SET_USER_MEMORY_REGION, &region);
}

/* Everything anew: slots change when a machine is made, and hardly ever again. */
int kvm_vm_memory_changed(struct vm *vm)
{
    struct kvm_vm *kvm = kvm_vm_of(vm);

    while (kvm->slots > 0)
        (void)kvm_set_slot(kvm, --kvm->slots, NULL);
    for (; kvm->slots < vm->mem.count; kvm->slots++) {
        int result = kvm_set_slot(kvm, kvm->slots, &vm->mem.slot[kvm->slots]);

        if (result < 0)
            return kvm_trouble(vm->engine_why, sizeof(vm->engine_why), "take the guest's memory",
                               result);
    }
    return OK;
}

/* --- making ---------------------------------------------------------------------------------- */

static bool has(const struct kvm_vm *kvm, unsigned long capability)
{
    return kvm_ioctl_value(kvm->fd, KVM_CHECK_EXTENSION, capability) > 0;
}

static int enable(const struct kvm_vm *kvm, uint32_t capability, uint64_t argument)
{
    struct kvm_enable_cap cap = {.cap = capability, .args = {argument}};

    return kvm_ioctl(kvm->fd, KVM_ENABLE_CAP, &cap);
}

/* A kick is a signal that does nothing but end KVM_RUN. */
static void kicked(int signal)
{
    (void)signal;
}

/* What a guest of ours could see of where KVM departs from the manuals unless it is told not to: an
 * INIT that leaves LINT0 open, MONITOR and MWAIT without effect where they are undefined, a local
 * APIC in memory when it is in x2APIC mode. Hosts that know less of this are taken as they are. */
static void disable_quirks(const struct kvm_vm *kvm)
{
    const int unwanted = KVM_X86_QUIRK_LINT0_REENABLED | KVM_X86_QUIRK_LAPIC_MMIO_HOLE |
                         KVM_X86_QUIRK_OUT_7E_INC_RIP | KVM_X86_QUIRK_MWAIT_NEVER_UD_FAULTS;
    int known = kvm_ioctl_value(kvm->fd, KVM_CHECK_EXTENSION, KVM_CAP_DISABLE_QUIRKS2);

    if (known > 0) /* Linux 5.18 */
        (void)enable(kvm, KVM_CAP_DISABLE_QUIRKS2, (uint64_t)(known & unwanted));
    else
        (void)enable(kvm, KVM_CAP_DISABLE_QUIRKS, (uint64_t)unwanted);
}

/* Without these a VM runs too, so they may be missing. */
static void switch_on_optional(struct kvm_vm *kvm)
{
    disable_quirks(kvm);
    if (has(kvm, KVM_CAP_PMU_CAPABILITY)) /* no level has one; AMD's would be there all the same */
        (void)enable(kvm, KVM_CAP_PMU_CAPABILITY, KVM_PMU_CAP_DISABLE);
    if (has(kvm, KVM_CAP_X86_NOTIFY_VMEXIT)) /* a guest can keep a processor from interrupts */
        (void)enable(kvm, KVM_CAP_X86_NOTIFY_VMEXIT, KVM_X86_NOTIFY_VMEXIT_ENABLED);
    kvm->has_tsc_offset = has(kvm, KVM_CAP_VCPU_ATTRIBUTES);
    kvm->has_sregs2 = has(kvm, KVM_CAP_SREGS2);
}

static int switch_on(struct kvm_vm *kvm)
{
    uint64_t identity = IDENTITY_MAP_ADDRESS;
    int result = kvm_ioctl_value(kvm->fd, KVM_SET_TSS_ADDR, TSS_ADDRESS);

    if (result >= 0)
        result = kvm_ioctl(kvm->fd, KVM_SET_IDENTITY_MAP_ADDR, &identity);
    if (result >= 0)
        result = enable(kvm, KVM_CAP_SPLIT_IRQCHIP, KVM_LEVEL_ROUTES);
    if (result >= 0)
        result = enable(kvm, KVM_CAP_X2APIC_API, KVM_X2APIC_API_USE_32BIT_IDS);
    if (result >= 0)
        result = enable(kvm, KVM_CAP_X86_USER_SPACE_MSR, KVM_MSR_EXIT_REASON_FILTER);
    if (result >= 0)
        result = enable(kvm, KVM_CAP_EXCEPTION_PAYLOAD, 1);
    /* KVM_CAP_EXIT_ON_EMULATION_FAILURE stays off: with it, a program in the guest could end its
     * VM by an instruction that KVM's emulator lacks (SYSENTER in 64-bit mode on AMD's). Without,
     * it gets #UD, and only a failure in ring 0 comes out. */
    if (result >= 0)
        switch_on_optional(kvm);
    return result;
}

static int open_vm(struct vm *vm, struct kvm_vm *kvm)
{
    int device = kvm_open(vm->engine_why, sizeof(vm->engine_why));
    int size;

    if (device < 0)
        return kvm_err(device);
    kvm->fd = kvm_ioctl_value(device, KVM_CREATE_VM, 0);
    size = kvm_ioctl_value(device, KVM_GET_VCPU_MMAP_SIZE, 0);
    close(device);
    if (kvm->fd < 0)
        return kvm_trouble(vm->engine_why, sizeof(vm->engine_why), "make VMs", kvm->fd);
    if (size < (int)sizeof(struct kvm_run)) {
        close(kvm->fd);
        return ERR_UNSUPPORTED;
    }
    kvm->run_size = (size_t)size;
    return OK;
}

static int make_first_vcpu(struct vm *vm, struct kvm_vm *kvm)
{
    int khz;

    kvm->first_vcpu = kvm_ioctl_value(kvm->fd, KVM_CREATE_VCPU, 0);
    if (kvm->first_vcpu < 0)
        return kvm_trouble(vm->engine_why, sizeof(vm->engine_why), "make vCPUs", kvm->first_vcpu);
    khz = kvm_ioctl_value(kvm->first_vcpu, KVM_GET_TSC_KHZ, 0);
    kvm->host_tsc_khz = khz > 0 ? (uint32_t)khz : 0;
    return khz > 0 ? OK
                   : kvm_trouble(vm->engine_why, sizeof(vm->engine_why), "tell the TSC's rate",
                                 khz < 0 ? khz : -EINVAL);
}

int kvm_vm_create(struct vm *vm)
{
    struct sigaction action = {.sa_handler = kicked};
    struct kvm_vm *kvm = calloc(1, sizeof(*kvm));
    int result;
    int err;

    if (!kvm)
        return ERR_NO_MEMORY;
    kvm->pid = getpid();
    lock_init(&kvm->route_lock, LOCK_RANK_APIC);
    err = open_vm(vm, kvm);
    if (err) {
        free(kvm);
        return err;
    }
    vm->engine = kvm;
    kvm->first_vcpu = -1;
    result = switch_on(kvm);
    if (result < 0)
        err = kvm_trouble(vm->engine_why, sizeof(vm->engine_why), "switch on what Lodge needs",
                          result);
    if (!err)
        err = kvm_vm_memory_changed(vm);
    if (!err)
        err = make_first_vcpu(vm, kvm);
    if (!err && sigaction(KVM_KICK_SIGNAL, &action, NULL) != 0)
        err = ERR_UNSUPPORTED;
    if (err)
        kvm_vm_destroy(vm);
    return err;
}

void kvm_vm_destroy(struct vm *vm)
{
    struct kvm_vm *kvm = kvm_vm_of(vm);

    if (!kvm)
        return;
    if (kvm->first_vcpu >= 0)
        close(kvm->first_vcpu);
    close(kvm->fd);
    free(kvm);
    vm->engine = NULL;
}
