/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * What is done so that a guest learns nothing from how far a processor runs ahead of itself, neither of the hypervisor
 * nor of other VMs: a plan, from what the processor says of itself (speculation.c, pure). The home makes it and carries
 * out what holds for a CPU for good, the engines what belongs to entries and exits (hw_speculation).
 */
#ifndef LODGE_ENGINE_SPECULATION_H
#define LODGE_ENGINE_SPECULATION_H

#include "core/types.h"

/* CPUID's registers that decide; 0 where there is no such leaf. */
struct speculation_cpu {
    bool intel, amd; /* or Hygon; neither: whatever holds for both is done */
    uint32_t family;
    uint32_t leaf_7_ebx, leaf_7_edx, leaf_7_2_edx;
    uint32_t leaf_8_ebx;              /* 80000008H */
    uint32_t leaf_21_eax, leaf_21_ecx; /* 80000021H */
    uint64_t arch;                    /* IA32_ARCH_CAPABILITIES */
};

/* What would be needed and is not done. */
enum {
    SPECULATION_NO_IBPB = 1 << 0,
    SPECULATION_NO_L1D_FLUSH = 1 << 1,
    SPECULATION_NO_VERW = 1 << 2,
    SPECULATION_SIBLINGS = 1 << 3, /* L1TF, MDS across threads of one core */
    SPECULATION_BTC = 1 << 4,      /* AMD's branch type confusion: returns */
    SPECULATION_SRSO = 1 << 5,
    SPECULATION_RSBA = 1 << 6, /* Intel's returns, when the stack of return addresses is empty */
    SPECULATION_BHI = 1 << 7,
    SPECULATION_ITS = 1 << 8,
    SPECULATION_MULTIHIT = 1 << 9, /* not speculation, but told by the same register */
};

struct speculation {
    bool ibpb;       /* when another VM runs on a CPU than did before */
    bool retpolines; /* of the hypervisor's indirect branches; else the processor keeps predictions apart */
    bool auto_ibrs;  /* EFER.AIBRSE */
    bool stuff_rsb;  /* at exits */
    bool flush_l1d;  /* at entries after which another thread has run on this CPU */
    bool verw;       /* at entries */
    uint64_t spec_ctrl; /* of IA32_SPEC_CTRL, always on; 0: leave it alone */
    uint32_t missing;   /* SPECULATION_* */
};

/* EFER.AIBRSE (AMD APM 2, 3.1.7) */
#define SPECULATION_EFER_AIBRSE BIT(21)

/* shared: threads of one core run different VMs at once. */
struct speculation speculation_plan(const struct speculation_cpu *c, bool shared);
/* "IBPB between VMs, ...; missing: ..."; size > 0. */
void speculation_text(const struct speculation *s, char *buf, size_t size);

#endif
