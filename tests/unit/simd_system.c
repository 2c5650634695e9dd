/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * SIMD and x87 instructions where a program of this process cannot try them: control registers that
 * forbid them, faults in the middle of gathers and masked stores, operands that are not in RAM or
 * cross a page, MXCSR's exceptions, and the cache of native fragments.
 */
#include <string.h>

#include "core/err.h"
#include "tests/lib/cpu_env.h"
#include "tests/lib/fake_seam.h"
#include "tests/lib/unit.h"
#include "x86/mem.h"
#include "x86/native.h"

static struct cpu_env env;

enum { DATA = CPU_ENV_DATA, HOLE = CPU_ENV_DATA + 0x20000, MMIO = CPU_ENV_DATA + 0x30000 };

static void setup(enum cpu_env_mode mode)
{
    cpu_env_create(&env, mode);
    env.cpu->fpu.mxcsr = X86_MXCSR_RESET;
    env.cpu->fpu.fcw = X86_FCW_RESET;
    env.cpu->fpu.fsw = 0;
    env.cpu->fpu.ftw = 0;
    env.cpu->gpr[RBX] = DATA;
    if (mode == CPU_ENV_LONG) {
        *cpu_env_pte(&env, HOLE) = 0;
        *cpu_env_pte(&env, MMIO) += 0xE0000000; /* no RAM there */
    }
}

/* 0 or the vector */
static int step(const char *bytes, size_t length)
{
    cpu_env_code(&env, bytes, length);
    int status = cpu_env_step(&env);
    CHECK(status == X86_OK || status == X86_FAULT);
    return status == X86_FAULT ? env.cpu->fault.vector : 0;
}
#define STEP(string) step((string), sizeof(string) - 1)

/* --- what control registers forbid --- */

static const char kinds[][8] = {
    "\x0F\x58\xC1",             /* SSE: addps */
    "\x0F\x10\x03",             /* SSE move: movups xmm0, [rbx] */
    "\xC5\xF0\x58\xC1",         /* VEX: vaddps */
    "\xC5\xF8\x10\x03",         /* VEX move */
    "\x0F\xFC\xC1",             /* MMX: paddb */
    "\xD8\xC1",                 /* x87: fadd */
    "\x9B",                     /* fwait */
    "\x0F\xAE\x03",             /* fxsave */
    "\x0F\xAE\x23",             /* xsave */
    "\x0F\xAE\x1B",             /* stmxcsr */
    "\xC5\xF8\x77",             /* vzeroupper */
    "\x0F\x2A\xC1",             /* cvtpi2ps: MMX and SSE */
    "\x0F\x77",                 /* emms */
    "\xC4\xE2\x71\x8C\x03",     /* vpmaskmovd */
    "\xC4\xE2\x71\x90\x14\x23", /* vpgatherdd xmm2, [rbx + xmm4], xmm1 */
    "\x66\x0F\x3A\x63\xC1\x00", /* pcmpistri */
};
enum { KINDS = sizeof(kinds) / sizeof(kinds[0]) };

struct refusal {
    uint64_t cr0_set, cr4_clear, xcr0;
    uint8_t vector[KINDS];
};

static void test_control_registers(void)
{
    enum { UD = X86_UD, NM = X86_NM };
    static const struct refusal rows[] = {
        {0, 0, 7, {0}},
        {X86_CR0_TS, 0, 7, {NM, NM, NM, NM, NM, NM, NM, NM, NM, NM, NM, NM, NM, NM, NM, NM}},
        {X86_CR0_EM, 0, 7, {UD, UD, 0, 0, UD, NM, 0, UD, 0, UD, 0, UD, UD, 0, 0, UD}},
        {0, X86_CR4_OSFXSR, 7, {UD, UD, 0, 0, 0, 0, 0, 0, 0, UD, 0, UD, 0, 0, 0, UD}},
        {0, X86_CR4_OSXSAVE, 7, {0, 0, UD, UD, 0, 0, 0, 0, UD, 0, UD, 0, 0, UD, UD, 0}},
        {0, 0, 3, {0, 0, UD, UD, 0, 0, 0, 0, 0, 0, UD, 0, 0, UD, UD, 0}},
        {X86_CR0_TS,
         X86_CR4_OSXSAVE,
         7,
         {NM, NM, UD, UD, NM, NM, NM, NM, UD, NM, UD, NM, NM, UD, UD, NM}},
        {X86_CR0_TS | X86_CR0_EM,
         0,
         7,
         {UD, UD, NM, NM, UD, NM, NM, UD, NM, UD, NM, UD, UD, NM, NM, UD}},
    };
    setup(CPU_ENV_LONG);
    uint64_t cr0 = env.cpu->cr0, cr4 = env.cpu->cr4;
    for (size_t n = 0; n < sizeof(rows) / sizeof(rows[0]); n++) {
        env.cpu->cr0 = cr0 | rows[n].cr0_set;
        env.cpu->cr4 = cr4 & ~rows[n].cr4_clear;
        env.cpu->xcr0 = rows[n].xcr0;
        x86_update_mode(env.cpu);
        for (unsigned int k = 0; k < KINDS; k++) {
            unit_context("row %zu kind %u", n, k);
            CHECK_EQ(step(kinds[k], 7), rows[n].vector[k]);
        }
    }
    unit_context(NULL);
    cpu_env_destroy(&env);
}

