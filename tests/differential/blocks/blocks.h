/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * Blocks of random instructions, each executed five times from the same state:
 *
 *   reference    x86_step, instruction by instruction, nothing cached
 *   interpreter  engine soft with vm.interpret
 *   translator   engine soft, nothing translated yet
 *   again        the same, with what was translated, linked and cached then
 *   host         this machine's processor, where the block has nothing that a program may not do
 *
 * Then everything that the block could have changed is compared: registers, flags, RIP, vector,
 * error code and CR2 at the fault that it ended with, vector and x87 state, memory, the block's own
 * code, and the guest's page tables. Blocks in the kernel's ring, with FS, and those in which
 * something modified itself into what is not harmless stay off the host.
 */
#ifndef LODGE_TESTS_DIFFERENTIAL_BLOCKS_H
#define LODGE_TESTS_DIFFERENTIAL_BLOCKS_H

#include "tests/differential/differential.h"

enum {
    BLOCK_INSNS = 20, /* of a block, besides those that set up registers */
    BLOCK_STEPS = 3000,
};

struct block_case {
    uint64_t seed;
    uint32_t base, entry; /* BOX_BLOCK or BOX_BLOCK_RWX; linear address of the first instruction */
    bool kernel, smap, host;
    uint32_t entries; /* of code: how many instructions were put there, for printing */
    uint32_t at[8 * BLOCK_INSNS];
    struct state start;
    uint64_t fs_base;
    uint8_t
        code[BOX_BLOCK_SIZE + PAGE_SIZE]; /* as generated; what is behind the pages is cut off */
    uint8_t memory[BOX_RW_SIZE];
};

/* What a run leaves behind. */
struct block_result {
    struct block_end end;
    uint64_t steps; /* reference only */
    uint64_t cr[5], gs_base, kernel_gs_base;
    uint8_t memory[BOX_RW_SIZE], ro[BOX_RO_SIZE], code[BOX_BLOCK_SIZE], stack[64];
    uint64_t ptes[512];
};

/* --- generate.c of blocks --- */
void generate_block(struct block_case *c, uint64_t seed);

/* --- legs.c --- */
void legs_init(void);
/* False: the block does not come to an end, or does something that has no one result. Says whether
 * the host may run it. */
bool leg_reference(struct block_case *c, struct block_result *r);
void leg_interpreter(const struct block_case *c, struct block_result *r);
void leg_translator(const struct block_case *c, bool again, struct block_result *r);
bool leg_host(const struct block_case *c, struct block_result *r);
/* All of RAM in the translator's VM is as in the interpreter's. */
bool legs_agree_on_ram(void);
/* Counters of the translator, as text. */
void legs_print_stats(void);

#endif
