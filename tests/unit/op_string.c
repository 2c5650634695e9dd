/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * String instructions: bounded pieces, restart after a fault, single step, overlap, direction, wrap
 * of addresses, memory that is not RAM. What they compute at CPL 3 in 64- and 32-bit code is
 * compared with the processor by the differential test.
 */
#include <string.h>

#include "tests/lib/cpu_env.h"
#include "tests/lib/unit.h"
#include "x86/mem.h"

static struct cpu_env env;

enum { SRC = CPU_ENV_DATA, DST = CPU_ENV_DATA + 0x40000, MMIO = 0x900000 };

static void start(enum cpu_env_mode mode, const char *code, size_t size)
{
    cpu_env_create(&env, mode);
    cpu_env_code(&env, code, size);
    for (unsigned int n = 0; n < 0x20000; n++)
        env.ram[SRC + n] = (uint8_t)(n * 7 + (n >> 8));
    env.cpu->gpr[RSI] = SRC;
    env.cpu->gpr[RDI] = DST;
}

#define START(mode, code) start(mode, code, sizeof(code) - 1)

/* Steps until the instruction is done; returns in how many pieces. */
static unsigned int run(void)
{
    unsigned int pieces = 1;
    while (cpu_env_step(&env) == X86_JUMP && env.cpu->rip == CPU_ENV_CODE && pieces < 1000000)
        pieces++;
    return pieces;
}

static void test_long_move_in_pieces(void)
{
    START(CPU_ENV_LONG, "\xF3\x48\xA5"); /* rep movsq */
    env.cpu->gpr[RCX] = 0x1800;          /* 48 KiB */
    CHECK_EQ(cpu_env_step(&env), X86_JUMP);
    CHECK_EQ(env.cpu->rip, CPU_ENV_CODE);
    uint64_t done = 0x1800 - env.cpu->gpr[RCX];
    CHECK(done > 0 && done <= 0x1000);
    CHECK_EQ(env.cpu->gpr[RSI], SRC + done * 8);
    CHECK_EQ(env.cpu->gpr[RDI], DST + done * 8);
    CHECK_EQ(run(), 11);
    CHECK_EQ(env.cpu->rip, CPU_ENV_CODE + 3);
    CHECK_EQ(env.cpu->gpr[RCX], 0);
    CHECK(memcmp(env.ram + SRC, env.ram + DST, 0xC000) == 0);
    CHECK_EQ(env.ram[DST + 0xC000], 0);
    cpu_env_destroy(&env);
}

static void test_endless_count_is_bounded(void)
{
    /* what a hostile guest does: each piece must come back soon, also where nothing is stored */
    static const char *const codes[] = {"\xF3\xAA", "\xF3\xAC", "\xF3\xAE"}; /* stos lods scas */
    static const uint64_t pieces[] = {4096, 64, 4096}; /* LODS has steps only */
    for (size_t n = 0; n < ARRAY_SIZE(codes); n++) {
        start(CPU_ENV_LONG, codes[n], 2);
        memset(env.ram + SRC, 0, 0x20000);
        env.cpu->gpr[RCX] = UINT64_C(1) << 63;
        env.cpu->gpr[RAX] = 0;
        CHECK_EQ(cpu_env_step(&env), X86_JUMP);
        CHECK_EQ(env.cpu->rip, CPU_ENV_CODE);
        CHECK_EQ(env.cpu->gpr[RCX], (UINT64_C(1) << 63) - pieces[n]);
        cpu_env_destroy(&env);
    }
}

static void test_request_is_seen(void)
{
    START(CPU_ENV_LONG, "\xF3\xA4");
    env.cpu->gpr[RSI] = SRC + 0xFF0; /* the first piece ends with the page */
    env.cpu->gpr[RCX] = 0x100;
    vcpu_request(&env.cpu->vcpu, VCPU_REQ_KICK);
    CHECK_EQ(cpu_env_step(&env), X86_JUMP);
    CHECK_EQ(env.cpu->gpr[RCX], 0xF0);
    cpu_env_destroy(&env);
}

