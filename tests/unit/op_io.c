/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * IN, OUT, INS, OUTS: who may access which port (IOPL, TSS bitmap, virtual-8086 mode), what reaches
 * the exit handler, and that nothing does when the instruction faults.
 */
#include <string.h>

#include "core/err.h"
#include "tests/lib/cpu_env.h"
#include "tests/lib/unit.h"
#include "x86/io.h"
#include "x86/mem.h"

static struct cpu_env env;

enum { BITMAP = CPU_ENV_TSS + 104 };

/* Allows `count` ports from `port` on in the bitmap. */
static void allow(unsigned int port, unsigned int count)
{
    for (unsigned int p = port; p < port + count; p++)
        env.ram[BITMAP + p / 8] &= (uint8_t) ~(1u << p % 8);
}

/* A user at IOPL 0: the bitmap decides. table */
static const struct {
    uint16_t port;
    uint8_t size;
    unsigned int allowed_from, allowed_count;
    bool ok;
} bitmap_cases[] = {
    {0x3F8, 1, 0x3F8, 1, true},  {0x3F8, 1, 0x3F9, 7, false},  {0x3F8, 2, 0x3F8, 1, false},
    {0x3F8, 2, 0x3F8, 2, true},  {0x3FF, 2, 0x3FF, 1, false},  {0x3FF, 2, 0x3FF, 2, true},
    {0x3FE, 4, 0x3FE, 3, false}, {0x3FE, 4, 0x3FE, 4, true},   {0xFFFF, 1, 0xFFFF, 1, true},
    {0, 1, 0, 1, true},          {0xFFFC, 4, 0xFFFC, 4, true}, {0xFFFD, 4, 0xFFFD, 3, false},
};

static void test_bitmap(void)
{
    for (size_t n = 0; n < ARRAY_SIZE(bitmap_cases); n++) {
        for (unsigned int mode = 0; mode < 2; mode++) {
            unit_context("case %zu mode %u", n, mode);
            cpu_env_create(&env, mode ? CPU_ENV_LONG : CPU_ENV_PROTECTED);
            cpu_env_set_cpl(&env, 3);
            allow(bitmap_cases[n].allowed_from, bitmap_cases[n].allowed_count);
            int status = x86_io_allowed(env.cpu, bitmap_cases[n].port, bitmap_cases[n].size);
            CHECK_EQ(status, bitmap_cases[n].ok ? X86_OK : X86_FAULT);
            if (!bitmap_cases[n].ok) {
                CHECK_EQ(env.cpu->fault.vector, X86_GP);
                CHECK_EQ(env.cpu->fault.error, 0);
            }
            cpu_env_destroy(&env);
        }
    }
    unit_context(NULL);
}

static void test_bitmap_beyond_limit(void)
{
    cpu_env_create(&env, CPU_ENV_PROTECTED);
    cpu_env_set_cpl(&env, 3);
    allow(0, 16);
    env.cpu->tr.limit = BITMAP - CPU_ENV_TSS; /* one byte of bitmap, but two are read */
    CHECK_EQ(x86_io_allowed(env.cpu, 0, 1), X86_FAULT);
    env.cpu->tr.limit++;
    CHECK_EQ(x86_io_allowed(env.cpu, 0, 1), X86_OK);
    cpu_env_put16(&env, CPU_ENV_TSS + 102, 0xFFFF); /* no bitmap */
    CHECK_EQ(x86_io_allowed(env.cpu, 0, 1), X86_FAULT);
    env.cpu->tr.limit = 0x66; /* not even its base */
    CHECK_EQ(x86_io_allowed(env.cpu, 0, 1), X86_FAULT);
    env.cpu->tr.attr &= ~0xFu;
    env.cpu->tr.attr |= 3; /* a 16-bit TSS has none */
    env.cpu->tr.limit = 0x2067;
    CHECK_EQ(x86_io_allowed(env.cpu, 0, 1), X86_FAULT);
    cpu_env_destroy(&env);
}

static void test_iopl(void)
{
    cpu_env_create(&env, CPU_ENV_LONG);
    cpu_env_set_cpl(&env, 3);
    CHECK_EQ(x86_io_allowed(env.cpu, 0x80, 1), X86_FAULT);
    env.cpu->rflags |= X86_FLAG_IOPL;
    CHECK_EQ(x86_io_allowed(env.cpu, 0x80, 1), X86_OK);
    cpu_env_destroy(&env);

    cpu_env_create(&env, CPU_ENV_PROTECTED); /* virtual-8086: IOPL 3 does not help */
    env.cpu->rflags |= X86_FLAG_VM | X86_FLAG_IOPL;
    x86_update_mode(env.cpu);
    CHECK_EQ(x86_io_allowed(env.cpu, 0x80, 1), X86_FAULT);
    allow(0x80, 1);
    CHECK_EQ(x86_io_allowed(env.cpu, 0x80, 1), X86_OK);
    cpu_env_destroy(&env);

    cpu_env_create(&env, CPU_ENV_REAL);
    CHECK_EQ(x86_io_allowed(env.cpu, 0xFFFF, 1), X86_OK);
    cpu_env_destroy(&env);
}

static void test_missing_tss_page_faults(void)
{
    cpu_env_create(&env, CPU_ENV_LONG);
    cpu_env_set_cpl(&env, 3);
    *cpu_env_pte(&env, CPU_ENV_TSS) = 0;
    CHECK_EQ(x86_io_allowed(env.cpu, 0x80, 1), X86_FAULT);
    CHECK_EQ(env.cpu->fault.vector, X86_PF);
    CHECK_EQ(env.cpu->fault.error & X86_PF_U, 0); /* an implicit supervisor access */
    cpu_env_destroy(&env);
}

