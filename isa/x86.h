/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/* Architectural constants, in the manuals' groups and order (Intel SDM volumes 3 and 4; AMD APM
 * volume 2 where it says so). */
#ifndef LODGE_ISA_X86_H
#define LODGE_ISA_X86_H

#include <stdint.h>

#define X86_BIT(n) ((uint64_t)1 << (n))

/* General registers, by number */
enum { RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI, R8, R9, R10, R11, R12, R13, R14, R15 };

/* RFLAGS (SDM 1, 3.4.3) */
#define X86_FLAG_CF   X86_BIT(0)
#define X86_FLAG_ONE  X86_BIT(1)
#define X86_FLAG_PF   X86_BIT(2)
#define X86_FLAG_AF   X86_BIT(4)
#define X86_FLAG_ZF   X86_BIT(6)
#define X86_FLAG_SF   X86_BIT(7)
#define X86_FLAG_TF   X86_BIT(8)
#define X86_FLAG_IF   X86_BIT(9)
#define X86_FLAG_DF   X86_BIT(10)
#define X86_FLAG_OF   X86_BIT(11)
#define X86_FLAG_IOPL (X86_BIT(12) | X86_BIT(13))
#define X86_FLAG_NT   X86_BIT(14)
#define X86_FLAG_RF   X86_BIT(16)
#define X86_FLAG_VM   X86_BIT(17)
#define X86_FLAG_AC   X86_BIT(18)
#define X86_FLAG_VIF  X86_BIT(19)
#define X86_FLAG_VIP  X86_BIT(20)
#define X86_FLAG_ID   X86_BIT(21)
#define X86_FLAGS_STATUS                                                                           \
    (X86_FLAG_CF | X86_FLAG_PF | X86_FLAG_AF | X86_FLAG_ZF | X86_FLAG_SF | X86_FLAG_OF)
#define X86_FLAG_IOPL_SHIFT 12

/* Exceptions (SDM 3A, table 6-1) */
enum {
    X86_DE = 0,
    X86_DB = 1,
    X86_NMI = 2,
    X86_BP = 3,
    X86_OF = 4,
    X86_BR = 5,
    X86_UD = 6,
    X86_NM = 7,
    X86_DF = 8,
    X86_TS = 10,
    X86_NP = 11,
    X86_SS = 12,
    X86_GP = 13,
    X86_PF = 14,
    X86_MF = 16,
    X86_AC = 17,
    X86_MC = 18,
    X86_XM = 19,
};

/* Page-fault error code (SDM 3A, 4.7) */
#define X86_PF_P X86_BIT(0)
#define X86_PF_W X86_BIT(1)
#define X86_PF_U X86_BIT(2)
#define X86_PF_R X86_BIT(3)
#define X86_PF_I X86_BIT(4)

/* Error code of selector faults (SDM 3A, 6.13) */
#define X86_ERROR_EXT X86_BIT(0)
#define X86_ERROR_IDT X86_BIT(1)
#define X86_ERROR_TI  X86_BIT(2)

/* Control registers (SDM 3A, 2.5) */
#define X86_CR0_PE X86_BIT(0)
#define X86_CR0_MP X86_BIT(1)
#define X86_CR0_EM X86_BIT(2)
#define X86_CR0_TS X86_BIT(3)
#define X86_CR0_ET X86_BIT(4)
#define X86_CR0_NE X86_BIT(5)
#define X86_CR0_WP X86_BIT(16)
#define X86_CR0_AM X86_BIT(18)
#define X86_CR0_NW X86_BIT(29)
#define X86_CR0_CD X86_BIT(30)
#define X86_CR0_PG X86_BIT(31)

#define X86_CR3_PWT   X86_BIT(3)
#define X86_CR3_PCD   X86_BIT(4)
#define X86_CR3_PCID  0xFFFu
#define X86_CR3_NOFLUSH X86_BIT(63)

#define X86_CR4_VME        X86_BIT(0)
#define X86_CR4_PVI        X86_BIT(1)
#define X86_CR4_TSD        X86_BIT(2)
#define X86_CR4_DE         X86_BIT(3)
#define X86_CR4_PSE        X86_BIT(4)
#define X86_CR4_PAE        X86_BIT(5)
#define X86_CR4_MCE        X86_BIT(6)
#define X86_CR4_PGE        X86_BIT(7)
#define X86_CR4_PCE        X86_BIT(8)
#define X86_CR4_OSFXSR     X86_BIT(9)
#define X86_CR4_OSXMMEXCPT X86_BIT(10)
#define X86_CR4_UMIP       X86_BIT(11)
#define X86_CR4_LA57       X86_BIT(12)
#define X86_CR4_FSGSBASE   X86_BIT(16)
#define X86_CR4_PCIDE      X86_BIT(17)
#define X86_CR4_OSXSAVE    X86_BIT(18)
#define X86_CR4_SMEP       X86_BIT(20)
#define X86_CR4_SMAP       X86_BIT(21)

#define X86_XCR0_X87 X86_BIT(0)
#define X86_XCR0_SSE X86_BIT(1)
#define X86_XCR0_AVX X86_BIT(2)

/* IA32_EFER (SDM 4, table 2-2) */
#define X86_EFER_SCE X86_BIT(0)
#define X86_EFER_LME X86_BIT(8)
#define X86_EFER_LMA X86_BIT(10)
#define X86_EFER_NXE X86_BIT(11)

/* Debug registers (SDM 3B, 17.2) */
#define X86_DR6_BD    X86_BIT(13)
#define X86_DR6_BS    X86_BIT(14)
#define X86_DR6_BT    X86_BIT(15)
#define X86_DR6_FIXED 0xFFFF0FF0u
#define X86_DR7_FIXED 0x400u
#define X86_DR7_GD    X86_BIT(13)

