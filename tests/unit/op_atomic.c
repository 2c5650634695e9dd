/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * Read-modify-write: that it faults as a write and changes nothing then, operands that cross pages
 * and cache lines, operands in MMIO, and that LOCK is one (several threads on one word).
 */
#include <pthread.h>
#include <string.h>

#include "tests/lib/cpu_env.h"
#include "tests/lib/unit.h"
#include "x86/mem.h"

static struct cpu_env env;

enum { WORD = CPU_ENV_DATA, MMIO = 0x900000 };

/* Instructions with a destination at [rbx], source rcx; all write it. table */
static const struct rmw_case {
    const char *name, *code;
    size_t size;
} rmw_cases[] = {
    {"add", "\x48\x01\x0B", 3},
    {"add imm", "\x48\x83\x03\x01", 4},
    {"lock add", "\xF0\x48\x01\x0B", 4},
    {"adc", "\x48\x11\x0B", 3},
    {"inc", "\x48\xFF\x03", 3},
    {"lock dec", "\xF0\x48\xFF\x0B", 4},
    {"not", "\x48\xF7\x13", 3},
    {"shl cl", "\x48\xD3\x23", 3},
    {"shld", "\x48\x0F\xA4\x0B\x04", 5},
    {"bts", "\x48\x0F\xBA\x2B\x05", 5},
    {"lock btr", "\xF0\x48\x0F\xBA\x33\x05", 6},
    {"xchg", "\x48\x87\x0B", 3},
    {"xadd", "\x48\x0F\xC1\x0B", 4},
    {"lock xadd", "\xF0\x48\x0F\xC1\x0B", 5},
    {"cmpxchg, unequal", "\x48\x0F\xB1\x0B", 4},
    {"lock cmpxchg, unequal", "\xF0\x48\x0F\xB1\x0B", 5},
    {"lock cmpxchg8b, unequal", "\xF0\x0F\xC7\x0B", 4},
    {"lock cmpxchg16b, unequal", "\xF0\x48\x0F\xC7\x0B", 5},
};

static void start(const struct rmw_case *c)
{
    cpu_env_create(&env, CPU_ENV_LONG);
    cpu_env_code(&env, c->code, c->size);
    env.cpu->gpr[RAX] = 0x1111;
    env.cpu->gpr[RDX] = 0x2222;
    env.cpu->gpr[RBX] = WORD;
    env.cpu->gpr[RCX] = 0x0123456789ABCDEF;
    env.cpu->rflags = X86_FLAG_ONE | X86_FLAG_PF | X86_FLAG_CF;
    for (unsigned int n = 0; n < 0x2000; n++)
        env.ram[WORD + n] = (uint8_t)(n * 31 + 7);
}

static void test_faults_as_a_write(void)
{
    for (size_t n = 0; n < ARRAY_SIZE(rmw_cases); n++) {
        unit_context("%s", rmw_cases[n].name);
        start(&rmw_cases[n]);
        uint8_t before[64];
        uint64_t gpr[16];
        *cpu_env_pte(&env, WORD) &= ~X86_PTE_W;
        memcpy(before, env.ram + WORD, sizeof(before));
        memcpy(gpr, env.cpu->gpr, sizeof(gpr));
        uint8_t b; /* also when a read has filled the TLB */
        CHECK_EQ(x86_read8(env.cpu, WORD, &b), X86_OK);
        CHECK_EQ(cpu_env_step(&env), X86_FAULT);
        CHECK_EQ(env.cpu->fault.vector, X86_PF);
        CHECK_EQ(env.cpu->fault.error, X86_PF_P | X86_PF_W);
        CHECK(memcmp(gpr, env.cpu->gpr, sizeof(gpr)) == 0);
        CHECK_EQ(env.cpu->rflags, X86_FLAG_ONE | X86_FLAG_PF | X86_FLAG_CF);
        CHECK(memcmp(before, env.ram + WORD, sizeof(before)) == 0);
        cpu_env_destroy(&env);
    }
    unit_context(NULL);
}

/* The same result wherever the operand lies: aligned, across a cache line, across a page, and the
 * first time (TLB empty) as well as later. */
