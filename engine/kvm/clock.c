/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * The guest's clocks against the VM clock.
 *
 * All time of a VM derives from its VM clock (x86/msr.c: TSC = VM clock * rate + tsc_offset), which
 * stands while the VM rests. KVM's TSC and kvm-clock go by themselves, by the processor's TSC. So
 * they are set to the VM clock when that starts, all of them together; and when it stops, the VM
 * clock is moved on to what the guest may have seen of either, if that is later: host clocks drift
 * against each other by a few parts in a million. So no clock of the guest ever goes back, under
 * this engine or the next, and tsc_offset stays what it was to the tick.
 *
 * Tolerance. The TSC and the VM clock are read one after the other, and the pair that lies closest
 * together of a few is taken: right after the start, the TSC is behind the formula by what passed
 * in between, less than SAMPLE_GOOD_NS on a host that is not overloaded. All vCPUs have the same
 * error to the tick (before Linux 5.16, those with the same tsc_offset). kvm-clock is behind by
 * less than SET_GOOD_NS.
 *
 * Offsets. From Linux 5.16 on, KVM takes the offset between host's and guest's TSC as it is
 * (KVM_VCPU_TSC_OFFSET). Before, a TSC is written, and KVM takes a write that is less than a second
 * off what it expects for an attempt to set all vCPUs alike: it gives the vCPU the offset of the
 * last one that was written. So there the first vCPU is written twice, first with a value that
 * nobody expects; then all with the same tsc_offset, and KVM gives them the same to the tick; then
 * the next of another tsc_offset.
 *
 * What a guest's WRMSR to TSC or TSC_ADJUST does to a vCPU's TSC it does to TSC_ADJUST too: so
 * tsc_offset is known from TSC_ADJUST, and no clock has to be read for it.
 *
 * With the clocks, all vCPUs' states are handed over, since a vCPU that runs first may send others
 * an interrupt at once.
 *
 * Not done: APIC timers that count (one-shot, periodic) go on in KVM while a VM rests that is not
 * moved; a TSC deadline is set anew.
 */
#include "core/err.h"
#include "engine/kvm/kvm_private.h"
#include "isa/x86.h"
#include "x86/msr.h"

enum { SAMPLES = 8, SAMPLE_GOOD_NS = 5000, SET_GOOD_NS = 50000 };

#define UNEXPECTED (UINT64_C(1) << 50) /* ticks: days */

struct sample {
    uint64_t clock; /* VM clock, ns, right before */
    uint64_t tsc;   /* of vCPU 0 */
};

static struct kvm_vcpu *vcpu_of(const struct vm *vm, uint32_t id)
{
    return kvm_vcpu_of(x86_cpu_of(vm->vcpu[id]));
}

static int take_sample(const struct vm *vm, struct sample *best)
{
    uint64_t shortest = UINT64_MAX;

    for (int i = 0; i < SAMPLES && shortest > SAMPLE_GOOD_NS; i++) {
        struct sample s = {.clock = vm_clock_ns(vm)};
        int err = kvm_read_msr(vcpu_of(vm, 0)->fd, MSR_TSC, &s.tsc);
        uint64_t took = vm_clock_ns(vm) - s.clock;

        if (err)
            return err;
        if (took < shortest) {
            shortest = took;
            *best = s;
        }
    }
    return OK;
}

static uint64_t ticks_of(const struct vm *vm, uint64_t clock)
{
    return scale_u64(clock, x86_tsc_ratio(vm), UINT64_C(1) << 32);
}

/* --- offsets -----------------------------------------------------------------------------------
 */

static int tsc_offset(int fd, unsigned long request, uint64_t *offset)
{
    struct kvm_device_attr attr = {
        .group = KVM_VCPU_TSC_CTRL, .attr = KVM_VCPU_TSC_OFFSET, .addr = (uintptr_t)offset};

    return kvm_ioctl(fd, request, &attr) < 0 ? ERR_UNSUPPORTED : OK;
}

/* What KVM's offset is where ours is 0. */
static int find_base(const struct vm *vm)
{
    struct kvm_vm *kvm = kvm_vm_of(vm);
    uint64_t offset = 0;
    struct sample s;
    int err = tsc_offset(vcpu_of(vm, 0)->fd, KVM_GET_DEVICE_ATTR, &offset);

    if (!err)
        err = take_sample(vm, &s);
    if (!err)
        kvm->tsc_base = offset + ticks_of(vm, s.clock) - s.tsc;
    return err;
}

int kvm_set_tsc(const struct x86_cpu *cpu)
{
    const struct kvm_vm *kvm = kvm_vm_of(cpu->vcpu.vm);
    struct kvm_vcpu *k = kvm_vcpu_of(cpu);
    uint64_t offset = kvm->tsc_base + cpu->tsc_offset;
    int err = kvm->has_tsc_offset ? tsc_offset(k->fd, KVM_SET_DEVICE_ATTR, &offset)
                                  : kvm_set_msr(cpu, MSR_TSC, x86_tsc(cpu));

    if (!err)
        k->tsc_skew = cpu->tsc_offset - cpu->msr.tsc_adjust;
    return err;
}

static bool is_first_of_its_offset(const struct vm *vm, uint32_t id)
{
    for (uint32_t other = 0; other < id; other++) {
        if (x86_cpu_of(vm->vcpu[other])->tsc_offset == x86_cpu_of(vm->vcpu[id])->tsc_offset)
            return false;
    }
    return true;
}

/* The one whose write the others' are taken to follow. Again, if this thread was interrupted
 * between looking and setting. */
