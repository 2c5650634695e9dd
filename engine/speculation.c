/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * Which barriers a processor needs and has. Sources: Intel, "Speculative Execution Side Channel Mitigations" and SDM 4,
 * table 2-2 (IA32_ARCH_CAPABILITIES); AMD, "Software Techniques for Managing Speculation", "Technical Guidance for
 * Mitigating Branch Type Confusion", "Speculative Return Stack Overflow", "Transient Scheduler Attacks", APM 3, E.4.
 *
 * A processor that does not say that it is free of a leak is taken to have it.
 *
 * The hypervisor's memory holds all guests', so its indirect branches are not to be led by a guest. Where the processor
 * keeps a guest's predictions from the host's for good (Intel's enhanced IBRS, AMD's automatic IBRS) they are plain;
 * else each is a retpoline, and the stack of return addresses is filled at exits, since retpolines and returns live on it.
 */
#include "engine/speculation.h"

#include "core/fmt.h"
#include "core/mem.h"
#include "isa/x86.h"

/* CPUID 7 EBX, EDX; 7.2 EDX */
#define RTM        BIT(11)
#define MD_CLEAR   BIT(10)
#define IBRS       BIT(26)
#define STIBP      BIT(27)
#define L1D_FLUSH  BIT(28)
#define BHI_CTRL   BIT(4)
/* IA32_ARCH_CAPABILITIES, beside isa/x86.h's */
#define RSBA       BIT(2)
#define RFDS_CLEAR BIT(28)
/* CPUID 80000008H EBX */
#define AMD_IBPB   BIT(12)
#define AMD_STIBP  BIT(15)
#define BTC_NO     BIT(29)
/* CPUID 80000021H EAX, ECX */
#define VERW_CLEAR BIT(5)
#define AUTO_IBRS  BIT(8)
#define SRSO_NO    BIT(29)
#define TSA_NO     (BIT(1) | BIT(2))

static bool has(uint64_t bits, uint64_t all)
{
    return (bits & all) == all;
}

/* --- data that stay behind ----------------------------------------------------------------------- */

/* Buffers that VERW clears: MDS, TAA, RFDS. What devices' memory leaves in them is not asked for, since guests reach no
 * devices. */
static bool leaks_from_buffers(const struct speculation_cpu *c)
{
    return !(c->arch & X86_ARCH_MDS_NO) || (!(c->arch & X86_ARCH_TAA_NO) && c->leaf_7_ebx & RTM) ||
           (c->arch & RFDS_CLEAR && !(c->arch & X86_ARCH_RFDS_NO));
}

static void plan_intel_data(struct speculation *s, const struct speculation_cpu *c, bool shared)
{
    bool from_l1 = !(c->arch & X86_ARCH_RDCL_NO), from_buffers = leaks_from_buffers(c);

    s->flush_l1d = from_l1 && c->leaf_7_edx & L1D_FLUSH && !(c->arch & X86_ARCH_SKIP_L1DFL_VMENTRY);
    s->verw = from_buffers && c->leaf_7_edx & MD_CLEAR;
    if (from_l1 && !(c->leaf_7_edx & L1D_FLUSH))
        s->missing |= SPECULATION_NO_L1D_FLUSH;
    if (from_buffers && !s->verw)
        s->missing |= SPECULATION_NO_VERW;
    if (shared && (from_l1 || from_buffers))
        s->missing |= SPECULATION_SIBLINGS;
    if (!(c->arch & X86_ARCH_IF_PSCHANGE_MC_NO))
        s->missing |= SPECULATION_MULTIHIT;
}

/* Transient scheduler attacks: families 19H that neither deny them nor have VERW for them lack microcode. */
static void plan_amd_data(struct speculation *s, const struct speculation_cpu *c)
{
    bool leaks = c->family == 0x19 && !has(c->leaf_21_ecx, TSA_NO);

    s->verw = leaks && c->leaf_21_eax & VERW_CLEAR;
    if (leaks && !s->verw)
        s->missing |= SPECULATION_NO_VERW;
}

/* --- branches ------------------------------------------------------------------------------------ */

