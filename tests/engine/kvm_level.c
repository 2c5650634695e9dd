/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * Levels on hosts that are told (tests/lib/fake_kvm.h): whatever a level needs and KVM does not
 * support is named, and of a mitigation profile nothing is left that is not true of the host.
 */
#include <errno.h>
#include <unistd.h>
#include <string.h>

#include "core/err.h"
#include "engine/kvm/kvm_private.h"
#include "isa/x86.h"
#include "tests/lib/fake_kvm.h"
#include "tests/lib/unit.h"
#include "x86/cpuid_bits.h"
#include "x86/level.h"

enum { EAX, EBX, ECX, EDX };

static int device;
static char why[256];

static void host(bool intel)
{
    fake_kvm_reset(intel);
    CHECK(fake_kvm_open("/dev/kvm", &device));
    why[0] = '\0';
}

static void gone(void)
{
    (void)close(device);
}

static int check(const char *level)
{
    return kvm_check_level(device, x86_level_find(level), why, sizeof(why));
}

/* --- what is missing --- */

static const struct missing {
    uint32_t leaf;
    uint32_t reg, bit;
    const char *name;
    bool only_v3;
} missing[] = {
    /* table: SDM 2A, CPUID */
    {1, EDX, 0, "fpu", false},
    {1, EDX, 4, "tsc", false},
    {1, EDX, 5, "msr", false},
    {1, EDX, 6, "pae", false},
    {1, EDX, 8, "cx8", false},
    {1, EDX, 9, "apic", false},
    {1, EDX, 12, "mtrr", false},
    {1, EDX, 15, "cmov", false},
    {1, EDX, 16, "pat", false},
    {1, EDX, 25, "sse", false},
    {1, EDX, 26, "sse2", false},
    {1, ECX, 0, "sse3", false},
    {1, ECX, 9, "ssse3", false},
    {1, ECX, 13, "cx16", false},
    {1, ECX, 19, "sse4_1", false},
    {1, ECX, 20, "sse4_2", false},
    {1, ECX, 23, "popcnt", false},
    {0x80000001, ECX, 0, "lahf_lm", false},
    {0x80000001, EDX, 11, "syscall", false},
    {0x80000001, EDX, 20, "nx", false},
    {0x80000001, EDX, 29, "lm", false},
    {1, ECX, 12, "fma", true},
    {1, ECX, 22, "movbe", true},
    {1, ECX, 26, "xsave", false},
    {1, ECX, 28, "avx", true},
    {1, ECX, 29, "f16c", true},
    {7, EBX, 3, "bmi1", true},
    {7, EBX, 5, "avx2", true},
    {7, EBX, 8, "bmi2", true},
    {0x80000001, ECX, 5, "lzcnt", true},
};

static void test_what_is_missing_is_named(void)
{
    for (size_t i = 0; i < ARRAY_SIZE(missing); i++) {
        const struct missing *m = &missing[i];

        host(i % 2);
        fake_kvm_clear(m->leaf, 0, m->reg, m->bit);
        unit_context("%s, said: %s", m->name, why);
        CHECK_EQ(check("v3"), ERR_UNSUPPORTED);
        unit_context("%s, said: %s", m->name, why);
        CHECK(strstr(why, "level v3 needs") && strstr(why, m->name));
        if (m->only_v3)
            CHECK_EQ(check("v2"), OK);
        unit_context(NULL);
        gone();
    }
}

static void test_all_there(void)
{
    for (int intel = 0; intel < 2; intel++) {
        host(intel);
        CHECK_EQ(check("v2"), OK);
        CHECK_EQ(check("v3"), OK);
        gone();
    }
}

static void test_what_is_not_asked_for(void)
{
    static const struct missing rows[] = {
        {1, ECX, 21, "x2apic", false},
        {1, ECX, 24, "tsc_deadline_timer", false},
        {1, ECX, 31, "hypervisor", false},
        {7, EDX, 26, "spec_ctrl", false},
    };

    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        host(false);
        fake_kvm_clear(rows[i].leaf, 0, rows[i].reg, rows[i].bit);
        unit_context("%s", rows[i].name);
        CHECK_EQ(check("v3"), OK);
        unit_context(NULL);
        gone();
    }
}

static void test_address_bits(void)
{
    const struct x86_level *v3 = x86_level_find("v3");

    host(true);
    for (uint32_t i = 0; i < fake_kvm.leaves; i++)
        if (fake_kvm.leaf[i].function == 0x80000008)
            fake_kvm.leaf[i].eax = 48u << 8 | (v3->physical_bits - 1u);
    CHECK_EQ(check("v3"), ERR_UNSUPPORTED);
    CHECK(strstr(why, "physical address bits"));
    gone();
}