/* FWAIT minds TS only together with MP. */
static void test_fwait_without_mp(void)
{
    setup(CPU_ENV_LONG);
    env.cpu->cr0 = (env.cpu->cr0 | X86_CR0_TS) & ~X86_CR0_MP;
    CHECK_EQ(STEP("\x9B"), 0);
    env.cpu->cr0 |= X86_CR0_MP;
    CHECK_EQ(STEP("\x9B"), X86_NM);
    cpu_env_destroy(&env);
}

static void test_real_mode(void)
{
    setup(CPU_ENV_REAL);
    env.cpu->gpr[RBX] = 0x100;
    CHECK_EQ(STEP("\x0F\x58\xC1"), 0);          /* addps */
    CHECK_EQ(STEP("\xC5\xF0\x58\xC1"), X86_UD); /* vaddps */
    CHECK_EQ(STEP("\xD9\xE8"), 0);              /* fld1 */
    CHECK_EQ(STEP("\xDD\x1F"), 0);              /* fstp qword [bx] */
    CHECK_EQ(cpu_env_get64(&env, 0x100), 0x3FF0000000000000);
    CHECK_EQ(STEP("\xD9\x37"), 0); /* fnstenv [bx], 14 bytes */
    CHECK_EQ(cpu_env_get16(&env, 0x100), X86_FCW_RESET);
    CHECK_EQ(cpu_env_get16(&env, 0x104), 0xFFFF);
    cpu_env_destroy(&env);
}

/* --- operands that are not simply in RAM --- */

static void fill(uint64_t address, size_t size)
{
    for (size_t n = 0; n < size; n++)
        env.ram[address + n] = (uint8_t)(n * 7 + 1);
}

static void test_page_crossing(void)
{
    struct x86_cpu *cpu;
    uint64_t at = DATA + 0x1000 - 5;
    setup(CPU_ENV_LONG);
    cpu = env.cpu;
    fill(at, 64);
    cpu->gpr[RBX] = at;
    CHECK_EQ(STEP("\x0F\x10\x03"), 0); /* movups */
    CHECK(memcmp(cpu->fpu.xmm[0], env.ram + at, 16) == 0);
    CHECK_EQ(STEP("\xC5\xFE\x6F\x0B"), 0); /* vmovdqu ymm1 */
    CHECK(memcmp(cpu->fpu.xmm[1], env.ram + at, 16) == 0);
    CHECK(memcmp(cpu->fpu.ymm_high[1], env.ram + at + 16, 16) == 0);
    memset(cpu->fpu.xmm[2], 0, 16);
    CHECK_EQ(STEP("\xC5\xE9\xFC\x13"), 0); /* vpaddb xmm2, xmm2, [rbx] */
    CHECK(memcmp(cpu->fpu.xmm[2], env.ram + at, 16) == 0);
    cpu->gpr[RBX] = at + 0x2000;
    CHECK_EQ(STEP("\xC5\xFE\x7F\x0B"), 0); /* vmovdqu [rbx], ymm1 */
    CHECK(memcmp(env.ram + at + 0x2000, env.ram + at, 32) == 0);
    CHECK_EQ(STEP("\xC4\xE3\x7D\x19\x0B\x01"), 0); /* vextractf128 [rbx], ymm1, 1 */
    CHECK(memcmp(env.ram + at + 0x2000, env.ram + at + 16, 16) == 0);
    cpu_env_destroy(&env);
}

