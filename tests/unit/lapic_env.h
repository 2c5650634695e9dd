/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/* Four processors' local APICs without an engine, for the unit tests of x86/lapic*.c: each of the
 * test programs that include this has its own. The TSC runs at 2 GHz. */
#ifndef LODGE_TESTS_UNIT_LAPIC_ENV_H
#define LODGE_TESTS_UNIT_LAPIC_ENV_H

#include <string.h>

#include "core/err.h"
#include "core/mem.h"
#include "tests/lib/fake_seam.h"
#include "tests/lib/unit.h"
#include "x86/lapic_private.h"
#include "x86/level.h"
#include "x86/msr.h"

enum { CPUS = 4, US = 1000, MS = 1000000 };

static struct vm vm;
static struct x86_cpu cpus[CPUS];
static struct apic_bus bus;
static struct x86_level level;
static unsigned int eois, acks;
static uint8_t last_eoi;
static int ack_vector;

/* In place of x86/msr.c's: 2 GHz from the VM clock's zero. */
uint64_t x86_tsc_to_clock(const struct x86_cpu *cpu, uint64_t tsc)
{
    (void)cpu;
    return tsc / 2 + tsc % 2;
}

static inline void record_eoi(void *io_apic, uint8_t vector)
{
    CHECK(io_apic == &eois);
    eois++;
    last_eoi = vector;
}

static inline int record_ack(void *pic)
{
    CHECK(pic == &acks);
    acks++;
    atomic_store(&bus.extint, false);
    return ack_vector;
}

static inline void setup(void)
{
    for (uint32_t i = 0; i < vm.vcpu_count; i++)
        lapic_destroy(&cpus[i]);
    vm_init(&vm, "test");
    memset(cpus, 0, sizeof(cpus));
    level = (struct x86_level){.physical_bits = 40, .x2apic = true, .tsc_deadline = true};
    bus = (struct apic_bus){.send = lapic_bus_send,
                            .eoi = record_eoi,
                            .io_apic = &eois,
                            .ack_extint = record_ack,
                            .pic = &acks};
    eois = acks = 0;
    ack_vector = 0x30;
    vm.apic_bus = &bus;
    vm.vcpu_count = CPUS;
    for (uint32_t i = 0; i < CPUS; i++) {
        vcpu_init(&cpus[i].vcpu, &vm, i);
        cpus[i].level = &level;
        vm.vcpu[i] = &cpus[i].vcpu;
        CHECK_EQ(lapic_create(&cpus[i]), OK);
    }
    vm_clock_start(&vm);
}

static inline void wr(unsigned int cpu, uint32_t offset, uint32_t value)
{
    lapic_mmio_write(&cpus[cpu], offset, value);
}

static inline uint32_t rd(unsigned int cpu, uint32_t offset)
{
    return lapic_mmio_read(&cpus[cpu], offset);
}

static inline int wrmsr(unsigned int cpu, uint32_t index, uint64_t value)
{
    return lapic_msr_write(&cpus[cpu], index, value);
}

static inline uint64_t rdmsr(unsigned int cpu, uint32_t index)
{
    uint64_t v = 0xDEAD;
    CHECK_EQ(lapic_msr_read(&cpus[cpu], index, &v), OK);
    return v;
}

static inline void enable_all(void)
{
    for (unsigned int i = 0; i < CPUS; i++)
        wr(i, LAPIC_SVR, 0x1FF);
}

static inline void to_x2apic(unsigned int cpu)
{
    CHECK_EQ(wrmsr(cpu, MSR_APIC_BASE, rdmsr(cpu, MSR_APIC_BASE) | LAPIC_BASE_X2APIC), OK);
}

static inline uint32_t requests(unsigned int cpu)
{
    return vcpu_take_requests(&cpus[cpu].vcpu, ~0u);
}

static inline void post(unsigned int cpu, uint8_t vector, bool is_level)
{
    struct apic_message m = {.destination = cpu, .vector = vector, .level = is_level};
    CHECK_EQ(apic_send(&vm, &m), OK);
}

#endif
