/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * What each VM has had and is owed: virtual time, limit, credit. The design stands in cpu.c.
 *
 * Ranges. phi: weight * SHARE_BURST_FACTOR << 10, at most 10000 * 4 * 2^10 < 2^26; one that a reservation
 * raises is at most PHI_MAX = 2^30, as unit_of sees to at each division; at least 1. ns that are turned into
 * virtual time are a grant, a lag or a run between two looks: at most 2^30, held to it (who overran
 * a slice by more than a second is not charged with more), so ns << 26 is at most 2^56. A VM's lag
 * is held within 16 ms = 2^24 ns, and it has at most 64 grants of 1 ms at once, so phi * (v - base)
 * is below 2^53 for each VM, and the sum over 2^9 VMs below 2^62. Differences of virtual times:
 * 2^26 ns with phi 1 are 2^52.
 */
#include "core/clock.h"
#include "share/cpu_private.h"

enum { PHI_MAX = 1 << 30 };

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

static void include(struct share_cpus *s, struct share_vm *vm, uint64_t v, uint64_t phi)
{
    vm->v = v;
    vm->phi = phi;
    vm->quantum = (uint64_t)share_to_virtual(SHARE_SLICE_NS, phi);
    vm->fresh_request = vm->quantum / (SHARE_SLICE_NS / SHARE_WAKE_NS);
    vm->far = vm->quantum + vm->quantum / 2;
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
 * smaller in proportion. */
static uint64_t unit_of(const struct share_cpus *s, const struct share_claim *first)
{
    uint64_t most = 0, least;

    for (const struct share_claim *c = first; c; c = c->next)
        most = c->low > most ? c->low : most;
    least = ((most << (SHARE_PHI_SHIFT + SHARE_LAMBDA_SHIFT)) / PHI_MAX) + 1;
    return s->lambda < least ? least : s->lambda;
}

/* Who is held by what it can use cannot make up for what it has missed: it gets a bit more, which
 * it cannot use, so that it goes before others. */
static uint64_t phi_at_most(const struct share_cpus *s, const struct share_vm *vm)
{
    return phi_of_rate(s, vm->claim.high + vm->claim.high / 8);
}

static uint64_t phi_between(const struct share_cpus *s, struct share_vm *vm)
{
    uint64_t phi, low;

    claim_of(vm);
    phi = lower(phi_of_weight(s, vm->claim.weight), phi_at_most(s, vm));
    low = phi_of_rate(s, vm->claim.low);
    return phi < low && vm->claim.low ? low : phi;
}

/* What it is owed stays. */
static void reweigh(struct share_cpus *s, struct share_vm *vm, uint64_t phi)
{
    uint64_t v = share_virtual_now(s);
    int64_t lag = lag_of(vm, v);

    exclude(s, vm);
    include(s, vm, v - (uint64_t)share_to_virtual(lag, phi), phi);
}

static void divide(struct share_cpus *s, uint64_t now)
{
    struct share_claim *first = NULL;

    s->stale = false;
    s->divided_at = now;
    for (struct share_vm *vm = s->vms; vm; vm = vm->next) {
        if (!vm->active)
            continue;
        vm->bursts = vm->credit > 0;
        claim_of(vm);
        vm->claim.next = first;
        first = &vm->claim;
    }
    if (!first)
        return;
    s->lambda = share_divide(first, s->online * SHARE_CPU);
    s->unit = unit_of(s, first);
    for (struct share_claim *c = first; c; c = c->next) {
        struct share_vm *vm = container_of(c, struct share_vm, claim);
        uint64_t phi = phi_between(s, vm);

        if (phi != vm->phi)
            reweigh(s, vm, phi);
    }
    for (struct share_claim *c = first; c; c = c->next)
        cut_slice(s, container_of(c, struct share_vm, claim));
}

void share_divide_if_due(struct share_cpus *s, uint64_t now)
{
    if (s->stale && share_elapsed(now, s->divided_at) >= SHARE_DIVIDE_NS)
        divide(s, now);
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

bool share_is_due(struct share_vm *vm, uint64_t now)
{
    uint64_t rate = lower(vm->terms.reservation, vm->runnable * 100), gained;

    if (likely(!rate))
        return false;
    gained = scale_u64(share_elapsed(now, vm->reserve_at), rate, 100);
    if (gained > 0) {
        vm->reserve_at += scale_u64(gained, 100, rate);
        vm->reserve = share_bounded(vm->reserve + (int64_t)lower(gained, (uint64_t)NS_MAX),
                              -SHARE_SLICE_NS, SHARE_LAG_MAX_NS);
    }
    return vm->reserve >= SHARE_SLICE_NS;
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
static void end_burst(struct share_cpus *s, struct share_vm *vm)
{
    vm->bursts = false;
    reweigh(s, vm, phi_between(s, vm));
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

/* Who comes with a lag moves the average: to be owed as much afterwards, it has to be so much
 * further from where that was. */
static int64_t lag_before_joining(const struct share_cpus *s, int64_t lag, uint64_t phi)
{
    uint64_t size = (uint64_t)(lag < 0 ? -lag : lag);

    if (!s->phi)
        return 0; /* there is nobody who could owe anything */
    size = lower(scale_u64(size, s->phi + phi, s->phi), SHARE_LAG_MAX_NS);
    return lag < 0 ? -(int64_t)size : (int64_t)size;
}

void share_join(struct share_cpus *s, struct share_vm *vm, uint64_t now)
{
    uint64_t v = virtual_of_past(s, now), phi;
    int64_t lag;

    keep_credit(s, vm, 0, now);
    vm->bursts = vm->credit > 0;
    phi = phi_between(s, vm);
    lag = lag_before_joining(s, share_lag_after_sleep(vm, now), phi);
    vm->active = true;
    vm->reserve = vm->reserve < 0 ? vm->reserve : 0;
    vm->reserve_at = now;
    include(s, vm, v - (uint64_t)share_to_virtual(lag, phi), phi);
    s->stale = true;
}

void share_leave(struct share_cpus *s, struct share_vm *vm, uint64_t now)
{
    uint64_t v = virtual_of_past(s, now);

    vm->lag = share_bounded(lag_of(vm, v), -SHARE_LAG_MAX_NS, SHARE_SLICE_NS);
    vm->rate = scale_u64(s->online * SHARE_CPU, vm->phi, s->phi);
    vm->since = now;
    exclude(s, vm);
    vm->active = false;
    vm->bursts = false;
    s->stale = true;
}

/* --- running --------------------------------------------------------------------------------- */

/* Its absence so far has made up for what it owed until now. */
void share_charge_absent(struct share_vm *vm, int64_t ns, uint64_t now)
{
    vm->lag = share_lag_after_sleep(vm, now);
    vm->since = now > vm->since ? now : vm->since;
    vm->lag = share_bounded(vm->lag - ns, -SHARE_LAG_MAX_NS, SHARE_SLICE_NS);
}

/* One that is held up by what is no share (it has not enough vCPUs, or a limit, or is pinned to a
 * crowded CPU) is not owed all of it for ever; nobody else is owed so much. */
void share_forget_excess(struct share_cpus *s, struct share_vm *vm, uint64_t virtual_now)
{
    uint64_t earliest = virtual_now - 2 * vm->quantum;

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
        end_burst(s, vm);
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
    reweigh(s, vm, phi_between(s, vm));
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
