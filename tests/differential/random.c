/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/* Random numbers that a seed repeats exactly: xorshift64* (Vigna 2014), seeded through splitmix64.
 */
#include "tests/differential/differential.h"

uint64_t rng_next(struct rng *r)
{
    r->s ^= r->s >> 12;
    r->s ^= r->s << 25;
    r->s ^= r->s >> 27;
    return r->s * UINT64_C(2685821657736338717);
}

uint64_t rng_below(struct rng *r, uint64_t n)
{
    return (rng_next(r) >> 16) % n;
}

bool rng_chance(struct rng *r, unsigned int percent)
{
    return rng_below(r, 100) < percent;
}
