/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/* engine/vmx but for its run loop: capabilities, levels, events' forms, the MSR bitmap, state into a VMCS and
 * back; on a processor that the test keeps (tests/fakes/vt.h). */
#include <string.h>

#include "core/err.h"
#include "engine/hw.h"
#include "engine/vmx/vmx_level.h"
#include "engine/vmx/vmx_private.h"
#include "tests/fakes/vt.h"
#include "tests/lib/cpu_env.h"
#include "tests/lib/unit.h"
#include "x86/level.h"

static char why[160], notes[200];

static int probe(void)
{
    return hw_vmx.cpu_probe(why, sizeof(why), notes, sizeof(notes));
}

/* --- capabilities ------------------------------------------------------------------------------ */

static void test_adjust(void)
{
    const struct vmx_choice c = {.must = 0x3, .may = 0xF3};
    uint32_t value, missing;

    CHECK_EQ(vmx_adjust(&c, 0x10, 0x120, &value, &missing), OK);
    CHECK_EQ(value, 0x33); /* policy that is not to be had is left out */
    CHECK_EQ(missing, 0);
    CHECK_EQ(vmx_adjust(&c, 0x118, 0, &value, &missing), ERR_UNSUPPORTED);
    CHECK_EQ(missing, 0x108);
}

static void test_probe(void)
{
    vt_reset();
    CHECK_EQ(probe(), OK);
    CHECK_STR(notes, "");
    vt_set_msr(MSR_VMX_SECONDARY, (UINT64_C(0x3FFFFFFF) & ~VMX2_VPID) << 32);
    CHECK_EQ(probe(), OK);
    CHECK_STR(notes, "VT-x without VPIDs");
    vt_set_msr(MSR_VMX_SECONDARY, (UINT64_C(0x3FFFFFFF) & ~(VMX2_EPT | VMX2_UNRESTRICTED)) << 32);
    CHECK_EQ(probe(), ERR_UNSUPPORTED);
    CHECK_STR(why, "this processor's VT-x lacks extended page tables (EPT), unrestricted guests");
    vt_reset();
    vt_set_msr(MSR_VMX_EPT_VPID, vt_msr(MSR_VMX_EPT_VPID) & ~VMX_EPT_2M);
    CHECK_EQ(probe(), ERR_UNSUPPORTED);
    CHECK_STR(why, "this processor's VT-x lacks EPT pages of 2 MiB");
}

static void test_firmware(void)
{
    vt_reset();
    vt_set_msr(MSR_FEATURE_CONTROL, VMX_FEATURE_LOCKED);
    CHECK_EQ(probe(), ERR_UNSUPPORTED);
    CHECK_STR(why, "VT-x is switched off in the firmware's settings");
    vt_set_msr(MSR_FEATURE_CONTROL, 0); /* not locked: ours to set */
    CHECK_EQ(probe(), OK);
    CHECK_EQ(hw_vmx.cpu_on(), OK);
    CHECK_EQ(vt_msr(MSR_FEATURE_CONTROL), VMX_FEATURE_LOCKED | VMX_FEATURE_OUTSIDE);
    hw_vmx.cpu_off();
    CHECK(!vt.on[0]);
    CHECK(!(vt.cr4 & VMX_CR4_VMXE));
    CHECK_EQ(hw_vmx.cpu_on(), OK); /* and again */
    hw_vmx.cpu_off();
}

/* Without any single one of the forced controls, the processor is refused. */
static void test_each_forced_control_is_needed(void)
{
    static const uint32_t msr[VMX_CONTROLS] = {MSR_VMX_TRUE_PIN, MSR_VMX_TRUE_PRIMARY, MSR_VMX_SECONDARY,
                                               MSR_VMX_TRUE_EXIT, MSR_VMX_TRUE_ENTRY};
    unsigned int tried = 0;

    for (unsigned int set = 0; set < VMX_CONTROLS; set++) {
        for (unsigned int bit = 0; bit < 32; bit++) {
            if (!(vmx_forced((enum vmx_controls)set) >> bit & 1))
                continue;
            vt_reset();
            vt_set_msr(msr[set], vt_msr(msr[set]) & ~(BIT(bit + 32) | BIT(bit)));
            unit_context("set %u, bit %u", set, bit);
            CHECK_EQ(probe(), ERR_UNSUPPORTED);
            CHECK(strlen(why) > strlen("this processor's VT-x lacks "));
            tried++;
        }
    }
    unit_context(NULL);
    CHECK(tried > 20);
}

