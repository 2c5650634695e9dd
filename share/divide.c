/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * Dividing a capacity by weights, between bounds: weighted max-min fairness with guarantees
 * ("water-filling"). Pure.
 *
 * The sum of clamp(lambda * weight, low, high) grows with lambda, so there is one at which it is
 * the capacity. It is found without searching. Divide what is left among those that are not
 * settled, by weight alone. Of these some fall below their `low`, some rise above their `high`; let
 * the first lack x in all, and the second have y too much. If x > y, then settling everybody at a
 * bound would take more than there is, so lambda has to become lower, and who is below `low` now
 * stays there: settle those. If x < y, settle those above `high`; if x = y, both, and that was it.
 * Each round settles somebody, so there are at most as many rounds as claims; it is rarely more
 * than three.
 *
 * Ranges: capacity and rates are at most 64 * 2^20 = 2^26, weights at most 2^20, 2^12 claims:
 * products stay below 2^46, sums below 2^58.
 */
#include "share/divide.h"

static uint64_t clamp(uint64_t v, const struct share_claim *c)
{
    return v < c->low ? c->low : v > c->high ? c->high : v;
}

struct round {
    uint64_t left;   /* of the capacity, for those that are not settled */
    uint64_t weight; /* of those */
    uint64_t lack, surplus;
};

static uint64_t by_weight(const struct share_claim *c, const struct round *r)
{
    return r->left * c->weight / r->weight;
}

static struct round survey(struct share_claim *first, uint64_t capacity)
{
    struct round r = {.left = capacity};

    for (const struct share_claim *c = first; c; c = c->next) {
        if (!c->settled)
            r.weight += c->weight;
        else
            r.left -= c->rate < r.left ? c->rate : r.left;
    }
    for (const struct share_claim *c = first; c; c = c->next) {
        uint64_t plain, bounded;

        if (c->settled)
            continue;
        plain = by_weight(c, &r);
        bounded = clamp(plain, c);
        if (bounded > plain)
            r.lack += bounded - plain;
        else
            r.surplus += plain - bounded;
    }
    return r;
}

static void settle(struct share_claim *first, const struct round *r)
{
    for (struct share_claim *c = first; c; c = c->next) {
        uint64_t plain;

        if (c->settled)
            continue;
        plain = by_weight(c, r);
        if (plain < c->low && r->lack >= r->surplus) {
            c->rate = c->low;
            c->settled = true;
        } else if (plain > c->high && r->surplus >= r->lack) {
            c->rate = c->high;
            c->settled = true;
        }
    }
}

static uint64_t lambda_of(uint64_t rate, uint64_t weight)
{
    uint64_t lambda = weight ? (rate << SHARE_LAMBDA_SHIFT) / weight : 0;

    return lambda ? lambda : 1;
}

/* All are at a bound: by weight alone, who is above its `low` would have at least its `high`; nobody below it would have more. */
static uint64_t lambda_of_bounds(const struct share_claim *first)
{
    uint64_t above = 0, below = 0, any = 1;

    for (const struct share_claim *c = first; c; c = c->next) {
        uint64_t lambda = lambda_of(c->rate, c->weight);

        any = lambda;
        if (c->rate < c->high)
            below = !below || lambda < below ? lambda : below;
        else if (c->rate > c->low)
            above = lambda + 1 > above ? lambda + 1 : above;
    }
    return above ? above : below ? below : any;
}

/* Everybody can have all: nobody is held against anybody else. */
static bool is_enough(struct share_claim *first, uint64_t capacity)
{
    uint64_t high = 0;

    for (struct share_claim *c = first; c; c = c->next) {
        c->settled = false;
        high += c->high;
    }
    if (high > capacity)
        return false;
    for (struct share_claim *c = first; c; c = c->next)
        c->rate = c->high;
    return true;
}

uint64_t share_divide(struct share_claim *first, uint64_t capacity)
{
    struct round r;

    if (is_enough(first, capacity))
        return lambda_of_bounds(first);
    for (;;) {
        r = survey(first, capacity);
        if (!r.weight)
            return lambda_of_bounds(first);
        if (!r.lack && !r.surplus)
            break;
        settle(first, &r);
    }
    for (struct share_claim *c = first; c; c = c->next)
        if (!c->settled)
            c->rate = by_weight(c, &r);
    return lambda_of(r.left, r.weight);
}