static void test_place_does_not_matter(void)
{
    static const uint64_t places[] = {0, 61, 0xFFD, 0x1000};
    for (size_t n = 0; n < ARRAY_SIZE(rmw_cases); n++) {
        if (strstr(rmw_cases[n].name, "16b"))
            continue; /* must be aligned */
        uint8_t expected[8] = {0};
        uint64_t flags = 0, rcx = 0;
        for (size_t p = 0; p < ARRAY_SIZE(places) * 2; p++) {
            unit_context("%s at %#lx, run %zu", rmw_cases[n].name, places[p / 2], p % 2);
            start(&rmw_cases[n]);
            uint64_t at = WORD + places[p / 2];
            env.cpu->gpr[RBX] = at;
            cpu_env_put64(&env, at, 0x1122334455667788);
            if (p % 2)
                CHECK_EQ(x86_write64(env.cpu, at, 0x1122334455667788), X86_OK);
            CHECK_EQ(cpu_env_step(&env), X86_OK);
            if (p == 0) {
                memcpy(expected, env.ram + at, 8);
                flags = env.cpu->rflags;
                rcx = env.cpu->gpr[RCX];
            }
            CHECK(memcmp(expected, env.ram + at, 8) == 0);
            CHECK_EQ(env.cpu->rflags, flags);
            CHECK_EQ(env.cpu->gpr[RCX], rcx);
            cpu_env_destroy(&env);
        }
    }
    unit_context(NULL);
}

static void test_mmio(void)
{
    cpu_env_create(&env, CPU_ENV_PROTECTED);
    cpu_env_code(&env, "\xF0\x83\x03\x05", 4); /* lock add dword [ebx], 5 */
    env.cpu->gpr[RBX] = MMIO;
    CHECK_EQ(cpu_env_step(&env), X86_OK);
    CHECK_EQ(env.exits, 2); /* a read, which gives all ones, and a write */
    CHECK(env.last_exit.mmio.write);
    CHECK_EQ(env.last_exit.mmio.value, 4);
    CHECK_EQ(env.cpu->rflags & X86_FLAG_CF, X86_FLAG_CF);
    cpu_env_destroy(&env);
}

static void test_cmpxchg16b(void)
{
    start(&rmw_cases[ARRAY_SIZE(rmw_cases) - 1]);
    env.cpu->gpr[RBX] = WORD + 8;
    CHECK_EQ(cpu_env_step(&env), X86_FAULT);
    CHECK_EQ(env.cpu->fault.vector, X86_GP);
    env.cpu->gpr[RBX] = WORD;
    env.cpu->gpr[RAX] = cpu_env_get64(&env, WORD);
    env.cpu->gpr[RDX] = cpu_env_get64(&env, WORD + 8);
    CHECK_EQ(cpu_env_step(&env), X86_OK);
    CHECK(env.cpu->rflags & X86_FLAG_ZF);
    CHECK_EQ(cpu_env_get64(&env, WORD), WORD); /* RBX */
    CHECK_EQ(cpu_env_get64(&env, WORD + 8), 0x0123456789ABCDEF);
    cpu_env_destroy(&env);
}

/* A host thread adds to the word, as another vCPU would, while LOCKed instructions do. */
enum { ROUNDS = 200000 };

static void *add_on_host(void *word)
{
    for (unsigned int n = 0; n < ROUNDS; n++)
        __atomic_fetch_add((uint64_t *)word, 1, __ATOMIC_SEQ_CST);
    return NULL;
}

static void test_lock_is_atomic(void)
{
    static const size_t wanted[] = {2, 13}; /* lock add, lock xadd */
    for (size_t n = 0; n < ARRAY_SIZE(wanted); n++) {
        const struct rmw_case *c = &rmw_cases[wanted[n]];
        pthread_t thread;
        unit_context("%s", c->name);
        start(c);
        cpu_env_put64(&env, WORD, 0);
        CHECK_EQ(pthread_create(&thread, NULL, add_on_host, env.ram + WORD), 0);
        for (unsigned int k = 0; k < ROUNDS; k++) {
            env.cpu->rip = CPU_ENV_CODE;
            env.cpu->gpr[RCX] = 1;
            if (k % 16 == 0)
                x86_tlb_flush(env.cpu); /* the slow path, too */
            if (cpu_env_step(&env) != X86_OK)
                break;
        }
        pthread_join(thread, NULL);
        CHECK_EQ(cpu_env_get64(&env, WORD), 2 * ROUNDS);
        cpu_env_destroy(&env);
    }
    unit_context(NULL);
}

int main(void)
{
    UNIT_RUN(test_faults_as_a_write);
    UNIT_RUN(test_place_does_not_matter);
    UNIT_RUN(test_mmio);
    UNIT_RUN(test_cmpxchg16b);
    UNIT_RUN(test_lock_is_atomic);
    return unit_done();
}
