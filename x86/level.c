/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * The levels v2 and v3, bit by bit.
 *
 * Identity. Vendor GenuineIntel, since that is the vendor for which a kernel believes
 * ARCH_CAPABILITIES and reads few MSRs that are not enumerated; family 6 with a model that no
 * processor has, so that no table of model-specific features, errata, performance counters, power
 * management or mitigations matches. Checked against Linux 6.1 and 6.12 (arch/x86/kernel/cpu:
 * intel.c, common.c, bugs.c).
 *
 * Mitigation profile. Under soft no guest instruction runs on the host with guest state in reach of
 * a transient execution that its privileges do not cover: translations come from a TLB that holds
 * only what the context may reach, and one interpreter's branches are all that the host predicts.
 * So ARCH_CAPABILITIES says that none of the known leaks exist, and that IBRS is always in force,
 * and Linux finds no reason for page-table isolation, retpolines, return thunks, VERW or clearing
 * of branch history. IBRS, STIBP and IBPB are there to be written. BHI_CTRL is, too: Linux since
 * its ITS patches does not take BHI_NO for enough (attacks inside one mode) and would clear the
 * history with a loop in every system call if it could not set BHI_DIS_S. What it asks for holds
 * anyway.
 *
 * Left out on purpose: MONITOR (HLT costs no host CPU, MWAIT would), VME (no 64-bit guest wants
 * it), performance counters (leaf AH is zero), XSAVEC and XSAVES, MPX, PKU, SHA in v3 (Haswell to
 * Skylake hosts lack it), PCID, INVPCID, UMIP and RDSEED in v3 (the rig lacks them; "host" has
 * them).
 *
 * The fast-string bits say what is true of soft: REP MOVSB and STOSB are the fastest copies.
 */
#include "x86/level.h"

#include "core/mem.h"
#include "isa/x86.h"
#include "x86/cpuid_bits.h"

/* --- tables --- */

#define TEXT4(a, b, c, d)                                                                          \
    ((uint32_t)(a) | (uint32_t)(b) << 8 | (uint32_t)(c) << 16 | (uint32_t)(d) << 24)

enum { MAX_BASIC = 0x16, FAMILY = 6, MODEL = 0xF5, STEPPING = 1 };
#define SIGNATURE      ((MODEL >> 4) << 16 | FAMILY << 8 | (MODEL & 0xF) << 4 | STEPPING)
#define MAX_HYPERVISOR 0x40000010u
#define MAX_EXTENDED   0x80000008u
enum { PHYSICAL_BITS = 39, LINEAR_BITS = 48 }; /* 39: what small hosts with EPT have */

#define V2_1C                                                                                      \
    (CPUID_1C_SSE3 | CPUID_1C_SSSE3 | CPUID_1C_CX16 | CPUID_1C_SSE41 | CPUID_1C_SSE42 |            \
     CPUID_1C_X2APIC | CPUID_1C_POPCNT | CPUID_1C_TSC_DEADLINE | CPUID_1C_XSAVE |                  \
     CPUID_1C_HYPERVISOR)
#define V3_1C                                                                                      \
    (V2_1C | CPUID_1C_PCLMUL | CPUID_1C_FMA | CPUID_1C_MOVBE | CPUID_1C_AES | CPUID_1C_AVX |       \
     CPUID_1C_F16C | CPUID_1C_RDRAND)
#define ANY_1D                                                                                     \
    (CPUID_1D_FPU | CPUID_1D_DE | CPUID_1D_PSE | CPUID_1D_TSC | CPUID_1D_MSR | CPUID_1D_PAE |      \
     CPUID_1D_MCE | CPUID_1D_CX8 | CPUID_1D_APIC | CPUID_1D_SEP | CPUID_1D_MTRR | CPUID_1D_PGE |   \
     CPUID_1D_MCA | CPUID_1D_CMOV | CPUID_1D_PAT | CPUID_1D_PSE36 | CPUID_1D_CLFSH |               \
     CPUID_1D_MMX | CPUID_1D_FXSR | CPUID_1D_SSE | CPUID_1D_SSE2 | CPUID_1D_SS)
#define V2_7B (CPUID_7B_TSC_ADJUST | CPUID_7B_ERMS | CPUID_7B_NO_FCS_FDS)
#define V3_7B                                                                                      \
    (V2_7B | CPUID_7B_FSGSBASE | CPUID_7B_BMI1 | CPUID_7B_AVX2 | CPUID_7B_SMEP | CPUID_7B_BMI2 |   \
     CPUID_7B_ADX | CPUID_7B_SMAP | CPUID_7B_CLFLUSHOPT)
