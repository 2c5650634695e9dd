/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * The decoded-block cache (engine/soft/block.c): what a block holds and where it ends, that
 * contents decide whether it is still good, and what happens when slots or the pool run out.
 */
#include <string.h>

#include "core/err.h"
#include "core/seam.h"
#include "engine/soft/block.h"
#include "tests/lib/cpu_env.h"
#include "tests/lib/fake_seam.h"
#include "tests/lib/unit.h"

enum { NOP = 0x90, HLT = 0xF4, CODE_PAGES = 256, CODE_SIZE = CODE_PAGES * PAGE_SIZE };

static struct cpu_env env;
static struct block_cache cache;
static uint8_t *code; /* page-aligned, NOPs; nothing is run */

static void begin(void)
{
    memset(code, NOP, CODE_SIZE);
    env.cpu->mode = INSN_MODE_64;
    CHECK_EQ(block_cache_create(&cache), OK);
}

static void end(void)
{
    block_cache_destroy(&cache);
    CHECK(!cache.blocks && !cache.pool);
}

/* As next_block does: up to the end of the page. */
static const struct block *find(const uint8_t *host)
{
    return block_find(&cache, env.cpu, host, PAGE_SIZE - ((uintptr_t)host & (PAGE_SIZE - 1)));
}

static void put(uint8_t *at, const void *bytes, size_t size)
{
    memcpy(at, bytes, size);
}

/* --- where a block ends ----------------------------------------------------------------------- */

static void test_contents(void)
{
    begin();
    /* add rax, rbx; mov ecx, 5; jmp */
    put(code, "\x48\x01\xD8\xB9\x05\x00\x00\x00\xEB\xFE\x90", 11);
    const struct block *b = find(code);
    CHECK(b != NULL);
    CHECK_EQ(b->count, 3);
    CHECK_EQ(b->bytes, 10); /* nothing after the jump */
    CHECK_EQ(b->uops[0].insn.op, INSN_ADD);
    CHECK_EQ(b->uops[1].insn.imm, 5);
    CHECK_EQ(b->uops[2].insn.length, 2);
    for (unsigned int n = 0; n < b->count; n++)
        CHECK(b->uops[n].fn == x86_select(env.cpu, &b->uops[n].insn));
    end();
}

static void test_limits(void)
{
    begin();
    const struct block *b = find(code); /* NOPs without end */
    CHECK(b && b->count == BLOCK_INSNS && b->bytes == BLOCK_INSNS);
    for (unsigned int n = 0; n < 32; n++) /* mov rax, imm64: the bytes run out first */
        put(code + 0x100 + n * 10, "\x48\xB8\x01\x02\x03\x04\x05\x06\x07\x08", 10);
    b = find(code + 0x100);
    CHECK(b && b->count == BLOCK_BYTES / 10 && b->bytes == BLOCK_BYTES / 10 * 10);
    put(code + 0x300, "\x90\x0F\x0B\x90", 4); /* what is no instruction is the last one */
    b = find(code + 0x300);
    CHECK(b && b->count == 2 && b->bytes == 3);
    end();
}

static void test_page_end(void)
{
    begin();
    uint8_t *next = code + PAGE_SIZE;
    const struct block *b = find(next - 5); /* ends with the page */
    CHECK(b && b->count == 5 && b->bytes == 5);
    put(next - 3, "\x90\xB8\x01\x02\x03\x04", 6); /* mov eax, imm32 crosses: is left out */
    b = find(next - 3);
    CHECK(b && b->count == 1 && b->bytes == 1);
    uint64_t decoded = cache.decoded;
    CHECK(find(next - 2) == NULL); /* alone it cannot be cached, however often it is tried */
    CHECK(find(next - 2) == NULL);
    CHECK_EQ(cache.decoded, decoded);
    put(next - 2, "\x90\x90", 2); /* and can when it does not cross any more */
    b = find(next - 2);
    CHECK(b && b->count == 2);
    put(next - 2, "\xB8\x01", 2); /* nor is anything left of the block that was there before */
    CHECK(find(next - 2) == NULL);
    CHECK(find(next - 2) == NULL);
    memset(code + 0x800, 0x66, 16); /* over 15 bytes */
    CHECK(find(code + 0x800) == NULL);
    end();
}

/* --- when it is still good -------------------------------------------------------------------- */

/* A block of each length that the comparison treats differently; each of its bytes is looked at,
 * none beyond it. */
static void test_comparison(void)
{
    begin();
    for (unsigned int length = 1; length <= BLOCK_INSNS; length++) {
        unit_context("%u bytes", length);
        uint8_t *at = code + length * 128;
        at[length - 1] = HLT; /* ends it */
        const struct block *b = find(at);
        CHECK(b && b->bytes == length);
        uint64_t decoded = cache.decoded;
        at[length] ^= 0xFF;
        CHECK(find(at) == b);
        CHECK_EQ(cache.decoded, decoded); /* the byte after is none of its */
        for (unsigned int n = 0; n < length; n++) {
            uint8_t old = at[n];
            at[n] = 0xCC;
            b = find(at);
            CHECK_EQ(cache.decoded, ++decoded);
            CHECK(b && b->bytes == n + 1 && b->uops[n].insn.op == INSN_INT3);
            at[n] = old;
            b = find(at);
            CHECK_EQ(cache.decoded, ++decoded);
            CHECK(b && b->bytes == length);
        }
    }
    unit_context(NULL);
    CHECK_EQ(cache.stale, 2u * BLOCK_INSNS * (BLOCK_INSNS + 1) / 2);
    end();
}

