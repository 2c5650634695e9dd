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

static uint32_t had(vmx_cpuid_fn *cpuid, uint32_t leaf, uint32_t subleaf, uint8_t reg)
{
    uint32_t r[4];

    cpuid(leaf & 0x80000000, 0, r);
    if (leaf > r[0])
        return 0;
    cpuid(leaf, subleaf, r);
    return r[reg];
}

/* x86_cpuid_bits_fn */
static uint32_t bits_of(const void *cpuid, uint32_t leaf, uint32_t subleaf, uint8_t reg)
{
    return had(*(vmx_cpuid_fn *const *)cpuid, leaf, subleaf, reg);
}

const char *vmx_level_lacks(vmx_cpuid_fn *cpuid, const struct x86_level *level)
{
    const char *lacks = x86_level_lacks(level, bits_of, &cpuid, true);

    if (lacks)
        return lacks;
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
