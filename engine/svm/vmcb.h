/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/* The virtual machine control block and its codes (AMD APM 2, appendices B and C; 15.5 and the sections named). */
#ifndef LODGE_ENGINE_SVM_VMCB_H
#define LODGE_ENGINE_SVM_VMCB_H

#include "core/types.h"

/* Words of intercepts, by their bits. */
enum { VMCB_CR, VMCB_DR, VMCB_EXCEPTIONS, VMCB_MISC1, VMCB_MISC2, VMCB_MISC3, VMCB_WORDS };

#define VMCB_CR_READ(n)  BIT32(n)
#define VMCB_DR_ALL      UINT32_C(0x00FF00FF)
#define VMCB_CR_WRITE(n) BIT32(16 + (n))
#define BIT32(n)         ((uint32_t)1 << (n))

/* VMCB_MISC1 */
enum {
    INTERCEPT_INTR = 1 << 0,
    INTERCEPT_NMI = 1 << 1,
    INTERCEPT_INIT = 1 << 3,
    INTERCEPT_VINTR = 1 << 4,
    INTERCEPT_CR0_SELECTIVE = 1 << 5,
    INTERCEPT_RDPMC = 1 << 15,
    INTERCEPT_CPUID = 1 << 18,
    INTERCEPT_IRET = 1 << 20,
    INTERCEPT_INVD = 1 << 22,
    INTERCEPT_PAUSE = 1 << 23,
    INTERCEPT_HLT = 1 << 24,
    INTERCEPT_INVLPGA = 1 << 26,
    INTERCEPT_IO = 1 << 27,
    INTERCEPT_MSR = 1 << 28,
    INTERCEPT_FERR_FREEZE = 1 << 30,
};
#define INTERCEPT_SHUTDOWN BIT32(31)

/* VMCB_MISC2 */
enum {
    INTERCEPT_VMRUN = 1 << 0,
    INTERCEPT_VMMCALL = 1 << 1,
    INTERCEPT_VMLOAD = 1 << 2,
    INTERCEPT_VMSAVE = 1 << 3,
    INTERCEPT_STGI = 1 << 4,
    INTERCEPT_CLGI = 1 << 5,
    INTERCEPT_SKINIT = 1 << 6,
    INTERCEPT_WBINVD = 1 << 9,
    INTERCEPT_MONITOR = 1 << 10,
    INTERCEPT_MWAIT = 1 << 11,
    INTERCEPT_XSETBV = 1 << 13,
    INTERCEPT_RDPRU = 1 << 14,
};

/* VMCB_MISC3 */
enum {
    INTERCEPT_INVLPGB = 1 << 0,
    INTERCEPT_INVPCID = 1 << 2,
    INTERCEPT_MCOMMIT = 1 << 3,
    INTERCEPT_TLBSYNC = 1 << 4,
};

enum { TLB_NOTHING = 0, TLB_FLUSH_ALL = 1, TLB_FLUSH_GUEST = 3 }; /* 15.16.1 */

/* The word at 60H (15.21) */
enum {
    INT_TPR_MASK = 0xF,
    INT_IRQ = 1 << 8,
    INT_PRIORITY_MAX = 0xF << 16,
    INT_IGNORE_TPR = 1 << 20,
    INT_MASKING = 1 << 24, /* RFLAGS.IF and TPR of the guest are its own, the host's go on */
};

/* EVENTINJ and EXITINTINFO (15.20, 15.7.2) */
enum { EVENT_INTERRUPT = 0, EVENT_NMI = 2, EVENT_EXCEPTION = 3, EVENT_SOFTWARE = 4 };
#define EVENT_TYPE_SHIFT 8
#define EVENT_HAS_ERROR  BIT(11)
#define EVENT_VALID      BIT(31)

