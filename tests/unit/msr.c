/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/* MSRs: default deny over whole ranges, reserved bits, effects of those that have any, the TSC. */
#include "core/err.h"
#include "tests/lib/cpu_env.h"
#include "tests/lib/fake_seam.h"
#include "tests/lib/unit.h"
#include "x86/cpuid_bits.h"
#include "x86/level.h"
#include "x86/msr.h"

static struct cpu_env e;

static bool write_msr(uint32_t index, uint64_t value)
{
    int status = x86_msr_write(e.cpu, index, value);
    if (status == X86_FAULT) {
        CHECK_EQ(e.cpu->fault.vector, X86_GP);
        CHECK_EQ(e.cpu->fault.error, 0);
    }
    return status == X86_OK;
}

static bool read_msr(uint32_t index, uint64_t *value)
{
    return x86_msr_read(e.cpu, index, value) == X86_OK;
}

/* table: what each MSR takes and gives */
static const struct {
    uint32_t index;
    uint64_t value;
    bool ok;
} writes[] = {
    {MSR_PLATFORM_ID, 0, false},
    {MSR_FEATURE_CONTROL, 1, false},
    {MSR_SPEC_CTRL, 3, true},
    {MSR_SPEC_CTRL, X86_SPEC_CTRL_BHI_DIS_S, true},
    {MSR_SPEC_CTRL, 4, false},
    {MSR_PRED_CMD, 1, true},
    {MSR_PRED_CMD, 2, false},
    {MSR_FLUSH_CMD, 1, false},
    {MSR_UCODE_REV, 0, true},
    {MSR_MTRRCAP, 0x508, false},
    {MSR_ARCH_CAPABILITIES, 0, false},
    {MSR_SYSENTER_CS, 0xFFFFFFFF, true},
    {MSR_SYSENTER_CS, BIT(32), false},
    {MSR_SYSENTER_ESP, 0x00007FFFFFFFFFFF, true},
    {MSR_SYSENTER_ESP, 0x0000800000000000, false},
    {MSR_SYSENTER_EIP, 0xFFFF800000000000, true},
    {MSR_SYSENTER_EIP, 0xFFFE800000000000, false},
    {MSR_MCG_CAP, 0, false},
    {MSR_MCG_STATUS, 7, true},
    {MSR_MCG_STATUS, 8, false},
    {MSR_MISC_ENABLE, X86_MISC_ENABLE_RESET, true},
    {MSR_MISC_ENABLE, BIT(34), false},
    {MSR_MTRR_PHYSBASE0, 0xC0000006, true},
    {MSR_MTRR_PHYSBASE0, 0xC0000002, false}, /* no such type */
    {MSR_MTRR_PHYSBASE0, 0xC0000100, false}, /* reserved */
    {MSR_MTRR_PHYSBASE0, BIT(39), false},    /* beyond the physical address */
    {MSR_MTRR_PHYSBASE0 + 1, 0x7FC0000800, true},
    {MSR_MTRR_PHYSBASE0 + 1, 0x7FC0000400, false},
    {MSR_MTRR_PHYSBASE0 + 15, 0, true},
    {MSR_MTRR_PHYSBASE0 + 16, 0, false}, /* eight there are */
    {MSR_MTRR_FIX64K, 0x0606060606060606, true},
    {MSR_MTRR_FIX16K_A0000, 0x0000000000000300, false},
    {MSR_MTRR_FIX4K_C0000 + 7, 0x0504010006050401, true},
    {MSR_MTRR_FIX4K_C0000 + 8, 0, false},
    {MSR_PAT, 0x0007040600070406, true},
    {MSR_PAT, 0x0007040600070402, false},
    {MSR_PAT, 0x0807040600070406, false},
    {MSR_MTRR_DEF_TYPE, 0xC06, true},
    {MSR_MTRR_DEF_TYPE, 0xC07, false},
    {MSR_MTRR_DEF_TYPE, 0x1006, false},
    {MSR_STAR, UINT64_MAX, true},
    {MSR_LSTAR, 0x8000000000000000, false},
    {MSR_CSTAR, 0xFFFFFFFF81000000, true},
    {MSR_SFMASK, 0x47700, true},
    {MSR_SFMASK, BIT(32), false},
    {MSR_FS_BASE, 0x00007F0000000000, true},
    {MSR_FS_BASE, 0x0100000000000000, false},
    {MSR_GS_BASE, 0xFFFF888000000000, true},
    {MSR_KERNEL_GS_BASE, 0x0000900000000000, false},
    {MSR_TSC_AUX, 0xFFFFFFFF, true},
    {MSR_TSC_AUX, BIT(32), false},
    {MSR_KVM_ASYNC_PF_EN, 0, false},
    {MSR_KVM_PV_EOI_EN, 0, false},
    {MSR_KVM_POLL_CONTROL, 0, false},
    {0xC0010015, 0, false}, /* AMD's */
    {0x186, 0, false},      /* performance event select */
};

