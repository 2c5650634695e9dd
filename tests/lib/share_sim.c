/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/* The machine on which share/cpu.c is simulated (share_sim.h). */
#include "tests/lib/share_sim.h"

#include <math.h>
#include <string.h>

#include "tests/lib/unit.h"

struct sim sim;
uint64_t sim_seed = 1;

uint64_t sim_random(uint64_t below)
{
    sim.random = sim.random * 6364136223846793005u + 1442695040888963407u;
    return below ? (sim.random >> 20) % below : 0;
}

static uint64_t varied(uint64_t ns, uint32_t jitter)
{
    uint64_t range = ns * jitter / 100;

    return range ? ns - range + sim_random(2 * range + 1) : ns;
}

void sim_begin(uint32_t cpus, uint64_t number)
{
    memset(&sim, 0, sizeof sim);
    sim.cpus = cpus;
    sim.random = sim_seed * 1000003 + number;
    sim.now = 1000 + sim_random(MS);
    share_init(&sim.share, cpus);
    for (uint32_t i = 0; i < cpus; i++) {
        share_cpu_online(&sim.share, i);
        sim.cpu[i].until = UINT64_MAX;
    }
}

static struct sim_vcpu *add_vcpu(struct sim_vm *v, bool serves)
{
    struct sim_vcpu *x = &v->vcpu[v->all++];

    x->vm = v;
    x->work = UINT64_MAX;
    x->wakes_at = sim.now;
    share_vcpu_add(&sim.share, &v->share, &x->share, UINT64_MAX, serves);
    return x;
}

struct sim_vm *sim_add_vm(struct share_terms terms, uint32_t vcpus)
{
    struct sim_vm *v = &sim.vm[sim.vms++];

    CHECK_EQ(share_check(&sim.share, NULL, &terms, vcpus), OK);
    share_vm_add(&sim.share, &v->share, &terms, sim.now);
    v->count = vcpus;
    for (uint32_t i = 0; i < vcpus; i++)
        add_vcpu(v, false);
    return v;
}

static void set_pattern(struct sim_vcpu *x, uint64_t work, uint64_t rest, uint32_t jitter)
{
    x->work = work;
    x->rest = rest;
    x->jitter = jitter;
    x->wakes_at = sim.now + sim_random(work + rest);
}

void sim_set_load(struct sim_vcpu *x, const struct sim_load *load, uint32_t count)
{
    x->load = load;
    x->loads = count;
    x->next_load = (uint32_t)sim_random(count);
    set_pattern(x, load[x->next_load].work * US, load[x->next_load].rest * US, 0);
}

static void take_next_load(struct sim_vcpu *x)
{
    x->next_load = (x->next_load + 1) % x->loads;
    x->work = x->load[x->next_load].work * US;
    x->rest = x->load[x->next_load].rest * US;
}

void sim_add_server(struct sim_vm *v, uint64_t work, uint64_t rest, uint32_t jitter)
{
    set_pattern(add_vcpu(v, true), work, rest, jitter);
}

void sim_set_pattern(struct sim_vm *v, uint64_t work, uint64_t rest, uint32_t jitter)
{
    for (uint32_t i = 0; i < v->count; i++)
        set_pattern(&v->vcpu[i], work, rest, jitter);
}

/* --- what is promised ------------------------------------------------------------------------ */

static double high_of(const struct sim_vm *v)
{
    double limit = v->share.terms.limit / 100.0;

    return limit > 0 ? fmin(limit, v->count) : v->count;
}

static double rate_at(const struct sim_vm *v, double lambda, double factor, double high)
{
    return fmin(fmax(lambda * factor * v->share.terms.weight, v->share.terms.reservation / 100.0),
                high);
}

/* Of all, if the others want all that they can use. Their bursts count, and their limits do not:
 * what those have saved up in their buckets may be used at once. */
static double total_at(double lambda, const struct sim_vm *v)
{
    double sum = rate_at(v, lambda, 1, high_of(v));

    for (uint32_t i = 0; i < sim.vms; i++) {
        const struct sim_vm *other = &sim.vm[i];

        if (other != v)
            sum += rate_at(other, lambda, other->share.terms.burst_ns ? SHARE_BURST_FACTOR : 1,
                           other->count);
    }
    return sum;
}

