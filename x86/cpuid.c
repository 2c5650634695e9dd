/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * CPUID: the level's rows, and the few fields that depend on the VM, the vCPU or its present state
 * (topology, APIC id, OSXSAVE, the size of XSAVE areas, clock rates). Those have a function per
 * leaf.
 *
 * Topology: one package, one thread per core, as many cores as vCPUs. APIC id = vCPU id, so ids in
 * leaves 1, BH and in the MADT agree by construction.
 *
 * Leaves beyond the highest basic, hypervisor or extended one answer with the highest basic leaf's
 * data (SDM 2A, CPUID; for the hypervisor's, which processors do not know, as KVM has it).
 */
#include "isa/x86.h"
#include "x86/cpu.h"
#include "x86/cpuid_bits.h"
#include "x86/lapic.h"
#include "x86/level.h"
#include "x86/msr.h"

/* Bits of the APIC id that number the cores of the package. */
static uint32_t core_bits(const struct x86_cpu *cpu)
{
    uint32_t bits = 0;
    while (UINT32_C(1) << bits < cpu->vcpu.vm->vcpu_count)
        bits++;
    return bits;
}

static void adapt_1(const struct x86_cpu *cpu, uint32_t subleaf, uint32_t out[4])
{
    (void)subleaf;
    uint32_t ids = UINT32_C(1) << core_bits(cpu);
    out[1] |= ids << 16 | (uint32_t)lapic_id(cpu) << 24;
    if (cpu->vcpu.vm->vcpu_count > 1)
        out[3] |= CPUID_1D_HTT;
    if (cpu->cr4 & X86_CR4_OSXSAVE)
        out[2] |= CPUID_1C_OSXSAVE;
    if (!(lapic_base_msr(cpu) & X86_APIC_BASE_ENABLE))
        out[3] &= ~CPUID_1D_APIC;
}

/* Sharing: the last level by all, the others by nobody. */
static void adapt_4(const struct x86_cpu *cpu, uint32_t subleaf, uint32_t out[4])
{
    enum { LAST_LEVEL = 3 };
    if (!out[0])
        return;
    uint32_t ids = (UINT32_C(1) << core_bits(cpu)) - 1;
    out[0] |= ids << 26;
    if (subleaf == LAST_LEVEL)
        out[0] |= ids << 14;
}

static void adapt_b(const struct x86_cpu *cpu, uint32_t subleaf, uint32_t out[4])
{
    enum { THREADS = 1, CORES = 2 };
    out[2] = subleaf & 0xFF;
    out[3] = lapic_id(cpu);
    if (subleaf == 0) {
        out[1] = 1;
        out[2] |= THREADS << 8;
    } else if (subleaf == 1) {
        out[0] = core_bits(cpu);
        out[1] = cpu->vcpu.vm->vcpu_count;
        out[2] |= CORES << 8;
    }
}

/* EBX: size for what XCR0 enables now (standard format). */
static void adapt_d(const struct x86_cpu *cpu, uint32_t subleaf, uint32_t out[4])
{
    enum { LEGACY_AND_HEADER = 576, AVX = 256 };
    if (subleaf == 0)
        out[1] = LEGACY_AND_HEADER + (cpu->xcr0 & X86_XCR0_AVX ? AVX : 0);
}

static uint32_t common_divisor(uint32_t a, uint32_t b)
{
    while (b != 0) {
        uint32_t rest = a % b;
        a = b;
        b = rest;
    }
    return a;
}

/* TSC = crystal clock * EBX / EAX; the crystal is what clocks the local APIC's timer. Linux
 * multiplies kHz by EBX in 32 bits: a ratio that would overflow there is left out (zeros: not
 * enumerated), and guests calibrate. */
static void adapt_15(const struct x86_cpu *cpu, uint32_t subleaf, uint32_t out[4])
{
    (void)subleaf;
    uint32_t tsc = x86_tsc_khz(cpu->vcpu.vm);
    uint32_t divisor = common_divisor(tsc, X86_APIC_TIMER_KHZ);
    if ((uint64_t)X86_APIC_TIMER_KHZ * (tsc / divisor) > UINT32_MAX)
        return;
    out[0] = X86_APIC_TIMER_KHZ / divisor;
    out[1] = tsc / divisor;
    out[2] = X86_APIC_TIMER_KHZ * 1000;
}

static void adapt_16(const struct x86_cpu *cpu, uint32_t subleaf, uint32_t out[4])
{
    (void)subleaf;
    out[0] = out[1] = x86_tsc_khz(cpu->vcpu.vm) / 1000;
    out[2] = 100;
}

static void adapt_timing(const struct x86_cpu *cpu, uint32_t subleaf, uint32_t out[4])
{
    (void)subleaf;
    out[0] = x86_tsc_khz(cpu->vcpu.vm);
    out[1] = X86_APIC_TIMER_KHZ;
}

/* The leaf that answers: the one asked for, or the highest basic one when it is out of range. */
static uint32_t leaf_in_range(const struct x86_level *level, uint32_t leaf)
{
    static const uint32_t classes[] = {0, 0x40000000, 0x80000000};
    for (size_t i = 0; i < ARRAY_SIZE(classes); i++) {
        const struct x86_cpuid_row *first = x86_level_row(level, classes[i], 0);
        if (first && leaf >= classes[i] && leaf <= first->eax)
            return leaf;
    }
    const struct x86_cpuid_row *basic = x86_level_row(level, 0, 0);
    return basic ? basic->eax : 0;
}

void x86_cpuid(const struct x86_cpu *cpu, uint32_t leaf, uint32_t subleaf, uint32_t out[4])
{
    /* table */
    static const struct {
        uint32_t leaf;
        void (*adapt)(const struct x86_cpu *cpu, uint32_t subleaf, uint32_t out[4]);
    } adaptations[] = {
        {1, adapt_1},
        {4, adapt_4},
        {0xB, adapt_b},
        {0xD, adapt_d},
        {0x15, adapt_15},
        {0x16, adapt_16},
        {0x40000010, adapt_timing},
    };
    leaf = leaf_in_range(cpu->level, leaf);
    const struct x86_cpuid_row *row = x86_level_row(cpu->level, leaf, subleaf);
    out[0] = row ? row->eax : 0;
    out[1] = row ? row->ebx : 0;
    out[2] = row ? row->ecx : 0;
    out[3] = row ? row->edx : 0;
    for (size_t i = 0; i < ARRAY_SIZE(adaptations); i++) {
        if (adaptations[i].leaf == leaf)
            adaptations[i].adapt(cpu, subleaf, out);
    }
}