static void test_writes(void)
{
    cpu_env_create(&e, CPU_ENV_LONG);
    for (size_t i = 0; i < ARRAY_SIZE(writes); i++) {
        unit_context("row %zu: %x", i, writes[i].index);
        uint64_t before = 0, after = 0;
        bool readable = read_msr(writes[i].index, &before);
        CHECK_EQ(write_msr(writes[i].index, writes[i].value), writes[i].ok);
        if (!readable)
            continue;
        CHECK(read_msr(writes[i].index, &after));
        if (!writes[i].ok)
            CHECK_EQ(after, before); /* a refused write changes nothing */
        else if (writes[i].index != MSR_UCODE_REV)
            CHECK_EQ(after, writes[i].value);
    }
    unit_context(NULL);
    cpu_env_destroy(&e);
}

/* BHI_DIS_S is one's where CPUID 7.2 has BHI_CTRL: engines write it to a processor that may lack it. */
static void test_without_bhi_ctrl(void)
{
    cpu_env_create(&e, CPU_ENV_LONG);
    struct x86_level level = *e.cpu->level;
    uint64_t v;
    for (uint32_t i = 0; i < level.count; i++) {
        if (level.row[i].leaf == 7 && level.row[i].subleaf == 2)
            level.row[i].edx &= ~CPUID_72D_BHI_CTRL;
    }
    CHECK(write_msr(MSR_SPEC_CTRL, X86_SPEC_CTRL_BHI_DIS_S | X86_SPEC_CTRL_IBRS));
    CHECK(write_msr(MSR_SPEC_CTRL, X86_SPEC_CTRL_STIBP));
    e.cpu->level = &level;
    CHECK(!write_msr(MSR_SPEC_CTRL, X86_SPEC_CTRL_BHI_DIS_S));
    CHECK(!write_msr(MSR_SPEC_CTRL, X86_SPEC_CTRL_BHI_DIS_S | X86_SPEC_CTRL_IBRS));
    CHECK(read_msr(MSR_SPEC_CTRL, &v));
    CHECK_EQ(v, X86_SPEC_CTRL_STIBP);
    CHECK(write_msr(MSR_SPEC_CTRL, X86_SPEC_CTRL_IBRS));
    level.count = 0; /* no leaf 7 at all */
    CHECK(!write_msr(MSR_SPEC_CTRL, X86_SPEC_CTRL_BHI_DIS_S));
    cpu_env_destroy(&e);
}

static void test_reset_values(void)
{
    /* table */
    static const struct {
        uint32_t index;
        uint64_t value;
    } resets[] = {
        {MSR_PLATFORM_ID, 0},
        {MSR_FEATURE_CONTROL, 1},
        {MSR_TSC_ADJUST, 0},
        {MSR_SPEC_CTRL, 0},
        {MSR_UCODE_REV, BIT(32)},
        {MSR_MTRRCAP, 0x508},
        {MSR_MCG_CAP, 0},
        {MSR_MISC_ENABLE, 0x1801},
        {MSR_MTRR_DEF_TYPE, 0},
        {MSR_PAT, 0x0007040600070406},
        {MSR_APIC_BASE, 0xFEE00900},
        {MSR_EFER, 0},
        {MSR_KVM_STEAL_TIME, 0},
    };
    uint64_t v;
    cpu_env_create(&e, CPU_ENV_REAL);
    for (size_t i = 0; i < ARRAY_SIZE(resets); i++) {
        unit_context("%x", resets[i].index);
        CHECK(read_msr(resets[i].index, &v));
        CHECK_EQ(v, resets[i].value);
    }
    unit_context(NULL);
    CHECK(read_msr(MSR_ARCH_CAPABILITIES, &v));
    CHECK_EQ(v, e.cpu->level->arch_capabilities);
    CHECK(!read_msr(MSR_PRED_CMD, &v));
    cpu_env_destroy(&e);
}