/* --- levels ------------------------------------------------------------------------------------ */

static uint32_t absent_leaf, absent_reg, absent_bit;

static void all_but_one(uint32_t leaf, uint32_t subleaf, uint32_t out[4])
{
    (void)subleaf;
    memset(out, 0xFF, 4 * sizeof(out[0]));
    if (leaf == 0 || leaf == 0x80000000)
        out[0] = leaf | 0x1F;
    if (leaf == absent_leaf)
        out[absent_reg] &= ~(1u << absent_bit);
}

static void nothing(uint32_t leaf, uint32_t subleaf, uint32_t out[4])
{
    (void)leaf;
    (void)subleaf;
    memset(out, 0, 4 * sizeof(out[0]));
}

static const char *lacks_without(uint32_t leaf, uint32_t reg, uint32_t bit)
{
    absent_leaf = leaf;
    absent_reg = reg;
    absent_bit = bit;
    return vmx_level_lacks(all_but_one, x86_level_find("v3"));
}

static void test_level(void)
{
    struct x86_level level = *x86_level_find("v3");

    CHECK(!lacks_without(7, 1, 31)); /* nothing of the level's */
    CHECK_STR(lacks_without(7, 1, 5), "avx2");
    CHECK_STR(lacks_without(7, 1, 7), "smep");
    CHECK_STR(lacks_without(0x80000001, 3, 26), "pdpe1gb");
    CHECK_STR(lacks_without(0x80000001, 3, 27), "rdtscp");
    CHECK(vmx_level_lacks(nothing, &level));
    CHECK(level.arch_capabilities && level.spec_ctrl);
    (void)lacks_without(7, 1, 31);
    vmx_level_adapt(all_but_one, X86_ARCH_MDS_NO, &level);
    CHECK_EQ(level.arch_capabilities, X86_ARCH_MDS_NO);
    CHECK(level.spec_ctrl);
    vmx_level_adapt(nothing, UINT64_MAX, &level);
    CHECK_EQ(level.arch_capabilities, 0);
    CHECK(!level.spec_ctrl);
}

/* --- MSR bitmap -------------------------------------------------------------------------------- */

static bool is_open(const uint8_t *bitmap, uint32_t index, bool write)
{
    uint32_t at = (index & 0x1FFF) / 8 + (index >> 31) * 1024 + (write ? 2048 : 0);

    return !(bitmap[at] >> (index & 7) & 1);
}

static void test_msr_bitmap(void)
{
    static uint8_t bitmap[PAGE_SIZE];
    unsigned int open = 0;

    vmx_make_msr_bitmap(bitmap);
    for (size_t i = 0; i < sizeof(bitmap); i++)
        open += 8 - (unsigned int)__builtin_popcount(bitmap[i]);
    CHECK_EQ(open, 10 * 2 + 1);
    CHECK(is_open(bitmap, MSR_TSC, false));
    CHECK(!is_open(bitmap, MSR_TSC, true));
    CHECK(is_open(bitmap, MSR_LSTAR, true));
    CHECK(is_open(bitmap, MSR_SYSENTER_EIP, true));
    CHECK(is_open(bitmap, MSR_KERNEL_GS_BASE, false));
    CHECK(!is_open(bitmap, MSR_EFER, true));
    CHECK(!is_open(bitmap, MSR_APIC_BASE, false));
    CHECK(!is_open(bitmap, MSR_TSC_AUX, true));
    vmx_open_msr(bitmap, MSR_TSC_AUX, true);
    CHECK(is_open(bitmap, MSR_TSC_AUX, true));
    CHECK(!is_open(bitmap, MSR_TSC_AUX, false));
}

/* --- events ------------------------------------------------------------------------------------ */

