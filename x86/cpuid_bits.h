/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/* CPUID feature bits that levels use (SDM 2A, CPUID; 0x40000001: Linux
 * Documentation/virt/kvm/x86/cpuid.rst). */
#ifndef LODGE_X86_CPUID_BITS_H
#define LODGE_X86_CPUID_BITS_H

#include "x86/level.h"

#define CPUID_BIT(n) (UINT32_C(1) << (n))

/* Leaf 1 ECX */
#define CPUID_1C_SSE3         CPUID_BIT(0)
#define CPUID_1C_PCLMUL       CPUID_BIT(1)
#define CPUID_1C_SSSE3        CPUID_BIT(9)
#define CPUID_1C_FMA          CPUID_BIT(12)
#define CPUID_1C_CX16         CPUID_BIT(13)
#define CPUID_1C_PCID         CPUID_BIT(17)
#define CPUID_1C_SSE41        CPUID_BIT(19)
#define CPUID_1C_SSE42        CPUID_BIT(20)
#define CPUID_1C_X2APIC       CPUID_BIT(21)
#define CPUID_1C_MOVBE        CPUID_BIT(22)
#define CPUID_1C_POPCNT       CPUID_BIT(23)
#define CPUID_1C_TSC_DEADLINE CPUID_BIT(24)
#define CPUID_1C_AES          CPUID_BIT(25)
#define CPUID_1C_XSAVE        CPUID_BIT(26)
#define CPUID_1C_OSXSAVE      CPUID_BIT(27) /* = CR4.OSXSAVE */
#define CPUID_1C_AVX          CPUID_BIT(28)
#define CPUID_1C_F16C         CPUID_BIT(29)
#define CPUID_1C_RDRAND       CPUID_BIT(30)
#define CPUID_1C_HYPERVISOR   CPUID_BIT(31)

/* Leaf 1 EDX */
#define CPUID_1D_FPU   CPUID_BIT(0)
#define CPUID_1D_DE    CPUID_BIT(2)
#define CPUID_1D_PSE   CPUID_BIT(3)
#define CPUID_1D_TSC   CPUID_BIT(4)
#define CPUID_1D_MSR   CPUID_BIT(5)
#define CPUID_1D_PAE   CPUID_BIT(6)
#define CPUID_1D_MCE   CPUID_BIT(7)
#define CPUID_1D_CX8   CPUID_BIT(8)
#define CPUID_1D_APIC  CPUID_BIT(9) /* = APIC_BASE.enable */
#define CPUID_1D_SEP   CPUID_BIT(11)
#define CPUID_1D_MTRR  CPUID_BIT(12)
#define CPUID_1D_PGE   CPUID_BIT(13)
#define CPUID_1D_MCA   CPUID_BIT(14)
#define CPUID_1D_CMOV  CPUID_BIT(15)
#define CPUID_1D_PAT   CPUID_BIT(16)
#define CPUID_1D_PSE36 CPUID_BIT(17)
#define CPUID_1D_CLFSH CPUID_BIT(19)
#define CPUID_1D_MMX   CPUID_BIT(23)
#define CPUID_1D_FXSR  CPUID_BIT(24)
#define CPUID_1D_SSE   CPUID_BIT(25)
#define CPUID_1D_SSE2  CPUID_BIT(26)
#define CPUID_1D_SS    CPUID_BIT(27)
#define CPUID_1D_HTT   CPUID_BIT(28) /* more than one vCPU */

/* Leaf 6 EAX */
#define CPUID_6A_ARAT CPUID_BIT(2)

