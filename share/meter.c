/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
#include "share/meter.h"

enum { NS_PER_S = 1000000000 };

static void carry(uint64_t *page_s, uint64_t *page_ns)
{
    *page_s += *page_ns / NS_PER_S;
    *page_ns %= NS_PER_S;
}

static void settle(struct meter_memory *m, uint64_t now)
{
    uint64_t ns = meter_passed(m->since, now);

    m->page_s += m->pages * (ns / NS_PER_S);
    m->page_ns += m->pages * (ns % NS_PER_S); /* < 10^9 + 2^34 * 10^9 < 2^64 */
    carry(&m->page_s, &m->page_ns);
    m->since += ns;
}

void meter_hold(struct meter_memory *m, uint64_t pages, uint64_t now)
{
    settle(m, now);
    m->pages = pages;
}

struct meter_use meter_use_of(const struct meter_memory *m, uint64_t ran_ns, uint64_t guest_ns,
                              uint64_t steal_ns, uint64_t now)
{
    struct meter_memory held = *m;

    settle(&held, now);
    return (struct meter_use){
        .guest_ns = guest_ns < ran_ns ? guest_ns : ran_ns, /* two clocks: never more than there was */
        .overhead_ns = guest_ns < ran_ns ? ran_ns - guest_ns : 0,
        .steal_ns = steal_ns,
        .page_s = held.page_s,
        .page_ns = held.page_ns,
    };
}

void meter_add(struct meter_use *sum, const struct meter_use *use)
{
    sum->guest_ns += use->guest_ns;
    sum->overhead_ns += use->overhead_ns;
    sum->steal_ns += use->steal_ns;
    sum->page_s += use->page_s;
    sum->page_ns += use->page_ns;
    carry(&sum->page_s, &sum->page_ns);
}

/* A guest's part may have been counted late: what was overhead before is the guest's now. */
struct meter_use meter_between(const struct meter_use *before, const struct meter_use *after)
{
    uint64_t ran = meter_passed(meter_ran(before), meter_ran(after));
    struct meter_use d = {
        .guest_ns = meter_passed(before->guest_ns, after->guest_ns),
        .steal_ns = meter_passed(before->steal_ns, after->steal_ns),
        .page_s = after->page_s - before->page_s,
        .page_ns = after->page_ns,
    };

    if (d.guest_ns > ran)
        d.guest_ns = ran;
    d.overhead_ns = ran - d.guest_ns;
    if (after->page_ns < before->page_ns) {
        d.page_s--;
        d.page_ns += NS_PER_S;
    }
    d.page_ns -= before->page_ns;
    return d;
}
