/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * Random states of a local APIC, by what a guest and its devices do to it: registers are written
 * through their own interface, interrupts are sent and taken, so nothing comes out that could not
 * be.
 */
#include "tests/kvm/random_state.h"

#include "core/err.h"
#include "isa/x86.h"
#include "tests/lib/unit.h"
#include "x86/lapic_private.h"
#include "x86/msr.h"

enum {
    NOBODY = 0xEE, /* an APIC id that there is not */
    FAR_NS = 1 << 30,
};

static void put(struct x86_cpu *cpu, uint32_t offset, uint32_t value)
{
    if (lapic_is_x2apic(cpu->lapic))
        random_wrmsr(cpu, MSR_X2APIC_FIRST + offset / 16, value);
    else
        lapic_mmio_write(cpu, offset, value);
}

static void random_mode(struct x86_cpu *cpu, struct rng *r)
{
    uint64_t base = lapic_base_msr(cpu);

    if (rng_one_in(r, 8))
        base = (base & 0xFFF) | (uint64_t)(0xC0000 + rng_below(r, 0x1000)) << 12;
    switch (rng_below(r, 8)) {
    case 0:
        random_wrmsr(cpu, MSR_APIC_BASE, base & ~LAPIC_BASE_ENABLE);
        break;
    case 1:
    case 2:
    case 3:
        random_wrmsr(cpu, MSR_APIC_BASE, base | LAPIC_BASE_ENABLE);
        break;
    default:
        random_wrmsr(cpu, MSR_APIC_BASE, base | LAPIC_BASE_ENABLE | LAPIC_BASE_X2APIC);
    }
}

static void random_lvts(struct x86_cpu *cpu, struct rng *r)
{
    static const uint16_t lvts[] = {LAPIC_LVT_THERMAL, LAPIC_LVT_PERF, LAPIC_LVT_LINT0,
                                    LAPIC_LVT_LINT1, LAPIC_LVT_ERROR};

    for (size_t i = 0; i < ARRAY_SIZE(lvts); i++)
        put(cpu, lvts[i], (uint32_t)rng_next(r) & lapic_writable_bits(cpu->lapic, lvts[i]));
}

static void random_icr(struct x86_cpu *cpu, struct rng *r)
{
    uint32_t icr = 0x4000 | (0x10 + rng_below(r, 0xF0)); /* fixed, physical, edge */

    if (lapic_is_x2apic(cpu->lapic)) {
        random_wrmsr(cpu, MSR_X2APIC_FIRST + LAPIC_ICR / 16, (uint64_t)NOBODY << 32 | icr);
    } else {
        put(cpu, LAPIC_ICR_HIGH, (uint32_t)NOBODY << 24);
        put(cpu, LAPIC_ICR, icr);
    }
}

/* IRR, ISR, TMR, and what the processor has not yet taken. */
static void random_interrupts(struct x86_cpu *cpu, struct rng *r)
{
    uint32_t count = rng_below(r, 20);

    for (uint32_t n = 0; n < count; n++) {
        struct apic_message m = {.destination = cpu->vcpu.id,
                                 .delivery = APIC_FIXED,
                                 .vector = (uint8_t)(0x10 + rng_below(r, 0xF0)),
                                 .level = rng_one_in(r, 3)};

        (void)lapic_bus_send(cpu->vcpu.vm, &m);
        if (rng_one_in(r, 3) && lapic_has_interrupt(cpu))
            (void)lapic_take_interrupt(cpu);
    }
}

static uint64_t far_ahead(struct rng *r)
{
    return FAR_NS * (uint64_t)(60 + rng_below(r, 3600));
}

static void random_count(struct x86_cpu *cpu, struct rng *r, uint32_t lvt)
{
    static const uint8_t divide[] = {0, 1, 2, 3, 8, 9, 10, 11};
    uint32_t choice = rng_below(r, 3);

    put(cpu, LAPIC_LVT_TIMER, lvt);
    put(cpu, LAPIC_TIMER_DIVIDE, divide[choice == 2 ? 10 - 8 : rng_below(r, 8)]);
    if (choice == 0)
        return; /* never started */
    if (choice == 1) {
        put(cpu, LAPIC_TIMER_DIVIDE, 10); /* by 128: at least 100 s from now */
        put(cpu, LAPIC_TIMER_INITIAL, (uint32_t)(0x40000000 + rng_below(r, 0xB0000000)));
        return;
    }
    if (lvt >> LAPIC_TIMER_MODE_SHIFT == LAPIC_ONE_SHOT) { /* has expired */
        put(cpu, LAPIC_TIMER_INITIAL, 1 + rng_below(r, 1000));
        vm_clock_set(cpu->vcpu.vm, vm_clock_ns(cpu->vcpu.vm) + 1000000);
        vm_clock_start(cpu->vcpu.vm);
        while (cpu->lapic->timer_deadline != VM_TIMER_NEVER)
            vm_timers_run(cpu->vcpu.vm); /* others are due as well */
        vm_clock_stop(cpu->vcpu.vm);
    }
}

static void random_timer(struct x86_cpu *cpu, struct rng *r)
{
    uint32_t lvt = 0x10 + rng_below(r, 0xF0) + (rng_one_in(r, 3) ? LAPIC_LVT_MASKED : 0);

    switch (rng_below(r, 3)) {
    case 0:
        random_count(cpu, r, lvt);
        break;
    case 1:
        random_count(cpu, r, lvt | LAPIC_PERIODIC << LAPIC_TIMER_MODE_SHIFT);
        break;
    default:
        put(cpu, LAPIC_LVT_TIMER, lvt | LAPIC_TSC_DEADLINE << LAPIC_TIMER_MODE_SHIFT);
        if (!rng_one_in(r, 3))
            random_wrmsr(cpu, MSR_TSC_DEADLINE, x86_tsc(cpu) + far_ahead(r));
    }
}

void random_apic(struct x86_cpu *cpu, struct rng *r)
{
    bool off = rng_one_in(r, 6);

    random_mode(cpu, r);
    if (!lapic_is_enabled(cpu->lapic))
        return;
    put(cpu, LAPIC_SVR, 0x1FF);
    if (!lapic_is_x2apic(cpu->lapic)) {
        put(cpu, LAPIC_LDR, (uint32_t)rng_next(r) & 0xFF000000);
        put(cpu, LAPIC_DFR, rng_one_in(r, 2) ? 0xFFFFFFFF : 0x0FFFFFFF);
    }
    random_lvts(cpu, r);
    random_icr(cpu, r);
    random_interrupts(cpu, r);
    random_timer(cpu, r);
    put(cpu, LAPIC_TPR, rng_one_in(r, 2) ? rng_below(r, 256) : 0);
    put(cpu, LAPIC_SVR, (off ? 0 : LAPIC_SVR_ENABLE) | rng_below(r, 256));
}
