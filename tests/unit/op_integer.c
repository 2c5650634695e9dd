/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * Integer instructions where the differential test does not reach: 16-bit addressing, levels that
 * lack features, real mode, bit offsets far beyond the operand, divisions that would fault on the
 * host.
 */
#include <string.h>

#include "tests/lib/cpu_env.h"
#include "tests/lib/unit.h"
#include "x86/level.h"
#include "x86/mem.h"

static struct cpu_env env;

static void start(enum cpu_env_mode mode, const char *code, size_t size)
{
    cpu_env_create(&env, mode);
    cpu_env_code(&env, code, size);
}

#define START(mode, code) start(mode, code, sizeof(code) - 1)

/* Quotients at the edges, RDX:RAX by RCX. table */
static const struct divide_case {
    const char *code;
    size_t size;
    uint64_t rdx, rax, rcx;
    bool fault;
    uint64_t quotient, remainder;
} divide_cases[] = {
    /* div rcx */
    {"\x48\xF7\xF1", 3, 0, 10, 0, true, 0, 0},
    {"\x48\xF7\xF1", 3, 1, 0, 1, true, 0, 0},
    {"\x48\xF7\xF1", 3, 1, 0, 2, false, UINT64_C(1) << 63, 0},
    {"\x48\xF7\xF1", 3, UINT64_MAX - 1, UINT64_MAX, UINT64_MAX, false, UINT64_MAX, UINT64_MAX - 1},
    {"\x48\xF7\xF1", 3, UINT64_MAX, 0, UINT64_MAX, true, 0, 0},
    /* idiv rcx */
    {"\x48\xF7\xF9", 3, 0, 10, 0, true, 0, 0},
    {"\x48\xF7\xF9", 3, UINT64_MAX, UINT64_C(1) << 63, UINT64_MAX, true, 0, 0}, /* MIN / -1 */
    {"\x48\xF7\xF9", 3, UINT64_MAX, UINT64_C(1) << 63, 1, false, UINT64_C(1) << 63, 0},
    {"\x48\xF7\xF9", 3, 0, UINT64_C(1) << 63, UINT64_MAX, false, UINT64_C(1) << 63, 0},
    {"\x48\xF7\xF9", 3, 0, UINT64_C(1) << 63, 1, true, 0, 0},
    {"\x48\xF7\xF9", 3, UINT64_C(1) << 63, 0, UINT64_MAX, true, 0, 0}, /* -2^127 */
    {"\x48\xF7\xF9", 3, UINT64_C(1) << 63, 0, UINT64_C(1) << 63, true, 0, 0},
    {"\x48\xF7\xF9", 3, UINT64_MAX, 0 - UINT64_C(7), 2, false, 0 - UINT64_C(3), UINT64_MAX},
    /* idiv ecx, cx */
    {"\xF7\xF9", 2, 0xFFFFFFFF, 0x80000000, 0xFFFFFFFF, true, 0, 0},
    {"\xF7\xF9", 2, 0x80000000, 0, 0xFFFFFFFF, true, 0, 0},
    {"\xF7\xF9", 2, 0xFFFFFFFF, 0x80000000, 1, false, 0x80000000, 0},
    {"\x66\xF7\xF9", 3, 0xFFFF, 0x8000, 0xFFFF, true, 0, 0},
    {"\x66\xF7\xF9", 3, 0xFFFF, 0x8000, 1, false, 0x8000, 0},
};

static void test_divide_edges(void)
{
    for (size_t n = 0; n < ARRAY_SIZE(divide_cases); n++) {
        const struct divide_case *c = &divide_cases[n];
        unit_context("case %zu", n);
        start(CPU_ENV_LONG, c->code, c->size);
        env.cpu->gpr[RDX] = c->rdx;
        env.cpu->gpr[RAX] = c->rax;
        env.cpu->gpr[RCX] = c->rcx;
        CHECK_EQ(cpu_env_step(&env), c->fault ? X86_FAULT : X86_OK);
        if (c->fault) {
            CHECK_EQ(env.cpu->fault.vector, X86_DE);
            CHECK(!env.cpu->fault.has_error);
        }
        CHECK_EQ(env.cpu->gpr[RAX], c->fault ? c->rax : c->quotient);
        CHECK_EQ(env.cpu->gpr[RDX], c->fault ? c->rdx : c->remainder);
        cpu_env_destroy(&env);
    }
    unit_context(NULL);
}