static void test_single_step_is_by_element(void)
{
    START(CPU_ENV_LONG, "\xF3\xA5");
    env.cpu->gpr[RCX] = 3;
    env.cpu->rflags |= X86_FLAG_TF;
    CHECK_EQ(cpu_env_step(&env), X86_JUMP);
    CHECK_EQ(env.cpu->gpr[RCX], 2);
    CHECK_EQ(run(), 2);
    CHECK_EQ(env.cpu->rip, CPU_ENV_CODE + 2);
    cpu_env_destroy(&env);
}

static void test_fault_in_the_middle(void)
{
    START(CPU_ENV_LONG, "\xF3\x66\xA5"); /* rep movsw */
    *cpu_env_pte(&env, DST + 0x1000) = 0;
    env.cpu->gpr[RDI] = DST + 0x1000 - 5; /* the third word crosses into the missing page */
    env.cpu->gpr[RCX] = 100;
    CHECK_EQ(cpu_env_step(&env), X86_FAULT);
    CHECK_EQ(env.cpu->fault.vector, X86_PF);
    CHECK_EQ(env.cpu->fault.payload, DST + 0x1000);
    CHECK_EQ(env.cpu->fault.error & X86_PF_W, X86_PF_W);
    CHECK_EQ(env.cpu->rip, CPU_ENV_CODE);
    CHECK_EQ(env.cpu->gpr[RCX], 98);
    CHECK_EQ(env.cpu->gpr[RSI], SRC + 4);
    CHECK_EQ(env.cpu->gpr[RDI], DST + 0x1000 - 1);
    CHECK_EQ(env.ram[DST + 0x1000 - 1], 0); /* the word that faults is not half written */
    *cpu_env_pte(&env, DST + 0x1000) = (DST + 0x1000) | X86_PTE_P | X86_PTE_W;
    CHECK(run() < 3);
    CHECK(memcmp(env.ram + SRC, env.ram + DST + 0x1000 - 5, 200) == 0);
    cpu_env_destroy(&env);
}

/* Element by element, whatever the distance and direction. */
static void test_overlap(void)
{
    for (int distance = -9; distance <= 9; distance++) {
        for (unsigned int backward = 0; backward < 2; backward++) {
            uint8_t expected[512];
            unit_context("distance %d backward %u", distance, backward);
            START(CPU_ENV_LONG, "\xF3\xA4");
            memcpy(expected, env.ram + SRC, sizeof(expected));
            unsigned int at = backward ? 400 : 100;
            for (unsigned int n = 0; n < 64; n++) {
                unsigned int from = backward ? at - n : at + n;
                expected[(int)from + distance] = expected[from];
            }
            env.cpu->gpr[RSI] = SRC + at;
            env.cpu->gpr[RDI] = (uint64_t)((int64_t)SRC + at + distance);
            env.cpu->gpr[RCX] = 64;
            if (backward)
                env.cpu->rflags |= X86_FLAG_DF;
            (void)run();
            CHECK(memcmp(expected, env.ram + SRC, sizeof(expected)) == 0);
            cpu_env_destroy(&env);
        }
    }
    unit_context(NULL);
}

/* Two linear pages, one physical: overlap that only host addresses show. */
static void test_overlap_through_alias(void)
{
    START(CPU_ENV_LONG, "\xF3\xA4");
    *cpu_env_pte(&env, DST) = SRC | X86_PTE_P | X86_PTE_W;
    env.cpu->gpr[RSI] = SRC;
    env.cpu->gpr[RDI] = DST + 1;
    env.cpu->gpr[RCX] = 100;
    env.ram[SRC] = 0x77;
    (void)run();
    for (unsigned int n = 0; n <= 100; n++)
        CHECK_EQ(env.ram[SRC + n], 0x77);
    cpu_env_destroy(&env);
}

