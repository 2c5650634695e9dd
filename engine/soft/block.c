/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * The decoded-block cache of the interpreter.
 *
 * A block is a straight run of instructions inside one page, decoded once, each with its handler
 * already chosen. It ends at whatever may change the flow, the mode or the interruptibility
 * (INSN_ENDS), before an instruction that crosses the page, or when it is full.
 *
 * Key and validity. A block is found by the host address of its first byte, which stands for the
 * guest-physical address: a library that is mapped at many linear addresses is decoded once, and a
 * change of page tables costs nothing here. Nothing in a decoded instruction depends on anything
 * but its bytes, the code size and the vCPU's level.
 *
 * Self- and cross-modifying code. Each block keeps the bytes that it was decoded from and is
 * compared with memory every time that it is entered. So there is no write protection of code
 * pages, no invalidation, no message between vCPUs, and no case that could be forgotten: aliases,
 * other vCPUs, devices, loads of saved state all come out right, because the contents decide. The
 * price is a comparison of some twenty bytes per block, about a nanosecond. Stores into the page of
 * the running block end it (x86_note_store), so that an instruction that was just rewritten by its
 * predecessor is fetched anew, as on a real processor.
 *
 * Each vCPU has a cache of its own: no locks.
 */
#include "engine/soft/block.h"

#include "core/err.h"
#include "core/mem.h"
#include "core/seam.h"

enum {
    BLOCKS = 1 << BLOCK_BITS,
    BLOCK_PAGES = (BLOCKS * sizeof(struct block) + PAGE_SIZE - 1) / PAGE_SIZE,
    POOL_PAGES = (BLOCK_POOL * sizeof(struct uop) + PAGE_SIZE - 1) / PAGE_SIZE,
};

int block_cache_create(struct block_cache *c)
{
    *c = (struct block_cache){0};
    c->blocks = seam_pages_alloc(BLOCK_PAGES);
    c->pool = seam_pages_alloc(POOL_PAGES);
    if (c->blocks && c->pool)
        return OK;
    block_cache_destroy(c);
    return ERR_NO_MEMORY;
}

void block_cache_destroy(struct block_cache *c)
{
    if (c->blocks)
        seam_pages_free(c->blocks, BLOCK_PAGES);
    if (c->pool)
        seam_pages_free(c->pool, POOL_PAGES);
    *c = (struct block_cache){0};
}

void block_cache_flush(struct block_cache *c)
{
    for (size_t i = 0; i < BLOCKS; i++)
        c->blocks[i].host = 0;
    c->pool_used = 0;
    c->flushed++;
}

static always_inline struct block *slot_of(const struct block_cache *c, uint64_t host, uint8_t mode)
{
    uint64_t h = (host ^ ((uint64_t)mode << 5)) * 0x9E3779B97F4A7C15u;
    return &c->blocks[h >> (64 - BLOCK_BITS)];
}

/* Eight bytes at a time; the last step overlaps the one before, so that nothing past the block is
 * read (past it the page may end). */
static always_inline bool contents_match(const struct block *b, const uint8_t *host)
{
    size_t n = b->bytes;
    if (unlikely(n < 8)) {
        uint8_t difference = 0;
        for (size_t i = 0; i < n; i++)
            difference |= (uint8_t)(host[i] ^ b->code[i]);
        return difference == 0;
    }
    uint64_t difference = load_u64(host + n - 8) ^ load_u64(b->code + n - 8);
    for (size_t i = 0; i + 8 < n; i += 8)
        difference |= load_u64(host + i) ^ load_u64(b->code + i);
    return difference == 0;
}

/* Decodes from b->code (a private copy: memory may change under us) into uops; returns how many. */
static uint32_t decode_run(const struct x86_cpu *cpu, struct block *b, size_t available,
                           struct uop *uops)
{
    uint32_t count = 0;
    size_t at = 0;
    while (count < BLOCK_INSNS && at < available) {
        struct uop *u = &uops[count];
        if (insn_decode(&u->insn, b->code + at, available - at, (enum insn_mode)cpu->mode) !=
            INSN_DECODE_OK)
            break; /* cut off by the page's or the copy's end, or too long: not for this block */
        u->fn = x86_select(cpu, &u->insn);
        at += u->insn.length;
        count++;
        if (u->insn.flags & INSN_ENDS || u->insn.op == INSN_INVALID)
            break;
    }
    b->bytes = (uint8_t)at;
    b->count = (uint8_t)count;
    return count;
}

static noinline_cold const struct block *block_decode(struct block_cache *c,
                                                      const struct x86_cpu *cpu, struct block *b,
                                                      const uint8_t *host, size_t available)
{
    if (c->pool_used + BLOCK_INSNS > BLOCK_POOL)
        block_cache_flush(c);
    if (b->host == (uint64_t)(uintptr_t)host)
        c->stale++;
    if (available > BLOCK_BYTES)
        available = BLOCK_BYTES;
    memcpy(b->code, host, available);
    b->host = 0;
    b->uops = &c->pool[c->pool_used];
    b->mode = cpu->mode;
    uint32_t count = decode_run(cpu, b, available, &c->pool[c->pool_used]);
    if (count == 0)
        return NULL;
    c->pool_used += count;
    c->decoded++;
    b->host = (uint64_t)(uintptr_t)host;
    return b;
}

const struct block *block_find(struct block_cache *c, const struct x86_cpu *cpu,
                               const uint8_t *host, size_t available)
{
    struct block *b = slot_of(c, (uint64_t)(uintptr_t)host, cpu->mode);
    if (likely(b->host == (uint64_t)(uintptr_t)host && b->mode == cpu->mode &&
               contents_match(b, host)))
        return b;
    return block_decode(c, cpu, b, host, available);
}
