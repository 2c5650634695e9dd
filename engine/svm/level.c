/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * Levels under svm: what this processor must have to give one, and what of a level's mitigation profile is true here.
 *
 * Guest instructions run on the processor itself, so every feature of the level has to be there. Not asked of it
 * is what Lodge makes true by itself: the local APIC with x2APIC and the TSC-deadline timer (x86/lapic.c),
 * TSC_ADJUST (its MSR exits), invariant TSC and the hypervisor's leaves. PCID, INVPCID and UMIP cannot be made up:
 * v2 and v3 do not have them, and a level that does is refused, by their names, on a processor without.
 *
 * What the other way round the processor has and the level has not: CR4 exits, so a guest cannot switch it on;
 * MSRs exit; instructions that need neither and cannot be intercepted (RDSEED, say) work though CPUID denies them.
 *
 * The mitigation profile is about leaks of the processor that runs the guest. Of AMD's: no Meltdown, L1TF, MDS,
 * TAA and what else only Intel's ever had; SSB only if it says so. IA32_SPEC_CTRL is offered where it is there.
 */
#include "core/fmt.h"
#include "engine/svm/svm_private.h"
#include "x86/cpuid_bits.h"
#include "x86/level.h"

#define AMD_IBRS   BIT(14) /* CPUID 80000008H EBX */
#define AMD_STIBP  BIT(15)
#define AMD_SSB_NO BIT(26)

/* --- the processor's CPUID -------------------------------------------------------------------------- */

/* x86_cpuid_bits_fn */
static uint32_t host_bits(const void *unused, uint32_t leaf, uint32_t subleaf, uint8_t reg)
{
    uint32_t out[4];

    (void)unused;
    svm_cpuid(leaf & 0x80000000, 0, out);
    if (out[0] < leaf)
        return 0;
    svm_cpuid(leaf, subleaf, out);
    return out[reg];
}

int svm_probe(const struct x86_level *level, bool closely, char *why, size_t size)
{
    char notes[1];
    const char *name;
    uint32_t physical;

    (void)closely;
    if (svm_cpu_probe(why, size, notes, sizeof(notes)) != OK)
        return ERR_UNSUPPORTED;
    name = x86_level_lacks(level, host_bits, NULL, true);
    physical = host_bits(NULL, 0x80000008, 0, 0) & 0xFF;
    if (!name && (level->xcr0_mask & ~(uint64_t)host_bits(NULL, 0xD, 0, 0)))
        name = "xsave (all components)";
    if (name) {
        (void)fmt(why, size, "this processor lacks %s, which level %s needs", name, level->name);
        return ERR_UNSUPPORTED;
    }
    if (physical < level->physical_bits) {
        (void)fmt(why, size, "this processor has %u physical address bits, level %s needs %u", physical, level->name,
                  level->physical_bits);
        return ERR_UNSUPPORTED;
    }
    return OK;
}

/* --- the mitigation profile ------------------------------------------------------------------------- */

void svm_adapt_profile(struct x86_level *level)
{
    const uint64_t never = X86_ARCH_RDCL_NO | X86_ARCH_SKIP_L1DFL_VMENTRY | X86_ARCH_MDS_NO |
                           X86_ARCH_IF_PSCHANGE_MC_NO | X86_ARCH_TAA_NO | X86_ARCH_SBDR_SSDP_NO | X86_ARCH_FBSDP_NO | X86_ARCH_PSDP_NO |
                           X86_ARCH_BHI_NO | X86_ARCH_PBRSB_NO | X86_ARCH_GDS_NO | X86_ARCH_RFDS_NO | X86_ARCH_ITS_NO;
    uint32_t bits = host_bits(NULL, 0x80000008, 0, 1);
    bool spec_ctrl = (bits & (AMD_IBRS | AMD_STIBP)) == (AMD_IBRS | AMD_STIBP);

    level->arch_capabilities &= never | (bits & AMD_SSB_NO ? X86_ARCH_SSB_NO : 0);
    level->spec_ctrl = level->spec_ctrl && spec_ctrl;
    if (!level->spec_ctrl)
        x86_level_clear(level, 7, 0, 3, CPUID_7D_IBRS | CPUID_7D_STIBP);
    x86_level_clear(level, 7, 2, 3, CPUID_72D_BHI_CTRL);
}
