/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/* Decoded blocks: straight runs of guest code, decoded once (engine/soft/block.c has the essay). */
#ifndef LODGE_ENGINE_SOFT_BLOCK_H
#define LODGE_ENGINE_SOFT_BLOCK_H

#include "x86/cpu.h"

enum {
    BLOCK_BYTES = 64,   /* of guest code, at most */
    BLOCK_INSNS = 32,   /* at most: also bounds how long a vCPU does not look at its requests */
    BLOCK_BITS = 15,    /* log2 of the number of blocks in a cache */
    BLOCK_POOL = 98304, /* decoded instructions in a cache */
};

/* An instruction ready to run. */
struct uop {
    x86_op_fn *fn;
    struct insn insn;
};

struct block {
    uint64_t host; /* host address of the first byte; 0: empty. Stands for the physical address */
    const struct uop *uops;
    uint8_t count;
    uint8_t bytes;
    uint8_t mode;              /* enum insn_mode that it was decoded for */
    uint8_t code[BLOCK_BYTES]; /* what was decoded */
};

struct block_cache {
    struct block *blocks; /* 1 << BLOCK_BITS, direct-mapped by host address and mode */
    struct uop *pool;     /* bump-allocated; when it is full the whole cache is emptied */
    uint32_t pool_used;
    uint64_t decoded, stale, flushed; /* statistics */
};

int must_check block_cache_create(struct block_cache *c);
void block_cache_destroy(struct block_cache *c);
void block_cache_flush(struct block_cache *c);

/*
 * The block that begins at the host address of guest code, decoded in cpu->mode, with contents that
 * are those of memory now. At most `available` bytes (up to the end of the page) may be read. NULL
 * if not even the first instruction can be cached: it crosses the page or is too long.
 */
const struct block *block_find(struct block_cache *c, const struct x86_cpu *cpu,
                               const uint8_t *host, size_t available);

#endif