/* VMCB clean bits (15.15.3): what the processor may have kept from the last time */
enum {
    CLEAN_INTERCEPTS = 1 << 0, /* and TSC offset, pause filter */
    CLEAN_MAPS = 1 << 1,
    CLEAN_ASID = 1 << 2,
    CLEAN_TPR = 1 << 3,
    CLEAN_NESTED = 1 << 4, /* N_CR3, G_PAT */
    CLEAN_CR = 1 << 5,
    CLEAN_DR = 1 << 6,
    CLEAN_TABLES = 1 << 7,
    CLEAN_SEGMENTS = 1 << 8, /* CS DS ES SS, CPL */
    CLEAN_CR2 = 1 << 9,
    CLEAN_ALL = (1 << 10) - 1, /* LBR, AVIC and CET are not used, but said to be clean by nobody */
};

struct vmcb_segment {
    uint16_t selector, attr; /* attr: descriptor bits 55:52 and 47:40 */
    uint32_t limit;
    uint64_t base;
};

struct vmcb_control {
    uint32_t intercept[VMCB_WORDS];
    uint8_t reserved_18[0x3C - 0x18];
    uint16_t pause_threshold, pause_count;
    uint64_t io_map, msr_map;
    uint64_t tsc_offset;
    uint32_t asid, tlb_control;
    uint32_t interrupt, interrupt_vector;
    uint64_t shadow; /* bit 0 */
    uint64_t exit_code, exit_info1, exit_info2;
    uint64_t exit_event; /* EXITINTINFO */
    uint64_t nested;     /* bit 0: NP_ENABLE */
    uint8_t reserved_98[0xA8 - 0x98];
    uint64_t inject; /* EVENTINJ */
    uint64_t nested_cr3;
    uint64_t lbr;
    uint32_t clean, reserved_c4;
    uint64_t next_rip;
    uint8_t fetched, bytes[15];
    uint8_t reserved_e0[0x400 - 0xE0];
};

struct vmcb_save {
    struct vmcb_segment es, cs, ss, ds, fs, gs, gdtr, ldtr, idtr, tr;
    uint8_t reserved_a0[0xCB - 0xA0];
    uint8_t cpl;
    uint8_t reserved_cc[4];
    uint64_t efer;
    uint8_t reserved_d8[0x148 - 0xD8];
    uint64_t cr4, cr3, cr0, dr7, dr6, rflags, rip;
    uint8_t reserved_180[0x1D8 - 0x180];
    uint64_t rsp;
    uint8_t reserved_1e0[0x1F8 - 0x1E0];
    uint64_t rax;
    uint64_t star, lstar, cstar, sfmask, kernel_gs_base;
    uint64_t sysenter_cs, sysenter_esp, sysenter_eip;
    uint64_t cr2;
    uint8_t reserved_248[0x268 - 0x248];
    uint64_t pat;
    uint64_t debugctl;
    uint8_t reserved_278[0x2E0 - 0x278];
    uint64_t spec_ctrl;
    uint8_t reserved_2e8[0xC00 - 0x2E8];
};

struct vmcb {
    struct vmcb_control control;
    struct vmcb_save save;
};

#define VMCB_AT(type, member, at) _Static_assert(offsetof(struct type, member) == (at), "APM 2, appendix B")
VMCB_AT(vmcb_control, intercept[VMCB_MISC1], 0x00C);
VMCB_AT(vmcb_control, pause_threshold, 0x03C);
VMCB_AT(vmcb_control, io_map, 0x040);
VMCB_AT(vmcb_control, msr_map, 0x048);
VMCB_AT(vmcb_control, tsc_offset, 0x050);
VMCB_AT(vmcb_control, asid, 0x058);
VMCB_AT(vmcb_control, interrupt, 0x060);
VMCB_AT(vmcb_control, shadow, 0x068);
VMCB_AT(vmcb_control, exit_code, 0x070);
VMCB_AT(vmcb_control, exit_event, 0x088);
VMCB_AT(vmcb_control, nested, 0x090);
VMCB_AT(vmcb_control, inject, 0x0A8);
VMCB_AT(vmcb_control, nested_cr3, 0x0B0);
VMCB_AT(vmcb_control, clean, 0x0C0);
VMCB_AT(vmcb_control, next_rip, 0x0C8);
VMCB_AT(vmcb_control, fetched, 0x0D0);
VMCB_AT(vmcb_save, tr, 0x090);
VMCB_AT(vmcb_save, cpl, 0x0CB);
VMCB_AT(vmcb_save, efer, 0x0D0);
VMCB_AT(vmcb_save, cr4, 0x148);
VMCB_AT(vmcb_save, rip, 0x178);
VMCB_AT(vmcb_save, rsp, 0x1D8);
VMCB_AT(vmcb_save, rax, 0x1F8);
VMCB_AT(vmcb_save, star, 0x200);
VMCB_AT(vmcb_save, sysenter_cs, 0x228);
VMCB_AT(vmcb_save, cr2, 0x240);
VMCB_AT(vmcb_save, pat, 0x268);
VMCB_AT(vmcb_save, spec_ctrl, 0x2E0);
VMCB_AT(vmcb, save, 0x400);
_Static_assert(sizeof(struct vmcb) == 4096, "one page");