#define ANY_7D  (CPUID_7D_FSRM | CPUID_7D_IBRS | CPUID_7D_STIBP | CPUID_7D_ARCH_CAPABILITIES)
#define ANY_71A (CPUID_71A_FZRM | CPUID_71A_FSRS)
#define V2_81C  CPUID_81C_LAHF
#define V3_81C  (V2_81C | CPUID_81C_LZCNT | CPUID_81C_PREFETCHW)
#define V2_81D  (CPUID_81D_SYSCALL | CPUID_81D_NX | CPUID_81D_RDTSCP | CPUID_81D_LM)
#define V3_81D  (V2_81D | CPUID_81D_1G)
#define KVM_FEATURES                                                                               \
    (CPUID_KVM_NOP_IO_DELAY | CPUID_KVM_CLOCKSOURCE2 | CPUID_KVM_STEAL_TIME |                      \
     CPUID_KVM_PV_UNHALT | CPUID_KVM_CLOCKSOURCE_STABLE)

/* Leaf 4: type and level, ways, sets; lines of 64 bytes. Sharing is filled in by x86_cpuid. */
#define CACHE(sub, type, lvl, ways, sets)                                                          \
    {                                                                                              \
        4, sub, true, (type) | (lvl) << 5 | 1 << 8, ((ways)-1u) << 22 | 63, (sets)-1, 0            \
    }

/* Rows that all levels have alike. */
#define COMMON_ROWS                                                                                \
    {0,                                                                                            \
     0,                                                                                            \
     false,                                                                                        \
     MAX_BASIC,                                                                                    \
     TEXT4('G', 'e', 'n', 'u'),                                                                    \
     TEXT4('n', 't', 'e', 'l'),                                                                    \
     TEXT4('i', 'n', 'e', 'I')},                                                                   \
        {2, 0, false, 0x00FF0001, 0, 0, 0}, /* FF: see leaf 4 */                                   \
        CACHE(0, 1, 1, 8, 64),              /* 32 KiB data */                                      \
        CACHE(1, 2, 1, 8, 64),              /* 32 KiB code */                                      \
        CACHE(2, 3, 2, 16, 1024),           /* 1 MiB */                                            \
        CACHE(3, 3, 3, 16, 16384),          /* 16 MiB, shared */                                   \
        {6, 0, false, CPUID_6A_ARAT, 0, 0, 0}, {7, 1, true, ANY_71A, 0, 0, 0},                     \
        {7, 2, true, 0, 0, 0, CPUID_72D_BHI_CTRL},                                                 \
        {0xB, 0, true, 0, 0, 0, 0}, /* filled in by x86_cpuid, as are 15H, 16H and 40000010H */    \
        {0xB, 1, true, 0, 0, 0, 0}, {0x15, 0, false, 0, 0, 0, 0}, {0x16, 0, false, 0, 0, 0, 0},    \
        {0x40000000,                                                                               \
         0,                                                                                        \
         false,                                                                                    \
         MAX_HYPERVISOR,                                                                           \
         TEXT4('K', 'V', 'M', 'K'),                                                                \
         TEXT4('V', 'M', 'K', 'V'),                                                                \
         TEXT4('M', 0, 0, 0)},                                                                     \
        {0x40000001, 0, false, KVM_FEATURES, 0, 0, 0}, {0x40000010, 0, false, 0, 0, 0, 0},         \
        {0x80000000, 0, false, MAX_EXTENDED, 0, 0, 0},                                             \
        {0x80000002,                                                                               \
         0,                                                                                        \
         false,                                                                                    \
         TEXT4('L', 'o', 'd', 'g'),                                                                \
         TEXT4('e', ' ', 'V', 'i'),                                                                \
         TEXT4('r', 't', 'u', 'a'),                                                                \
         TEXT4('l', ' ', 'C', 'P')},                                                               \
        {0x80000006, 0, false, 0, 0, 0x04008040, 0}, /* L2: 1 MiB, 16 ways, 64 bytes */            \
        {0x80000007, 0, false, 0, 0, 0, CPUID_87D_INVARIANT_TSC},                                  \
    {                                                                                              \
        0x80000008, 0, false, PHYSICAL_BITS | LINEAR_BITS << 8, 0, 0, 0                            \
    }

/* Levels differ in these: level.name's last letters, leaf 1 ECX, ... */
#define OWN_ROWS(n1, n2, l1c, l7b, ld0a, ld0c, ld1a, l81c, l81d)                                   \
    {1, 0, false, SIGNATURE, 8 << 8, l1c, ANY_1D}, {7, 0, true, 2, l7b, 0, ANY_7D},                \
        {0xD, 0, true, ld0a, ld0c, ld0c, 0}, {0xD, 1, true, ld1a, 0, 0, 0},                        \
        {0x80000001, 0, false, 0, 0, l81c, l81d},                                                  \
    {                                                                                              \
        0x80000003, 0, false, TEXT4('U', ' ', n1, n2), 0, 0, 0                                     \
    }

