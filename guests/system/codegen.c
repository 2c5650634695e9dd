/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/* Code that is made in masses, and by one processor for another: more than any cache of translations
 * holds, more targets than any table of jumps, pages that are rewritten by all processors in turn
 * through aliases, code and data in one page. Results are exact: who has seen that code is ready and
 * serialises runs the new code (SDM 3A, 8.1.3). Needs 128 MiB of memory. */
#include "guests/lib/guest.h"

#define ptr(a) ((void *)(uintptr_t)(a))
#define ALIAS  UINT64_C(0x10000000000) /* of processor n: + n GiB */

enum {
    AREA = 0x2000000, /* code */
    STACK = 0x3000000,
    SHARED = 0x4000000,
    UNITS = 131072,
    UNIT = 64,
    TARGETS = 65536,
    TURNS = 1000,
    COUNTS = 500,
    PATIENCE = 500000000,
};

static unsigned int cpus;
static void (*volatile job)(unsigned int n);
static volatile unsigned int generation;
static _Atomic unsigned int done, wrong;

static void others(unsigned int n)
{
    unsigned int seen = 0;
    for (;;) {
        while (generation == seen)
            pause();
        seen = generation;
        job(n);
        done++;
    }
}

static void run_on_all(void (*fn)(unsigned int n))
{
    done = 0;
    wrong = 0;
    job = fn;
    generation++;
    fn(0);
    for (long k = 0; done < cpus - 1 && k < PATIENCE; k++)
        pause();
    CHECK_EQ(done, cpus - 1);
    CHECK_EQ(wrong, 0);
}

static uint64_t call(uint64_t at)
{
    uint64_t v = 0;
    __asm__ volatile("call *%1" : "+a"(v) : "r"(at) : "rcx", "rdx", "memory", "cc");
    return v;
}

static void put(uint64_t at, const char *bytes, unsigned int n)
{
    for (unsigned int k = 0; k < n; k++)
        ((volatile uint8_t *)ptr(at))[k] = (uint8_t)bytes[k];
}

/* A chain of blocks that no cache holds at once: inc rax; jmp to the next. */
static void test_chain_longer_than_the_cache(void)
{
    for (uint64_t n = 0; n < UNITS; n++) {
        put(AREA + n * UNIT, "\x48\xFF\xC0\xE9", 4);
        *(volatile uint32_t *)ptr(AREA + n * UNIT + 4) = UNIT - 8;
    }
    put(AREA + (uint64_t)UNITS * UNIT, "\xC3", 1);
    for (unsigned int round = 0; round < 3; round++)
        CHECK_EQ(call(AREA), UNITS);
    CHECK_EQ(call(AREA + (UNITS - 1000) * UNIT), 1000);
}

/* One call site, 65536 targets, each with a result of its own: mov eax, n; ret. */
static void test_targets_of_one_call(void)
{
    for (uint64_t n = 0; n < TARGETS; n++)
        *(volatile uint64_t *)ptr(AREA + n * 16) = 0xB8 | n << 8 | UINT64_C(0xC3) << 40;
    for (unsigned int round = 0; round < 2; round++)
        for (uint64_t n = 0; n < TARGETS; n++)
            CHECK_EQ(call(AREA + n * 16), n);
}

/* RET to RET to RET: 65536 of them, each somewhere else. */
static void test_returns_to_returns(void)
{
    volatile uint64_t *stack = ptr(STACK);
    for (uint64_t n = 0; n < TARGETS; n++) {
        put(AREA + n * 3, "\xFF\xC0\xC3", 3); /* inc eax; ret */
        stack[n] = AREA + (n * 7919 % TARGETS) * 3;
    }
    uint64_t v = 0;
    __asm__ volatile("mov %%rsp, %%rbx\n\tmov %1, %%rsp\n\tlea 1f(%%rip), %%rcx\n\tmov %%rcx, (%2)\n\t"
                     "ret\n1:\tmov %%rbx, %%rsp"
                     : "+a"(v)
                     : "r"(stack), "r"(stack + TARGETS)
                     : "rbx", "rcx", "memory", "cc");
    CHECK_EQ(v, TARGETS);
}