/* A store into a page that is not there changes neither memory before it nor registers. */
static void test_fault_in_second_page(void)
{
    static const char stores[][8] = {"\x0F\x11\x03", "\xC5\xFE\x7F\x03", "\xDB\x3B", "\xDD\x1B\x90",
                                     "\xC4\xE3\x7D\x19\x03\x01"};
    static const char loads[][8] = {"\x0F\x10\x03", "\xC5\xFE\x6F\x03", "\xDB\x2B", "\x0F\xFC\x03",
                                    "\xC4\xC1\x75\xFE\x03"};
    setup(CPU_ENV_LONG);
    struct x86_cpu *cpu = env.cpu;
    for (unsigned int n = 0; n < 5; n++) {
        uint64_t at = HOLE - 4;
        fill(at - 4, 8);
        cpu->gpr[RBX] = cpu->gpr[R11] = at;
        struct x86_fpu before = cpu->fpu;
        unit_context("case %u", n);
        CHECK_EQ(step(stores[n], 7), X86_PF);
        CHECK_EQ(cpu->fault.payload, HOLE);
        CHECK_EQ(cpu_env_get32(&env, at), 0x322B241D);
        CHECK_EQ(step(loads[n], 7), X86_PF);
        CHECK(memcmp(&before, &cpu->fpu, sizeof(before)) == 0);
    }
    unit_context(NULL);
    cpu_env_destroy(&env);
}

/* The bounce buffer's two ways, and an x87 store that an unmasked exception prevents. */
static void test_mmio(void)
{
    setup(CPU_ENV_LONG);
    struct x86_cpu *cpu = env.cpu;
    cpu->gpr[RBX] = MMIO;
    CHECK_EQ(STEP("\x66\x0F\x6F\x03"), 0); /* movdqa: the environment reads all ones */
    CHECK_EQ(load_u64(cpu->fpu.xmm[0] + 8), ~(uint64_t)0);
    memset(cpu->fpu.xmm[1], 0, 16);
    CHECK_EQ(STEP("\x66\x0F\xFC\x0B"), 0); /* paddb xmm1, [rbx] */
    CHECK_EQ(load_u64(cpu->fpu.xmm[1]), ~(uint64_t)0);
    uint32_t exits = env.exits;
    CHECK_EQ(STEP("\xD9\xE8"), 0); /* fld1 */
    CHECK_EQ(STEP("\xDB\x1B"), 0); /* fistp dword [rbx] */
    CHECK_EQ(env.exits, exits + 1);
    CHECK(env.last_exit.reason == EXIT_MMIO && env.last_exit.mmio.write);
    CHECK_EQ(env.last_exit.mmio.value, 1);
    cpu->fpu.fcw &= (uint16_t)~1u;
    CHECK_EQ(STEP("\xDB\x1B"), 0); /* stack underflow: invalid, unmasked */
    CHECK_EQ(env.exits, exits + 1);
    CHECK_EQ(STEP("\x9B"), X86_MF);
    cpu_env_destroy(&env);
}

/* A masked store or load touches only what its mask selects. */
static void test_masked_off_does_not_fault(void)
{
    setup(CPU_ENV_LONG);
    struct x86_cpu *cpu = env.cpu;
    cpu->gpr[RBX] = cpu->gpr[RDI] = HOLE - 8;
    fill(HOLE - 8, 8);
    memset(cpu->fpu.xmm[1], 0, 16);
    store_u64(cpu->fpu.xmm[1], 0x8000000080000000);
    memset(cpu->fpu.xmm[0], 0xEE, 16);
    CHECK_EQ(STEP("\xC4\xE2\x71\x8C\x13"), 0); /* vpmaskmovd xmm2, xmm1, [rbx] */
    CHECK(memcmp(cpu->fpu.xmm[2], env.ram + HOLE - 8, 8) == 0);
    CHECK_EQ(load_u64(cpu->fpu.xmm[2] + 8), 0);
    CHECK_EQ(STEP("\xC4\xE2\x71\x8E\x03"), 0); /* vpmaskmovd [rbx], xmm1, xmm0 */
    CHECK_EQ(cpu_env_get64(&env, HOLE - 8), 0xEEEEEEEEEEEEEEEE);
    /* one element too many: nothing is stored */
    cpu->fpu.xmm[1][15] = 0x80;
    memset(cpu->fpu.xmm[0], 0x11, 16);
    CHECK_EQ(STEP("\xC4\xE2\x71\x8E\x03"), X86_PF);
    CHECK_EQ(STEP("\x66\x0F\xF7\xC1"), X86_PF); /* maskmovdqu xmm0, xmm1 */
    CHECK_EQ(cpu_env_get64(&env, HOLE - 8), 0xEEEEEEEEEEEEEEEE);
    CHECK_EQ(STEP("\xC4\xE2\x71\x8C\x13"), X86_PF);
    cpu->fpu.xmm[1][15] = 0;
    CHECK_EQ(STEP("\x66\x0F\xF7\xC1"), 0);
    CHECK_EQ(cpu_env_get64(&env, HOLE - 8), 0x11EEEEEE11EEEEEE);
    cpu_env_destroy(&env);
}

