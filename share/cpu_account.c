/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * What each VM has had and is owed: virtual time, limit, credit. The design stands in cpu.c.
 *
 * Ranges. phi: weight * SHARE_BURST_FACTOR << 10, at most 10000 * 4 * 2^10 < 2^26; one that a reservation
 * raises is at most PHI_MAX = 2^30, as unit_of sees to at each division; at least 1; lambda is at most 2^36, and times the first
 * 2^62. ns that are turned into
 * virtual time are a grant, a lag or a run between two looks: at most 2^30, held to it (who overran
 * a slice by more than a second is not charged with more), so ns << 26 is at most 2^56. A VM's lag
 * is held within 16 ms = 2^24 ns, and it has at most 64 grants of 1 ms at once, so phi * (v - base)
 * is below 2^53 for each VM, and the sum over 2^9 VMs below 2^62. Differences of virtual times:
 * 2^26 ns with phi 1 are 2^52.
 */
#include "core/clock.h"
#include "share/cpu_private.h"

enum { PHI_MAX = 1 << 30, UNIT_MAX = 1 << 23 }; /* with that, 1 % of a CPU is a phi of 1300 */

#define NS_MAX     ((int64_t)1 << 36) /* of an account */

static uint64_t lower(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

static uint64_t percent(uint32_t p)
{
    return p * SHARE_CPU / 100;
}

/* --- the average ----------------------------------------------------------------------------- */

/* As of now: VMs have been charged with what they may still run. */
static uint64_t virtual_of_past(struct share_cpus *s, uint64_t now)
{
    int64_t pending = share_bounded((int64_t)(s->ends - s->grants * now), -SHARE_CHARGE_MAX, SHARE_CHARGE_MAX);

    return share_virtual_now(s) - (s->phi ? (uint64_t)share_to_virtual(pending, s->phi) : 0);
}

static int64_t part_of_sum(const struct share_cpus *s, const struct share_vm *vm)
{
    return (int64_t)(vm->v - s->base) * (int64_t)vm->phi;
}

/* It is active, and counted in s->phi. */
static void cut_slice(const struct share_cpus *s, struct share_vm *vm)
{
    uint64_t average = s->phi / s->active, ns = SHARE_SLICE_NS;

    if (vm->phi < average)
        ns = SHARE_SLICE_NS * vm->phi / average;
    vm->slice = ns < SHARE_SLICE_MIN_NS ? SHARE_SLICE_MIN_NS : ns;
    vm->request = (uint64_t)share_to_virtual((int64_t)vm->slice, vm->phi);
}

/* Who cannot run when it wants to, is behind by more than anybody else ever is. Who is capped cannot make up for much, and
 * goes first when it is behind at all; who is never to wait, unless it has run ahead. */
static void set_far(struct share_vm *vm)
{
    int64_t quantum = (int64_t)vm->quantum;

    vm->far = vm->whole ? -quantum / 4 : vm->capped ? 0 : quantum + quantum / 2;
}

static void include(struct share_cpus *s, struct share_vm *vm, uint64_t v, uint64_t phi)
{
    vm->v = v;
    vm->phi = phi;
    vm->quantum = (uint64_t)share_to_virtual(SHARE_SLICE_NS, phi);
    vm->fresh_request = vm->quantum / (SHARE_SLICE_NS / SHARE_WAKE_NS);
    set_far(vm);
    s->phi += phi;
    s->sum += part_of_sum(s, vm);
    s->active++;
    cut_slice(s, vm);
}

static void exclude(struct share_cpus *s, struct share_vm *vm)
{
    s->sum -= part_of_sum(s, vm);
    s->phi -= vm->phi;
    s->active--;
}

static int64_t lag_of(const struct share_vm *vm, uint64_t virtual_now)
{
    int64_t behind = (int64_t)(virtual_now - vm->v);
    int64_t most = share_to_virtual(SHARE_LAG_MAX_NS, vm->phi);

    return share_to_ns(share_bounded(behind, -most, most), vm->phi);
}

/* --- weights in effect ----------------------------------------------------------------------- */

static uint64_t weight_of(const struct share_vm *vm)
{
    return (uint64_t)vm->terms.weight * (vm->bursts ? SHARE_BURST_FACTOR : 1);
}

/* What it can use, or may. */
static void claim_of(struct share_vm *vm)
{
    struct share_claim *c = &vm->claim;

    c->weight = weight_of(vm);
    c->high = (vm->runnable ? vm->runnable : 1) * SHARE_CPU;
    if (vm->terms.limit)
        c->high = lower(c->high, percent(vm->terms.limit));
    c->low = lower(percent(vm->terms.reservation), c->high);
}

/* phi of a rate, by the last division. */
static uint64_t phi_of_rate(const struct share_cpus *s, uint64_t rate)
{
    uint64_t phi = (rate << (SHARE_PHI_SHIFT + SHARE_LAMBDA_SHIFT)) / s->unit;

    return phi > PHI_MAX ? PHI_MAX : phi ? phi : 1;
}

static uint64_t phi_of_weight(const struct share_cpus *s, uint64_t weight)
{
    uint64_t phi = weight << SHARE_PHI_SHIFT;

    if (unlikely(s->unit != s->lambda))
        phi = phi * s->lambda / s->unit;
    return phi ? phi : 1;
}

/* If nearly all is reserved, lambda is so small that what is reserved would have a phi above PHI_MAX: then all are
 * smaller in proportion. If weights are small, it is so large that phi of who is capped would be too coarse a number: then
 * they are larger. */
static uint64_t unit_of(const struct share_cpus *s, const struct share_claim *first)
{
    uint64_t most = 0, least;

    for (const struct share_claim *c = first; c; c = c->next)
        most = c->low > most ? c->low : most;
    least = ((most << (SHARE_PHI_SHIFT + SHARE_LAMBDA_SHIFT)) / PHI_MAX) + 1;
    most = lower(s->lambda, UNIT_MAX);
    return most < least ? least : most;
}

static uint64_t phi_between(const struct share_cpus *s, struct share_vm *vm)
{
    uint64_t phi, low, high;

    claim_of(vm);
    high = phi_of_rate(s, vm->claim.high);
    phi = lower(phi_of_weight(s, vm->claim.weight), high);
    low = phi_of_rate(s, vm->claim.low);
    if (vm->claim.low && phi < low)
        phi = low;
    vm->capped = phi == high;
    vm->whole = vm->capped && vm->claim.high == (uint64_t)vm->runnable * SHARE_CPU;
    return phi;
}

/* What it is owed stays, and so does the virtual time of the present: with what it has been granted and not run yet, too,
 * as that has the same size in ns before and after. */
static void reweigh(struct share_cpus *s, struct share_vm *vm, uint64_t past, uint64_t phi)
{
    int64_t lag = lag_of(vm, past);

    exclude(s, vm);
    include(s, vm, past - (uint64_t)share_to_virtual(lag, phi), phi);
}

static void move(struct share_cpus *s, struct share_vm *vm, int64_t step)
{
    vm->v += (uint64_t)step;
    s->sum += step * (int64_t)vm->phi;
}

/* The others, whose phi is this in all, owe somebody `ns` more from now on, by their weights; but not those that are capped: they have
 * the same whoever comes or goes, and what they are owed stays. Instead of theirs, all other virtual times move, and the base with them,
 * so that `sum` changes by no more than ns << SHARE_V_SHIFT, however small that phi is. Returned: by how much, for `who`. */
static int64_t spread_lag(struct share_cpus *s, const struct share_vm *who, uint64_t phi, int64_t ns)
{
    uint64_t others = phi;
    int64_t step;

    for (const struct share_vm *vm = s->capped; vm; vm = vm->next_capped)
        if (vm != who)
            others -= vm->phi;
    if (!phi)
        return 0;
    step = -share_to_virtual(ns, others ? others : phi);
    for (struct share_vm *vm = s->capped; others && vm; vm = vm->next_capped)
        if (vm != who)
            vm->v += (uint64_t)step;
    s->base += (uint64_t)step;
    s->sum -= step * (int64_t)(others ? others : phi);
    return step;
}

/* The same, to one that is active. */
static void owe(struct share_cpus *s, struct share_vm *vm, int64_t ns)
{
    vm->v += (uint64_t)spread_lag(s, vm, s->phi - vm->phi, ns);
    move(s, vm, -share_to_virtual(ns, vm->phi));
}

static int64_t granted_ahead(const struct share_vm *vm, uint64_t now)
{
    int64_t ns = 0;

    for (const struct share_vcpu *x = vm->vcpus; x; x = x->sibling)
        if (x->state == SHARE_RUNS)
            ns += (int64_t)(x->since + x->granted - now);
    return ns;
}

/* Who could use no more will not make up for what it has missed, but for a slice, once it is not capped any more: others
 * have had it. */
static void forgive_capped(struct share_cpus *s, uint64_t now)
{
    for (struct share_vm *vm = s->capped; vm; vm = vm->next_capped) {
        int64_t missed = lag_of(vm, virtual_of_past(s, now)) + granted_ahead(vm, now) - SHARE_SLICE_NS;

        if (missed > 0)
            owe(s, vm, -missed);
    }
}

static void divide(struct share_cpus *s, uint64_t now)
{
    struct share_claim *first = NULL;
    uint64_t past;

    s->stale = false;
    s->divided_until = (s->divided_until > now ? s->divided_until : now) + s->active * SHARE_DIVIDE_NS;
    s->capped = NULL;
    for (struct share_vm *vm = s->vms; vm; vm = vm->next) {
        if (!vm->active)
            continue;
        vm->bursts = vm->credit > 0;
        vm->had = vm->claim.rate;
        claim_of(vm);
        vm->claim.next = first;
        first = &vm->claim;
    }
    if (!first)
        return;
    s->lambda = share_divide(first, s->online * SHARE_CPU);
    s->unit = unit_of(s, first);
    past = virtual_of_past(s, now);
    for (struct share_claim *c = first; c; c = c->next) {
        struct share_vm *vm = container_of(c, struct share_vm, claim);
        uint64_t phi = phi_between(s, vm);

        if (vm->capped) {
            vm->next_capped = s->capped;
            s->capped = vm;
        }
        if (phi != vm->phi)
            reweigh(s, vm, past, phi);
        else
            set_far(vm);
    }
    forgive_capped(s, now);
}

static void cut_slices(const struct share_cpus *s)
{
    for (struct share_vm *vm = s->vms; vm; vm = vm->next)
        if (vm->active)
            cut_slice(s, vm);
}

/* If there are more changes than divisions are worth, it is those by which somebody comes that count: rates of before it came are too
 * high for others, who then would take what is its; rates that it still has when it is away take nothing from
 * those who run. */
static bool is_division_due(const struct share_cpus *s, uint64_t now, enum share_change change)
{
    uint64_t most = change == SHARE_CAME ? SHARE_SLICE_NS : SHARE_SLICE_NS / 2;

    return s->stale && share_elapsed(s->divided_until, now) < most;
}

void share_divide_if_due(struct share_cpus *s, uint64_t now, enum share_change change)
{
    if (likely(!is_division_due(s, now, change)))
        return;
    divide(s, now);
    cut_slices(s);
}

/* --- limit ----------------------------------------------------------------------------------- */

static int64_t bucket(const struct share_vm *vm)
{
    return (int64_t)((uint64_t)SHARE_BUCKET_NS * vm->terms.limit / 100);
}

/* A VM's devices and timers, which no limit holds, may take more than there is: it pays for at most a second's worth. */
static int64_t least_tokens(const struct share_vm *vm)
{
    return -bucket(vm) * (1000000000 / SHARE_BUCKET_NS);
}

static void refill(struct share_vm *vm, uint64_t now)
{
    uint64_t gained = scale_u64(share_elapsed(now, vm->tokens_at), vm->terms.limit, 100);
    /* what that took to gain, so that nothing is lost to rounding */
    uint64_t took = scale_u64(gained, 100, vm->terms.limit);

    if (gained > (uint64_t)NS_MAX) {
        gained = (uint64_t)NS_MAX;
        took = share_elapsed(now, vm->tokens_at);
    }
    vm->tokens = share_bounded(vm->tokens + (int64_t)gained, least_tokens(vm), bucket(vm));
    vm->tokens_at += took;
}

uint64_t share_may_run(struct share_vm *vm, uint64_t now)
{
    if (!vm->terms.limit)
        return vm->slice;
    refill(vm, now);
    if (vm->tokens < SHARE_GRANT_MIN_NS)
        return 0;
    return lower((uint64_t)vm->tokens, vm->slice);
}

uint64_t share_released_at(const struct share_vm *vm)
{
    uint64_t lacks = (uint64_t)(SHARE_GRANT_MIN_NS - vm->tokens);

    return vm->tokens_at + scale_u64(lacks, 100, vm->terms.limit) + 1;
}

/* --- reservation ----------------------------------------------------------------------------- */

int64_t share_owed_of_reserve(struct share_vm *vm, uint64_t now)
{
    uint64_t rate = lower(vm->terms.reservation, vm->runnable * 100), gained;

    if (likely(!rate))
        return 0;
    gained = scale_u64(share_elapsed(now, vm->reserve_at), rate, 100);
    if (gained > 0) {
        vm->reserve_at += scale_u64(gained, 100, rate);
        vm->reserve = share_bounded(vm->reserve + (int64_t)lower(gained, (uint64_t)NS_MAX),
                              -SHARE_SLICE_NS, SHARE_LAG_MAX_NS);
    }
    return vm->reserve;
}

/* --- credit ---------------------------------------------------------------------------------- */

/* What it saves up by doing nothing: its share of the machine if all VMs wanted theirs. */
static uint64_t baseline(const struct share_cpus *s, const struct share_vm *vm)
{
    uint64_t rate = s->online * SHARE_CPU * vm->terms.weight / s->weight;

    if (rate < percent(vm->terms.reservation))
        rate = percent(vm->terms.reservation);
    if (vm->terms.limit)
        rate = lower(rate, percent(vm->terms.limit));
    return lower(rate, vm->vcpu_count * SHARE_CPU);
}

/* It ran so long since the last time. */
static void keep_credit(struct share_cpus *s, struct share_vm *vm, uint64_t ran, uint64_t now)
{
    uint64_t earned;

    if (likely(!vm->terms.burst_ns))
        return;
    earned = scale_u64(share_elapsed(now, vm->credit_at), baseline(s, vm), SHARE_CPU);
    vm->credit_at = now;
    vm->credit += (int64_t)lower(earned, (uint64_t)NS_MAX) - (int64_t)ran;
    vm->credit = share_bounded(vm->credit, -SHARE_LAG_MAX_NS, (int64_t)vm->terms.burst_ns);
}

/* Whether it bursts is decided when it comes and at each division; it ends with its credit. */
static void end_burst(struct share_cpus *s, struct share_vm *vm, uint64_t now)
{
    vm->bursts = false;
    reweigh(s, vm, virtual_of_past(s, now), phi_between(s, vm));
    s->stale = true;
}

/* --- coming and going ------------------------------------------------------------------------ */

/* What it owed has been worked off by its absence, at the rate that it had; what it was owed is
 * kept, within a slice. */
int64_t share_lag_after_sleep(const struct share_vm *vm, uint64_t now)
{
    uint64_t worked_off = scale_u64(share_elapsed(now, vm->since), vm->rate, SHARE_CPU);

    if (vm->lag >= 0)
        return vm->lag;
    return worked_off >= (uint64_t)-vm->lag ? 0 : vm->lag + (int64_t)worked_off;
}

static void take_from_capped(struct share_cpus *s, struct share_vm *vm)
{
    for (struct share_vm **p = &s->capped; *p; p = &(*p)->next_capped)
        if (*p == vm) {
            *p = vm->next_capped;
            return;
        }
}

void share_join(struct share_cpus *s, struct share_vm *vm, uint64_t now)
{
    uint64_t v = virtual_of_past(s, now), phi;
    int64_t lag;

    keep_credit(s, vm, 0, now);
    vm->bursts = vm->credit > 0;
    phi = phi_between(s, vm);
    lag = s->phi ? share_lag_after_sleep(vm, now) : 0; /* if there is nobody, nobody owes anything */
    vm->active = true;
    vm->reserve = vm->reserve < 0 ? vm->reserve : 0;
    vm->reserve_at = now;
    include(s, vm, v, phi);
    if (lag > 0)
        share_divide_if_due(s, now, SHARE_CAME);
    owe(s, vm, lag);
    if (lag <= 0)
        share_divide_if_due(s, now, SHARE_CAME);
}

/* Somebody has left who owes so many ns to others. It pays by its absence, to those who gain by that: what they are owed becomes less. By its
 * leaving the average has moved as if all did, by their weights. */
static void repay(struct share_cpus *s, struct share_vm *who, int64_t ns)
{
    uint64_t gain = 0;

    for (const struct share_vm *vm = s->vms; vm; vm = vm->next)
        gain += vm->active && vm->claim.rate > vm->had ? vm->claim.rate - vm->had : 0;
    if (gain < who->rate)
        who->rate = gain > who->rate / 8 ? gain : who->rate / 8; /* others may come that gain by it, too */
    if (!gain)
        return;
    for (struct share_vm *vm = s->vms; vm; vm = vm->next) {
        int64_t more = 0;

        if (!vm->active)
            continue;
        if (vm->claim.rate > vm->had)
            more = -(int64_t)scale_u64((uint64_t)ns, vm->claim.rate - vm->had, gain);
        more += (int64_t)scale_u64((uint64_t)ns, vm->phi, s->phi);
        move(s, vm, -share_to_virtual(more, vm->phi));
    }
}

void share_leave(struct share_cpus *s, struct share_vm *vm, uint64_t now)
{
    int64_t lag = lag_of(vm, virtual_of_past(s, now));

    vm->lag = share_bounded(lag, -SHARE_LAG_MAX_NS, vm->whole ? 0 : SHARE_SLICE_NS);
    vm->rate = scale_u64(s->online * SHARE_CPU, vm->phi, s->phi);
    vm->since = now;
    take_from_capped(s, vm);
    vm->active = false;
    vm->bursts = false;
    if (lag < 0 && is_division_due(s, now, SHARE_WENT)) {
        divide(s, now); /* while it is still part of the average */
        exclude(s, vm);
        repay(s, vm, -lag);
        cut_slices(s);
    } else {
        exclude(s, vm);
        (void)spread_lag(s, vm, s->phi, -lag);
        share_divide_if_due(s, now, SHARE_WENT);
    }
}

/* --- running --------------------------------------------------------------------------------- */

/* Its absence so far has made up for what it owed until now. */
void share_charge_absent(struct share_vm *vm, int64_t ns, uint64_t now)
{
    vm->lag = share_lag_after_sleep(vm, now);
    vm->since = now > vm->since ? now : vm->since;
    vm->lag = share_bounded(vm->lag - ns, -SHARE_LAG_MAX_NS, SHARE_SLICE_NS);
}

/* One that is held up by what is no share (it is pinned to a crowded CPU) is not owed all of it for ever; nobody else is
 * owed so much. */
void share_forget_excess(struct share_cpus *s, struct share_vm *vm, uint64_t virtual_now)
{
    uint64_t earliest = virtual_now - SHARE_BEHIND_MOST * vm->quantum;

    s->sum += (int64_t)(earliest - vm->v) * (int64_t)vm->phi;
    vm->v = earliest;
}

void share_settle_bounds(struct share_cpus *s, struct share_vm *vm, int64_t unused, uint64_t ran,
                         uint64_t now)
{
    if (vm->terms.limit)
        vm->tokens = share_bounded(vm->tokens + unused, least_tokens(vm), bucket(vm));
    keep_credit(s, vm, ran, now);
    if (vm->bursts && vm->credit <= 0)
        end_burst(s, vm, now);
}

/* --- terms ----------------------------------------------------------------------------------- */

static uint64_t reserved(const struct share_cpus *s, const struct share_vm *but)
{
    uint64_t sum = 0;

    for (const struct share_vm *vm = s->vms; vm; vm = vm->next)
        if (vm != but)
            sum += vm->terms.reservation;
    return sum;
}

int share_check(const struct share_cpus *s, const struct share_vm *vm, const struct share_terms *t,
                uint32_t vcpus)
{
    if (!t->weight || t->weight > SHARE_WEIGHT_MAX || t->burst_ns > (uint64_t)NS_MAX)
        return ERR_INVALID;
    if (t->reservation > vcpus * 100 || (t->limit && t->limit < t->reservation))
        return ERR_INVALID;
    return t->reservation + reserved(s, vm) > s->online * 100 ? ERR_RANGE : OK;
}

void share_vm_add(struct share_cpus *s, struct share_vm *vm, const struct share_terms *terms,
                  uint64_t now)
{
    *vm = (struct share_vm){
        .terms = *terms, .since = now, .tokens_at = now, .credit_at = now, .next = s->vms};
    vm->tokens = bucket(vm);
    if (s->vms)
        s->vms->before = vm;
    s->vms = vm;
    s->weight += terms->weight;
}

void share_vm_remove(struct share_cpus *s, struct share_vm *vm)
{
    s->weight -= vm->terms.weight;
    if (vm->before)
        vm->before->next = vm->next;
    else
        s->vms = vm->next;
    if (vm->next)
        vm->next->before = vm->before;
}

void share_vm_set(struct share_cpus *s, struct share_vm *vm, const struct share_terms *terms,
                  uint64_t now)
{
    bool had_limit = vm->terms.limit != 0;

    keep_credit(s, vm, 0, now);
    if (had_limit)
        refill(vm, now);
    s->weight += terms->weight;
    s->weight -= vm->terms.weight;
    vm->terms = *terms;
    vm->tokens_at = now;
    vm->tokens = had_limit ? share_bounded(vm->tokens, least_tokens(vm), bucket(vm)) : bucket(vm);
    vm->credit = share_bounded(vm->credit, -SHARE_LAG_MAX_NS, (int64_t)terms->burst_ns);
    vm->credit_at = now;
    if (!vm->active)
        return;
    vm->bursts = vm->bursts && vm->credit > 0;
    reweigh(s, vm, virtual_of_past(s, now), phi_between(s, vm));
    s->stale = true;
}

void share_init(struct share_cpus *s, uint32_t count)
{
    *s = (struct share_cpus){.count = count, .lambda = 1, .unit = 1, .release = UINT64_MAX};
    for (uint32_t i = 0; i < count; i++)
        s->queue[i].claimed = true; /* not idle */
}

void share_cpu_online(struct share_cpus *s, uint32_t cpu)
{
    s->queue[cpu].claimed = false;
    s->idle |= BIT(cpu);
    s->online++;
    s->lambda = s->unit = (s->online * SHARE_CPU << SHARE_LAMBDA_SHIFT) / 100;
    s->stale = true;
}