/* Nothing that ends a block for a long way. */
static void test_long_run(void)
{
    for (uint64_t n = 0; n < TARGETS; n++)
        put(AREA + n * 3, "\x48\xFF\xC0", 3);
    put(AREA + TARGETS * 3, "\xC3", 1);
    CHECK_EQ(call(AREA), TARGETS);
    CHECK_EQ(call(AREA + 3 * 1365), TARGETS - 1365);
}

/* --- several processors --- */

static volatile uint32_t turn;

/* Who has the turn runs what the one before has written, and writes the next, through its alias. */
static void take_turns(unsigned int n)
{
    uint64_t here = ALIAS + ((uint64_t)n << 30);
    for (uint32_t t = n; t < TURNS * cpus; t += cpus) {
        for (long k = 0; turn != t && k < PATIENCE; k++)
            pause();
        (void)cpuid(0, 0);
        if (call(here + 0xF00) != t || call(SHARED + 0xF00) != t || call(here + 0xFFD) != t)
            wrong++;
        *(volatile uint32_t *)ptr(here + 0xF01) = t + 1;
        *(volatile uint16_t *)ptr(here + 0xFFE) = (uint16_t)(t + 1);
        *(volatile uint16_t *)ptr(here + 0x1000) = (uint16_t)((t + 1) >> 16);
        turn = t + 1;
    }
}

static void test_take_turns(void)
{
    put(SHARED + 0xF00, "\xB8\x00\x00\x00\x00\xC3", 6); /* mov eax, 0; ret */
    put(SHARED + 0xFFD, "\xB8\x00\x00\x00\x00\xC3", 6); /* the same across the page's end */
    for (unsigned int n = 0; n < cpus; n++)
        for (unsigned int page = 0; page < 2; page++)
            guest_map(ALIAS + ((uint64_t)n << 30) + page * 0x1000u, SHARED + page * 0x1000u,
                      X86_PTE_P | X86_PTE_W, 0);
    turn = 0;
    run_on_all(take_turns);
    CHECK_EQ(turn, TURNS * cpus);
}

/* lock inc dword [code + 0x100]; ret: the counter is in the page of the code. */
static void count_in_code(unsigned int n)
{
    (void)n;
    for (unsigned int k = 0; k < COUNTS; k++)
        (void)call(SHARED + 0x2000);
}

static void test_counter_in_the_code(void)
{
    put(SHARED + 0x2000, "\xF0\xFF\x05\xF9\x00\x00\x00\xC3", 8);
    *(volatile uint32_t *)ptr(SHARED + 0x2100) = 0;
    run_on_all(count_in_code);
    CHECK_EQ(*(volatile uint32_t *)ptr(SHARED + 0x2100), COUNTS * cpus);
}

/* Each rewrites a page of its own as fast as it can. */
static void rewrite_own(unsigned int n)
{
    uint64_t at = SHARED + 0x10000 + n * 0x1000u;
    for (uint64_t k = 0; k < COUNTS; k++) {
        *(volatile uint64_t *)ptr(at) = 0xB8 | k << 8 | UINT64_C(0xC3) << 40;
        if (call(at) != k)
            wrong++;
    }
}

static void test_rewrite_own(void)
{
    run_on_all(rewrite_own);
}

/* Writes to nowhere are lost. */
static void check_memory(void)
{
    volatile uint64_t *last = ptr(SHARED + 0x20000);
    *last = 0x1122334455667788;
    if (*last != 0x1122334455667788)
        guest_die("less than 128 MiB of memory");
}

int main(void)
{
    check_memory();
    cpus = smp_count();
    if (cpus > 1)
        smp_start(others);
    GUEST_RUN(test_chain_longer_than_the_cache);
    GUEST_RUN(test_targets_of_one_call);
    GUEST_RUN(test_returns_to_returns);
    GUEST_RUN(test_long_run);
    GUEST_RUN(test_take_turns);
    GUEST_RUN(test_counter_in_the_code);
    GUEST_RUN(test_rewrite_own);
    return guest_done();
}