/* What a gather has loaded when it faults stays, and its mask says what is left to do. */
static void test_gather_restarts(void)
{
    setup(CPU_ENV_LONG);
    struct x86_cpu *cpu = env.cpu;
    cpu->gpr[RBX] = HOLE - 0x100;
    fill(HOLE - 0x100, 0x100);
    static const uint32_t index[4] = {4, 8, 0x100, 12};
    memcpy(cpu->fpu.xmm[4], index, 16);
    memset(cpu->fpu.xmm[1], 0xFF, 16);
    memset(cpu->fpu.xmm[2], 0xAB, 16);
    CHECK_EQ(STEP("\xC4\xE2\x71\x90\x14\x23"), X86_PF); /* vpgatherdd xmm2, [rbx+xmm4], xmm1 */
    CHECK_EQ(cpu->fault.payload, HOLE);
    CHECK_EQ(load_u32(cpu->fpu.xmm[2]), cpu_env_get32(&env, HOLE - 0x100 + 4));
    CHECK_EQ(load_u32(cpu->fpu.xmm[2] + 4), cpu_env_get32(&env, HOLE - 0x100 + 8));
    CHECK_EQ(load_u32(cpu->fpu.xmm[2] + 8), 0xABABABAB);
    CHECK_EQ(load_u64(cpu->fpu.xmm[1]), 0);
    CHECK_EQ(load_u64(cpu->fpu.xmm[1] + 8), ~(uint64_t)0);
    *cpu_env_pte(&env, HOLE) = HOLE | X86_PTE_P | X86_PTE_U | X86_PTE_W;
    CHECK_EQ(cpu_env_step(&env), X86_OK);
    CHECK_EQ(load_u32(cpu->fpu.xmm[2] + 12), cpu_env_get32(&env, HOLE - 0x100 + 12));
    CHECK_EQ(load_u64(cpu->fpu.xmm[1] + 8), 0);
    /* registers must differ */
    CHECK_EQ(STEP("\xC4\xE2\x71\x90\x0C\x23"), X86_UD);
    CHECK_EQ(STEP("\xC4\xE2\x71\x90\x24\x23"), X86_UD);
    CHECK_EQ(STEP("\xC4\xE2\x59\x90\x14\x23"), X86_UD);
    cpu_env_destroy(&env);
}

/* An image that says nothing is pending, and is wrong: no host exception. */
static void test_inconsistent_image(void)
{
    setup(CPU_ENV_LONG);
    env.cpu->fpu.fcw = 0x340;
    env.cpu->fpu.fsw = 0x003F;
    env.cpu->fpu.mxcsr = ~0u;
    CHECK_EQ(STEP("\xD9\xE8"), X86_MF);     /* fld1 */
    CHECK_EQ(STEP("\x0F\xFC\xC1"), X86_MF); /* paddb */
    CHECK_EQ(STEP("\x0F\x58\xC1"), 0);      /* addps */
    CHECK_EQ(STEP("\xDB\xE2"), 0);          /* fnclex */
    CHECK_EQ(STEP("\xD9\xE8"), 0);
    cpu_env_destroy(&env);
}

/* --- SIMD floating-point exceptions --- */

static void test_unmasked_exception_commits_nothing(void)
{
    setup(CPU_ENV_LONG);
    struct x86_cpu *cpu = env.cpu;
    store_u64(cpu->fpu.xmm[0], 0x3FF0000000000000);
    store_u64(cpu->fpu.xmm[1], 0);
    cpu->fpu.mxcsr = X86_MXCSR_RESET & ~0x200u; /* ZM */
    CHECK_EQ(STEP("\xF2\x0F\x5E\xC1"), X86_XM); /* divsd xmm0, xmm1 */
    CHECK_EQ(load_u64(cpu->fpu.xmm[0]), 0x3FF0000000000000);
    CHECK_EQ(cpu->fpu.mxcsr, (X86_MXCSR_RESET & ~0x200u) | 4);
    cpu->cr4 &= ~X86_CR4_OSXMMEXCPT;
    CHECK_EQ(STEP("\xF2\x0F\x5E\xC1"), X86_UD);
    cpu->fpu.mxcsr = X86_MXCSR_RESET;
    CHECK_EQ(STEP("\xF2\x0F\x5E\xC1"), 0);
    CHECK_EQ(load_u64(cpu->fpu.xmm[0]), 0x7FF0000000000000);
    CHECK_EQ(cpu->fpu.mxcsr, X86_MXCSR_RESET | 4);
    /* a general register neither: cvttsd2si rax, xmm0 of infinity */
    cpu->cr4 |= X86_CR4_OSXMMEXCPT;
    cpu->gpr[RAX] = 5;
    cpu->fpu.mxcsr = X86_MXCSR_RESET & ~0x80u;
    CHECK_EQ(STEP("\xF2\x48\x0F\x2C\xC0"), X86_XM);
    CHECK_EQ(cpu->gpr[RAX], 5);
    cpu_env_destroy(&env);
}

