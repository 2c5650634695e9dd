/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/* What is done about speculation (engine/speculation.c), by processors' own words; and how it is said. */
#include <string.h>

#include "engine/speculation.h"
#include "isa/x86.h"
#include "tests/lib/unit.h"

#define INTEL_MICROCODE (BIT(10) | BIT(26) | BIT(27) | BIT(28) | BIT(29)) /* CPUID 7 EDX */
#define IMMUNE                                                                                                         \
    (X86_ARCH_RDCL_NO | X86_ARCH_IBRS_ALL | X86_ARCH_SKIP_L1DFL_VMENTRY | X86_ARCH_MDS_NO | X86_ARCH_IF_PSCHANGE_MC_NO |     \
     X86_ARCH_TAA_NO)

static const struct {
    struct speculation_cpu cpu;
    bool shared;
    const char *text;
} cases[] = {
    /* table */
    {{.intel = true, .family = 6}, false,
     "retpolines, return stack filled at exits; missing: IBPB, L1D flush, VERW, iTLB multihit"},
    {{.intel = true, .family = 6, .leaf_7_edx = INTEL_MICROCODE}, false, /* Haswell, Skylake */
     "retpolines, return stack filled at exits, IBPB between VMs, L1D flushed when another thread has run, VERW at entries; "
     "missing: iTLB multihit"},
    {{.intel = true, .family = 6, .leaf_7_edx = INTEL_MICROCODE, .arch = BIT(2)}, true,
     "retpolines, return stack filled at exits, IBPB between VMs, STIBP, L1D flushed when another thread has run, VERW at entries; "
     "missing: threads of a core apart (L1TF, MDS), RSBA, iTLB multihit"},
    {{.intel = true, .family = 6, .leaf_7_edx = INTEL_MICROCODE, .leaf_7_ebx = BIT(11),
      .arch = IMMUNE & ~X86_ARCH_TAA_NO}, false, /* Cascade Lake with TSX */
     "enhanced IBRS, return stack filled at exits, IBPB between VMs, VERW at entries; missing: BHI, ITS"},
    {{.intel = true, .family = 6, .leaf_7_edx = INTEL_MICROCODE, .arch = IMMUNE & ~X86_ARCH_TAA_NO}, false,
     "enhanced IBRS, return stack filled at exits, IBPB between VMs; missing: BHI, ITS"}, /* without TSX */
    {{.intel = true, .family = 6, .leaf_7_edx = INTEL_MICROCODE, .arch = X86_ARCH_IBRS_ALL | IMMUNE | BIT(28)}, false,
     "enhanced IBRS, return stack filled at exits, IBPB between VMs, VERW at entries; missing: BHI, ITS"}, /* RFDS */
    {{.intel = true, .family = 6, .leaf_7_edx = INTEL_MICROCODE, .leaf_7_2_edx = BIT(4),
      .arch = IMMUNE | X86_ARCH_PBRSB_NO | X86_ARCH_RFDS_NO}, true, /* Sapphire Rapids and later */
     "enhanced IBRS, BHI_DIS_S, IBPB between VMs, STIBP"},
    {{.amd = true, .family = 0x10}, false, "retpolines, return stack filled at exits; missing: IBPB"},
    {{.amd = true, .family = 0x17, .leaf_8_ebx = BIT(12)}, false, /* Zen 1, 2; QEMU's EPYC */
     "retpolines, return stack filled at exits, IBPB between VMs; missing: BTC, SRSO"},
    {{.amd = true, .family = 0x17, .leaf_8_ebx = BIT(12) | BIT(15)}, true,
     "retpolines, return stack filled at exits, IBPB between VMs, STIBP; missing: BTC, SRSO"},
    {{.amd = true, .family = 0x19, .leaf_8_ebx = BIT(12) | BIT(29)}, false, /* Zen 3, old microcode */
     "retpolines, return stack filled at exits, IBPB between VMs; missing: VERW, SRSO"},
    {{.amd = true, .family = 0x19, .leaf_8_ebx = BIT(12) | BIT(29), .leaf_21_eax = BIT(8) | BIT(5)}, false, /* Zen 4 */
     "automatic IBRS, IBPB between VMs, VERW at entries; missing: SRSO"},
    {{.amd = true, .family = 0x1A, .leaf_8_ebx = BIT(12) | BIT(29), .leaf_21_eax = BIT(8) | BIT(29)}, false, /* Zen 5 */
     "automatic IBRS, IBPB between VMs"},
    {{.family = 6}, false, "retpolines, return stack filled at exits; missing: IBPB"}, /* Zhaoxin, VIA */
};

static void test_plans(void)
{
    char text[256];

    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        const struct speculation s = speculation_plan(&cases[i].cpu, cases[i].shared);

        speculation_text(&s, text, sizeof(text));
        CHECK_STR(text, cases[i].text);
    }
}

/* What is written to a register is only what it has. */
static void test_registers(void)
{
    struct speculation_cpu c = {.intel = true, .leaf_7_edx = INTEL_MICROCODE};

    CHECK_EQ(speculation_plan(&c, false).spec_ctrl, 0);
    CHECK_EQ(speculation_plan(&c, true).spec_ctrl, X86_SPEC_CTRL_STIBP);
    c.arch = X86_ARCH_IBRS_ALL;
    CHECK_EQ(speculation_plan(&c, false).spec_ctrl, X86_SPEC_CTRL_IBRS);
    c.leaf_7_edx = 0;
    CHECK_EQ(speculation_plan(&c, true).spec_ctrl, 0);
    CHECK(speculation_plan(&c, true).retpolines);
}

static void test_short_buffers(void)
{
    const struct speculation s = {.missing = UINT32_MAX, .ibpb = true};
    char text[256];

    for (size_t size = 1; size < sizeof(text); size++) {
        memset(text, 'x', sizeof(text));
        speculation_text(&s, text, size);
        CHECK(strlen(text) < size);
        CHECK_EQ(text[size], 'x');
    }
}

int main(void)
{
    UNIT_RUN(test_plans);
    UNIT_RUN(test_registers);
    UNIT_RUN(test_short_buffers);
    return unit_done();
}
