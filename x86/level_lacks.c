/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * What a level needs and a host lacks, for engines that run on hardware: whose bits are asked for is theirs to say (a
 * processor's, or what KVM supports). A level is all or nothing: the first feature that is missing is named.
 */
#include "x86/cpuid_bits.h"
#include "x86/level.h"

/* Feature bits that no instruction's decoding depends on, and their names as Linux prints them. */
static const struct {
    uint32_t leaf;
    uint8_t reg, bit;
    bool emulated; /* by x86/, for engines that have no kernel below them that does it */
    const char *name;
} system_bits[] = {
    /* table */
    {1, 3, 2, false, "de"},
    {1, 3, 3, false, "pse"},
    {1, 3, 4, false, "tsc"},
    {1, 3, 5, false, "msr"},
    {1, 3, 6, false, "pae"},
    {1, 3, 9, true, "apic"},
    {1, 3, 12, true, "mtrr"},
    {1, 3, 13, false, "pge"},
    {1, 3, 15, false, "cmov"},
    {1, 3, 16, false, "pat"},
    {1, 2, 17, false, "pcid"},
    {7, 1, 1, true, "tsc_adjust"},
    {7, 1, 7, false, "smep"},
    {7, 2, 2, false, "umip"},
    {0x80000001, 2, 0, false, "lahf_lm"},
    {0x80000001, 3, 11, false, "syscall"},
    {0x80000001, 3, 20, false, "nx"},
    {0x80000001, 3, 26, false, "pdpe1gb"},
    {0x80000001, 3, 29, false, "lm"},
};

static uint32_t wanted(const struct x86_level *level, uint32_t leaf, uint8_t reg)
{
    const struct x86_cpuid_row *r = x86_level_row(level, leaf, 0);
    const uint32_t value[4] = {r ? r->eax : 0, r ? r->ebx : 0, r ? r->ecx : 0, r ? r->edx : 0};

    return value[reg];
}

const char *x86_level_lacks(const struct x86_level *level, x86_cpuid_bits_fn *had, const void *owner, bool emulates)
{
    size_t count;
    const struct x86_feature_bit *f = x86_feature_bits(&count);

    for (size_t i = 0; i < count; i++) {
        if (x86_level_has(level, (enum insn_feature)f[i].feature) &&
            !(had(owner, f[i].leaf, f[i].subleaf, f[i].reg) >> f[i].bit & 1))
            return f[i].name;
    }
    for (size_t i = 0; i < ARRAY_SIZE(system_bits); i++) {
        uint32_t leaf = system_bits[i].leaf;
        uint8_t reg = system_bits[i].reg, bit = system_bits[i].bit;

        if (!(emulates && system_bits[i].emulated) &&
            (wanted(level, leaf, reg) & ~had(owner, leaf, 0, reg)) >> bit & 1)
            return system_bits[i].name;
    }
    return NULL;
}