/* Exit codes (appendix C) */
enum {
    VMEXIT_CR0_READ = 0x00,
    VMEXIT_CR4_READ = 0x04,
    VMEXIT_CR4_WRITE = 0x14,
    VMEXIT_CR8_WRITE = 0x18,
    VMEXIT_DR0_READ = 0x20,
    VMEXIT_DR7_WRITE = 0x37,
    VMEXIT_EXCEPTION = 0x40,
    VMEXIT_INTR = 0x60,
    VMEXIT_NMI = 0x61,
    VMEXIT_INIT = 0x63,
    VMEXIT_VINTR = 0x64,
    VMEXIT_CR0_SELECTIVE = 0x65,
    VMEXIT_RDPMC = 0x6F,
    VMEXIT_CPUID = 0x72,
    VMEXIT_IRET = 0x74,
    VMEXIT_INVD = 0x76,
    VMEXIT_PAUSE = 0x77,
    VMEXIT_HLT = 0x78,
    VMEXIT_INVLPGA = 0x7A,
    VMEXIT_IO = 0x7B,
    VMEXIT_MSR = 0x7C,
    VMEXIT_FERR_FREEZE = 0x7E,
    VMEXIT_SHUTDOWN = 0x7F,
    VMEXIT_VMRUN = 0x80,
    VMEXIT_VMMCALL = 0x81,
    VMEXIT_VMLOAD = 0x82,
    VMEXIT_VMSAVE = 0x83,
    VMEXIT_STGI = 0x84,
    VMEXIT_CLGI = 0x85,
    VMEXIT_SKINIT = 0x86,
    VMEXIT_WBINVD = 0x89,
    VMEXIT_MONITOR = 0x8A,
    VMEXIT_MWAIT = 0x8B,
    VMEXIT_XSETBV = 0x8D,
    VMEXIT_RDPRU = 0x8E,
    VMEXIT_INVLPGB = 0xA0,
    VMEXIT_INVPCID = 0xA2,
    VMEXIT_MCOMMIT = 0xA3,
    VMEXIT_TLBSYNC = 0xA4,
    VMEXIT_TABLE = 0xA5, /* so many codes a table has */
    VMEXIT_NPF = 0x400,
};
#define VMEXIT_INVALID UINT32_MAX /* its low half: QEMU writes no more */

/* EXITINFO1 of VMEXIT_IO (15.10.2) */
enum { IO_IN = 1 << 0, IO_STRING = 1 << 2, IO_SIZE_SHIFT = 4, IO_PORT_SHIFT = 16 };

/* MSRs and CPUID bits of SVM (15.30, appendix E) */
#define MSR_AMD_TSC_RATIO UINT32_C(0xC0000104)
#define MSR_VM_CR         UINT32_C(0xC0010114)
#define MSR_VM_HSAVE_PA   UINT32_C(0xC0010117)
#define VM_CR_SVMDIS      BIT(4)
#define EFER_SVME         BIT(12)

enum { /* CPUID 8000000AH EDX */
    SVM_NESTED_PAGING = 1 << 0,
    SVM_NEXT_RIP = 1 << 3,
    SVM_TSC_RATE = 1 << 4,
    SVM_CLEAN_BITS = 1 << 5,
    SVM_FLUSH_BY_ASID = 1 << 6,
    SVM_DECODE_ASSISTS = 1 << 7,
    SVM_PAUSE_FILTER = 1 << 10,
    SVM_SPEC_CTRL = 1 << 20,
};

#endif
