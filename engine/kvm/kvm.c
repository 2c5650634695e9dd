/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * The kvm engine: guest code runs on the processor's own virtualization (VT-x, AMD-V) through
 * Linux's KVM, API version 12, from Linux 5.10 on.
 *
 * What is whose. KVM has the processors and their local APICs, since those are what hardware
 * accelerates and what inter-processor interrupts need close by. All else is ours, as under every
 * engine: I/O APIC, 8259, 8254 and devices (KVM's "split irqchip"), CPUID and MSRs by the level's
 * tables, exits by machine/exits.c. So there is one model of each device, and no conversion
 * between two. An MSR that KVM has no business with never reaches its code: a filter lets through
 * a list and hands the rest to x86/msr.c, which faults what it does not know.
 *
 * Where the registers are. In the kernel, while the vCPU runs. struct x86_cpu is brought up to date
 * by vcpu_get_state, by whoever has the VM at rest or the vCPU's own thread, and is taken over by
 * vcpu_set_state: that only notes which groups are newer there, and the next entry hands them over,
 * so that nothing is moved twice. Exits look at no registers: KVM decodes the access.
 *
 * Halting is done in the kernel, which can wake a vCPU for its APIC's timer without us.
 *
 * Coalesced I/O is not used. Of what there is it could serve the 16550's data port: KVM would keep the
 * bytes and spare an exit to us, 1400 of some 4100 instructions (docs/kvm.md). But drivers that print
 * without interrupts read LSR before each byte, which is an exit anyway; those with interrupts would
 * wait for one that only we can raise; a byte would stay where it is while the vCPU halts in the
 * kernel; and the port is the divisor latch's, too. Where waking somebody was the cost of a byte, it
 * is saved behind the device (hosted/outstream.c). Doorbells of devices are for ioeventfd.
 *
 * Not done: SMM (KVM cannot be kept from it: a guest that sends an SMI ends there); nested
 * virtualization, Hyper-V's and Xen's paravirtual interfaces: off.
 */
#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "core/err.h"
#include "core/fmt.h"
#include "engine/kvm/kvm_private.h"
#include "x86/level.h"
#include "x86/msr.h"

int kvm_ioctl(int fd, unsigned long request, void *argument)
{
    int result;

    do
        result = ioctl(fd, KVM_REQUEST(request), argument);
    while (result < 0 && errno == EINTR);
    return result < 0 ? -errno : result;
}

int kvm_ioctl_value(int fd, unsigned long request, unsigned long value)
{
    int result;

    do
        result = ioctl(fd, KVM_REQUEST(request), value);
    while (result < 0 && errno == EINTR);
    return result < 0 ? -errno : result;
}

/* The guest's TSC runs at the rate that was promised: at the host's own if that is close enough
 * (docs/machine.md: 250 ppm), else by scaling, if the processor can. */
static int set_rate(const struct x86_cpu *cpu)
{
    const struct kvm_vm *kvm = kvm_vm_of(cpu->vcpu.vm);
    int64_t host = kvm->host_tsc_khz, wanted = x86_tsc_khz(cpu->vcpu.vm);
    int64_t apart = host < wanted ? wanted - host : host - wanted;
    int result;

    if (apart * 4000 <= host)
        return OK;
    if (kvm_ioctl_value(kvm->fd, KVM_CHECK_EXTENSION, KVM_CAP_TSC_CONTROL) <= 0) {
        (void)fmt(cpu->vcpu.vm->engine_why, VM_ENGINE_WHY,
                  "this host's TSC runs at %u kHz and cannot be scaled to the %u kHz of the "
                  "definition: change or leave out tsc_khz",
                  kvm->host_tsc_khz, x86_tsc_khz(cpu->vcpu.vm));
        return ERR_UNSUPPORTED;
    }
    result = kvm_ioctl_value(kvm_vcpu_of(cpu)->fd, KVM_SET_TSC_KHZ, (unsigned long)wanted);
    return result < 0
               ? kvm_trouble(cpu->vcpu.vm->engine_why, VM_ENGINE_WHY, "take the TSC's rate", result)
               : OK;
}

static uint32_t host_tsc_khz(const struct vm *vm)
{
    return kvm_vm_of(vm)->host_tsc_khz;
}

static void adapt_profile(struct x86_level *level)
{
    char why[VM_ENGINE_WHY];
    int device = kvm_open(why, sizeof(why));

    if (device < 0)
        return; /* vm_create will say so */
    kvm_adapt_profile(device, level);
    close(device);
}

static void vcpu_destroy(struct x86_cpu *cpu)
{
    struct kvm_vcpu *k = kvm_vcpu_of(cpu);

    if (!k)
        return;
    munmap(k->run, kvm_vm_of(cpu->vcpu.vm)->run_size);
    close(k->fd);
    free(k);
    cpu->engine = NULL;
}

/* Else KVM answers hypercalls that the level's leaves do not offer. */
static void enforce_paravirtual_leaves(const struct kvm_vcpu *k)
{
    struct kvm_enable_cap cap = {.cap = KVM_CAP_ENFORCE_PV_FEATURE_CPUID, .args = {1}};

    (void)kvm_ioctl(k->fd, KVM_ENABLE_CAP, &cap);
}

static int vcpu_create(struct x86_cpu *cpu)
{
    struct kvm_vm *kvm = kvm_vm_of(cpu->vcpu.vm);
    struct kvm_vcpu *k = calloc(1, sizeof(*k));
    void *run;
    int err;

    if (!k)
        return ERR_NO_MEMORY;
    if (cpu->vcpu.id == 0 && kvm->first_vcpu >= 0) {
        k->fd = kvm->first_vcpu;
        kvm->first_vcpu = -1;
    } else {
        k->fd = kvm_ioctl_value(kvm->fd, KVM_CREATE_VCPU, cpu->vcpu.id);
    }
    if (k->fd < 0) {
        err = kvm_trouble(cpu->vcpu.vm->engine_why, VM_ENGINE_WHY, "make as many vCPUs", k->fd);
        free(k);
        return err;
    }
    run = mmap(NULL, kvm->run_size, PROT_READ | PROT_WRITE, MAP_SHARED, k->fd, 0);
    if (run == MAP_FAILED) {
        close(k->fd);
        free(k);
        return ERR_NO_MEMORY;
    }
    k->run = run;
    cpu->engine = k;
    enforce_paravirtual_leaves(k);
    err = cpu->vcpu.id == 0 ? kvm_set_msr_filter(cpu->vcpu.vm, cpu->level->spec_ctrl) : OK;
    if (!err)
        err = set_rate(cpu);
    if (err)
        vcpu_destroy(cpu);
    return err;
}

static void vcpu_state_changed(struct x86_cpu *cpu)
{
    x86_update_mode(cpu); /* messages about the vCPU use what is derived */
}

static size_t vcpu_stats(const struct x86_cpu *cpu, char *buf, size_t size)
{
    const struct kvm_vcpu *k = kvm_vcpu_of(cpu);

    return fmt(buf, size, "vCPU %u: %lu entries, %lu by signal\n", cpu->vcpu.id, k->entries,
               k->signals);
}

const struct engine engine_kvm = {
    .name = "kvm",
    .description = "the processor's own virtualization, through Linux's KVM",
    .probe = kvm_probe,
    .keeps_apic = true,
    .send_message = kvm_send_message,
    .brings_late_memory = true,
    .adapt_profile = adapt_profile,
    .vm_create = kvm_vm_create,
    .tsc_khz = host_tsc_khz,
    .vm_destroy = kvm_vm_destroy,
    .vm_memory_changed = kvm_vm_memory_changed,
    .vm_clock_started = kvm_clock_started,
    .vm_clock_lead = kvm_clock_lead,
    .vm_dirty_track = kvm_dirty_track,
    .vm_dirty_fetch = kvm_dirty_fetch,
    .events = &kvm_event_ops,
    .vcpu_create = vcpu_create,
    .vcpu_destroy = vcpu_destroy,
    .vcpu_run = kvm_vcpu_run,
    .vcpu_kick = kvm_vcpu_kick,
    .vcpu_get_state = kvm_vcpu_get_state,
    .vcpu_set_state = kvm_vcpu_set_state,
    .vcpu_state_changed = vcpu_state_changed,
    .vcpu_stats = vcpu_stats,
};
