/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * Levels: that CPUID, the decoder's features, CR4 and EFER masks say the same, that what a level
 * must not offer is not there, and that the answers which depend on VM and vCPU are right.
 */
#include <string.h>

#include "core/err.h"
#include "tests/lib/cpu_env.h"
#include "tests/lib/unit.h"
#include "x86/cpuid_bits.h"
#include "x86/level.h"

static const struct x86_level *level_of(unsigned int n, struct x86_level *host)
{
    x86_level_host(host);
    return n == 0 ? x86_level_find("v2") : n == 1 ? x86_level_find("v3") : host;
}

static uint32_t reg_of(const struct x86_level *l, uint32_t leaf, uint32_t subleaf, unsigned int reg)
{
    const struct x86_cpuid_row *r = x86_level_row(l, leaf, subleaf);
    if (!r)
        return 0;
    const uint32_t regs[4] = {r->eax, r->ebx, r->ecx, r->edx};
    return regs[reg];
}

static void test_find(void)
{
    CHECK(x86_level_find("v2") && x86_level_find("v3"));
    CHECK(!x86_level_find("v4") && !x86_level_find("") && !x86_level_find("host"));
    CHECK_STR(x86_level_find("v3")->name, "v3");
    struct x86_level host;
    x86_level_host(&host);
    CHECK_STR(host.name, "host");
    CHECK(x86_level_missing(&host) == NULL);
}

static void test_rows(void)
{
    struct x86_level host;
    for (unsigned int n = 0; n < 3; n++) {
        const struct x86_level *l = level_of(n, &host);
        unit_context("%s", l->name);
        CHECK(l->count > 0 && l->count < X86_LEVEL_ROWS);
        CHECK(l->row[l->count].leaf == 0 && l->row[l->count].eax == 0); /* count is not short */
        for (uint32_t i = 0; i < l->count; i++) {
            const struct x86_cpuid_row *r = &l->row[i];
            CHECK(x86_level_row(l, r->leaf, r->subleaf) == r); /* reachable: none hides another */
            uint32_t range = r->leaf & 0xC0000000;
            CHECK(r->leaf <= reg_of(l, range, 0, 0));
        }
    }
    unit_context(NULL);
}

static void test_features_match_cpuid(void)
{
    struct x86_level host;
    size_t count;
    const struct x86_feature_bit *bits = x86_feature_bits(&count);
    for (unsigned int n = 0; n < 3; n++) {
        const struct x86_level *l = level_of(n, &host);
        uint64_t seen = BIT(INSN_FEATURE_NONE);
        for (size_t i = 0; i < count; i++) {
            const struct x86_feature_bit *b = &bits[i];
            unit_context("%s %s", l->name, b->name);
            bool told = reg_of(l, b->leaf, b->subleaf, b->reg) >> b->bit & 1;
            CHECK_EQ(told, x86_level_has(l, (enum insn_feature)b->feature));
            seen |= BIT(b->feature);
        }
        unit_context("%s", l->name);
        /* every feature has a row, but SSE4A, which the decoder does not know */
        CHECK_EQ(seen | BIT(INSN_FEATURE_SSE4A), BIT(INSN_FEATURE_COUNT) - 1);
        CHECK(!x86_level_has(l, INSN_FEATURE_SSE4A));
    }
    unit_context(NULL);
}

