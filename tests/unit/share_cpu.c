/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * Who gets the processor (share/cpu.c), simulated: CPUs, VMs whose vCPUs compute, sleep and spin,
 * and a clock that jumps from event to event. At every step is checked, over any time that ends
 * there and by figures of its own (bisection, in floating point): nobody is behind what it was
 * promised; no limit is exceeded; credit comes from nothing but unused share; no CPU idles while
 * somebody may run; nobody runs twice at once. Then a search, by hill-climbing, for patterns with
 * which a guest gets more than its share.
 *
 * Usage: share_cpu [STEPS [SEED [CLIMBS]]]: steps of the random test, hills that are climbed for a
 * strategy.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "share/cpu.h"
#include "tests/lib/unit.h"

enum { VMS = 160, VCPUS = 4 };
#define MS ((uint64_t)1000000)

struct vm;

struct vcpu {
    struct share_vcpu share;
    struct vm *vm;
    uint64_t work, rest; /* the pattern: computes so long, then sleeps so long; rest 0: never */
    uint32_t jitter;     /* percent that they vary by */
    uint64_t spins;      /* after so long on a CPU, it yields to its siblings; 0: never */
    uint64_t left;       /* of the present work */
    uint64_t wakes_at;   /* UINT64_MAX: does not sleep */
    uint64_t ran;
    uint64_t woke;    /* when; for the latency */
    bool waits_first; /* has not run since */
};

struct vm {
    struct share_vm share;
    struct vcpu vcpu[VCPUS];
    uint32_t count;
    uint64_t ran, seen;
    double sure;              /* its share if all others wanted theirs, too */
    double behind, owed_most; /* that share's part of the time that it has wanted all its vCPUs,
                                 less what it ran */
    double over, over_most;   /* what it ran, less its limit's part of the time */
    double baseline, credit;  /* at which it saves up; what it can have at most */
};

struct cpu {
    struct vcpu *runs;
    uint64_t until, began;
    bool kicked;
};

static struct {
    struct share_cpus share;
    uint32_t cpus, vms;
    struct vm vm[VMS];
    struct cpu cpu[SHARE_CPUS];
    uint64_t now, random, steps, idle;
    uint64_t latency_count, latency[200000];
} sim;

static uint64_t steps = 300000, seed = 1;

static uint64_t random_below(uint64_t n)
{
    sim.random = sim.random * 6364136223846793005u + 1442695040888963407u;
    return n ? (sim.random >> 20) % n : 0;
}

static uint64_t varied(uint64_t ns, uint32_t jitter)
{
    uint64_t range = ns * jitter / 100;

    return range ? ns - range + random_below(2 * range + 1) : ns;
}

static void begin(uint32_t cpus, uint64_t number)
{
    memset(&sim, 0, sizeof sim);
    sim.cpus = cpus;
    sim.random = seed * 1000003 + number;
    sim.now = 1000 + random_below(MS);
    share_init(&sim.share, cpus);
    for (uint32_t i = 0; i < cpus; i++) {
        share_cpu_online(&sim.share, i);
        sim.cpu[i].until = UINT64_MAX;
    }
}

static struct vm *add_vm(struct share_terms terms, uint32_t count)
{
    struct vm *v = &sim.vm[sim.vms++];

    CHECK_EQ(share_check(&sim.share, NULL, &terms, count), OK);
    share_vm_add(&sim.share, &v->share, &terms, sim.now);
    v->count = count;
    for (uint32_t i = 0; i < count; i++) {
        struct vcpu *x = &v->vcpu[i];

        x->vm = v;
        x->work = UINT64_MAX;
        x->wakes_at = sim.now;
        share_vcpu_add(&sim.share, &v->share, &x->share, UINT64_MAX, false);
    }
    return v;
}

static void set_pattern(struct vm *v, uint64_t work, uint64_t rest, uint32_t jitter)
{
    for (uint32_t i = 0; i < v->count; i++) {
        v->vcpu[i].work = work;
        v->vcpu[i].rest = rest;
        v->vcpu[i].jitter = jitter;
        v->vcpu[i].wakes_at = sim.now + random_below(work + rest);
    }
}