static void plan_intel_branches(struct speculation *s, const struct speculation_cpu *c)
{
    bool enhanced = c->arch & X86_ARCH_IBRS_ALL && c->leaf_7_edx & IBRS;

    s->retpolines = !enhanced;
    s->stuff_rsb = !enhanced || !(c->arch & X86_ARCH_PBRSB_NO);
    if (!enhanced) {
        s->missing |= c->arch & RSBA ? SPECULATION_RSBA : 0;
        return;
    }
    s->spec_ctrl |= X86_SPEC_CTRL_IBRS;
    if (c->leaf_7_2_edx & BHI_CTRL)
        s->spec_ctrl |= X86_SPEC_CTRL_BHI_DIS_S;
    else if (!(c->arch & X86_ARCH_BHI_NO))
        s->missing |= SPECULATION_BHI;
    /* Processors with BHI_CTRL are not affected; older ones than those with enhanced IBRS have retpolines. */
    if (!(c->arch & X86_ARCH_ITS_NO) && !(c->leaf_7_2_edx & BHI_CTRL))
        s->missing |= SPECULATION_ITS;
}

static void plan_amd_branches(struct speculation *s, const struct speculation_cpu *c)
{
    s->auto_ibrs = c->leaf_21_eax & AUTO_IBRS;
    s->retpolines = s->stuff_rsb = !s->auto_ibrs;
    if (c->family >= 0x15 && c->family <= 0x18 && !(c->leaf_8_ebx & BTC_NO))
        s->missing |= SPECULATION_BTC;
    if (c->family >= 0x17 && c->family <= 0x19 && !(c->leaf_21_eax & SRSO_NO))
        s->missing |= SPECULATION_SRSO;
}

struct speculation speculation_plan(const struct speculation_cpu *c, bool shared)
{
    struct speculation s = {.retpolines = true, .stuff_rsb = true};

    s.ibpb = c->leaf_7_edx & IBRS || c->leaf_8_ebx & AMD_IBPB;
    if (!s.ibpb)
        s.missing |= SPECULATION_NO_IBPB;
    if (c->intel) {
        plan_intel_branches(&s, c);
        plan_intel_data(&s, c, shared);
    } else if (c->amd) {
        plan_amd_branches(&s, c);
        plan_amd_data(&s, c);
    }
    if (shared && (c->leaf_7_edx & STIBP || c->leaf_8_ebx & AMD_STIBP))
        s.spec_ctrl |= X86_SPEC_CTRL_STIBP;
    return s;
}

/* --- in words ------------------------------------------------------------------------------------ */

static void add(char *buf, size_t size, const char *before, const char *name)
{
    size_t used = str_len(buf);

    if (used + 1 < size)
        (void)fmt(buf + used, size - used, "%s%s", used ? before : "", name);
}

void speculation_text(const struct speculation *s, char *buf, size_t size)
{
    const struct {
        bool done;
        const char *name;
    } done[] = {
        {s->spec_ctrl & X86_SPEC_CTRL_IBRS, "enhanced IBRS"},
        {s->auto_ibrs, "automatic IBRS"},
        {s->retpolines, "retpolines"},
        {s->spec_ctrl & X86_SPEC_CTRL_BHI_DIS_S, "BHI_DIS_S"},
        {s->stuff_rsb, "return stack filled at exits"},
        {s->ibpb, "IBPB between VMs"},
        {s->spec_ctrl & X86_SPEC_CTRL_STIBP, "STIBP"},
        {s->flush_l1d, "L1D flushed when another thread has run"},
        {s->verw, "VERW at entries"},
    };
    static const char *const missing[] = {"IBPB", "L1D flush", "VERW", "threads of a core apart (L1TF, MDS)",
                                          "BTC",  "SRSO",      "RSBA", "BHI",
                                          "ITS",  "iTLB multihit"};
    const char *before = "; missing: ";

    buf[0] = '\0';
    for (size_t i = 0; i < ARRAY_SIZE(done); i++) {
        if (done[i].done)
            add(buf, size, ", ", done[i].name);
    }
    for (size_t i = 0; i < ARRAY_SIZE(missing); i++) {
        if (!(s->missing >> i & 1))
            continue;
        add(buf, size, before, missing[i]);
        before = ", ";
    }
}
