/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * Levels under vmx: whether this processor can give one, and what of its mitigation profile is true here.
 *
 * A level is all or nothing: the first feature that the processor lacks is named. Not asked for is what we make
 * true by ourselves: the APIC's modes and timers, topology, hypervisor, fast strings, which are hints. Of the
 * mitigation profile a VM claims what both its level and this processor claim.
 *
 * PCID, INVPCID and RDTSCP must be had in guests, too (secondary controls).
 */
#include "core/err.h"
#include "core/fmt.h"
#include "engine/vmx/vmx_level.h"
#include "isa/x86.h"
#include "x86/cpuid_bits.h"

/* What no instruction's decoding depends on, with the names that Linux prints. table */
static const struct {
    uint32_t leaf;
    uint8_t reg, bit;
    const char *name;
} system_bits[] = {
    {1, 3, 2, "de"},           {1, 3, 3, "pse"},         {1, 3, 4, "tsc"},          {1, 3, 5, "msr"},
    {1, 3, 6, "pae"},          {1, 3, 13, "pge"},        {1, 3, 15, "cmov"},        {1, 3, 16, "pat"},
    {1, 2, 17, "pcid"},        {7, 1, 7, "smep"},        {7, 2, 2, "umip"},         {0x80000001, 2, 0, "lahf_lm"},
    {0x80000001, 3, 11, "syscall"}, {0x80000001, 3, 20, "nx"},
    {0x80000001, 3, 26, "pdpe1gb"}, {0x80000001, 3, 29, "lm"},
};

static uint32_t wanted(const struct x86_level *level, uint32_t leaf, uint32_t subleaf, uint8_t reg)
{
    const struct x86_cpuid_row *r = x86_level_row(level, leaf, subleaf);
    const uint32_t value[4] = {r ? r->eax : 0, r ? r->ebx : 0, r ? r->ecx : 0, r ? r->edx : 0};

    return value[reg];
}

static uint32_t had(vmx_cpuid_fn *cpuid, uint32_t leaf, uint32_t subleaf, uint8_t reg)
{
    uint32_t r[4];

    cpuid(leaf & 0x80000000, 0, r);
    if (leaf > r[0])
        return 0;
    cpuid(leaf, subleaf, r);
    return r[reg];
}

const char *vmx_level_lacks(vmx_cpuid_fn *cpuid, const struct x86_level *level)
{
    size_t count;
    const struct x86_feature_bit *f = x86_feature_bits(&count);

    for (size_t i = 0; i < count; i++) {
        if (x86_level_has(level, (enum insn_feature)f[i].feature) &&
            !(had(cpuid, f[i].leaf, f[i].subleaf, f[i].reg) >> f[i].bit & 1))
            return f[i].name;
    }
    for (size_t i = 0; i < ARRAY_SIZE(system_bits); i++) {
        uint32_t leaf = system_bits[i].leaf;
        uint8_t reg = system_bits[i].reg, bit = system_bits[i].bit;

        if ((wanted(level, leaf, 0, reg) & ~had(cpuid, leaf, 0, reg)) >> bit & 1)
            return system_bits[i].name;
    }
    if ((had(cpuid, 0x80000008, 0, 0) & 0xFF) < level->physical_bits)
        return "enough physical address bits";
    return NULL;
}

void vmx_level_adapt(vmx_cpuid_fn *cpuid, uint64_t arch_capabilities, struct x86_level *level)
{
    const uint32_t spec_ctrl = CPUID_7D_IBRS | CPUID_7D_STIBP;
    bool ibrs = (had(cpuid, 7, 0, 3) & spec_ctrl) == spec_ctrl;

    level->arch_capabilities &= had(cpuid, 7, 0, 3) & CPUID_7D_ARCH_CAPABILITIES ? arch_capabilities : 0;
    level->spec_ctrl = level->spec_ctrl && ibrs;
    if (!ibrs)
        x86_level_clear(level, 7, 0, 3, spec_ctrl);
    if (!(had(cpuid, 7, 2, 3) & CPUID_72D_BHI_CTRL))
        x86_level_clear(level, 7, 2, 3, CPUID_72D_BHI_CTRL);
}