static void test_masks_match_cpuid(void)
{
    /* table */
    static const struct {
        uint64_t cr4;
        uint32_t leaf;
        uint8_t reg, bit;
    } rows[] = {
        {X86_CR4_VME | X86_CR4_PVI, 1, 3, 1},
        {X86_CR4_TSD, 1, 3, 4},
        {X86_CR4_DE, 1, 3, 2},
        {X86_CR4_PSE, 1, 3, 3},
        {X86_CR4_PAE, 1, 3, 6},
        {X86_CR4_MCE, 1, 3, 7},
        {X86_CR4_PGE, 1, 3, 13},
        {X86_CR4_OSFXSR, 1, 3, 24},
        {X86_CR4_OSXMMEXCPT, 1, 3, 25},
        {X86_CR4_UMIP, 7, 2, 2},
        {X86_CR4_LA57, 7, 2, 16},
        {X86_CR4_FSGSBASE, 7, 1, 0},
        {X86_CR4_PCIDE, 1, 2, 17},
        {X86_CR4_OSXSAVE, 1, 2, 26},
        {X86_CR4_SMEP, 7, 1, 7},
        {X86_CR4_SMAP, 7, 1, 20},
    };
    struct x86_level host;
    for (unsigned int n = 0; n < 3; n++) {
        const struct x86_level *l = level_of(n, &host);
        uint64_t known = X86_CR4_PCE;
        for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
            unit_context("%s row %zu", l->name, i);
            bool told = reg_of(l, rows[i].leaf, 0, rows[i].reg) >> rows[i].bit & 1;
            CHECK_EQ((l->cr4_mask & rows[i].cr4) != 0, told);
            known |= rows[i].cr4;
        }
        unit_context("%s", l->name);
        CHECK_EQ(l->cr4_mask & ~known, 0);
        CHECK_EQ(l->efer_mask, X86_EFER_SCE | X86_EFER_LME | X86_EFER_LMA | X86_EFER_NXE);
        CHECK_EQ(l->gib_pages, (reg_of(l, 0x80000001, 0, 3) & CPUID_81D_1G) != 0);
        CHECK_EQ(l->pcid, (reg_of(l, 1, 0, 2) & CPUID_1C_PCID) != 0);
        CHECK_EQ(l->x2apic, (reg_of(l, 1, 0, 2) & CPUID_1C_X2APIC) != 0);
        CHECK_EQ(l->tsc_deadline, (reg_of(l, 1, 0, 2) & CPUID_1C_TSC_DEADLINE) != 0);
        CHECK_EQ(l->spec_ctrl, (reg_of(l, 7, 0, 3) & CPUID_7D_IBRS) != 0);
        CHECK_EQ(l->xcr0_mask, reg_of(l, 0xD, 0, 0));
        CHECK_EQ(reg_of(l, 0xD, 0, 2), l->xcr0_mask & X86_XCR0_AVX ? 832 : 576);
        CHECK_EQ(l->physical_bits, reg_of(l, 0x80000008, 0, 0) & 0xFF);
    }
    unit_context(NULL);
}

/* The levels of the x86-64 psABI, and the brief's list of what must not be there. */
static void test_contents(void)
{
    const struct x86_level *v2 = x86_level_find("v2"), *v3 = x86_level_find("v3");
    const uint32_t v2_1c = CPUID_1C_SSE3 | CPUID_1C_SSSE3 | CPUID_1C_CX16 | CPUID_1C_SSE41 |
                           CPUID_1C_SSE42 | CPUID_1C_POPCNT;
    const uint32_t v3_1c =
        v2_1c | CPUID_1C_FMA | CPUID_1C_MOVBE | CPUID_1C_XSAVE | CPUID_1C_AVX | CPUID_1C_F16C;
    const uint32_t v3_7b = CPUID_7B_BMI1 | CPUID_7B_AVX2 | CPUID_7B_BMI2;
    CHECK_EQ(reg_of(v2, 1, 0, 2) & v2_1c, v2_1c);
    CHECK_EQ(reg_of(v2, 0x80000001, 0, 2), CPUID_81C_LAHF);
    CHECK_EQ(reg_of(v3, 1, 0, 2) & v3_1c, v3_1c);
    CHECK_EQ(reg_of(v3, 7, 0, 1) & v3_7b, v3_7b);
    CHECK(reg_of(v3, 0x80000001, 0, 2) & CPUID_81C_LZCNT);

    const uint32_t no_1c =
        CPUID_BIT(3) /* MONITOR */ | CPUID_BIT(5) /* VMX */ | CPUID_BIT(15) /* PDCM */;
    const uint32_t no_7b = CPUID_BIT(4) | CPUID_BIT(11) /* TSX */ | CPUID_BIT(16) /* AVX-512 */ |
                           CPUID_BIT(14) /* MPX */;
    const uint32_t no_7c = CPUID_BIT(3) /* PKU */ | CPUID_BIT(7) /* CET */ | CPUID_BIT(16);
    const uint32_t no_7d = CPUID_BIT(5) /* UINTR */ | CPUID_BIT(20) | CPUID_BIT(24) /* AMX */;
    const uint32_t no_kvm = CPUID_BIT(4) | CPUID_BIT(10) | CPUID_BIT(14) /* ASYNC_PF */;
    struct x86_level host;
    for (unsigned int n = 0; n < 3; n++) {
        const struct x86_level *l = level_of(n, &host);
        unit_context("%s", l->name);
        CHECK_EQ(reg_of(l, 1, 0, 2) & no_1c, 0);
        CHECK_EQ(reg_of(l, 7, 0, 1) & no_7b, 0);
        CHECK_EQ(reg_of(l, 7, 0, 2) & no_7c, 0);
        CHECK_EQ(reg_of(l, 7, 0, 3) & no_7d, 0);
        CHECK_EQ(reg_of(l, 7, 1, 0) & CPUID_BIT(26) /* LAM */, 0);
        CHECK_EQ(reg_of(l, 0xA, 0, 0), 0);                       /* no performance counters */
        CHECK_EQ(reg_of(l, 0xD, 1, 0) & ~CPUID_D1A_XSAVEOPT, 0); /* no XSAVEC, XSAVES */
        CHECK_EQ(reg_of(l, 0x40000001, 0, 0) & no_kvm, 0);
        CHECK(l->arch_capabilities & X86_ARCH_RDCL_NO);
        CHECK(!(l->arch_capabilities & BIT(2))); /* RSBA: would ask for return thunks */
    }
    unit_context(NULL);
}