static void test_wrap_16(void)
{
    START(CPU_ENV_REAL, "\xF3\xAA"); /* rep stosb, DI wraps */
    env.cpu->gpr[RDI] = 0xABCDFFFC;
    env.cpu->gpr[RCX] = 0xFFFF0008;
    env.cpu->gpr[RAX] = 0x5A;
    CHECK(cpu_env_step(&env) != X86_FAULT);
    CHECK_EQ(env.cpu->gpr[RDI], 0xABCD0004); /* upper halves stay */
    CHECK_EQ(env.cpu->gpr[RCX], 0xFFFF0000);
    CHECK_EQ(env.ram[0xFFFF], 0x5A);
    CHECK_EQ(env.ram[3], 0x5A);
    CHECK_EQ(env.ram[4], 0);
    cpu_env_destroy(&env);

    START(CPU_ENV_REAL, "\xA5"); /* movsw at FFFF: beyond the limit */
    env.cpu->gpr[RSI] = 0xFFFF;
    env.cpu->gpr[RDI] = 0x8000;
    CHECK_EQ(cpu_env_step(&env), X86_FAULT);
    CHECK_EQ(env.cpu->fault.vector, X86_GP);
    CHECK_EQ(env.cpu->gpr[RSI], 0xFFFF);
    cpu_env_destroy(&env);
}

static void test_limit_in_the_middle(void)
{
    START(CPU_ENV_PROTECTED, "\xF3\xAB"); /* rep stosd up to a limit of ES */
    env.cpu->seg[SEG_ES].limit = DST + 15;
    x86_update_mode(env.cpu);
    env.cpu->gpr[RCX] = 100;
    env.cpu->gpr[RAX] = 0x11111111;
    CHECK_EQ(cpu_env_step(&env), X86_FAULT);
    CHECK_EQ(env.cpu->fault.vector, X86_GP);
    CHECK_EQ(env.cpu->gpr[RCX], 96);
    CHECK_EQ(env.cpu->gpr[RDI], DST + 16);
    CHECK_EQ(cpu_env_get32(&env, DST + 12), 0x11111111);
    CHECK_EQ(cpu_env_get32(&env, DST + 16), 0);
    cpu_env_destroy(&env);
}

static void test_mmio_by_element(void)
{
    START(CPU_ENV_PROTECTED, "\xF3\xA5");
    env.cpu->gpr[RDI] = MMIO;
    env.cpu->gpr[RCX] = 5;
    (void)run();
    CHECK_EQ(env.exits, 5);
    CHECK_EQ(env.last_exit.reason, EXIT_MMIO);
    CHECK_EQ(env.last_exit.mmio.address.v, MMIO + 16);
    CHECK_EQ(env.last_exit.mmio.size, 4);
    CHECK_EQ(env.last_exit.mmio.value, cpu_env_get32(&env, SRC + 16));
    cpu_env_destroy(&env);
}

static void test_zero_count(void)
{
    START(CPU_ENV_LONG, "\xF3\xA6");       /* repe cmpsb */
    env.cpu->gpr[RSI] = UINT64_C(1) << 60; /* not even looked at */
    env.cpu->gpr[RCX] = 0;
    env.cpu->rflags = X86_FLAG_ONE | X86_FLAG_CF;
    CHECK_EQ(cpu_env_step(&env), X86_OK);
    CHECK_EQ(env.cpu->rflags, X86_FLAG_ONE | X86_FLAG_CF);
    cpu_env_destroy(&env);
}

static void test_store_to_own_code(void)
{
    START(CPU_ENV_LONG, "\xF3\xAA");
    env.cpu->gpr[RDI] = CPU_ENV_CODE + 0x100;
    env.cpu->gpr[RCX] = 4;
    env.cpu->code_page = (uint64_t)(uintptr_t)(env.ram + CPU_ENV_CODE);
    env.cpu->code_written = false;
    (void)cpu_env_step(&env); /* fills the TLB */
    env.cpu->rip = CPU_ENV_CODE;
    env.cpu->gpr[RCX] = 4;
    env.cpu->code_written = false;
    (void)cpu_env_step(&env);
    CHECK(env.cpu->code_written);
    cpu_env_destroy(&env);
}

int main(void)
{
    UNIT_RUN(test_long_move_in_pieces);
    UNIT_RUN(test_endless_count_is_bounded);
    UNIT_RUN(test_request_is_seen);
    UNIT_RUN(test_single_step_is_by_element);
    UNIT_RUN(test_fault_in_the_middle);
    UNIT_RUN(test_overlap);
    UNIT_RUN(test_overlap_through_alias);
    UNIT_RUN(test_wrap_16);
    UNIT_RUN(test_limit_in_the_middle);
    UNIT_RUN(test_mmio_by_element);
    UNIT_RUN(test_zero_count);
    UNIT_RUN(test_store_to_own_code);
    return unit_done();
}