#define F(name) BIT(INSN_FEATURE_##name)
#define V2_FEATURES                                                                                \
    (F(NONE) | F(X87) | F(MMX) | F(SSE) | F(SSE2) | F(SSE3) | F(SSSE3) | F(SSE41) | F(SSE42) |     \
     F(POPCNT) | F(CX8) | F(CX16) | F(SEP) | F(RDTSCP) | F(CLFSH) | F(FXSR) | F(XSAVE))
#define V3_FEATURES                                                                                \
    (V2_FEATURES | F(AES) | F(PCLMUL) | F(AVX) | F(AVX2) | F(FMA) | F(F16C) | F(BMI1) | F(BMI2) |  \
     F(LZCNT) | F(MOVBE) | F(ADX) | F(FSGSBASE) | F(SMAP) | F(RDRAND) |                            \
     F(CLFLUSHOPT) | F(XSAVEOPT))

#define NO_LEAKS                                                                                   \
    (X86_ARCH_RDCL_NO | X86_ARCH_IBRS_ALL | X86_ARCH_SKIP_L1DFL_VMENTRY | X86_ARCH_SSB_NO |        \
     X86_ARCH_MDS_NO | X86_ARCH_IF_PSCHANGE_MC_NO | X86_ARCH_TAA_NO | X86_ARCH_SBDR_SSDP_NO |      \
     X86_ARCH_FBSDP_NO | X86_ARCH_PSDP_NO | X86_ARCH_BHI_NO | X86_ARCH_PBRSB_NO |                  \
     X86_ARCH_GDS_NO | X86_ARCH_RFDS_NO | X86_ARCH_ITS_NO)

#define V2_CR4                                                                                     \
    (X86_CR4_TSD | X86_CR4_DE | X86_CR4_PSE | X86_CR4_PAE | X86_CR4_MCE | X86_CR4_PGE |            \
     X86_CR4_PCE | X86_CR4_OSFXSR | X86_CR4_OSXMMEXCPT | X86_CR4_OSXSAVE)
#define V3_CR4 (V2_CR4 | X86_CR4_FSGSBASE | X86_CR4_SMEP | X86_CR4_SMAP)

#define COMMON_FIELDS                                                                              \
    .arch_capabilities = NO_LEAKS,                                                                 \
    .efer_mask = X86_EFER_SCE | X86_EFER_LME | X86_EFER_LMA | X86_EFER_NXE,                        \
    .physical_bits = PHYSICAL_BITS, .x2apic = true, .tsc_deadline = true, .spec_ctrl = true

/* table */
static const struct x86_level levels[] = {
    {
        .name = "v2",
        .count = 27,
        .row = {COMMON_ROWS, OWN_ROWS('v', '2', V2_1C, V2_7B, 3, 576, 0, V2_81C, V2_81D)},
        .insn_features = V2_FEATURES,
        .xcr0_mask = X86_XCR0_X87 | X86_XCR0_SSE,
        .cr4_mask = V2_CR4,
        COMMON_FIELDS,
    },
    {
        .name = "v3",
        .count = 28,
        .row = {COMMON_ROWS,
                OWN_ROWS('v', '3', V3_1C, V3_7B, 7, 832, CPUID_D1A_XSAVEOPT, V3_81C, V3_81D),
                {0xD, 2, true, 256, 576, 0, 0}},
        .insn_features = V3_FEATURES,
        .xcr0_mask = X86_XCR0_X87 | X86_XCR0_SSE | X86_XCR0_AVX,
        .cr4_mask = V3_CR4,
        .gib_pages = true,
        COMMON_FIELDS,
    },
};

#define ROW(feature, native, ymm, reg, bit, leaf, sub, name)                                       \
    {                                                                                              \
        INSN_FEATURE_##feature, native, ymm, reg, bit, leaf, sub, name                             \
    }