static void test_aam_by_zero(void)
{
    START(CPU_ENV_PROTECTED, "\xD4\x00");
    CHECK_EQ(cpu_env_step(&env), X86_FAULT);
    CHECK_EQ(env.cpu->fault.vector, X86_DE);
    cpu_env_destroy(&env);
}

/* bts [rbx], rcx and its 32-bit sister: where the bit is found. table */
static const struct bit_case {
    const char *code;
    size_t size;
    uint64_t rbx, rcx;
    bool fault;
    uint64_t address; /* of the byte that gets the bit */
    uint8_t value;
} bit_cases[] = {
    {"\x48\x0F\xAB\x0B", 4, CPU_ENV_DATA, 0, false, CPU_ENV_DATA, 1},
    {"\x48\x0F\xAB\x0B", 4, CPU_ENV_DATA, 65, false, CPU_ENV_DATA + 8, 2},
    {"\x48\x0F\xAB\x0B", 4, CPU_ENV_DATA + 64, (uint64_t)-1, false, CPU_ENV_DATA + 63, 0x80},
    {"\x48\x0F\xAB\x0B", 4, CPU_ENV_DATA, 0x100000, false, CPU_ENV_DATA + 0x20000, 1},
    /* the index of bad-inputs C1: 2^63 bits below is 2^60 bytes below, not canonical */
    {"\x48\x0F\xAB\x0B", 4, CPU_ENV_DATA, UINT64_C(1) << 63, true, 0, 0},
    {"\x48\x0F\xAB\x0B", 4, CPU_ENV_DATA, INT64_MAX, true, 0, 0},
    /* 32 bits: the offset is signed 32 bits */
    {"\x0F\xAB\x0B", 3, CPU_ENV_DATA + 64, 0x1FFFFFFFF, false, CPU_ENV_DATA + 63, 0x80},
    /* 32-bit addresses wrap: 2^31 bits below */
    {"\x67\x0F\xAB\x0B", 4, CPU_ENV_DATA + 0x10000000, 0x80000000, false, CPU_ENV_DATA, 1},
    {"\x67\x0F\xAB\x0B", 4, 0xFFFFFFFC, (CPU_ENV_DATA + 4) * 8, false, CPU_ENV_DATA, 1},
    {"\x66\x0F\xAB\x0B", 4, CPU_ENV_DATA + 0x1000, 0x8000, false, CPU_ENV_DATA, 1},
};

static void test_bit_strings(void)
{
    for (size_t n = 0; n < ARRAY_SIZE(bit_cases); n++) {
        const struct bit_case *c = &bit_cases[n];
        unit_context("case %zu", n);
        start(CPU_ENV_LONG, c->code, c->size);
        env.cpu->gpr[RBX] = c->rbx;
        env.cpu->gpr[RCX] = c->rcx;
        CHECK_EQ(cpu_env_step(&env), c->fault ? X86_FAULT : X86_OK);
        if (c->fault)
            CHECK_EQ(env.cpu->fault.vector, X86_GP);
        else
            CHECK_EQ(env.ram[c->address], c->value);
        cpu_env_destroy(&env);
    }
    unit_context(NULL);
}

static void test_bit_string_wraps_at_64k(void)
{
    START(CPU_ENV_REAL, "\x0F\xAB\x0F"); /* bts [bx], cx */
    env.cpu->gpr[RBX] = 0;
    env.cpu->gpr[RCX] = 0xFFFF; /* -1 */
    CHECK_EQ(cpu_env_step(&env), X86_OK);
    CHECK_EQ(env.ram[0xFFFF], 0x80);
    cpu_env_destroy(&env);
}

