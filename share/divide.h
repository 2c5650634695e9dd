/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/* Dividing a capacity by weights, between bounds (divide.c). */
#ifndef LODGE_SHARE_DIVIDE_H
#define LODGE_SHARE_DIVIDE_H

#include "core/types.h"

/* Rates are in parts of one CPU: SHARE_CPU is a whole one. */
#define SHARE_CPU ((uint64_t)1 << 20)

enum { SHARE_LAMBDA_SHIFT = 10 };

struct share_claim {
    uint64_t weight; /* 1 .. 2^20 */
    uint64_t low;    /* what it gets at least; at most `high` */
    uint64_t high;   /* what it can use, or may have: 1 or more, at most 64 SHARE_CPU */
    uint64_t rate;   /* out */
    struct share_claim *next;
    bool settled; /* share_divide's own */
};

/*
 * Gives each claim of the list its rate: lambda * weight, but not less than `low` nor more than
 * `high`, with the lambda at which the rates add up to `capacity`, or to all the `high` if that is
 * less. Rounded down, by less than one for each claim. The sum of the `low` is at most `capacity`.
 * At most 2^12 claims.
 *
 * Returns lambda, in parts of a CPU << SHARE_LAMBDA_SHIFT for a weight of one, never 0. Where
 * nobody's rate is lambda * weight any more, it is one that holds all at their bounds.
 */
uint64_t share_divide(struct share_claim *first, uint64_t capacity);

#endif