static void test_event_forms(void)
{
    const struct x86_in_flight page_fault = {
        .kind = X86_FLIGHT_EXCEPTION, .vector = X86_PF, .has_error = true, .error = 6};
    const struct x86_in_flight interrupt = {.kind = X86_FLIGHT_INTERRUPT, .vector = 0x51};
    const struct x86_in_flight nmi = {.kind = X86_FLIGHT_NMI, .vector = X86_NMI};
    struct x86_in_flight back;

    CHECK_EQ(vmx_event_info(&page_fault, true), 0x80000B0E);
    CHECK_EQ(vmx_event_info(&page_fault, false), 0x8000030E); /* no error codes in real mode */
    CHECK_EQ(vmx_event_info(&interrupt, true), 0x80000051);
    CHECK_EQ(vmx_event_info(&nmi, true), 0x80000202);
    back = vmx_event_from(0x80000B0E, 6);
    CHECK_EQ(back.kind, X86_FLIGHT_EXCEPTION);
    CHECK_EQ(back.vector, X86_PF);
    CHECK_EQ(back.error, 6);
    CHECK(back.has_error);
    CHECK_EQ(vmx_event_from(0x80000051, 0).kind, X86_FLIGHT_INTERRUPT);
    CHECK_EQ(vmx_event_from(0x80000202, 0).kind, X86_FLIGHT_NMI);
    CHECK_EQ(vmx_event_from(0x51, 0).kind, X86_FLIGHT_NONE);       /* not valid */
    CHECK_EQ(vmx_event_from(0x80000480, 0).kind, X86_FLIGHT_NONE); /* INT 80h does it again */
    CHECK_EQ(vmx_event_from(0x80000603, 0).kind, X86_FLIGHT_NONE); /* so does INT3 */
    CHECK_EQ(vmx_event_from(0x80000501, 0).kind, X86_FLIGHT_NONE); /* and INT1 */
}

/* --- state ------------------------------------------------------------------------------------- */

static struct cpu_env env;

static void begin(enum cpu_env_mode mode)
{
    vt_reset();
    cpu_env_create(&env, mode);
    CHECK_EQ(hw_vmx.cpu_on(), OK);
    CHECK_EQ(engine_vmx.vm_create(&env.vm), OK);
    CHECK_EQ(engine_vmx.vcpu_create(env.cpu), OK);
}

static void end(void)
{
    engine_vmx.vcpu_destroy(env.cpu);
    engine_vmx.vm_destroy(&env.vm);
    hw_vmx.cpu_off();
    cpu_env_destroy(&env);
    CHECK_EQ(vt.bad, 0);
}

/* What of the neutral state goes through the VMCS, in other values than memory has afterwards. */
struct kept {
    uint64_t gpr[16], rip, rflags;
    struct x86_segment seg[SEG_COUNT], ldtr, tr;
    struct x86_table gdtr, idtr;
    uint64_t cr0, cr3, cr4, efer;
    uint64_t sysenter_cs, sysenter_esp, sysenter_eip, star, kernel_gs_base;
    uint8_t shadow;
    bool nmi_masked;
    uint8_t xmm3;
};

static void keep(struct kept *k)
{
    const struct x86_cpu *c = env.cpu;

    memset(k, 0, sizeof(*k));
    memcpy(k->gpr, c->gpr, sizeof(k->gpr));
    k->rip = c->rip;
    k->rflags = c->rflags;
    for (unsigned int s = 0; s < SEG_COUNT; s++) {
        k->seg[s].base = c->seg[s].base;
        k->seg[s].limit = c->seg[s].limit;
        k->seg[s].attr = c->seg[s].attr;
        k->seg[s].selector = c->seg[s].selector;
    }
    k->tr.base = c->tr.base;
    k->gdtr.base = c->gdtr.base;
    k->gdtr.limit = c->gdtr.limit;
    k->idtr.base = c->idtr.base;
    k->cr0 = c->cr0;
    k->cr3 = c->cr3;
    k->cr4 = c->cr4;
    k->efer = c->efer;
    k->sysenter_cs = c->msr.sysenter_cs;
    k->sysenter_esp = c->msr.sysenter_esp;
    k->star = c->msr.star;
    k->kernel_gs_base = c->msr.kernel_gs_base;
    k->shadow = c->shadow;
    k->nmi_masked = c->nmi_masked;
    k->xmm3 = c->fpu.xmm[3][7];
}