static void test_kvm_says_nothing(void)
{
    static const int errors[] = {ENOMEM, E2BIG, EINVAL};

    for (size_t i = 0; i < ARRAY_SIZE(errors); i++) {
        struct x86_level level = *x86_level_find("v3");

        host(true);
        fake_kvm_fail(KVM_GET_SUPPORTED_CPUID, 0, errors[i]);
        CHECK_EQ(check("v3"), ERR_UNSUPPORTED);
        CHECK(strstr(why, "does not say"));
        kvm_adapt_profile(device, &level);
        CHECK_EQ(level.arch_capabilities, 0);
        CHECK(!level.spec_ctrl);
        gone();
    }
}

/* --- the profile --- */

static uint32_t bits_of(const struct x86_level *level, uint32_t leaf, uint32_t subleaf,
                        uint32_t reg)
{
    const struct x86_cpuid_row *r = x86_level_row(level, leaf, subleaf);
    const uint32_t value[4] = {r ? r->eax : 0, r ? r->ebx : 0, r ? r->ecx : 0, r ? r->edx : 0};

    return value[reg];
}

static struct x86_level adapted(void)
{
    struct x86_level level = *x86_level_find("v3");

    kvm_adapt_profile(device, &level);
    gone();
    return level;
}

static void test_nothing_is_claimed_beyond_the_host(void)
{
    const struct x86_level *v3 = x86_level_find("v3");
    const uint64_t all = v3->arch_capabilities;
    struct x86_level level;

    host(true); /* free of everything */
    level = adapted();
    CHECK_EQ(level.arch_capabilities, all);
    for (uint64_t bit = 1; bit; bit <<= 1) {
        if (!(all & bit))
            continue;
        host(true);
        fake_kvm.feature_msr = ~bit;
        level = adapted();
        CHECK_EQ(level.arch_capabilities, all & ~bit);
    }
    host(true);
    fake_kvm.feature_msr = 0;
    level = adapted();
    CHECK_EQ(level.arch_capabilities, 0);
    host(true); /* a KVM without the MSR */
    fake_kvm_fail(KVM_GET_MSRS, 0, EINVAL);
    level = adapted();
    CHECK_EQ(level.arch_capabilities, 0);
}

/* What only Intel's processors ever had, others are free of, whether KVM says so or not; of what
 * all had, only by KVM's word. */
static void test_other_vendors(void)
{
    const uint64_t all = x86_level_find("v3")->arch_capabilities;
    struct x86_level level;

    host(false);
    fake_kvm.feature_msr = 0;
    level = adapted();
    CHECK(!(level.arch_capabilities & ~all));
    CHECK_EQ(level.arch_capabilities & X86_ARCH_TAA_NO, all & X86_ARCH_TAA_NO);
    CHECK_EQ(level.arch_capabilities & X86_ARCH_GDS_NO, all & X86_ARCH_GDS_NO);
    CHECK_EQ(level.arch_capabilities & X86_ARCH_RDCL_NO, 0);
    CHECK_EQ(level.arch_capabilities & X86_ARCH_MDS_NO, 0);
}

static void test_controls(void)
{
    const uint32_t spec_ctrl = CPUID_7D_IBRS | CPUID_7D_STIBP;
    struct x86_level level;

    for (uint32_t bit = 26; bit <= 27; bit++) { /* one of the two is not enough */
        host(true);
        fake_kvm_clear(7, 0, EDX, bit);
        level = adapted();
        CHECK(!level.spec_ctrl);
        CHECK_EQ(bits_of(&level, 7, 0, EDX) & spec_ctrl, 0);
    }
    host(true);
    level = adapted();
    CHECK_EQ(level.spec_ctrl, x86_level_find("v3")->spec_ctrl);
    CHECK_EQ(bits_of(&level, 7, 2, EDX), bits_of(x86_level_find("v3"), 7, 2, EDX));
    host(true);
    fake_kvm_clear(7, 2, EDX, 4); /* BHI_CTRL */
    level = adapted();
    CHECK_EQ(bits_of(&level, 7, 2, EDX) & CPUID_72D_BHI_CTRL, 0);
}

static void test_kicks_of_halted_vcpus(void)
{
    struct x86_level level;

    host(true);
    level = adapted();
    CHECK(bits_of(&level, 0x40000001, 0, EAX) & CPUID_KVM_PV_UNHALT);
    host(false);
    level = adapted();
    CHECK(!(bits_of(&level, 0x40000001, 0, EAX) & CPUID_KVM_PV_UNHALT));
}

int main(void)
{
    UNIT_RUN(test_what_is_missing_is_named);
    UNIT_RUN(test_all_there);
    UNIT_RUN(test_what_is_not_asked_for);
    UNIT_RUN(test_address_bits);
    UNIT_RUN(test_kvm_says_nothing);
    UNIT_RUN(test_nothing_is_claimed_beyond_the_host);
    UNIT_RUN(test_other_vendors);
    UNIT_RUN(test_controls);
    UNIT_RUN(test_kicks_of_halted_vcpus);
    return unit_done();
}