/* --- what is promised ------------------------------------------------------------------------ */

static double high_of(const struct vm *v)
{
    double limit = v->share.terms.limit / 100.0;

    return limit > 0 ? fmin(limit, v->count) : v->count;
}

static double rate_at(const struct vm *v, double lambda, double factor, double high)
{
    return fmin(fmax(lambda * factor * v->share.terms.weight, v->share.terms.reservation / 100.0),
                high);
}

/* Of all, if the others want all that they can use. Their bursts count, and their limits do not:
 * what those have saved up in their buckets may be used at once. */
static double total_at(double lambda, const struct vm *v)
{
    double sum = rate_at(v, lambda, 1, high_of(v));

    for (uint32_t i = 0; i < sim.vms; i++) {
        const struct vm *other = &sim.vm[i];

        if (other != v)
            sum += rate_at(other, lambda, other->share.terms.burst_ns ? SHARE_BURST_FACTOR : 1,
                           other->count);
    }
    return sum;
}

/* By bisection, as share_divide does not. */
static double promised(const struct vm *v)
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

static void promise(void)
{
    double all = 0;

    for (uint32_t i = 0; i < sim.vms; i++)
        all += sim.vm[i].share.terms.weight;
    for (uint32_t i = 0; i < sim.vms; i++) {
        struct vm *v = &sim.vm[i];

        /* Who sleeps may owe something when it comes back: its reservation is sure. */
        v->sure = v->vcpu[0].rest ? v->share.terms.reservation / 100.0 : promised(v);
        v->baseline = fmax((double)sim.cpus * v->share.terms.weight / all,
                           v->share.terms.reservation / 100.0);
        v->baseline = fmin(v->baseline, high_of(v));
        v->credit = (double)v->share.credit;
    }
}

static uint64_t ran_until_now(const struct vm *v)
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
        struct vm *v = &sim.vm[i];
        uint64_t now = ran_until_now(v), ran = now - v->seen;

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
    struct cpu *c = &sim.cpu[i];

    c->until = until;
    c->kicked = false;
    c->runs = NULL;
    if (!x)
        return;
    c->runs = container_of(x, struct vcpu, share);
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

static void pick(uint32_t i)
{
    uint64_t until;
    struct share_vcpu *x = share_pick(&sim.share, i, sim.now, &until);
    uint32_t more;

    dispatch(i, x, until);
    more = share_spread(&sim.share, sim.now);
    if (more != SHARE_NO_CPU)
        sim.cpu[more].kicked = true;
}

static void charge(struct vcpu *x, uint64_t ran)
{
    x->ran += ran;
    x->vm->ran += ran;
    if (x->left != UINT64_MAX)
        x->left -= ran;
}