/* table */
static const struct x86_feature_bit feature_bits[] = {
    ROW(X87, true, false, 3, 0, 1, 0, "fpu"),
    ROW(CX8, true, false, 3, 8, 1, 0, "cx8"),
    ROW(SEP, false, false, 3, 11, 1, 0, "sep"),
    ROW(CLFSH, false, false, 3, 19, 1, 0, "clflush"),
    ROW(MMX, true, false, 3, 23, 1, 0, "mmx"),
    ROW(FXSR, true, false, 3, 24, 1, 0, "fxsr"),
    ROW(SSE, true, false, 3, 25, 1, 0, "sse"),
    ROW(SSE2, true, false, 3, 26, 1, 0, "sse2"),
    ROW(SSE3, true, false, 2, 0, 1, 0, "sse3"),
    ROW(PCLMUL, true, false, 2, 1, 1, 0, "pclmulqdq"),
    ROW(MONITOR, false, false, 2, 3, 1, 0, "monitor"),
    ROW(SSSE3, true, false, 2, 9, 1, 0, "ssse3"),
    ROW(FMA, true, true, 2, 12, 1, 0, "fma"),
    ROW(CX16, true, false, 2, 13, 1, 0, "cx16"),
    ROW(SSE41, true, false, 2, 19, 1, 0, "sse4_1"),
    ROW(SSE42, true, false, 2, 20, 1, 0, "sse4_2"),
    ROW(MOVBE, false, false, 2, 22, 1, 0, "movbe"),
    ROW(POPCNT, true, false, 2, 23, 1, 0, "popcnt"),
    ROW(AES, true, false, 2, 25, 1, 0, "aes"),
    ROW(XSAVE, false, false, 2, 26, 1, 0, "xsave"),
    ROW(AVX, true, true, 2, 28, 1, 0, "avx"),
    ROW(F16C, true, true, 2, 29, 1, 0, "f16c"),
    ROW(RDRAND, false, false, 2, 30, 1, 0, "rdrand"),
    ROW(FSGSBASE, false, false, 1, 0, 7, 0, "fsgsbase"),
    ROW(BMI1, true, false, 1, 3, 7, 0, "bmi1"),
    ROW(AVX2, true, true, 1, 5, 7, 0, "avx2"),
    ROW(BMI2, true, false, 1, 8, 7, 0, "bmi2"),
    ROW(INVPCID, false, false, 1, 10, 7, 0, "invpcid"),
    ROW(RDSEED, false, false, 1, 18, 7, 0, "rdseed"),
    ROW(ADX, false, false, 1, 19, 7, 0, "adx"),
    ROW(SMAP, false, false, 1, 20, 7, 0, "smap"),
    ROW(CLFLUSHOPT, false, false, 1, 23, 7, 0, "clflushopt"),
    ROW(CLWB, false, false, 1, 24, 7, 0, "clwb"),
    ROW(SHA, true, false, 1, 29, 7, 0, "sha_ni"),
    ROW(GFNI, true, false, 2, 8, 7, 0, "gfni"),
    ROW(VAES, true, true, 2, 9, 7, 0, "vaes"),
    ROW(VPCLMUL, true, true, 2, 10, 7, 0, "vpclmulqdq"),
    ROW(RDPID, false, false, 2, 22, 7, 0, "rdpid"),
    ROW(XSAVEOPT, false, false, 0, 0, 0xD, 1, "xsaveopt"),
    ROW(LZCNT, true, false, 2, 5, 0x80000001, 0, "lzcnt"),
    ROW(RDTSCP, false, false, 3, 27, 0x80000001, 0, "rdtscp"),
};

/* --- look-ups --- */

const struct x86_feature_bit *x86_feature_bits(size_t *count)
{
    *count = ARRAY_SIZE(feature_bits);
    return feature_bits;
}

void x86_level_clear(struct x86_level *level, uint32_t leaf, uint32_t subleaf, uint8_t reg, uint32_t bits)
{
    for (uint32_t i = 0; i < level->count; i++) {
        struct x86_cpuid_row *r = &level->row[i];
        uint32_t *const regs[4] = {&r->eax, &r->ebx, &r->ecx, &r->edx};
        if (r->leaf == leaf && r->subleaf == subleaf)
            *regs[reg] &= ~bits;
    }
}

void x86_level_make_portable(struct x86_level *level)
{
    level->arch_capabilities = 0;
    level->spec_ctrl = false;
    x86_level_clear(level, 7, 0, 3, CPUID_7D_IBRS | CPUID_7D_STIBP);
    x86_level_clear(level, 7, 2, 3, CPUID_72D_BHI_CTRL);
    x86_level_clear(level, 0x40000001, 0, 0, CPUID_KVM_PV_UNHALT); /* not on AMD's (engine/kvm/level.c) */
}

const struct x86_level *x86_level_find(const char *name)
{
    for (size_t i = 0; i < ARRAY_SIZE(levels); i++) {
        if (str_equal(levels[i].name, name))
            return &levels[i];
    }
    return NULL;
}

const struct x86_cpuid_row *x86_level_row(const struct x86_level *level, uint32_t leaf,
                                          uint32_t subleaf)
{
    for (uint32_t i = 0; i < level->count && i < X86_LEVEL_ROWS; i++) {
        const struct x86_cpuid_row *r = &level->row[i];
        if (r->leaf == leaf && (!r->has_subleaf || r->subleaf == subleaf))
            return r;
    }
    return NULL;
}