/* --- the cache of fragments --- */

/* More distinct instructions than it holds; each must still do its own thing. */
static void test_cache_overflows(void)
{
    setup(CPU_ENV_LONG);
    struct x86_cpu *cpu = env.cpu;
    for (unsigned int round = 0; round < 2; round++) {
        for (unsigned int n = 0; n < 256 * 16; n++) {
            uint8_t imm = (uint8_t)n, to = (uint8_t)(n >> 8 & 7), high = (uint8_t)(n >> 11);
            const uint8_t bytes[] = {
                0x66, (uint8_t)(0x40 | high << 2), 0x0F,
                0x70, (uint8_t)(0xC0 | to << 3),   imm}; /* pshufd to, xmm0, imm */
            static const uint32_t from[4] = {10, 20, 30, 40};
            memcpy(cpu->fpu.xmm[0], from, 16);
            CHECK_EQ(step((const char *)bytes, sizeof(bytes)), 0);
            const uint8_t *result = cpu->fpu.xmm[to | high << 3];
            for (unsigned int lane = 0; lane < 4; lane++)
                CHECK_EQ(load_u32(result + lane * 4), from[imm >> (lane * 2) & 3]);
        }
    }
    CHECK(cpu->native->flushes >= 3);
    CHECK(cpu->native->count <= NATIVE_FRAGMENTS_MAX);
    cpu_env_destroy(&env);
}

/* No fragment is longer than what is set aside for it, at the worst: register names over 7, AVX. */
static void test_fragment_size(void)
{
    static const char worst[][8] = {
        "\xC4\x43\x35\x4A\xFA\xD0",     /* vblendvps ymm15, ymm9, ymm10, ymm13 */
        "\xC4\x42\xB5\xB8\xFA",         /* vfmadd231pd ymm15, ymm9, ymm10 */
        "\x66\x45\x0F\x3A\x60\xFA\x40", /* pcmpestrm xmm15, xmm10 */
        "\xC4\x41\x7B\x2C\xC2",
    };
    uint8_t code[NATIVE_FRAGMENT_SIZE * 2];
    for (unsigned int n = 0; n < 4; n++) {
        struct insn i;
        CHECK_EQ(insn_decode(&i, (const uint8_t *)worst[n], 7, INSN_MODE_64), INSN_DECODE_OK);
        CHECK_EQ(i.op, INSN_SIMD);
        uint32_t length = native_emit(&i, code);
        CHECK(length > 10 && length <= NATIVE_FRAGMENT_SIZE);
    }
}

static void test_create_without_memory(void)
{
    struct x86_cpu *cpu = seam_pages_alloc((sizeof(*cpu) + 4095) / 4096);
    unsigned int before = fake_seam_allocations();
    for (unsigned int n = 1; n <= 2; n++) {
        fake_seam_fail_allocation(n);
        CHECK(native_create(cpu) != OK);
        CHECK(cpu->native == NULL);
        CHECK_EQ(fake_seam_allocations(), before);
    }
    fake_seam_fail_allocation(0);
    native_destroy(cpu);
    CHECK_EQ(native_create(cpu), OK);
    CHECK((const uint8_t *)cpu->native->exec.write != cpu->native->exec.exec);
    native_destroy(cpu);
    CHECK_EQ(fake_seam_allocations(), before);
    seam_pages_free(cpu, (sizeof(*cpu) + 4095) / 4096);
}

int main(void)
{
    UNIT_RUN(test_control_registers);
    UNIT_RUN(test_fwait_without_mp);
    UNIT_RUN(test_real_mode);
    UNIT_RUN(test_page_crossing);
    UNIT_RUN(test_fault_in_second_page);
    UNIT_RUN(test_mmio);
    UNIT_RUN(test_inconsistent_image);
    UNIT_RUN(test_masked_off_does_not_fault);
    UNIT_RUN(test_gather_restarts);
    UNIT_RUN(test_unmasked_exception_commits_nothing);
    UNIT_RUN(test_cache_overflows);
    UNIT_RUN(test_fragment_size);
    UNIT_RUN(test_create_without_memory);
    return unit_done();
}