static void test_addresses_16(void)
{
    START(CPU_ENV_REAL, "\x8B\x40\x10"); /* mov ax, [bx+si+16] */
    cpu_env_put16(&env, 0x0F, 0xBEEF);
    env.cpu->gpr[RBX] = 0x1FFFF;
    env.cpu->gpr[RSI] = 0x10000;
    CHECK_EQ(cpu_env_step(&env), X86_OK);
    CHECK_EQ(env.cpu->gpr[RAX], 0xBEEF);
    cpu_env_destroy(&env);

    START(CPU_ENV_REAL, "\x2E\xA1\x04\x00\xD7"); /* mov ax, cs:[4]; xlat */
    CHECK_EQ(cpu_env_step(&env), X86_OK);
    CHECK_EQ(env.cpu->gpr[RAX], 0xD7);
    env.cpu->gpr[RBX] = 0xFF80; /* + AL wraps to 0x57 */
    env.ram[0x57] = 0x99;
    CHECK_EQ(cpu_env_step(&env), X86_OK);
    CHECK_EQ(env.cpu->gpr[RAX], 0x99);
    cpu_env_destroy(&env);
}

/* A level without BMI1 and LZCNT executes TZCNT and LZCNT as BSF and BSR, and has no ANDN. */
static void test_features_of_the_level(void)
{
    static struct x86_level less;
    less = *x86_level_find("v3");
    less.insn_features &= ~(BIT(INSN_FEATURE_BMI1) | BIT(INSN_FEATURE_LZCNT));
    START(CPU_ENV_LONG, "\xF3\x48\x0F\xBD\xC1\xF3\x48\x0F\xBC\xC1\xC4\xE2\xF0\xF2\xC1");
    env.cpu->level = &less;
    env.cpu->gpr[RCX] = 0x10000;
    CHECK_EQ(cpu_env_step(&env), X86_OK); /* lzcnt rax, rcx */
    CHECK_EQ(env.cpu->gpr[RAX], 16);
    env.cpu->gpr[RCX] = 0;
    CHECK_EQ(cpu_env_step(&env), X86_OK); /* tzcnt rax, rcx: BSF of 0 leaves RAX */
    CHECK_EQ(env.cpu->gpr[RAX], 16);
    CHECK(env.cpu->rflags & X86_FLAG_ZF);
    CHECK_EQ(cpu_env_step(&env), X86_FAULT); /* andn rax, rcx, rcx */
    CHECK_EQ(env.cpu->fault.vector, X86_UD);
    env.cpu->level = x86_level_find("v3");
    CHECK_EQ(cpu_env_step(&env), X86_OK);
    env.cpu->rip = CPU_ENV_CODE;
    env.cpu->gpr[RCX] = 0x10000;
    CHECK_EQ(cpu_env_step(&env), X86_OK);
    CHECK_EQ(env.cpu->gpr[RAX], 47);
    cpu_env_destroy(&env);
}

static void test_vex_needs_protected_mode(void)
{
    static const char andn[] = "\xC4\xE2\x70\xF2\xC1"; /* andn eax, ecx, ecx */
    START(CPU_ENV_REAL, andn);
    CHECK_EQ(cpu_env_step(&env), X86_FAULT);
    CHECK_EQ(env.cpu->fault.vector, X86_UD);
    cpu_env_destroy(&env);
    START(CPU_ENV_PROTECTED, andn);
    CHECK_EQ(cpu_env_step(&env), X86_OK);
    cpu_env_destroy(&env);
}

/* A fault in the source leaves flags and destination alone, with the TLB empty or not. */
static void test_load_faults_change_nothing(void)
{
    static const struct {
        const char *code;
        size_t size;
    } rows[] = {{"\x48\x03\x03", 3},     {"\x48\x13\x03", 3},         {"\x48\x8B\x03", 3},
                {"\x0F\xB6\x03", 3},     {"\x48\x0F\xAF\x03", 4},     {"\x48\x3B\x03", 3},
                {"\x48\x83\x3B\x01", 4}, {"\xF3\x48\x0F\xB8\x03", 5}, {"\x0F\x44\x03", 3},
                {"\x48\xF7\x23", 3},     {"\x48\xF7\x33", 3},         {"\xF2\x0F\x38\xF0\x03", 5}};
    for (size_t n = 0; n < ARRAY_SIZE(rows); n++) {
        unit_context("row %zu", n);
        start(CPU_ENV_LONG, rows[n].code, rows[n].size);
        uint64_t gpr[16];
        for (unsigned int k = 0; k < 16; k++)
            env.cpu->gpr[k] = 0x1000100010001000 + k;
        env.cpu->gpr[RBX] = CPU_ENV_DATA;
        env.cpu->rflags = X86_FLAG_ONE | X86_FLAG_AF;
        *cpu_env_pte(&env, CPU_ENV_DATA) = 0;
        memcpy(gpr, env.cpu->gpr, sizeof(gpr));
        CHECK_EQ(cpu_env_step(&env), X86_FAULT);
        CHECK_EQ(env.cpu->fault.vector, X86_PF);
        CHECK_EQ(env.cpu->fault.error, 0);
        CHECK_EQ(env.cpu->rflags, X86_FLAG_ONE | X86_FLAG_AF);
        CHECK(memcmp(gpr, env.cpu->gpr, sizeof(gpr)) == 0);
        cpu_env_destroy(&env);
    }
    unit_context(NULL);
}