static void test_same_again(void)
{
    begin();
    const struct block *b = find(code);
    memset(code, HLT, 64);
    memset(code, NOP, 64); /* rewritten, with what was there */
    CHECK(find(code) == b);
    CHECK_EQ(cache.decoded, 1);
    CHECK_EQ(cache.stale, 0);
    end();
}

/* 48 FF C0: inc rax in 64-bit code; dec eax, inc eax elsewhere. */
static void test_modes(void)
{
    static const struct {
        uint8_t mode, first, second;
    } rows[] = {
        /* table: mode, lengths of the first two instructions */
        {INSN_MODE_16, 1, 2},
        {INSN_MODE_32, 1, 2},
        {INSN_MODE_64, 3, 5},
    };
    begin();
    put(code, "\x48\xFF\xC0\xB8\x01\x00\xEB\x00\xEB\x00", 10);
    for (unsigned int round = 0; round < 2; round++) {
        for (size_t n = 0; n < ARRAY_SIZE(rows); n++) {
            unit_context("mode %u", rows[n].mode);
            env.cpu->mode = rows[n].mode;
            const struct block *b = find(code);
            CHECK(b && b->mode == rows[n].mode);
            CHECK_EQ(b->uops[0].insn.length, rows[n].first);
            CHECK_EQ(b->uops[1].insn.length, rows[n].second);
        }
    }
    unit_context(NULL);
    CHECK_EQ(cache.decoded, 3); /* side by side: the second round found them */
    end();
}

/* --- when space runs out ---------------------------------------------------------------------- */

/* More blocks than slots: some share one; each is right whenever it is found. */
static void test_conflicts(void)
{
    enum { STEP = 16, COUNT = CODE_SIZE / STEP };
    begin();
    for (unsigned int n = 0; n < COUNT; n++) {
        uint8_t *at = code + n * STEP; /* mov eax, n; jmp */
        put(at, "\xB8\x00\x00\x00\x00\xEB\xFE", 7);
        memcpy(at + 1, &n, 4);
    }
    unsigned int wrong = 0;
    for (unsigned int round = 0; round < 2; round++) {
        for (unsigned int n = 0; n < COUNT; n++) {
            const struct block *b = find(code + n * STEP);
            wrong += !b || b->count != 2 || b->uops[0].insn.imm != n;
            env.cpu->mode ^= INSN_MODE_64 ^ INSN_MODE_32;
            b = find(code + n * STEP);
            wrong += !b || b->mode != env.cpu->mode;
        }
    }
    CHECK_EQ(wrong, 0);
    _Static_assert(COUNT > 1 << BLOCK_BITS, "there must be conflicts");
    CHECK(cache.decoded > COUNT);
    CHECK_EQ(cache.stale, 0); /* a slot taken by another block is no rewrite */
    end();
}

/* The pool is used up by rewriting; the whole cache is emptied and goes on. */
static void test_pool_wrap(void)
{
    enum { PER_FILL = BLOCK_POOL / BLOCK_INSNS };
    begin();
    unsigned int wrong = 0;
    const uint8_t *other = code + PAGE_SIZE;
    CHECK(find(other) != NULL);
    for (unsigned int n = 1; n < PER_FILL; n++) {
        code[0] = (uint8_t)(0x91 + (n & 1)); /* xchg: as long as NOP */
        wrong += find(code) == NULL;
    }
    CHECK_EQ(cache.flushed, 0);
    CHECK_EQ(cache.pool_used, BLOCK_POOL);
    code[0] = NOP;
    const struct block *b = find(code);
    CHECK_EQ(cache.flushed, 1);
    CHECK_EQ(cache.pool_used, BLOCK_INSNS);
    CHECK(b && b->uops == cache.pool && b->count == BLOCK_INSNS);
    uint64_t decoded = cache.decoded;
    CHECK(find(code) == b); /* survived its own flush */
    CHECK_EQ(cache.decoded, decoded);
    b = find(other); /* did not: its uops are another's now */
    CHECK_EQ(cache.decoded, decoded + 1);
    CHECK(b && b->uops == cache.pool + BLOCK_INSNS);
    CHECK_EQ(wrong, 0);
    end();
}

static void test_flush(void)
{
    begin();
    CHECK(find(code) && find(code + 64));
    block_cache_flush(&cache);
    CHECK_EQ(cache.pool_used, 0);
    CHECK(find(code) && find(code + 64));
    CHECK_EQ(cache.decoded, 4);
    end();
}

static void test_no_memory(void)
{
    unsigned int before = fake_seam_allocations();
    for (unsigned int nth = 1; nth <= 2; nth++) {
        fake_seam_fail_allocation(nth);
        CHECK_EQ(block_cache_create(&cache), ERR_NO_MEMORY);
        CHECK_EQ(fake_seam_allocations(), before);
    }
    fake_seam_fail_allocation(0);
}

int main(void)
{
    cpu_env_create(&env, CPU_ENV_LONG);
    code = seam_pages_alloc(CODE_PAGES);
    UNIT_RUN(test_contents);
    UNIT_RUN(test_limits);
    UNIT_RUN(test_page_end);
    UNIT_RUN(test_comparison);
    UNIT_RUN(test_same_again);
    UNIT_RUN(test_modes);
    UNIT_RUN(test_conflicts);
    UNIT_RUN(test_pool_wrap);
    UNIT_RUN(test_flush);
    UNIT_RUN(test_no_memory);
    seam_pages_free(code, CODE_PAGES);
    cpu_env_destroy(&env);
    return unit_done();
}
