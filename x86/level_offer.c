/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * May a VM that was saved at one level go on at another? Where bits are promises, what the VM was
 * promised must be there, and what is there beyond is not for it: its own table stays in force.
 * Everything else (identity, sizes, how many leaves there are) must be the same.
 *
 * The wanted level comes from a file, so nothing is taken for granted about it.
 */
#include "core/err.h"
#include "core/fmt.h"
#include "core/mem.h"
#include "isa/x86.h"
#include "x86/cpuid_bits.h"
#include "x86/level.h"

enum { PHYSICAL_BITS_MIN = 36 };

/* Registers of leaves in which each bit is a promise of its own. */
static const struct {
    uint32_t leaf, subleaf;
    uint8_t reg; /* 0 EAX .. 3 EDX */
} promises[] = {
    /* table */
    {1, 0, 2},          {1, 0, 3},          {7, 0, 1},          {7, 0, 2},          {7, 0, 3},
    {7, 2, 3},          {0xD, 1, 0},        {0x80000001, 0, 2}, {0x80000001, 0, 3}, {0x80000007, 0, 3},
    {0x80000008, 0, 1}, {0x40000001, 0, 0},
};

static bool is_promise(uint32_t leaf, uint32_t subleaf, uint8_t reg)
{
    for (size_t i = 0; i < ARRAY_SIZE(promises); i++)
        if (promises[i].leaf == leaf && promises[i].subleaf == subleaf && promises[i].reg == reg)
            return true;
    return false;
}

/* Bits that no instruction depends on, of what is refused most often: the mitigation profile. Names as Linux prints
 * them, or Intel. */
static const struct {
    uint32_t leaf, subleaf;
    uint8_t reg, bit;
    const char *name;
} profile_bits[] = {
    /* table */
    {7, 0, 3, 26, "ibrs, ibpb"},
    {7, 0, 3, 27, "stibp"},
    {7, 0, 3, 29, "arch_capabilities"},
    {7, 2, 3, 4, "bhi_ctrl"},
    {0x40000001, 0, 0, 7, "kvm pv_unhalt"},
};

static const char *capability_name(unsigned int bit)
{
    static const char *const names[64] = {
        [0] = "RDCL_NO",   [1] = "IBRS_ALL", [3] = "SKIP_L1DFL_VMENTRY", [4] = "SSB_NO",   [5] = "MDS_NO",
        [6] = "PSCHANGE_MC_NO", [8] = "TAA_NO", [13] = "SBDR_SSDP_NO", [14] = "FBSDP_NO", [15] = "PSDP_NO",
        [20] = "BHI_NO",   [24] = "PBRSB_NO", [26] = "GDS_NO", [27] = "RFDS_NO", [62] = "ITS_NO",
    };
    return names[bit] ? names[bit] : "";
}

static int refuse_bit(const struct x86_cpuid_row *row, uint8_t reg, uint32_t lacking, char *why, size_t size)
{
    static const char *const registers[] = {"EAX", "EBX", "ECX", "EDX"};
    unsigned int bit = (unsigned int)__builtin_ctz(lacking);
    size_t count;
    const struct x86_feature_bit *known = x86_feature_bits(&count);
    const char *name = "";
    for (size_t i = 0; i < count; i++)
        if (known[i].leaf == row->leaf && known[i].subleaf == row->subleaf && known[i].reg == reg &&
            known[i].bit == bit)
            name = known[i].name;
    for (size_t i = 0; i < ARRAY_SIZE(profile_bits); i++)
        if (profile_bits[i].leaf == row->leaf && profile_bits[i].subleaf == row->subleaf &&
            profile_bits[i].reg == reg && profile_bits[i].bit == bit)
            name = profile_bits[i].name;
    fmt(why, size, "%s%sCPUID %XH.%u %s bit %u is not offered here", name, name[0] ? ", " : "", row->leaf,
        row->subleaf, registers[reg], bit);
    return ERR_UNSUPPORTED;
}