static void ask(struct cpu_env *e, uint32_t leaf, uint32_t subleaf, uint32_t out[4])
{
    x86_cpuid(e->cpu, leaf, subleaf, out);
}

static void test_identity(void)
{
    struct cpu_env e;
    uint32_t out[4];
    char text[49] = {0};
    cpu_env_create(&e, CPU_ENV_LONG);
    ask(&e, 0, 0, out);
    memcpy(text, &out[1], 4);
    memcpy(text + 4, &out[3], 4);
    memcpy(text + 8, &out[2], 4);
    CHECK_STR(text, "GenuineIntel");
    for (uint32_t i = 0; i < 3; i++) {
        ask(&e, 0x80000002 + i, 0, out);
        memcpy(text + i * 16, out, 16);
    }
    CHECK_STR(text, "Lodge Virtual CPU v3");
    ask(&e, 0x40000000, 0, out);
    memset(text, 0, sizeof(text));
    memcpy(text, &out[1], 12);
    CHECK_STR(text, "KVMKVMKVM");
    ask(&e, 1, 0, out);
    CHECK_EQ(out[0] >> 8 & 0xF, 6);
    CHECK_EQ((out[0] >> 4 & 0xF) | (out[0] >> 12 & 0xF0), 0xF5);
    CHECK(out[2] & CPUID_1C_HYPERVISOR);
    ask(&e, 0x15, 0, out);
    CHECK_EQ((uint64_t)out[2] * out[1] / out[0], 1000000000);
    ask(&e, 0x40000010, 0, out);
    CHECK_EQ(out[0], 1000000);
    cpu_env_destroy(&e);
}

static void test_out_of_range(void)
{
    struct cpu_env e;
    uint32_t out[4], last[4];
    cpu_env_create(&e, CPU_ENV_LONG);
    ask(&e, 0x16, 0, last);
    ask(&e, 0x17, 0, out);
    CHECK(memcmp(out, last, sizeof(out)) == 0);
    ask(&e, 0x80000009, 0, out);
    CHECK(memcmp(out, last, sizeof(out)) == 0);
    ask(&e, 0xFFFFFFFF, 0xFFFFFFFF, out);
    CHECK(memcmp(out, last, sizeof(out)) == 0);
    ask(&e, 0x40000011, 0, out);
    CHECK(memcmp(out, last, sizeof(out)) == 0);
    ask(&e, 0x40000100, 0, out);
    CHECK(memcmp(out, last, sizeof(out)) == 0);
    const uint32_t zero[][2] = {{0x40000002, 0}, {4, 4}, {7, 3}, {0xD, 3}, {0xA, 0}};
    for (size_t i = 0; i < ARRAY_SIZE(zero); i++) {
        ask(&e, zero[i][0], zero[i][1], out);
        CHECK_EQ(out[0] | out[1] | out[2] | out[3], 0);
    }
    ask(&e, 0xB, 5, out);
    CHECK_EQ(out[0] | out[1], 0);
    CHECK_EQ(out[2], 5);
    cpu_env_destroy(&e);
}