/* By bisection, as share_divide does not. */
double sim_promised(const struct sim_vm *v)
{
    double low = 0, high = 64;

    for (int i = 0; i < 60; i++) {
        double middle = (low + high) / 2;

        if (total_at(middle, v) > sim.cpus)
            high = middle;
        else
            low = middle;
    }
    return rate_at(v, high, 1, high_of(v));
}

void sim_promise(void)
{
    double all = 0;

    for (uint32_t i = 0; i < sim.vms; i++)
        all += sim.vm[i].share.terms.weight;
    for (uint32_t i = 0; i < sim.vms; i++) {
        struct sim_vm *v = &sim.vm[i];

        /* Who sleeps may owe something when it comes back: its reservation is sure. */
        v->sure = v->vcpu[0].rest ? v->share.terms.reservation / 100.0 : sim_promised(v);
        v->baseline = fmax((double)sim.cpus * v->share.terms.weight / all,
                           v->share.terms.reservation / 100.0);
        v->baseline = fmin(v->baseline, high_of(v));
        v->credit = (double)v->share.credit;
    }
}

uint64_t sim_ran(const struct sim_vm *v)
{
    uint64_t ran = v->ran;

    for (uint32_t i = 0; i < sim.cpus; i++)
        if (sim.cpu[i].runs && sim.cpu[i].runs->vm == v)
            ran += sim.now - sim.cpu[i].began;
    return ran;
}

/* Over any time: both are sums that begin anew where they have been lowest. */
static void account(uint64_t ns)
{
    for (uint32_t i = 0; i < sim.vms; i++) {
        struct sim_vm *v = &sim.vm[i];
        uint64_t now = sim_ran(v), ran = now - v->seen;

        v->seen = now;
        v->behind =
            v->share.runnable == v->count ? v->behind + v->sure * (double)ns - (double)ran : 0;
        v->behind = fmax(v->behind, 0);
        v->owed_most = fmax(v->behind, v->owed_most);
        v->credit = fmin(v->credit + v->baseline * (double)ns - (double)ran,
                         (double)v->share.terms.burst_ns);
        v->credit = fmax(
            v->credit, -16.0 * MS); /* less is not remembered: who has none gets but its weight's */
        CHECK(!v->share.terms.burst_ns ||
              (double)v->share.credit <= v->credit + 2.0 * v->count * SHARE_SLICE_NS);
        if (!v->share.terms.limit)
            continue;
        v->over += (double)ran - v->share.terms.limit / 100.0 * (double)ns;
        v->over = fmax(v->over, 0);
        v->over_most = fmax(v->over, v->over_most);
    }
}

/* --- what happens ---------------------------------------------------------------------------- */

static void dispatch(uint32_t i, struct share_vcpu *x, uint64_t until)
{
    struct sim_cpu *c = &sim.cpu[i];

    c->until = until;
    c->kicked = false;
    c->runs = NULL;
    if (!x)
        return;
    c->runs = container_of(x, struct sim_vcpu, share);
    c->began = sim.now;
    CHECK(until >= sim.now);
    for (uint32_t k = 0; k < sim.cpus; k++)
        CHECK(k == i || sim.cpu[k].runs != c->runs);
    if (c->runs->waits_first) {
        c->runs->waits_first = false;
        if (sim.latency_count < ARRAY_SIZE(sim.latency))
            sim.latency[sim.latency_count++] = sim.now - c->runs->woke;
    }
}

static void spread(void)
{
    uint32_t more = share_spread(&sim.share, sim.now);

    if (more != SHARE_NO_CPU)
        sim.cpu[more].kicked = true;
}

static void pick(uint32_t i)
{
    uint64_t until;
    struct share_vcpu *x = share_pick(&sim.share, i, sim.now, &until);

    dispatch(i, x, until);
    spread();
}

static void charge(struct sim_vcpu *x, uint64_t ran)
{
    x->ran += ran;
    x->vm->ran += ran;
    if (x->left != UINT64_MAX)
        x->left -= ran;
}

static void yield(uint32_t i)
{
    struct sim_cpu *c = &sim.cpu[i];
    struct sim_vcpu *x = c->runs;
    struct share_vcpu *next;
    uint64_t until;

    charge(x, sim.now - c->began);
    c->runs = NULL;
    next = share_yield(&sim.share, &x->share, sim.now, &until);
    if (next == &x->share) {
        c->runs = x;
        c->began = sim.now;
    } else {
        dispatch(i, next, until);
    }
    CHECK(c->runs);
}

