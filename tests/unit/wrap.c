/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * Operands that cross 4 GiB: outside 64-bit mode they go on at linear address 0, with paging and in
 * compatibility mode; in 64-bit mode they go on above, but for masked stores with 32-bit addresses.
 * The processors that this was compared with (Zen 4) do so. The segments have a base, so that no
 * offset passes a limit.
 */
#include "tests/lib/cpu_env.h"
#include "tests/lib/unit.h"
#include "x86/mem.h"

static struct cpu_env env;

enum {
    PD = CPU_ENV_DATA, /* of the last GiB below 4 GiB, and its last page table; then the same of the
                          GiB above */
    PT = CPU_ENV_DATA + 0x1000,
    PD_ABOVE = CPU_ENV_DATA + 0x2000,
    PT_ABOVE = CPU_ENV_DATA + 0x3000,
    LAST = CPU_ENV_DATA + 0x10000,  /* mapped as the last page below 4 GiB */
    ABOVE = CPU_ENV_DATA + 0x11000, /* the first one above, in long mode */
    FIRST = CPU_ENV_DATA + 0x12000, /* page 0 */
    BASE = 0x1000,                  /* of segments */
};

static const enum cpu_env_mode modes[] = {CPU_ENV_PAGED, CPU_ENV_LONG};

static void create(enum cpu_env_mode mode)
{
    const uint64_t flags = X86_PTE_P | X86_PTE_W | X86_PTE_U | X86_PTE_A | X86_PTE_D;
    cpu_env_create(&env, mode);
    *cpu_env_pte(&env, 0) = FIRST | flags;
    cpu_env_put64(&env, PD + 511 * 8, PT | flags);
    cpu_env_put64(&env, PT + 511 * 8, LAST | flags);
    if (mode == CPU_ENV_LONG) {
        cpu_env_put64(&env, CPU_ENV_PDPT + 3 * 8, PD | flags);
        cpu_env_put64(&env, CPU_ENV_PDPT + 4 * 8, PD_ABOVE | flags);
        cpu_env_put64(&env, PD_ABOVE, PT_ABOVE | flags);
        cpu_env_put64(&env, PT_ABOVE, ABOVE | flags);
    } else {
        env.cpu->pdpte[3] = PD | X86_PTE_P;
    }
    x86_tlb_flush(env.cpu);
    env.cpu->fpu.mxcsr = X86_MXCSR_RESET;
    env.cpu->fpu.fcw = X86_FCW_RESET;
}

/* 32-bit code whose DS has a base; `behind` bytes of its operand at [ebx] lie below 4 GiB. */
static void create_32(enum cpu_env_mode mode, uint32_t behind)
{
    create(mode);
    if (mode == CPU_ENV_LONG)
        cpu_env_set_compat(&env);
    env.cpu->seg[SEG_DS].base = BASE;
    x86_update_mode(env.cpu);
    env.cpu->gpr[RBX] = 0u - BASE - behind;
}

/* The bytes at the end of the last page and those at 0. */
static void put_across(uint32_t behind, const void *bytes, uint32_t size)
{
    memcpy(env.ram + LAST + PAGE_SIZE - behind, bytes, behind);
    memcpy(env.ram + FIRST, (const uint8_t *)bytes + behind, size - behind);
}

static int step(const void *code, size_t size)
{
    cpu_env_code(&env, code, size);
    return cpu_env_step(&env);
}

static void test_plain(void)
{
    for (unsigned int n = 0; n < ARRAY_SIZE(modes); n++) {
        create_32(modes[n], 2);
        put_across(2, "\x11\x22\x33\x44", 4);
        CHECK_EQ(step("\x8B\x03", 2), X86_OK); /* mov eax, [ebx] */
        CHECK_EQ(env.cpu->gpr[RAX], 0x44332211);
        env.cpu->gpr[RAX] = 0xAABBCCDD;
        CHECK_EQ(step("\x89\x03", 2), X86_OK); /* mov [ebx], eax */
        CHECK_EQ(cpu_env_get16(&env, LAST + PAGE_SIZE - 2), 0xCCDD);
        CHECK_EQ(cpu_env_get16(&env, FIRST), 0xAABB);
        CHECK_EQ(step("\x0F\x10\x03", 3), X86_OK); /* movups xmm0, [ebx] */
        CHECK_EQ(load_u32(env.cpu->fpu.xmm[0]), 0xAABBCCDD);
        cpu_env_destroy(&env);
    }
}

/* Operands that are read in two parts. */
static void test_far_pointers(void)
{
    static const uint8_t pointer[] = {0x78, 0x56, 0x01, 0x00, CPU_ENV_SEL_CODE32, 0};
    static const uint8_t data[] = {0x78, 0x56, 0x01, 0x00, CPU_ENV_SEL_DATA, 0};
    for (unsigned int n = 0; n < ARRAY_SIZE(modes); n++) {
        for (uint32_t behind = 3; behind < 6; behind++) {
            create_32(modes[n], behind);
            put_across(behind, pointer, sizeof(pointer));
            CHECK_EQ(step("\xFF\x2B", 2), X86_JUMP); /* jmp far [ebx] */
            CHECK_EQ(env.cpu->rip, 0x15678);
            put_across(behind, data, sizeof(data));
            CHECK_EQ(step("\xC4\x03", 2), X86_JUMP); /* les eax, [ebx] */
            CHECK_EQ(env.cpu->gpr[RAX], 0x15678);
            CHECK_EQ(env.cpu->seg[SEG_ES].selector, CPU_ENV_SEL_DATA);
            cpu_env_destroy(&env);
        }
    }
}