static void test_dynamic(void)
{
    struct cpu_env e;
    uint32_t out[4];
    cpu_env_create(&e, CPU_ENV_LONG);
    ask(&e, 1, 0, out);
    CHECK(out[2] & CPUID_1C_OSXSAVE);
    CHECK(!(out[3] & CPUID_1D_HTT));
    e.cpu->cr4 &= ~X86_CR4_OSXSAVE;
    ask(&e, 1, 0, out);
    CHECK(!(out[2] & CPUID_1C_OSXSAVE));
    ask(&e, 0xD, 0, out);
    CHECK_EQ(out[1], 832);
    e.cpu->xcr0 = 3;
    ask(&e, 0xD, 0, out);
    CHECK_EQ(out[1], 576);
    CHECK_EQ(out[2], 832);

    /* table: vCPUs, bits of the APIC id */
    static const uint8_t counts[][2] = {{1, 0}, {2, 1}, {3, 2}, {4, 2}, {5, 3}, {16, 4}};
    for (size_t i = 0; i < ARRAY_SIZE(counts); i++) {
        uint32_t ids = 1u << counts[i][1];
        e.vm.vcpu_count = counts[i][0];
        ask(&e, 0xB, 0, out);
        CHECK(out[0] == 0 && out[1] == 1 && out[2] == 0x100 && out[3] == 0);
        ask(&e, 0xB, 1, out);
        CHECK(out[0] == counts[i][1] && out[1] == counts[i][0] && out[2] == 0x201);
        ask(&e, 1, 0, out);
        CHECK_EQ(out[1] >> 16 & 0xFF, ids);
        CHECK_EQ((out[3] & CPUID_1D_HTT) != 0, counts[i][0] > 1);
        ask(&e, 4, 3, out);
        CHECK_EQ(out[0] >> 26, ids - 1);
        CHECK_EQ(out[0] >> 14 & 0xFFF, ids - 1);
        ask(&e, 4, 0, out);
        CHECK_EQ(out[0] >> 14 & 0xFFF, 0);
    }
    e.vm.vcpu_count = 1;
    cpu_env_destroy(&e);
}

/* Each vCPU's APIC id, taken apart by the widths that leaf B gives, is its own and in the package;
 * all places that tell it agree. */
static void test_apic_ids(void)
{
    static const char *const levels[] = {"v2", "v3"};
    for (size_t l = 0; l < ARRAY_SIZE(levels); l++) {
        for (uint32_t count = 1; count <= VM_MAX_VCPUS; count++) {
            struct cpu_env e;
            uint32_t one[4], b[4], core[4];
            cpu_env_create(&e, CPU_ENV_LONG);
            e.vm.vcpu_count = count;
            for (uint32_t id = 0; id < count; id++) {
                struct x86_cpu *cpu;
                unit_context("%s, vCPU %u of %u", levels[l], id, count);
                CHECK_EQ(x86_cpu_create(&cpu, &e.vm, id, x86_level_find(levels[l])), OK);
                x86_cpuid(cpu, 1, 0, one);
                x86_cpuid(cpu, 0xB, 0, b);
                x86_cpuid(cpu, 0xB, 1, core);
                CHECK_EQ(one[1] >> 24, id);
                CHECK_EQ(b[3], id);
                CHECK_EQ(core[3], id);
                CHECK_EQ(core[1], count);
                CHECK_EQ(id >> core[0], 0); /* one package */
                CHECK_EQ(one[1] >> 16 & 0xFF, 1u << core[0]);
                x86_cpu_destroy(cpu);
            }
            cpu_env_destroy(&e);
        }
    }
    unit_context(NULL);
}

int main(void)
{
    UNIT_RUN(test_find);
    UNIT_RUN(test_rows);
    UNIT_RUN(test_features_match_cpuid);
    UNIT_RUN(test_masks_match_cpuid);
    UNIT_RUN(test_contents);
    UNIT_RUN(test_identity);
    UNIT_RUN(test_out_of_range);
    UNIT_RUN(test_dynamic);
    UNIT_RUN(test_apic_ids);
    return unit_done();
}