/* ADCX and ADOX against their definition: the host's own, which the differential test would compare
 * with, may lack them. */
static void test_adx(void)
{
    static const struct {
        const char *code;
        size_t size;
        uint64_t flag;
        bool wide, memory;
    } rows[] = {
        /* table: adcx eax, ecx; adcx rax, rcx; adox eax, ecx; adox rax, rcx; adox rax, [rcx] */
        {"\x66\x0F\x38\xF6\xC1", 5, X86_FLAG_CF, false, false},
        {"\x66\x48\x0F\x38\xF6\xC1", 6, X86_FLAG_CF, true, false},
        {"\xF3\x0F\x38\xF6\xC1", 5, X86_FLAG_OF, false, false},
        {"\xF3\x48\x0F\x38\xF6\xC1", 6, X86_FLAG_OF, true, false},
        {"\xF3\x48\x0F\x38\xF6\x01", 6, X86_FLAG_OF, true, true},
    };
    static const uint64_t values[] = {0, 1, 0x7FFFFFFF, 0xFFFFFFFF, INT64_MAX, UINT64_MAX};
    enum { VALUES = ARRAY_SIZE(values), FLAGS = 4 };
    for (size_t n = 0; n < ARRAY_SIZE(rows) * VALUES * VALUES * FLAGS; n++) {
        size_t row = n / (VALUES * VALUES * FLAGS);
        uint64_t a = values[n / FLAGS % VALUES], b = values[n / (FLAGS * VALUES) % VALUES];
        uint64_t flags = X86_FLAG_ONE | X86_FLAG_PF | (n & 1 ? X86_FLAG_CF : 0) |
                         (n & 2 ? X86_FLAG_OF : X86_FLAG_ZF | X86_FLAG_SF | X86_FLAG_AF);
        uint64_t mask = rows[row].wide ? UINT64_MAX : UINT32_MAX;
        unsigned __int128 sum = (unsigned __int128)(a & mask) + (b & mask);
        sum += flags & rows[row].flag ? 1 : 0;
        bool carry = sum > mask;
        unit_context("row %zu, %llx + %llx, flags %llx", row, (unsigned long long)a,
                     (unsigned long long)b, (unsigned long long)flags);
        start(CPU_ENV_LONG, rows[row].code, rows[row].size);
        env.cpu->gpr[RAX] = a;
        env.cpu->gpr[RCX] = rows[row].memory ? CPU_ENV_DATA : b;
        cpu_env_put64(&env, CPU_ENV_DATA, b);
        env.cpu->rflags = flags;
        CHECK_EQ(cpu_env_step(&env), X86_OK);
        CHECK_EQ(env.cpu->gpr[RAX], (uint64_t)sum & mask);
        CHECK_EQ(env.cpu->rflags, (flags & ~rows[row].flag) | (carry ? rows[row].flag : 0));
        cpu_env_destroy(&env);
    }
    unit_context(NULL);
}

int main(void)
{
    UNIT_RUN(test_divide_edges);
    UNIT_RUN(test_adx);
    UNIT_RUN(test_aam_by_zero);
    UNIT_RUN(test_bit_strings);
    UNIT_RUN(test_bit_string_wraps_at_64k);
    UNIT_RUN(test_addresses_16);
    UNIT_RUN(test_features_of_the_level);
    UNIT_RUN(test_vex_needs_protected_mode);
    UNIT_RUN(test_load_faults_change_nothing);
    return unit_done();
}