static void test_bound(void)
{
    for (unsigned int n = 0; n < ARRAY_SIZE(modes); n++) {
        create_32(modes[n], 4);
        put_across(4, "\x05\0\0\0\x07\0\0", 8);
        env.cpu->gpr[RAX] = 7;
        CHECK_EQ(step("\x62\x03", 2), X86_OK);
        env.cpu->gpr[RAX] = 8;
        CHECK_EQ(step("\x62\x03", 2), X86_FAULT);
        CHECK_EQ(env.cpu->fault.vector, X86_BR);
        cpu_env_destroy(&env);
    }
}

static void test_lgdt(void)
{
    for (unsigned int n = 0; n < ARRAY_SIZE(modes); n++) {
        create_32(modes[n], 2);
        put_across(2, "\x7F\0\x00\x80\x01", 6);
        CHECK_EQ(step("\x0F\x01\x13", 3), X86_OK);
        CHECK_EQ(env.cpu->gdtr.limit, 0x7F);
        CHECK_EQ(env.cpu->gdtr.base, 0x18000);
        cpu_env_destroy(&env);
    }
}

/* Areas larger than what is moved at once: written, read back after the registers were changed. */
static void test_areas(void)
{
    static const struct {
        const char *save, *restore;
        uint32_t behind;
        uint64_t xcr0;
    } rows[] = {
        {"\x0F\xAE\x03", "\x0F\xAE\x0B", 0x10, 7},  /* fxsave, fxrstor */
        {"\x0F\xAE\x03", "\x0F\xAE\x0B", 0xC0, 7},  /* XMM2 starts at 0 */
        {"\x0F\xAE\x23", "\x0F\xAE\x2B", 0x40, 7},  /* xsave, xrstor */
        {"\x0F\xAE\x23", "\x0F\xAE\x2B", 0x200, 7}, /* the header is at 0 */
    };
    for (unsigned int n = 0; n < ARRAY_SIZE(modes) * ARRAY_SIZE(rows); n++) {
        unsigned int row = n / 2;
        struct x86_fpu saved;
        create_32(modes[n % 2], rows[row].behind);
        for (unsigned int v = 0; v < 8; v++)
            memset(env.cpu->fpu.xmm[v], (int)v + 1, 16);
        saved = env.cpu->fpu;
        env.cpu->xcr0 = rows[row].xcr0;
        env.cpu->gpr[RAX] = 7;
        env.cpu->gpr[RDX] = 0;
        unit_context("row %u, mode %u", row, n % 2);
        CHECK_EQ(step(rows[row].save, 3), X86_OK);
        memset(env.cpu->fpu.xmm, 0, sizeof(env.cpu->fpu.xmm));
        CHECK_EQ(step(rows[row].restore, 3), X86_OK);
        CHECK(memcmp(env.cpu->fpu.xmm, saved.xmm, 8 * 16) == 0);
        CHECK_EQ(cpu_env_get32(&env, ABOVE), 0);
        cpu_env_destroy(&env);
    }
    unit_context(NULL);
}

static void test_fetch(void)
{
    for (unsigned int n = 0; n < ARRAY_SIZE(modes); n++) {
        create_32(modes[n], 2);
        put_across(2, "\xB8\x11\x22\x33\x44", 5); /* mov eax, imm32 */
        env.cpu->seg[SEG_CS].base = BASE;
        x86_update_mode(env.cpu);
        env.cpu->rip = env.cpu->gpr[RBX];
        CHECK_EQ(cpu_env_step(&env), X86_OK);
        CHECK_EQ(env.cpu->gpr[RAX], 0x44332211);
        cpu_env_destroy(&env);
    }
}

/* 64-bit code with 32-bit addresses. */
static void test_64bit(void)
{
    create(CPU_ENV_LONG);
    env.cpu->gpr[RBX] = env.cpu->gpr[RDI] = 0xFFFFFFF8;
    cpu_env_put64(&env, LAST + PAGE_SIZE - 8, UINT64_C(0x1111111111111111));
    cpu_env_put64(&env, ABOVE, UINT64_C(0x2222222222222222));
    memset(env.cpu->fpu.xmm[1], 0xFF, 16); /* masks */
    /* vmaskmovps xmm0, xmm1, [ebx]: goes on above 4 GiB */
    CHECK_EQ(step("\x67\xC4\xE2\x71\x2C\x03", 6), X86_OK);
    CHECK_EQ(load_u64(env.cpu->fpu.xmm[0] + 8), UINT64_C(0x2222222222222222));
    /* vmaskmovps [ebx], xmm1, xmm0: does not */
    CHECK_EQ(step("\x67\xC4\xE2\x71\x2E\x03", 6), X86_OK);
    CHECK_EQ(cpu_env_get64(&env, FIRST), UINT64_C(0x2222222222222222));
    cpu_env_put64(&env, FIRST, 0);
    cpu_env_put64(&env, ABOVE, 0);
    /* maskmovdqu xmm0, xmm1 with edi: neither */
    CHECK_EQ(step("\x67\x66\x0F\xF7\xC1", 5), X86_OK);
    CHECK_EQ(cpu_env_get64(&env, FIRST), UINT64_C(0x2222222222222222));
    CHECK_EQ(cpu_env_get64(&env, ABOVE), 0);
    cpu_env_destroy(&env);
}

int main(void)
{
    UNIT_RUN(test_plain);
    UNIT_RUN(test_far_pointers);
    UNIT_RUN(test_bound);
    UNIT_RUN(test_lgdt);
    UNIT_RUN(test_areas);
    UNIT_RUN(test_fetch);
    UNIT_RUN(test_64bit);
    return unit_done();
}