/* table */
static const struct {
    const char *code;
    size_t size;
    uint8_t access_size;
    bool write;
    uint16_t port;
    uint64_t rax; /* after */
} access_cases[] = {
    {"\xE4\x71", 2, 1, false, 0x71, 0x11223344556677FF},
    {"\x66\xE5\x71", 3, 2, false, 0x71, 0x112233445566FFFF},
    {"\xE5\x71", 2, 4, false, 0x71, 0xFFFFFFFF},
    {"\x48\xE5\x71", 3, 4, false, 0x71, 0xFFFFFFFF}, /* REX.W: still 32 bits */
    {"\xEC", 1, 1, false, 0xCF8, 0x11223344556677FF},
    {"\xED", 1, 4, false, 0xCF8, 0xFFFFFFFF},
    {"\xE6\x80", 2, 1, true, 0x80, 0x1122334455667788},
    {"\xE7\x80", 2, 4, true, 0x80, 0x1122334455667788},
    {"\xEE", 1, 1, true, 0xCF8, 0x1122334455667788},
    {"\x66\xEF", 2, 2, true, 0xCF8, 0x1122334455667788},
};

static void test_accesses(void)
{
    for (size_t n = 0; n < ARRAY_SIZE(access_cases); n++) {
        unit_context("case %zu", n);
        cpu_env_create(&env, CPU_ENV_LONG);
        cpu_env_code(&env, access_cases[n].code, access_cases[n].size);
        env.cpu->gpr[RAX] = 0x1122334455667788;
        env.cpu->gpr[RDX] = 0xFFFF0CF8;
        CHECK_EQ(cpu_env_step(&env), X86_OK);
        CHECK_EQ(env.exits, 1);
        CHECK_EQ(env.last_exit.reason, EXIT_PORT);
        CHECK_EQ(env.last_exit.port.port, access_cases[n].port);
        CHECK_EQ(env.last_exit.port.size, access_cases[n].access_size);
        CHECK_EQ(env.last_exit.port.write, access_cases[n].write);
        if (access_cases[n].write)
            CHECK_EQ(env.last_exit.port.value,
                     UINT64_C(0x1122334455667788) & x86_size_mask(access_cases[n].access_size));
        CHECK_EQ(env.cpu->gpr[RAX], access_cases[n].rax);
        cpu_env_destroy(&env);
    }
    unit_context(NULL);
}

static int stop_at_once(struct vcpu *v, struct exit *e)
{
    (void)v;
    e->port.value = 0x42;
    return ERR_STOPPED;
}

/* The instruction is completed, so that a saved VM goes on behind it. */
static void test_stop_completes(void)
{
    cpu_env_create(&env, CPU_ENV_LONG);
    cpu_env_code(&env, "\xEC", 1);
    env.vm.handle_exit = stop_at_once;
    CHECK_EQ(cpu_env_step(&env), X86_EXIT);
    CHECK_EQ(env.cpu->rip, CPU_ENV_CODE + 1);
    CHECK_EQ(env.cpu->gpr[RAX] & 0xFF, 0x42);

    cpu_env_code(&env, "\xF3\x6C", 2); /* rep insb: one element, and it may go on */
    env.cpu->gpr[RDI] = CPU_ENV_DATA;
    env.cpu->gpr[RCX] = 3;
    CHECK_EQ(cpu_env_step(&env), X86_EXIT);
    CHECK_EQ(env.cpu->rip, CPU_ENV_CODE);
    CHECK_EQ(env.cpu->gpr[RCX], 2);
    CHECK_EQ(env.ram[CPU_ENV_DATA], 0x42);
    cpu_env_destroy(&env);
}

/* A port is not read when the byte could not be stored. */
static void test_ins_checks_memory_first(void)
{
    cpu_env_create(&env, CPU_ENV_LONG);
    cpu_env_code(&env, "\x6D", 1);
    *cpu_env_pte(&env, CPU_ENV_DATA) &= ~X86_PTE_W;
    env.cpu->gpr[RDI] = CPU_ENV_DATA;
    CHECK_EQ(cpu_env_step(&env), X86_FAULT);
    CHECK_EQ(env.cpu->fault.vector, X86_PF);
    CHECK_EQ(env.exits, 0);
    cpu_env_destroy(&env);
}

static void test_outs(void)
{
    cpu_env_create(&env, CPU_ENV_LONG);
    cpu_env_code(&env, "\xF3\x6E", 2);
    memcpy(env.ram + CPU_ENV_DATA, "abc", 3);
    env.cpu->gpr[RSI] = CPU_ENV_DATA;
    env.cpu->gpr[RCX] = 3;
    env.cpu->gpr[RDX] = 0x3F8;
    CHECK_EQ(cpu_env_step(&env), X86_OK);
    CHECK_EQ(env.exits, 3);
    CHECK_EQ(env.last_exit.port.value, 'c');
    cpu_env_destroy(&env);
}

int main(void)
{
    UNIT_RUN(test_bitmap);
    UNIT_RUN(test_bitmap_beyond_limit);
    UNIT_RUN(test_iopl);
    UNIT_RUN(test_missing_tss_page_faults);
    UNIT_RUN(test_accesses);
    UNIT_RUN(test_stop_completes);
    UNIT_RUN(test_ins_checks_memory_first);
    UNIT_RUN(test_outs);
    return unit_done();
}
