/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
#ifndef LODGE_TESTS_DIFFERENTIAL_BLOCKS_COMPARE_H
#define LODGE_TESTS_DIFFERENTIAL_BLOCKS_COMPARE_H

#include "tests/differential/blocks/blocks.h"

/* How much the second of two runs can be compared in: all; all but the stack of exceptions; what a
 * program sees. */
enum leg_kind { LEG_ENGINE, LEG_STEPS, LEG_HOST };

bool blocks_equal(const struct block_case *c, const struct block_result *a,
                  const struct block_result *b, enum leg_kind kind);
/* Prints the case and every difference. */
void print_blocks(const struct block_case *c, const struct block_result *a,
                  const struct block_result *b, enum leg_kind kind, const char *name_a,
                  const char *name_b);
/* blocks_equal; what is not equal is printed. */
bool compare_blocks(const struct block_case *c, const struct block_result *a,
                    const struct block_result *b, enum leg_kind kind, const char *name_a,
                    const char *name_b);
void print_block(const struct block_case *c);

#endif