/* Every index of the ranges with hostile values: no crash, and default deny. */
static void test_sweep(void)
{
    static const uint32_t ranges[][2] = {{0, 0x1FFF},
                                         {0x40000000, 0x400000FF},
                                         {0x4B564D00, 0x4B564DFF},
                                         {0xC0000000, 0xC0001FFF},
                                         {0xC0010000, 0xC00102FF},
                                         {0xFFFFFF00, 0xFFFFFFFE}};
    uint64_t seed = 99;
    unsigned int known = 0;
    cpu_env_create(&e, CPU_ENV_LONG);
    for (size_t r = 0; r < ARRAY_SIZE(ranges); r++) {
        for (uint32_t i = ranges[r][0]; i <= ranges[r][1]; i++) {
            uint64_t v = 0;
            seed = seed * 6364136223846793005u + 1442695040888963407u;
            known += read_msr(i, &v);
            (void)write_msr(i, 0);
            (void)write_msr(i, UINT64_MAX);
            (void)write_msr(i, seed);
            (void)write_msr(i, v);
        }
    }
    CHECK(known > 50 && known < 150);
    cpu_env_destroy(&e);
}

static void test_efer(void)
{
    cpu_env_create(&e, CPU_ENV_LONG);
    uint64_t v;
    CHECK(!write_msr(MSR_EFER, X86_EFER_SCE));               /* LME may not change under paging */
    CHECK(write_msr(MSR_EFER, X86_EFER_LME | X86_EFER_SCE)); /* LMA is kept, NXE goes */
    CHECK(read_msr(MSR_EFER, &v));
    CHECK_EQ(v, X86_EFER_LME | X86_EFER_LMA | X86_EFER_SCE);
    CHECK(!write_msr(MSR_EFER, v | BIT(12))); /* SVME */
    cpu_env_destroy(&e);
}

static void test_x2apic(void)
{
    uint64_t v;
    cpu_env_create(&e, CPU_ENV_LONG);
    CHECK(!read_msr(0x802, &v)); /* xAPIC mode */
    CHECK(write_msr(MSR_APIC_BASE, 0xFEE00D00));
    CHECK(read_msr(0x802, &v));
    CHECK_EQ(v, 0);
    CHECK(!write_msr(MSR_APIC_BASE, 0xFEE00900)); /* not straight back */
    cpu_env_destroy(&e);
}

static void test_tsc(void)
{
    uint64_t v;
    cpu_env_create(&e, CPU_ENV_LONG);
    vm_clock_start(&e.vm);
    fake_seam_advance(1000);
    CHECK_EQ(x86_tsc(e.cpu), vm_clock_ns(&e.vm)); /* 1 GHz */
    CHECK(write_msr(MSR_TSC, 5000));
    CHECK_EQ(x86_tsc(e.cpu), 5000);
    CHECK(read_msr(MSR_TSC_ADJUST, &v));
    CHECK_EQ(v, 5000 - vm_clock_ns(&e.vm));
    CHECK(write_msr(MSR_TSC_ADJUST, 0));
    CHECK_EQ(x86_tsc(e.cpu), vm_clock_ns(&e.vm));
    CHECK(write_msr(MSR_TSC_ADJUST, (uint64_t)-400));
    CHECK_EQ(x86_tsc(e.cpu), vm_clock_ns(&e.vm) - 400);
    CHECK(write_msr(MSR_TSC_ADJUST, 0));

    static const uint32_t rates[] = {1000000, 2600000, 3333333, 999, 1, UINT32_MAX};
    for (size_t i = 0; i < ARRAY_SIZE(rates); i++) {
        unit_context("%u kHz", rates[i]);
        e.vm.tsc_khz = rates[i];
        fake_seam_advance(123456789);
        uint64_t now = vm_clock_ns(&e.vm), tsc = x86_tsc(e.cpu);
        uint64_t exact = (uint64_t)((unsigned __int128)now * rates[i] / 1000000);
        CHECK(tsc <= exact && exact - tsc <= 1 + now / 1000000000);
        CHECK_EQ(x86_tsc_to_clock(e.cpu, tsc), now);
        CHECK_EQ(x86_tsc_to_clock(e.cpu, tsc - 5), now);
        uint64_t then = x86_tsc_to_clock(e.cpu, tsc + 1000);
        CHECK(then > now);
        fake_seam_advance(then - now);
        CHECK(x86_tsc(e.cpu) >= tsc + 1000);
    }
    unit_context(NULL);
    e.vm.tsc_khz = 1;
    CHECK_EQ(x86_tsc_to_clock(e.cpu, x86_tsc(e.cpu) + BIT(62)), VM_TIMER_NEVER);
    cpu_env_destroy(&e);
}

int main(void)
{
    UNIT_RUN(test_writes);
    UNIT_RUN(test_without_bhi_ctrl);
    UNIT_RUN(test_reset_values);
    UNIT_RUN(test_sweep);
    UNIT_RUN(test_efer);
    UNIT_RUN(test_x2apic);
    UNIT_RUN(test_tsc);
    return unit_done();
}