/* Leaf 7 */
#define CPUID_7B_FSGSBASE          CPUID_BIT(0)
#define CPUID_7B_TSC_ADJUST        CPUID_BIT(1)
#define CPUID_7B_BMI1              CPUID_BIT(3)
#define CPUID_7B_AVX2              CPUID_BIT(5)
#define CPUID_7B_SMEP              CPUID_BIT(7)
#define CPUID_7B_BMI2              CPUID_BIT(8)
#define CPUID_7B_ERMS              CPUID_BIT(9)
#define CPUID_7B_INVPCID           CPUID_BIT(10)
#define CPUID_7B_NO_FCS_FDS        CPUID_BIT(13)
#define CPUID_7B_RDSEED            CPUID_BIT(18)
#define CPUID_7B_ADX               CPUID_BIT(19)
#define CPUID_7B_SMAP              CPUID_BIT(20)
#define CPUID_7B_CLFLUSHOPT        CPUID_BIT(23)
#define CPUID_7B_CLWB              CPUID_BIT(24)
#define CPUID_7B_SHA               CPUID_BIT(29)
#define CPUID_7C_UMIP              CPUID_BIT(2)
#define CPUID_7C_GFNI              CPUID_BIT(8)
#define CPUID_7C_VAES              CPUID_BIT(9)
#define CPUID_7C_VPCLMUL           CPUID_BIT(10)
#define CPUID_7C_RDPID             CPUID_BIT(22)
#define CPUID_7D_FSRM              CPUID_BIT(4)
#define CPUID_7D_IBRS              CPUID_BIT(26) /* and IBPB */
#define CPUID_7D_STIBP             CPUID_BIT(27)
#define CPUID_7D_ARCH_CAPABILITIES CPUID_BIT(29)
#define CPUID_71A_FZRM             CPUID_BIT(10)
#define CPUID_71A_FSRS             CPUID_BIT(11)
#define CPUID_72D_BHI_CTRL         CPUID_BIT(4)

/* Leaf D, subleaf 1 EAX */
#define CPUID_D1A_XSAVEOPT CPUID_BIT(0)

/* Leaf 80000001 */
#define CPUID_81C_LAHF      CPUID_BIT(0)
#define CPUID_81C_LZCNT     CPUID_BIT(5)
#define CPUID_81C_PREFETCHW CPUID_BIT(8)
#define CPUID_81D_SYSCALL   CPUID_BIT(11)
#define CPUID_81D_NX        CPUID_BIT(20)
#define CPUID_81D_1G        CPUID_BIT(26)
#define CPUID_81D_RDTSCP    CPUID_BIT(27)
#define CPUID_81D_LM        CPUID_BIT(29)

/* Leaf 80000007 EDX */
#define CPUID_87D_INVARIANT_TSC CPUID_BIT(8)

/* Leaf 40000001 EAX: KVM's features */
#define CPUID_KVM_NOP_IO_DELAY       CPUID_BIT(1)
#define CPUID_KVM_CLOCKSOURCE2       CPUID_BIT(3)
#define CPUID_KVM_STEAL_TIME         CPUID_BIT(5)
#define CPUID_KVM_PV_UNHALT          CPUID_BIT(7)
#define CPUID_KVM_CLOCKSOURCE_STABLE CPUID_BIT(24)

/* Where a feature that instructions depend on is told, and on whom it depends. */
struct x86_feature_bit {
    uint8_t feature; /* enum insn_feature */
    bool native;     /* its instructions are executed by the host's processor */
    bool ymm;        /* and the host's system must save the upper halves of YMM registers */
    uint8_t reg;     /* 0 EAX .. 3 EDX */
    uint8_t bit;
    uint32_t leaf, subleaf;
    const char *name;
};

/* One row per feature that has a CPUID bit; *count rows (x86/level.c). */
const struct x86_feature_bit *x86_feature_bits(size_t *count);

/* A register (0 EAX .. 3 EDX) of a CPUID leaf as a host has it; 0 where there is no such leaf. */
typedef uint32_t x86_cpuid_bits_fn(const void *owner, uint32_t leaf, uint32_t subleaf, uint8_t reg);

/* Name of the first feature that the level needs and had(owner, ...) lacks, or NULL. emulates: what x86/ makes true by
 * itself (local APIC, MTRRs, TSC_ADJUST) is not asked for. */
const char *x86_level_lacks(const struct x86_level *level, x86_cpuid_bits_fn *had, const void *owner, bool emulates);

/* Takes bits (of register 0 EAX .. 3 EDX) away from a level of one's own. */
void x86_level_clear(struct x86_level *level, uint32_t leaf, uint32_t subleaf, uint8_t reg, uint32_t bits);

/* The level's own answer, not adapted to a vCPU; NULL if it has no such row. */
const struct x86_cpuid_row *x86_level_row(const struct x86_level *level, uint32_t leaf,
                                          uint32_t subleaf);

#endif