static void scramble(void)
{
    struct x86_cpu *c = env.cpu;

    c->gpr[RSP] = c->rip = c->rflags = 0xDEAD;
    memset(c->seg, 0xAA, sizeof(c->seg));
    memset(&c->tr, 0xAA, sizeof(c->tr));
    memset(&c->gdtr, 0xAA, sizeof(c->gdtr));
    memset(&c->idtr, 0xAA, sizeof(c->idtr));
    c->cr0 = c->cr3 = c->cr4 = 0xDEAD;
    c->msr.sysenter_cs = c->msr.sysenter_esp = c->msr.star = c->msr.kernel_gs_base = 0xDEAD;
    c->shadow = 7;
    c->nmi_masked = !c->nmi_masked;
    memset(&c->fpu, 0xAA, sizeof(c->fpu));
}

static void round_trip(enum cpu_env_mode mode)
{
    struct kept before, after;

    begin(mode);
    env.cpu->gpr[RSP] = 0x7FF0;
    env.cpu->rflags |= X86_FLAG_IF | X86_FLAG_CF;
    env.cpu->cr0 |= X86_CR0_TS | X86_CR0_CD;
    env.cpu->msr.sysenter_esp = 0x1234;
    env.cpu->msr.star = 0x2300100000000;
    env.cpu->msr.kernel_gs_base = 0xFFFF800000001000;
    env.cpu->shadow = X86_SHADOW_STI;
    env.cpu->nmi_masked = true;
    env.cpu->fpu.xmm[3][7] = 0x37;
    x86_update_mode(env.cpu);
    CHECK_EQ(engine_vmx.vcpu_set_state(env.cpu, ENGINE_STATE_ALL), OK);
    keep(&before);
    CHECK_EQ(vmx_load(env.cpu), OK);
    vmx_flush(env.cpu);
    vmx_forget(env.cpu);
    scramble();
    vmx_fetch(env.cpu, ENGINE_STATE_ALL);
    keep(&after);
    CHECK_EQ(memcmp(&before, &after, sizeof(before)), 0);
    end();
}

static void test_state_round_trip(void)
{
    round_trip(CPU_ENV_LONG);
    round_trip(CPU_ENV_PROTECTED);
    round_trip(CPU_ENV_REAL);
}

/* NE and VMXE are set whatever the guest has, and hidden from it; CD and NW are not the processor's. */
static void test_hidden_bits(void)
{
    begin(CPU_ENV_LONG);
    env.cpu->cr0 = (env.cpu->cr0 & ~X86_CR0_NE) | X86_CR0_CD | X86_CR0_NW;
    vmx_changed(env.cpu, ENGINE_STATE_ALL);
    CHECK_EQ(vmx_load(env.cpu), OK);
    vmx_flush(env.cpu);
    CHECK(*vt_field(VMCS_GUEST_CR0) & X86_CR0_NE);
    CHECK(!(*vt_field(VMCS_GUEST_CR0) & (X86_CR0_CD | X86_CR0_NW)));
    CHECK(*vt_field(VMCS_GUEST_CR4) & VMX_CR4_VMXE);
    CHECK(!(*vt_field(VMCS_CR4_SHADOW) & VMX_CR4_VMXE));
    CHECK(*vt_field(VMCS_CR0_MASK) & *vt_field(VMCS_CR4_MASK) & X86_CR0_PE);
    CHECK(*vt_field(VMCS_CR4_MASK) & VMX_CR4_VMXE);
    CHECK(*vt_field(VMCS_ENTRY_CONTROLS) & VMX_ENTRY_LONG_MODE);
    *vt_field(VMCS_GUEST_CR0) |= X86_CR0_TS; /* its own to change */
    vmx_forget(env.cpu);
    vmx_fetch(env.cpu, ENGINE_STATE_CONTROL);
    CHECK(env.cpu->cr0 & X86_CR0_TS);
    CHECK(!(env.cpu->cr0 & X86_CR0_NE));
    CHECK(env.cpu->cr0 & X86_CR0_CD);
    CHECK(!(env.cpu->cr4 & VMX_CR4_VMXE));
    end();
}