static int set_first_tsc(const struct x86_cpu *cpu)
{
    uint64_t took = UINT64_MAX;
    int err = OK;

    for (int i = 0; i < SAMPLES && took > SET_GOOD_NS && !err; i++) {
        uint64_t before;

        err = kvm_set_msr(cpu, MSR_TSC, x86_tsc(cpu) + UNEXPECTED);
        before = vm_clock_ns(cpu->vcpu.vm);
        if (!err)
            err = kvm_set_tsc(cpu);
        took = vm_clock_ns(cpu->vcpu.vm) - before;
    }
    return err;
}

/* Those that have the tsc_offset of vCPU `first`, without KVM_VCPU_TSC_OFFSET. */
static int set_tscs_alike(const struct vm *vm, uint32_t first)
{
    const struct x86_cpu *cpu = x86_cpu_of(vm->vcpu[first]);
    int err = set_first_tsc(cpu);

    for (uint32_t id = first + 1; id < vm->vcpu_count && !err; id++) {
        const struct x86_cpu *other = x86_cpu_of(vm->vcpu[id]);

        if (other->tsc_offset == cpu->tsc_offset)
            err = kvm_set_tsc(other);
    }
    return err;
}

static int set_tscs(const struct vm *vm)
{
    int err = kvm_vm_of(vm)->has_tsc_offset ? find_base(vm) : OK;

    for (uint32_t id = 0; id < vm->vcpu_count && !err; id++) {
        if (kvm_vm_of(vm)->has_tsc_offset)
            err = kvm_set_tsc(x86_cpu_of(vm->vcpu[id]));
        else if (is_first_of_its_offset(vm, id))
            err = set_tscs_alike(vm, id);
    }
    return err;
}

/* --- start and stop ----------------------------------------------------------------------------
 */

/* What the guest has done to its TSC under KVM, if KVM has the newer state. */
static int fetch(struct x86_cpu *cpu)
{
    return kvm_vcpu_get_state(cpu, ENGINE_STATE_CLOCK);
}

/* A deadline that KVM has is a time of its own by now. */
static int set_deadline(struct x86_cpu *cpu)
{
    uint64_t deadline = 0;
    int err = OK;

    if (kvm_vcpu_of(cpu)->changed & ENGINE_STATE_APIC)
        return OK;
    err = kvm_get_msr(cpu, MSR_TSC_DEADLINE, &deadline);
    return !err && deadline ? kvm_set_msr(cpu, MSR_TSC_DEADLINE, deadline) : err;
}

/* Again, if this thread was interrupted between looking and setting. */
static int set_kvm_clock(const struct vm *vm)
{
    uint64_t took = UINT64_MAX;

    for (int i = 0; i < SAMPLES && took > SET_GOOD_NS; i++) {
        struct kvm_clock_data clock = {.clock = vm_clock_ns(vm)};

        if (kvm_ioctl(kvm_vm_of(vm)->fd, KVM_SET_CLOCK, &clock) < 0)
            return ERR_UNSUPPORTED;
        took = vm_clock_ns(vm) - clock.clock;
    }
    return OK;
}

/* With which the state was saved, as far as they change it. */
static int take_saved_requests(const struct vm *vm)
{
    const uint32_t wanted = VCPU_REQ_INIT | VCPU_REQ_SIPI | VCPU_REQ_PV_KICK;
    int err = OK;

    for (uint32_t id = 0; id < vm->vcpu_count && !err; id++) {
        if (vcpu_requests(vm->vcpu[id]) & wanted)
            err = kvm_take_saved_requests(x86_cpu_of(vm->vcpu[id]));
    }
    return err;
}

int kvm_clock_started(struct vm *vm)
{
    struct kvm_vm *kvm = kvm_vm_of(vm);
    int err = take_saved_requests(vm);

    for (uint32_t id = 0; id < vm->vcpu_count && !err && kvm->clock_set; id++)
        err = fetch(x86_cpu_of(vm->vcpu[id]));
    if (!err)
        err = set_tscs(vm);
    if (!err)
        err = set_kvm_clock(vm);
    for (uint32_t id = 0; id < vm->vcpu_count && !err && kvm->clock_set; id++)
        err = set_deadline(x86_cpu_of(vm->vcpu[id]));
    if (!err)
        err = kvm_flush_all(vm);
    kvm->clock_set = err == OK;
    return err;
}

static uint64_t later(uint64_t guest, uint64_t clock)
{
    return guest > clock && guest - clock <= INT64_MAX ? guest - clock : 0;
}

/* kvm-clock's: as exact as two looks can be, or it would jump with each stop. */
static uint64_t lead_of_clock(const struct vm *vm)
{
    uint64_t shortest = UINT64_MAX, lead = 0;

    for (int i = 0; i < SAMPLES && shortest > SET_GOOD_NS; i++) {
        struct kvm_clock_data clock = {.clock = 0};
        uint64_t before = vm_clock_ns(vm), took;

        if (kvm_ioctl(kvm_vm_of(vm)->fd, KVM_GET_CLOCK, &clock) < 0)
            return 0;
        took = vm_clock_ns(vm) - before;
        if (took < shortest) {
            shortest = took;
            lead = later(clock.clock, before);
        }
    }
    return lead;
}

uint64_t kvm_clock_lead(struct vm *vm)
{
    struct x86_cpu *cpu = x86_cpu_of(vm->vcpu[0]);
    struct sample s;
    uint64_t lead;

    if (!kvm_vm_of(vm)->clock_set)
        return 0;
    lead = lead_of_clock(vm);
    if (fetch(cpu) == OK && take_sample(vm, &s) == OK) {
        uint64_t ns = scale_u64(s.tsc - cpu->tsc_offset, UINT64_C(1) << 32, x86_tsc_ratio(vm)) + 1;

        if (later(ns, s.clock) > lead)
            lead = later(ns, s.clock);
    }
    return lead;
}