/* What runs there stops, and may want to go on. */
static void stop(uint32_t i)
{
    struct sim_cpu *c = &sim.cpu[i];
    struct sim_vcpu *x = c->runs;
    bool more;

    if (!x)
        return;
    c->runs = NULL;
    charge(x, sim.now - c->began);
    more = x->left != 0;
    share_stop(&sim.share, &x->share, more, sim.now);
    if (!more)
        x->wakes_at = sim.now + varied(x->rest, x->jitter);
}

/* As a caller does in one what it may do in two. */
static void go_on(uint32_t i)
{
    struct sim_cpu *c = &sim.cpu[i];
    struct sim_vcpu *x = c->runs;
    struct share_vcpu *next;
    uint64_t ran = sim.now - c->began, until;

    if (!x || ran >= x->left || sim_random(2)) {
        stop(i);
        pick(i);
        return;
    }
    c->runs = NULL;
    charge(x, ran);
    next = share_next(&sim.share, &x->share, sim.now, &until);
    dispatch(i, next, until);
    spread();
}

static void wake(struct sim_vcpu *x)
{
    uint32_t cpu;

    x->wakes_at = UINT64_MAX;
    if (x->load)
        take_next_load(x);
    x->left = x->work == UINT64_MAX ? x->work : varied(x->work, x->jitter);
    if (!x->left)
        x->left = 1;
    x->woke = sim.now;
    x->waits_first = true;
    cpu = share_wake(&sim.share, &x->share, sim.now);
    if (cpu != SHARE_NO_CPU)
        sim.cpu[cpu].kicked = true;
}

static bool may_run(const struct sim_vcpu *x)
{
    return x->share.state == SHARE_READY &&
           (x->share.serves || !x->vm->share.terms.limit || x->vm->share.tokens >= 110000);
}

static uint64_t idle_cpus(void)
{
    uint64_t idle = 0;

    for (uint32_t i = 0; i < sim.cpus; i++)
        if (!sim.cpu[i].runs)
            idle |= BIT(i);
    return idle;
}

static void check_state(void)
{
    uint64_t idle = idle_cpus();

    for (uint32_t i = 0; idle && i < sim.vms; i++)
        for (uint32_t k = 0; k < sim.vm[i].all; k++)
            CHECK(!may_run(&sim.vm[i].vcpu[k]) || !(sim.vm[i].vcpu[k].share.mask & idle));
}

/* When it stops by itself. */
static uint64_t ends_at(const struct sim_cpu *c)
{
    uint64_t end = c->until;

    if (c->runs && c->runs->left != UINT64_MAX && c->began + c->runs->left < end)
        end = c->began + c->runs->left;
    return end;
}

static bool spins_out(const struct sim_cpu *c)
{
    return c->runs && c->runs->spins && c->began + c->runs->spins <= sim.now;
}

static uint64_t next_event(uint64_t end)
{
    uint64_t next = end;

    for (uint32_t i = 0; i < sim.cpus; i++) {
        const struct sim_cpu *c = &sim.cpu[i];

        if (c->kicked)
            return sim.now;
        if (ends_at(c) < next)
            next = ends_at(c);
        if (c->runs && c->runs->spins && c->began + c->runs->spins < next)
            next = c->began + c->runs->spins;
    }
    for (uint32_t i = 0; i < sim.vms; i++)
        for (uint32_t k = 0; k < sim.vm[i].all; k++)
            if (sim.vm[i].vcpu[k].wakes_at < next)
                next = sim.vm[i].vcpu[k].wakes_at;
    return next;
}

void sim_step(uint64_t end)
{
    uint64_t next = next_event(end);

    uint64_t ns = next > sim.now ? next - sim.now : 0;

    sim.now += ns;
    account(ns);
    for (uint32_t i = 0; i < sim.vms; i++)
        for (uint32_t k = 0; k < sim.vm[i].all; k++)
            if (sim.vm[i].vcpu[k].wakes_at <= sim.now)
                wake(&sim.vm[i].vcpu[k]);
    for (uint32_t i = 0; i < sim.cpus; i++)
        if (sim.cpu[i].kicked || ends_at(&sim.cpu[i]) <= sim.now) {
            go_on(i);
        } else if (spins_out(&sim.cpu[i])) {
            yield(i);
        }
    for (uint32_t i = 0; i < sim.cpus; i++)
        if (sim.cpu[i].kicked)
            return;
    check_state();
    sim.steps++;
}

void sim_run(uint64_t ns)
{
    uint64_t end = sim.now + ns;

    while (sim.now < end)
        sim_step(end);
}
