/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * The guest's TSC: it reads the processor's own, scaled and moved by VMRUN (APM 2, 15.5.1, TSC_OFFSET; 15.30.5,
 * TSC_RATIO).
 *
 * It has to be what the VM clock says: ticks(VM clock) + tsc_offset (x86/msr.c), or a timer would be late and
 * kvm-clock wrong. When the VM clock starts, the seam's time of that moment and the host's TSC then (hw_tsc_at)
 * give one base for all vCPUs. The seam's time is counted from the same TSC, so the two stay together; what
 * rounding lets the guest see of the future is said when the clock stops (svm_clock_lead).
 *
 * A rate within 250 ppm of the host's is the host's (docs/machine.md); others need TSC scaling, or are refused.
 */
#include "core/fmt.h"
#include "engine/svm/svm_private.h"
#include "x86/msr.h"

#define RATIO_ONE BIT(32) /* 8.32 */

uint32_t svm_tsc_khz(const struct vm *vm)
{
    (void)vm;
    return hw_tsc_khz();
}

int svm_clock_create(struct vm *vm)
{
    struct svm_vm *v = svm_vm_of(vm);
    int64_t host = hw_tsc_khz(), guest = x86_tsc_khz(vm);
    int64_t apart = host < guest ? guest - host : host - guest;

    v->tsc_ratio = RATIO_ONE;
    if (apart * 4000 <= host)
        return OK;
    if (!(v->features & SVM_TSC_RATE)) {
        (void)fmt(vm->engine_why, VM_ENGINE_WHY,
                  "this host's TSC runs at %u kHz and cannot be scaled to the %u kHz of the definition: change or "
                  "leave out tsc_khz",
                  hw_tsc_khz(), x86_tsc_khz(vm));
        return ERR_UNSUPPORTED;
    }
    v->tsc_ratio = scale_u64((uint64_t)guest, RATIO_ONE, (uint64_t)host);
    return OK;
}

static uint64_t ticks_of(const struct vm *vm, uint64_t ns)
{
    return scale_u64(ns, x86_tsc_ratio(vm), UINT64_C(1) << 32);
}

static uint64_t scaled(const struct svm_vm *v, uint64_t host_tsc)
{
    return v->tsc_ratio == RATIO_ONE ? host_tsc : scale_u64(host_tsc, v->tsc_ratio, RATIO_ONE);
}

int svm_clock_started(struct vm *vm)
{
    struct svm_vm *v = svm_vm_of(vm);
    uint64_t now = seam_time_ns();
    uint64_t clock = now - atomic_load(&vm->clock.offset); /* core/clock.h: while it runs */

    v->tsc_base = ticks_of(vm, clock) - scaled(v, hw_tsc_at(now));
    for (uint32_t id = 0; id < vm->vcpu_count; id++)
        svm_changed(x86_cpu_of(vm->vcpu[id]), ENGINE_STATE_CLOCK);
    return OK;
}

uint64_t svm_clock_lead(struct vm *vm)
{
    const struct svm_vm *v = svm_vm_of(vm);
    uint64_t clock = vm_clock_ns(vm), ns;
    uint32_t low, high;

    if (!atomic_load(&vm->clock.running))
        return 0;
    __asm__ volatile("lfence\n\trdtsc" : "=a"(low), "=d"(high) : : "memory");
    ns = scale_u64(scaled(v, (uint64_t)high << 32 | low) + v->tsc_base, UINT64_C(1) << 32, x86_tsc_ratio(vm)) + 1;
    return ns > clock && ns - clock <= INT64_MAX ? ns - clock : 0;
}