static void yield(uint32_t i)
{
    struct cpu *c = &sim.cpu[i];
    struct vcpu *x = c->runs;
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
    struct cpu *c = &sim.cpu[i];
    struct vcpu *x = c->runs;
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

static void wake(struct vcpu *x)
{
    uint32_t cpu;

    x->wakes_at = UINT64_MAX;
    x->left = x->work == UINT64_MAX ? x->work : varied(x->work, x->jitter);
    if (!x->left)
        x->left = 1;
    x->woke = sim.now;
    x->waits_first = true;
    cpu = share_wake(&sim.share, &x->share, sim.now);
    if (cpu != SHARE_NO_CPU)
        sim.cpu[cpu].kicked = true;
}

static bool may_run(const struct vcpu *x)
{
    return x->share.state == SHARE_READY &&
           (!x->vm->share.terms.limit || x->vm->share.tokens >= 110000);
}

static void check_state(void)
{
    uint32_t idle = 0;

    for (uint32_t i = 0; i < sim.cpus; i++)
        idle += !sim.cpu[i].runs;
    for (uint32_t i = 0; idle && i < sim.vms; i++)
        for (uint32_t k = 0; k < sim.vm[i].count; k++)
            CHECK(!may_run(&sim.vm[i].vcpu[k]));
}

/* When it stops by itself. */
static uint64_t ends_at(const struct cpu *c)
{
    uint64_t end = c->until;

    if (c->runs && c->runs->left != UINT64_MAX && c->began + c->runs->left < end)
        end = c->began + c->runs->left;
    return end;
}

static bool spins_out(const struct cpu *c)
{
    return c->runs && c->runs->spins && c->began + c->runs->spins <= sim.now;
}

static uint64_t next_event(uint64_t end)
{
    uint64_t next = end;

    for (uint32_t i = 0; i < sim.cpus; i++) {
        const struct cpu *c = &sim.cpu[i];

        if (c->kicked)
            return sim.now;
        if (ends_at(c) < next)
            next = ends_at(c);
        if (c->runs && c->runs->spins && c->began + c->runs->spins < next)
            next = c->began + c->runs->spins;
    }
    for (uint32_t i = 0; i < sim.vms; i++)
        for (uint32_t k = 0; k < sim.vm[i].count; k++)
            if (sim.vm[i].vcpu[k].wakes_at < next)
                next = sim.vm[i].vcpu[k].wakes_at;
    return next;
}

static void step(uint64_t end)
{
    uint64_t next = next_event(end);

    uint64_t ns = next > sim.now ? next - sim.now : 0;

    sim.now += ns;
    account(ns);
    for (uint32_t i = 0; i < sim.vms; i++)
        for (uint32_t k = 0; k < sim.vm[i].count; k++)
            if (sim.vm[i].vcpu[k].wakes_at <= sim.now)
                wake(&sim.vm[i].vcpu[k]);
    for (uint32_t i = 0; i < sim.cpus; i++)
        if (sim.cpu[i].kicked || ends_at(&sim.cpu[i]) <= sim.now) {
            stop(i);
            pick(i);
        } else if (spins_out(&sim.cpu[i])) {
            yield(i);
        }
    for (uint32_t i = 0; i < sim.cpus; i++)
        if (sim.cpu[i].kicked)
            return;
    check_state();
    sim.steps++;
}

static void run_for(uint64_t ns)
{
    uint64_t end = sim.now + ns;

    while (sim.now < end)
        step(end);
}

/* --- tests ----------------------------------------------------------------------------------- */

static struct share_terms weight(uint32_t w)
{
    return (struct share_terms){.weight = w};
}

static void check_shares(uint32_t cpus, const uint32_t *weights, uint32_t count, uint32_t vcpus)
{
    uint64_t before[VMS], sum = 0;

    begin(cpus, count * 100 + cpus);
    for (uint32_t i = 0; i < count; i++) {
        (void)add_vm(weight(weights[i]), vcpus);
        sum += weights[i];
    }
    promise();
    run_for(50 * MS + random_below(MS));
    for (uint32_t i = 0; i < count; i++) {
        before[i] = ran_until_now(&sim.vm[i]);
        sim.vm[i].behind = sim.vm[i].owed_most = 0;
    }
    run_for(1000 * MS);
    for (uint32_t i = 0; i < count; i++) {
        double got = (double)(ran_until_now(&sim.vm[i]) - before[i]);
        double want = 1000.0 * MS * cpus * weights[i] / (double)sum;

        if (got < want * 0.99 || got > want * 1.01)
            printf("cpus %u vm %u weight %u: %.4f of its share\n", cpus, i, weights[i], got / want);
        CHECK(got >= want * 0.99 && got <= want * 1.01);
        CHECK(sim.vm[i].owed_most <=
              2.0 * SHARE_SLICE_NS); /* by less than a slice at both ends of any time */
    }
}

static void test_weights(void)
{
    static const uint32_t equal[] = {100, 100, 100}, two[] = {200, 100}, ten[] = {1000, 100},
                          row[] = {100, 200, 400, 800};

    for (uint32_t cpus = 1; cpus <= 4; cpus++) {
        check_shares(cpus, equal, 2, 4);
        check_shares(cpus, equal, 3, 4);
        check_shares(cpus, two, 2, 4);
        check_shares(cpus, ten, 2, 4);
        check_shares(cpus, row, 4, 4);
    }
    check_shares(1, row, 4, 1);
    check_shares(2, equal, 3, 1);
    check_shares(2, two, 2, 2);
}

static double most_owed;

static void run_random(uint64_t number)
{
    uint32_t vms;

    begin(1 + (uint32_t)random_below(4), number);
    sim.cpus = 1 + (uint32_t)random_below(4);
    begin(sim.cpus, number);
    vms = 2 + (uint32_t)random_below(8);
    for (uint32_t i = 0; i < vms; i++) {
        struct share_terms t = weight(1 + (uint32_t)random_below(1000));
        uint32_t n = 1 + (uint32_t)random_below(VCPUS);
        struct vm *v;

        if (random_below(3) == 0)
            t.limit = 10 + (uint32_t)random_below(150);
        if (random_below(4) == 0)
            t.reservation = (uint32_t)random_below(sim.cpus * 100 / vms);
        if (random_below(3) == 0)
            t.burst_ns = random_below(200 * MS);
        if (t.limit && t.reservation > t.limit)
            t.reservation = t.limit;
        v = add_vm(t, n);
        if (random_below(2))
            set_pattern(v, 1000 + random_below(5 * MS), 1000 + random_below(10 * MS), 90);
    }
    promise();
    while (sim.steps < 2000)
        step(UINT64_MAX - 1);
    for (uint32_t i = 0; i < vms; i++) {
        const struct vm *v = &sim.vm[i];
        double bucket = (double)SHARE_BUCKET_NS * v->share.terms.limit / 100;

        CHECK(v->over_most <= bucket + v->count * SHARE_SLICE_NS);
        CHECK(v->owed_most <= (2.0 + sim.cpus) * SHARE_SLICE_NS + bucket);
        most_owed = fmax(most_owed, v->owed_most);
    }
}

static void test_random(void)
{
    uint64_t done = 0;

    for (uint64_t i = 0; done < steps; i++) {
        run_random(i);
        done += sim.steps;
    }
    printf("%" PRIu64 " steps: nobody was behind its share by more than %.3f ms\n", done,
           most_owed / 1e6);
}

/* --- bounds ---------------------------------------------------------------------------------- */

/* Percent of a CPU. */
static double used(struct vm *v, uint64_t ns)
{
    uint64_t before = ran_until_now(v);

    run_for(ns);
    return (double)(ran_until_now(v) - before) * 100 / (double)ns;
}

static bool is_about(double v, double wanted)
{
    return v > wanted * 0.99 && v < wanted * 1.01;
}

/* Against three greedy ones. */
static void test_reservation(void)
{
    for (uint32_t cpus = 1; cpus <= 2; cpus++) {
        struct vm *v;

        begin(cpus, 1);
        v = add_vm((struct share_terms){.weight = 1, .reservation = 50}, 2);
        for (int i = 0; i < 3; i++)
            (void)add_vm(weight(1000), 4);
        promise();
        run_for(10 * MS);
        CHECK(is_about(used(v, 1000 * MS), 50));
        CHECK(v->owed_most < 2 * SHARE_SLICE_NS);
    }
}

static void test_limit(void)
{
    for (uint32_t others = 0; others <= 3; others++) {
        struct vm *v;

        begin(2, 1);
        v = add_vm((struct share_terms){.weight = 1000, .limit = 30}, 2);
        for (uint32_t i = 0; i < others; i++)
            (void)add_vm(weight(100), 2);
        promise();
        run_for(100 * MS);
        CHECK(is_about(used(v, 1000 * MS), 30));
        for (uint32_t i = 0; i < others; i++)
            CHECK(is_about(used(&sim.vm[1 + i], 1000 * MS), others == 1 ? 170 : 170.0 / others));
    }
}

static struct share_terms bursting(uint64_t ns)
{
    return (struct share_terms){.weight = 100, .burst_ns = ns};
}

/* A quarter of the CPU is its share; with its weight four times, four sixths of what the
 * reservation leaves. */
static void test_credit(void)
{
    struct vm *v;
    uint64_t reserved;

    begin(1, 1);
    v = add_vm(bursting(100 * MS), 1);
    for (int i = 0; i < 2; i++)
        (void)add_vm(weight(100), 1);
    (void)add_vm((struct share_terms){.weight = 100, .reservation = 20}, 1);
    set_pattern(v, 1500 * MS, 1000 * MS, 0);
    v->vcpu[0].wakes_at = sim.now + 1000 * MS;
    promise();
    for (int i = 0; i < 3; i++) {
        double rich, poor;

        while (v->share.runnable == 0)
            step(UINT64_MAX - 1);
        reserved = ran_until_now(&sim.vm[3]);
        rich = used(v, 300 * MS);
        reserved = ran_until_now(&sim.vm[3]) - reserved;
        CHECK(reserved > 60 * MS - 2 * SHARE_SLICE_NS && reserved < 60 * MS + 2 * SHARE_SLICE_NS);
        CHECK(is_about(rich, 80 * 4 / 6.0));
        run_for(50 * MS);
        poor = used(v, 400 * MS);
        CHECK(is_about(poor, 25));
        while (v->share.runnable != 0)
            step(UINT64_MAX - 1);
    }
}

/* Two on one CPU, one that may run anywhere: it has the other CPU. */
static void test_pinned(void)
{
    struct vm *v[3];

    begin(2, 1);
    for (int i = 0; i < 3; i++)
        v[i] = add_vm(weight(100), 1);
    v[0]->vcpu[0].share.mask = v[1]->vcpu[0].share.mask = 1;
    run_for(50 * MS);
    CHECK(is_about(used(v[0], 1000 * MS), 50));
    CHECK(is_about(used(v[1], 1000 * MS), 50));
    CHECK(is_about(used(v[2], 1000 * MS), 100));
    CHECK_EQ(v[0]->vcpu[0].share.cpu, 0);
}

/* A vCPU that spins all the time, until its sibling has run: that gets the rest of each slice. */
static void test_yield(void)
{
    struct vm *v;

    begin(1, 1);
    v = add_vm(weight(100), 2);
    (void)add_vm(weight(100), 1);
    v->vcpu[0].spins = 20000;
    run_for(1000 * MS);
    CHECK(is_about(used(v, 1000 * MS), 50));
    CHECK(v->vcpu[0].ran * 20 < v->vcpu[1].ran);
}

/* What serves goes first, whoever else has a right to run, and its VM pays. */
static void test_serves(void)
{
    struct vm *v;
    struct vcpu *x;
    double all;

    begin(1, 1);
    v = add_vm((struct share_terms){.weight = 2000, .limit = 30}, 2);
    (void)add_vm((struct share_terms){.weight = 10000, .reservation = 60}, 1);
    x = &v->vcpu[1];
    share_vcpu_remove(&sim.share, &x->share);
    share_vcpu_add(&sim.share, &v->share, &x->share, UINT64_MAX, true);
    x->work = MS / 10;
    x->rest = MS;
    run_for(100 * MS);
    sim.latency_count = 0;
    all = used(v, 1000 * MS);
    CHECK(all > 16.5 && all < 16.9); /* its weight's; 100 us in each 1.1 ms of it serve */
    CHECK(sim.latency_count > 800);
    for (uint64_t i = 0; i < sim.latency_count; i++)
        CHECK_EQ(sim.latency[i], 0);
    CHECK(x->ran > 90 * MS);
}

/* Serving without end takes no more than what is its VM's: others have what they reserve. */
static void test_serves_without_end(void)
{
    for (uint32_t sleeps = 0; sleeps < 2; sleeps++) {
        struct vm *v, *reserves;
        struct vcpu *x;
        uint64_t before, since;
        double part;

        begin(1, 5);
        v = add_vm((struct share_terms){.weight = 100}, 2);
        reserves = add_vm((struct share_terms){.weight = 100, .reservation = 90}, 1);
        if (sleeps) {
            v->vcpu[0].work = 1000;
            v->vcpu[0].rest = 3 * MS;
        }
        x = &v->vcpu[1];
        share_vcpu_remove(&sim.share, &x->share);
        share_vcpu_add(&sim.share, &v->share, &x->share, UINT64_MAX, true);
        x->work = MS / 5;
        x->rest = MS * 3 / 10;
        run_for(1000 * MS);
        before = reserves->ran;
        since = sim.now;
        run_for(1000 * MS);
        part = (double)(reserves->ran - before) / (double)(sim.now - since);
        unit_context("its vCPU %s: %f", sleeps ? "sleeps" : "computes", part);
        CHECK(part > 0.89 && part < 0.93);
        CHECK(x->ran > 150 * MS); /* of two seconds */
        CHECK(reserves->share.reserve >= -(int64_t)(2 * MS)); /* it is counted whoever else is owed what */
    }
    unit_context(NULL);
}

/* Who is wanted by the operator goes first, whatever it owes, and is held by no limit. */
static void test_urgent(void)
{
    struct vm *v;
    uint64_t before;

    begin(1, 6);
    v = add_vm((struct share_terms){.weight = 1, .limit = 1}, 1);
    for (uint32_t i = 0; i < 3; i++)
        (void)add_vm((struct share_terms){.weight = 10000, .reservation = 30}, 1);
    run_for(500 * MS);
    before = v->ran;
    share_vm_urge(&v->share, true);
    run_for(20 * MS);
    CHECK(v->ran - before > 18 * MS);
    share_vm_urge(&v->share, false);
    run_for(2 * MS);
    before = v->ran;
    run_for(100 * MS);
    CHECK(v->ran - before < 2 * MS);
}

/* Who is given a limit after a long time without one owes nothing for that. */
static void test_limit_that_comes(void)
{
    struct share_terms terms = {.weight = 100};
    struct vm *v;
    uint64_t before, since;
    double part;

    begin(1, 7);
    v = add_vm(terms, 1);
    run_for(5000 * MS);
    terms.limit = 30;
    share_vm_set(&sim.share, &v->share, &terms, sim.now);
    before = v->ran;
    since = sim.now;
    run_for(200 * MS);
    part = (double)(v->ran - before) / (double)(sim.now - since);
    unit_context("%f", part);
    CHECK(part > 0.28 && part < 0.33);
    unit_context(NULL);
}

/* Going back and forth between what serves and what does not is no gain, and loses nobody's account. */
static void test_serves_at_times(void)
{
    struct vm *a, *b;
    uint64_t before_a, before_b;
    double part;

    begin(1, 2);
    a = add_vm((struct share_terms){.weight = 100}, 1);
    b = add_vm((struct share_terms){.weight = 100}, 1);
    run_for(10 * MS);
    before_a = a->ran;
    before_b = b->ran;
    for (uint32_t n = 0; n < 4000; n++) {
        run_for(MS / 4);
        if (sim.cpu[0].runs == &a->vcpu[0]) {
            share_vcpu_serve(&sim.share, &a->vcpu[0].share, true, sim.now);
            CHECK_EQ(a->share.runnable, 0);
            share_vcpu_serve(&sim.share, &a->vcpu[0].share, false, sim.now);
            CHECK_EQ(a->share.runnable, 1);
        }
    }
    part = (double)(a->ran - before_a) / (double)(a->ran - before_a + b->ran - before_b);
    CHECK(part > 0.49 && part < 0.505);
}

/* Those that run and those that are queued leave a CPU that they may not run on any more. */
static void test_pinned_anew(void)
{
    struct vm *v[2];
    uint64_t before;

    begin(2, 3);
    for (uint32_t i = 0; i < 2; i++)
        v[i] = add_vm((struct share_terms){.weight = 100}, 2);
    run_for(10 * MS);
    for (uint32_t i = 0; i < 2; i++)
        for (uint32_t k = 0; k < 2; k++) {
            uint32_t cpu = share_vcpu_pin(&sim.share, &v[i]->vcpu[k].share, 1 << i, sim.now);

            if (cpu != SHARE_NO_CPU)
                sim.cpu[cpu].kicked = true;
        }
    run_for(MS);
    before = v[0]->ran;
    for (uint32_t n = 0; n < 400; n++) {
        run_for(MS / 4);
        for (uint32_t i = 0; i < 2; i++)
            CHECK(!sim.cpu[i].runs || sim.cpu[i].runs->vm == v[i]);
    }
    CHECK(v[0]->ran - before > 98 * MS && v[0]->ran - before < 102 * MS);
}

/* What has been used until a moment counts what goes on. */
static void test_use_of(void)
{
    struct share_use use;
    struct vm *a, *b;

    begin(1, 4);
    a = add_vm((struct share_terms){.weight = 100}, 1);
    b = add_vm((struct share_terms){.weight = 100}, 1);
    for (uint32_t n = 0; n < 1000; n++) {
        uint64_t sum;

        run_for(1 + random_below(MS));
        use = share_use_of(&a->share, sim.now);
        sum = use.ran_ns + use.ready_ns;
        CHECK_EQ(sum, share_use_of(&b->share, sim.now).ran_ns + share_use_of(&b->share, sim.now).ready_ns);
        CHECK_EQ(use.ran_ns, share_use_of(&b->share, sim.now).ready_ns);
    }
}

/* --- latency --------------------------------------------------------------------------------- */

static int compare(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

    return x < y ? -1 : x > y;
}

/* Wakes, works for 1 ms, sleeps: among eight that spin. */
static void test_latency(void)
{
    for (uint32_t cpus = 1; cpus <= 4; cpus++) {
        begin(cpus, 1);
        set_pattern(add_vm(weight(100), 1), 1 * MS, 19 * MS, 20);
        for (int i = 0; i < 8; i++)
            (void)add_vm(weight(100), 1);
        run_for(20000 * MS);
        qsort(sim.latency, sim.latency_count, sizeof sim.latency[0], compare);
        printf("latency on %u CPUs: p50 %" PRIu64 " p99 %" PRIu64 " most %" PRIu64 " ns of %" PRIu64
               "\n",
               cpus, sim.latency[sim.latency_count / 2], sim.latency[sim.latency_count * 99 / 100],
               sim.latency[sim.latency_count - 1], sim.latency_count);
        CHECK(sim.latency_count > 700);
        CHECK(sim.latency[sim.latency_count * 99 / 100] < MS / 5);
    }
}

/* --- strategies ------------------------------------------------------------------------------ */

struct strategy {
    uint32_t vcpus, cpus, others;
    uint64_t burst_ns;
    struct {
        uint64_t work, rest, phase, spins;
        uint32_t jitter;
    } of[VCPUS];
};

static uint64_t log_random(uint64_t low, uint64_t high)
{
    uint64_t v = low;

    while (v < high && random_below(5))
        v = v * 2 + random_below(v);
    return v < high ? v : high;
}

static void change_vcpu(struct strategy *s, uint32_t i)
{
    switch (random_below(5)) {
    case 0:
        s->of[i].work = log_random(1000, 20 * MS);
        break;
    case 1:
        s->of[i].rest = log_random(1000, 20 * MS);
        break;
    case 2:
        s->of[i].phase = log_random(1000, 20 * MS);
        break;
    case 3:
        s->of[i].spins = random_below(2) ? log_random(5000, MS) : 0;
        break;
    default:
        s->of[i].jitter = (uint32_t)random_below(100);
    }
}

static struct strategy any_strategy(void)
{
    struct strategy s = {.vcpus = 1 + (uint32_t)random_below(VCPUS),
                         .cpus = 1 + (uint32_t)random_below(3),
                         .others = 1 + (uint32_t)random_below(4),
                         .burst_ns = random_below(2) ? 0 : random_below(100 * MS)};

    for (uint32_t i = 0; i < VCPUS; i++) {
        s.of[i].work = random_below(4) ? log_random(1000, 20 * MS) : UINT64_MAX;
        s.of[i].rest = log_random(1000, 20 * MS);
        s.of[i].phase = log_random(1000, 20 * MS);
        s.of[i].spins = random_below(4) ? 0 : log_random(5000, MS);
        s.of[i].jitter = random_below(2) ? 0 : (uint32_t)random_below(100);
    }
    return s;
}

static struct strategy changed(struct strategy s)
{
    for (uint64_t n = 1 + random_below(3); n > 0; n--)
        change_vcpu(&s, (uint32_t)random_below(s.vcpus));
    return s;
}

/* What it gets of its share, beyond a burst, in a time in which that is 400 ms. */
static double gain(const struct strategy *s)
{
    uint64_t random = sim.random, before, length;
    struct vm *v;
    double got;

    begin(s->cpus, 1);
    v = add_vm(bursting(s->burst_ns), s->vcpus);
    for (uint32_t i = 0; i < s->others; i++)
        (void)add_vm(weight(100), s->cpus);
    for (uint32_t i = 0; i < s->vcpus; i++) {
        v->vcpu[i].work = s->of[i].work;
        v->vcpu[i].rest = s->of[i].rest;
        v->vcpu[i].jitter = s->of[i].jitter;
        v->vcpu[i].spins = s->of[i].spins;
        v->vcpu[i].wakes_at = sim.now + s->of[i].phase;
    }
    promise();
    run_for(30 * MS);
    before = ran_until_now(v);
    length = (uint64_t)(400.0 * MS / promised(v));
    run_for(length);
    got = ((double)(ran_until_now(v) - before) - (double)s->burst_ns) / (400.0 * MS);
    sim.random = random;
    return got;
}

static uint32_t climbs = 8;

static void test_strategies(void)
{
    double most = 0;

    begin(1, 99);
    for (uint32_t i = 0; i < climbs; i++) {
        struct strategy best = any_strategy();
        double best_gain = gain(&best);

        for (uint32_t n = 0; n < 20; n++) {
            struct strategy other = changed(best);
            double g = gain(&other);

            if (g > best_gain) {
                best = other;
                best_gain = g;
            }
        }
        if (best_gain > 1.01)
            for (uint32_t k = 0; k < best.vcpus; k++)
                printf("  %.4f: {.vcpus=%u,.cpus=%u,.others=%u,.burst_ns=%lu} "
                       ".of[%u]={%lu,%lu,%lu,%lu,%u}\n",
                       best_gain, best.vcpus, best.cpus, best.others, best.burst_ns, k,
                       best.of[k].work, best.of[k].rest, best.of[k].phase, best.of[k].spins,
                       best.of[k].jitter);
        most = best_gain > most ? best_gain : most;
    }
    printf("the best strategy of %u climbs gets %.4f of its share\n", climbs, most);
    CHECK(most < 1.01);
}

int main(int argc, char **argv)
{
    if (getenv("LODGE_NIGHTLY")) {
        steps = 10000000;
        climbs = 300;
    }
    steps = argc > 1 ? strtoull(argv[1], NULL, 0) : steps;
    seed = argc > 2 ? strtoull(argv[2], NULL, 0) : seed;
    climbs = argc > 3 ? (uint32_t)strtoul(argv[3], NULL, 0) : climbs;
    UNIT_RUN(test_weights);
    UNIT_RUN(test_reservation);
    UNIT_RUN(test_limit);
    UNIT_RUN(test_credit);
    UNIT_RUN(test_pinned);
    UNIT_RUN(test_yield);
    UNIT_RUN(test_serves);
    UNIT_RUN(test_serves_without_end);
    UNIT_RUN(test_urgent);
    UNIT_RUN(test_limit_that_comes);
    UNIT_RUN(test_serves_at_times);
    UNIT_RUN(test_pinned_anew);
    UNIT_RUN(test_use_of);
    UNIT_RUN(test_latency);
    UNIT_RUN(test_random);
    UNIT_RUN(test_strategies);
    return unit_done();
}