static int compare_rows(const struct x86_cpuid_row *offered, const struct x86_cpuid_row *wanted, char *why,
                        size_t size)
{
    const uint32_t have[4] = {offered->eax, offered->ebx, offered->ecx, offered->edx};
    const uint32_t want[4] = {wanted->eax, wanted->ebx, wanted->ecx, wanted->edx};
    for (uint8_t reg = 0; reg < 4; reg++) {
        uint32_t lacking = want[reg] & ~have[reg];
        if (want[reg] == have[reg])
            continue;
        if (lacking && is_promise(wanted->leaf, wanted->subleaf, reg))
            return refuse_bit(wanted, reg, lacking, why, size);
        if (!is_promise(wanted->leaf, wanted->subleaf, reg)) {
            fmt(why, size, "CPUID %XH.%u is another here", wanted->leaf, wanted->subleaf);
            return ERR_UNSUPPORTED;
        }
    }
    return OK;
}

static int refuse_mask(const char *what, uint64_t lacking, char *why, size_t size)
{
    unsigned int bit = (unsigned int)__builtin_ctzll(lacking);
    const char *name = str_equal(what, "IA32_ARCH_CAPABILITIES") ? capability_name(bit) : "";
    fmt(why, size, "%s%s%s bit %u is not offered here", name, name[0] ? ", " : "", what, bit);
    return ERR_UNSUPPORTED;
}

static int compare_masks(const struct x86_level *offered, const struct x86_level *wanted, char *why,
                         size_t size)
{
    const struct {
        const char *what;
        uint64_t have, want;
    } masks[] = {
        {"instruction feature", offered->insn_features, wanted->insn_features},
        {"IA32_ARCH_CAPABILITIES", offered->arch_capabilities, wanted->arch_capabilities},
        {"XCR0", offered->xcr0_mask, wanted->xcr0_mask},
        {"CR4", offered->cr4_mask, wanted->cr4_mask},
        {"EFER", offered->efer_mask, wanted->efer_mask},
        {"PCID:", offered->pcid, wanted->pcid},
        {"x2APIC:", offered->x2apic, wanted->x2apic},
        {"TSC-deadline timer:", offered->tsc_deadline, wanted->tsc_deadline},
        {"IA32_SPEC_CTRL:", offered->spec_ctrl, wanted->spec_ctrl},
        {"pages of 1 GiB:", offered->gib_pages, wanted->gib_pages},
    };
    for (size_t i = 0; i < ARRAY_SIZE(masks); i++)
        if (masks[i].want & ~masks[i].have)
            return refuse_mask(masks[i].what, masks[i].want & ~masks[i].have, why, size);
    return OK;
}

int x86_level_offers(const struct x86_level *offered, const struct x86_level *wanted, char *why, size_t size)
{
    if (memcmp(offered->name, wanted->name, sizeof(wanted->name)) != 0 || offered->count != wanted->count) {
        fmt(why, size, "it is of another table of processor features");
        return ERR_UNSUPPORTED;
    }
    for (uint32_t i = 0; i < wanted->count; i++) {
        const struct x86_cpuid_row *o = &offered->row[i], *w = &wanted->row[i];
        if (o->leaf != w->leaf || o->subleaf != w->subleaf || o->has_subleaf != w->has_subleaf) {
            fmt(why, size, "CPUID %XH.%u is not among the leaves here", w->leaf, w->subleaf);
            return ERR_UNSUPPORTED;
        }
        int err = compare_rows(o, w, why, size);
        if (err != OK)
            return err;
    }
    if (wanted->physical_bits > offered->physical_bits || wanted->physical_bits < PHYSICAL_BITS_MIN) {
        fmt(why, size, "there are %u physical address bits here, not %u", offered->physical_bits,
            wanted->physical_bits);
        return ERR_UNSUPPORTED;
    }
    /* What engines save and load: never less than x87 and SSE, which XCR0 does not gate; and as XSETBV takes it. */
    if ((wanted->xcr0_mask & (X86_XCR0_X87 | X86_XCR0_SSE)) != (X86_XCR0_X87 | X86_XCR0_SSE)) {
        fmt(why, size, "XCR0 without x87 or SSE is not offered here");
        return ERR_UNSUPPORTED;
    }
    return compare_masks(offered, wanted, why, size);
}
