/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * Near branches where the differential test does not reach: 16-bit code, limits of CS, targets that
 * are not canonical; a fault must come before anything has changed.
 */
#include "tests/lib/cpu_env.h"
#include "tests/lib/unit.h"
#include "x86/mem.h"

static struct cpu_env env;

/* table */
static const struct branch_case {
    const char *name;
    enum cpu_env_mode mode;
    const char *code;
    size_t size;
    uint64_t rcx;
    int status;
    uint64_t rip; /* after, as offset; on a fault unchanged */
} cases[] = {
    /* 16-bit: IP wraps at 64 KiB, the count is CX */
    {"jmp -16 from 0", CPU_ENV_REAL, "\xEB\xEE", 2, 0, X86_JUMP, 0xFFF0},
    {"jmp rel16 wraps", CPU_ENV_REAL, "\xE9\xFD\xFF", 3, 0, X86_JUMP, 0},
    {"jo not taken", CPU_ENV_REAL, "\x70\x10", 2, 0, X86_OK, 2},
    {"jno taken", CPU_ENV_REAL, "\x71\x10", 2, 0, X86_JUMP, 0x12},
    {"jmp rel32 beyond the limit", CPU_ENV_REAL, "\x66\xE9\x00\x00\x01\x00", 6, 0, X86_FAULT, 0},
    {"loop by CX", CPU_ENV_REAL, "\xE2\x10", 2, 0x10001, X86_OK, 2},
    {"loop by ECX", CPU_ENV_REAL, "\x67\xE2\x10", 3, 0x10001, X86_JUMP, 0x13},
    {"jcxz by CX", CPU_ENV_REAL, "\xE3\x10", 2, 0x10000, X86_JUMP, 0x12},
    {"jecxz", CPU_ENV_REAL, "\x67\xE3\x10", 3, 0x10000, X86_OK, 3},
    /* 32-bit code: 66 cuts EIP to 16 bits */
    {"jmp rel16", CPU_ENV_PROTECTED, "\x66\xE9\x10\x00", 4, 0, X86_JUMP, 0x14},
    {"jmp rel32", CPU_ENV_PROTECTED, "\xE9\x10\x00\x00\x00", 5, 0, X86_JUMP, CPU_ENV_CODE + 0x15},
    {"jmp rcx not canonical", CPU_ENV_LONG, "\xFF\xE1", 2, 0x800000000000, X86_FAULT, 0},
    {"jmp rcx upper half", CPU_ENV_LONG, "\xFF\xE1", 2, 0xFFFF800000000000, X86_JUMP,
     0xFFFF800000000000},
    {"call rcx not canonical", CPU_ENV_LONG, "\xFF\xD1", 2, 0x7FFFFFFFFFFFFFFF, X86_FAULT, 0},
};

static void test_targets(void)
{
    for (size_t n = 0; n < ARRAY_SIZE(cases); n++) {
        const struct branch_case *c = &cases[n];
        unit_context("%s", c->name);
        cpu_env_create(&env, c->mode);
        cpu_env_code(&env, c->code, c->size);
        env.cpu->gpr[RCX] = c->rcx;
        uint64_t rip = env.cpu->rip, sp = env.cpu->gpr[RSP];
        CHECK_EQ(cpu_env_step(&env), c->status);
        CHECK_EQ(env.cpu->rip, c->status == X86_FAULT ? rip : c->rip);
        if (c->status == X86_FAULT) {
            CHECK_EQ(env.cpu->fault.vector, X86_GP);
            CHECK_EQ(env.cpu->fault.error, 0);
            CHECK_EQ(env.cpu->gpr[RSP], sp);
            CHECK_EQ(env.cpu->gpr[RCX], c->rcx);
        }
        cpu_env_destroy(&env);
    }
    unit_context(NULL);
}

static void test_call_ret_16(void)
{
    cpu_env_create(&env, CPU_ENV_REAL);
    cpu_env_code(&env, "\xE8\x01\x00\x90\xC2\x04\x00", 7); /* call +1; nop; ret 4 */
    CHECK_EQ(cpu_env_step(&env), X86_JUMP);
    CHECK_EQ(env.cpu->rip, 4);
    CHECK_EQ(env.cpu->gpr[RSP], 0xEFFE);
    CHECK_EQ(cpu_env_get16(&env, 0xEFFE), 3);
    CHECK_EQ(cpu_env_step(&env), X86_JUMP);
    CHECK_EQ(env.cpu->rip, 3);
    CHECK_EQ(env.cpu->gpr[RSP], 0xF004);
    cpu_env_destroy(&env);
}

static void test_ret_faults_whole(void)
{
    cpu_env_create(&env, CPU_ENV_LONG);
    cpu_env_code(&env, "\xC3", 1);
    cpu_env_put64(&env, CPU_ENV_DATA, UINT64_C(1) << 60);
    env.cpu->gpr[RSP] = CPU_ENV_DATA;
    for (unsigned int n = 0; n < 2; n++) { /* the TLB is empty, then it is not */
        CHECK_EQ(cpu_env_step(&env), X86_FAULT);
        CHECK_EQ(env.cpu->fault.vector, X86_GP);
        CHECK_EQ(env.cpu->gpr[RSP], CPU_ENV_DATA);
        CHECK_EQ(env.cpu->rip, CPU_ENV_CODE);
    }
    cpu_env_destroy(&env);
}

static void test_loop_faults_whole(void)
{
    cpu_env_create(&env, CPU_ENV_PROTECTED);
    cpu_env_code(&env, "\xE2\x7F", 2);
    env.cpu->seg[SEG_CS].limit = CPU_ENV_CODE + 1;
    env.cpu->gpr[RCX] = 5;
    CHECK_EQ(cpu_env_step(&env), X86_FAULT);
    CHECK_EQ(env.cpu->fault.vector, X86_GP);
    CHECK_EQ(env.cpu->gpr[RCX], 5);
    cpu_env_destroy(&env);
}

int main(void)
{
    UNIT_RUN(test_targets);
    UNIT_RUN(test_call_ret_16);
    UNIT_RUN(test_ret_faults_whole);
    UNIT_RUN(test_loop_faults_whole);
    return unit_done();
}