/* Forced controls are in every VMCS. */
static void test_controls(void)
{
    begin(CPU_ENV_LONG);
    CHECK_EQ(vmx_load(env.cpu), OK);
    CHECK_EQ(vmx_forced(VMX_PIN) & ~*vt_field(VMCS_PIN_CONTROLS), 0);
    CHECK_EQ(vmx_forced(VMX_PRIMARY) & ~*vt_field(VMCS_PRIMARY_CONTROLS), 0);
    CHECK_EQ(vmx_forced(VMX_SECONDARY_SET) & ~*vt_field(VMCS_SECONDARY_CONTROLS), 0);
    CHECK_EQ(vmx_forced(VMX_EXIT) & ~*vt_field(VMCS_EXIT_CONTROLS), 0);
    CHECK_EQ(vmx_forced(VMX_ENTRY) & ~*vt_field(VMCS_ENTRY_CONTROLS), 0);
    CHECK(!(*vt_field(VMCS_PRIMARY_CONTROLS) & (VMX_INVLPG_EXIT | VMX_CR3_LOAD_EXIT | VMX_RDTSC_EXIT)));
    CHECK(*vt_field(VMCS_EXCEPTION_BITMAP) & BIT(X86_DB));
    CHECK(*vt_field(VMCS_EXCEPTION_BITMAP) & BIT(X86_AC));
    CHECK(!(*vt_field(VMCS_EXCEPTION_BITMAP) & BIT(X86_PF)));
    CHECK_EQ(*vt_field(VMCS_LINK_POINTER), UINT64_MAX);
    CHECK_EQ(*vt_field(VMCS_EPT_POINTER) & 0xFFF, 0x1E);
    end();
}

/* What VM entry takes of segments (SDM 3C 27.3.1.2). */
static void test_segment_attr(void)
{
    struct x86_segment g = {.limit = 0xFFFFF, .attr = 0x93};
    struct x86_cpu *c;

    begin(CPU_ENV_LONG);
    c = env.cpu;
    CHECK_EQ(vmx_segment_attr(c, SEG_DS, &g), 0x93);
    g.limit = UINT32_MAX;
    CHECK_EQ(vmx_segment_attr(c, SEG_DS, &g), 0x8093); /* granular */
    g = (struct x86_segment){.limit = 0xFF, .attr = 0x8092};
    CHECK_EQ(vmx_segment_attr(c, SEG_DS, &g), 0x93); /* not; and accessed */
    g = (struct x86_segment){.limit = 0xFFFF, .attr = 0x13};
    CHECK_EQ(vmx_segment_attr(c, SEG_FS, &g), 0x10013); /* not present: unusable */
    c->cpl = 3;
    g.attr = 0x93;
    CHECK_EQ(vmx_segment_attr(c, SEG_SS, &g), 0xF3); /* DPL is CPL */
    g.attr = 0x10000;
    CHECK_EQ(vmx_segment_attr(c, SEG_SS, &g), 0x10060);
    g = (struct x86_segment){.limit = 0x67, .attr = 0x83};
    CHECK_EQ(vmx_segment_attr(c, 7, &g), 0x8B); /* a TSS in long mode is a 64-bit one */
    c->long_mode = false;
    CHECK_EQ(vmx_segment_attr(c, 7, &g), 0x83);
    c->v86 = true;
    g.attr = 0x9B;
    CHECK_EQ(vmx_segment_attr(c, SEG_CS, &g), 0xF3);
    end();
}

int main(void)
{
    UNIT_RUN(test_adjust);
    UNIT_RUN(test_probe);
    UNIT_RUN(test_firmware);
    UNIT_RUN(test_each_forced_control_is_needed);
    UNIT_RUN(test_level);
    UNIT_RUN(test_msr_bitmap);
    UNIT_RUN(test_event_forms);
    UNIT_RUN(test_state_round_trip);
    UNIT_RUN(test_hidden_bits);
    UNIT_RUN(test_controls);
    UNIT_RUN(test_segment_attr);
    return unit_done();
}