/* Paging-structure entries (SDM 3A, 4.5) */
#define X86_PTE_P    X86_BIT(0)
#define X86_PTE_W    X86_BIT(1)
#define X86_PTE_U    X86_BIT(2)
#define X86_PTE_PWT  X86_BIT(3)
#define X86_PTE_PCD  X86_BIT(4)
#define X86_PTE_A    X86_BIT(5)
#define X86_PTE_D    X86_BIT(6)
#define X86_PTE_PS   X86_BIT(7)
#define X86_PTE_G    X86_BIT(8)
#define X86_PTE_NX   X86_BIT(63)

/* MXCSR (SDM 1, 10.2.3) */
#define X86_MXCSR_RESET 0x1F80u
#define X86_FCW_RESET   0x037Fu

/* MSRs (SDM 4; AMD APM 2 appendix A; Linux Documentation/virt/kvm/x86/msr.rst) */
enum {
    MSR_TSC = 0x10,
    MSR_PLATFORM_ID = 0x17,
    MSR_APIC_BASE = 0x1B,
    MSR_FEATURE_CONTROL = 0x3A,
    MSR_TSC_ADJUST = 0x3B,
    MSR_SPEC_CTRL = 0x48,
    MSR_PRED_CMD = 0x49,
    MSR_UCODE_REV = 0x8B,
    MSR_MTRRCAP = 0xFE,
    MSR_ARCH_CAPABILITIES = 0x10A,
    MSR_FLUSH_CMD = 0x10B,
    MSR_SYSENTER_CS = 0x174,
    MSR_SYSENTER_ESP = 0x175,
    MSR_SYSENTER_EIP = 0x176,
    MSR_MCG_CAP = 0x179,
    MSR_MCG_STATUS = 0x17A,
    MSR_MISC_ENABLE = 0x1A0,
    MSR_MTRR_PHYSBASE0 = 0x200,
    MSR_MTRR_FIX64K = 0x250,
    MSR_MTRR_FIX16K_80000 = 0x258,
    MSR_MTRR_FIX16K_A0000 = 0x259,
    MSR_MTRR_FIX4K_C0000 = 0x268,
    MSR_PAT = 0x277,
    MSR_MTRR_DEF_TYPE = 0x2FF,
    MSR_TSC_DEADLINE = 0x6E0,
    MSR_X2APIC_FIRST = 0x800,
    MSR_X2APIC_LAST = 0x8FF,
    MSR_KVM_WALL_CLOCK_NEW = 0x4B564D00,
    MSR_KVM_SYSTEM_TIME_NEW = 0x4B564D01,
    MSR_KVM_ASYNC_PF_EN = 0x4B564D02,
    MSR_KVM_STEAL_TIME = 0x4B564D03,
    MSR_KVM_PV_EOI_EN = 0x4B564D04,
    MSR_KVM_POLL_CONTROL = 0x4B564D05,
};

/* IA32_APIC_BASE */
#define X86_APIC_BASE_BSP    X86_BIT(8)
#define X86_APIC_BASE_X2APIC X86_BIT(10)
#define X86_APIC_BASE_ENABLE X86_BIT(11)

/* IA32_MISC_ENABLE: what there is and is not (no branch trace store, no PEBS) */
#define X86_MISC_ENABLE_FAST_STRINGS X86_BIT(0)
#define X86_MISC_ENABLE_NO_BTS       X86_BIT(11)
#define X86_MISC_ENABLE_NO_PEBS      X86_BIT(12)
#define X86_MISC_ENABLE_RESET                                                                      \
    (X86_MISC_ENABLE_FAST_STRINGS | X86_MISC_ENABLE_NO_BTS | X86_MISC_ENABLE_NO_PEBS)

/* IA32_SPEC_CTRL, IA32_PRED_CMD */
#define X86_SPEC_CTRL_IBRS  X86_BIT(0)
#define X86_SPEC_CTRL_STIBP X86_BIT(1)
#define X86_SPEC_CTRL_BHI_DIS_S X86_BIT(10)
#define X86_PRED_CMD_IBPB   X86_BIT(0)

/* IA32_ARCH_CAPABILITIES */
#define X86_ARCH_RDCL_NO              X86_BIT(0)
#define X86_ARCH_IBRS_ALL             X86_BIT(1)
#define X86_ARCH_SKIP_L1DFL_VMENTRY   X86_BIT(3)
#define X86_ARCH_SSB_NO               X86_BIT(4)
#define X86_ARCH_MDS_NO               X86_BIT(5)
#define X86_ARCH_IF_PSCHANGE_MC_NO    X86_BIT(6)
#define X86_ARCH_TAA_NO               X86_BIT(8)
#define X86_ARCH_SBDR_SSDP_NO         X86_BIT(13)
#define X86_ARCH_FBSDP_NO             X86_BIT(14)
#define X86_ARCH_PSDP_NO              X86_BIT(15)
#define X86_ARCH_BHI_NO               X86_BIT(20)
#define X86_ARCH_PBRSB_NO             X86_BIT(24)
#define X86_ARCH_GDS_NO               X86_BIT(26)
#define X86_ARCH_RFDS_NO              X86_BIT(27)
#define X86_ARCH_ITS_NO               X86_BIT(62)

#define MSR_EFER           0xC0000080u
#define MSR_STAR           0xC0000081u
#define MSR_LSTAR          0xC0000082u
#define MSR_CSTAR          0xC0000083u
#define MSR_SFMASK         0xC0000084u
#define MSR_FS_BASE        0xC0000100u
#define MSR_GS_BASE        0xC0000101u
#define MSR_KERNEL_GS_BASE 0xC0000102u
#define MSR_TSC_AUX        0xC0000103u

#endif
