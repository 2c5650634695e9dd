/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * Who gets the processor (share/cpu.c), simulated, with what share_sim.h says checked at every step. Then a search, by
 * hill-climbing, for patterns with which a guest gets more than its share.
 *
 * Random machines: share_machines.c.
 *
 * Usage: share_cpu [CLIMBS [SEED]]: hills that are climbed for a strategy.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/lib/share_sim.h"
#include "tests/lib/unit.h"

/* --- tests ----------------------------------------------------------------------------------- */

static struct share_terms weight(uint32_t w)
{
    return (struct share_terms){.weight = w};
}

static void check_shares(uint32_t cpus, const uint32_t *weights, uint32_t count, uint32_t vcpus)
{
    uint64_t before[SIM_VMS], sum = 0;

    sim_begin(cpus, count * 100 + cpus);
    for (uint32_t i = 0; i < count; i++) {
        (void)sim_add_vm(weight(weights[i]), vcpus);
        sum += weights[i];
    }
    sim_promise();
    sim_run(50 * MS + sim_random(MS));
    for (uint32_t i = 0; i < count; i++) {
        before[i] = sim_ran(&sim.vm[i]);
        sim.vm[i].behind = sim.vm[i].owed_most = 0;
    }
    sim_run(1000 * MS);
    for (uint32_t i = 0; i < count; i++) {
        double got = (double)(sim_ran(&sim.vm[i]) - before[i]);
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

/* --- bounds ---------------------------------------------------------------------------------- */

/* Percent of a CPU. */
static double used(struct sim_vm *v, uint64_t ns)
{
    uint64_t before = sim_ran(v);

    sim_run(ns);
    return (double)(sim_ran(v) - before) * 100 / (double)ns;
}

static bool is_about(double v, double wanted)
{
    return v > wanted * 0.99 && v < wanted * 1.01;
}

/* Against three greedy ones. */
static void test_reservation(void)
{
    for (uint32_t cpus = 1; cpus <= 2; cpus++) {
        struct sim_vm *v;

        sim_begin(cpus, 1);
        v = sim_add_vm((struct share_terms){.weight = 1, .reservation = 50}, 2);
        for (int i = 0; i < 3; i++)
            (void)sim_add_vm(weight(1000), 4);
        sim_promise();
        sim_run(10 * MS);
        CHECK(is_about(used(v, 1000 * MS), 50));
        CHECK(v->owed_most < 2 * SHARE_SLICE_NS);
    }
}

static void test_limit(void)
{
    for (uint32_t others = 0; others <= 3; others++) {
        struct sim_vm *v;

        sim_begin(2, 1);
        v = sim_add_vm((struct share_terms){.weight = 1000, .limit = 30}, 2);
        for (uint32_t i = 0; i < others; i++)
            (void)sim_add_vm(weight(100), 2);
        sim_promise();
        sim_run(100 * MS);
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
    struct sim_vm *v;
    uint64_t reserved;

    sim_begin(1, 1);
    v = sim_add_vm(bursting(100 * MS), 1);
    for (int i = 0; i < 2; i++)
        (void)sim_add_vm(weight(100), 1);
    (void)sim_add_vm((struct share_terms){.weight = 100, .reservation = 20}, 1);
    sim_set_pattern(v, 1500 * MS, 1000 * MS, 0);
    v->vcpu[0].wakes_at = sim.now + 1000 * MS;
    sim_promise();
    for (int i = 0; i < 3; i++) {
        double rich, poor;

        while (v->share.runnable == 0)
            sim_step(UINT64_MAX - 1);
        reserved = sim_ran(&sim.vm[3]);
        rich = used(v, 300 * MS);
        reserved = sim_ran(&sim.vm[3]) - reserved;
        CHECK(reserved > 60 * MS - 2 * SHARE_SLICE_NS && reserved < 60 * MS + 2 * SHARE_SLICE_NS);
        CHECK(is_about(rich, 80 * 4 / 6.0));
        sim_run(50 * MS);
        poor = used(v, 400 * MS);
        CHECK(is_about(poor, 25));
        while (v->share.runnable != 0)
            sim_step(UINT64_MAX - 1);
    }
}

/* Two on one CPU, one that may run anywhere: it has the other CPU. */
static void test_pinned(void)
{
    struct sim_vm *v[3];

    sim_begin(2, 1);
    for (int i = 0; i < 3; i++)
        v[i] = sim_add_vm(weight(100), 1);
    v[0]->vcpu[0].share.mask = v[1]->vcpu[0].share.mask = 1;
    sim_run(50 * MS);
    CHECK(is_about(used(v[0], 1000 * MS), 50));
    CHECK(is_about(used(v[1], 1000 * MS), 50));
    CHECK(is_about(used(v[2], 1000 * MS), 100));
    CHECK_EQ(v[0]->vcpu[0].share.cpu, 0);
}

/* A vCPU that spins all the time, until its sibling has run: that gets the rest of each slice. */
static void test_yield(void)
{
    struct sim_vm *v;

    sim_begin(1, 1);
    v = sim_add_vm(weight(100), 2);
    (void)sim_add_vm(weight(100), 1);
    v->vcpu[0].spins = 20000;
    sim_run(1000 * MS);
    CHECK(is_about(used(v, 1000 * MS), 50));
    CHECK(v->vcpu[0].ran * 20 < v->vcpu[1].ran);
}

/* What serves goes first, whoever else has a right to run, and its VM pays. */
static void test_serves(void)
{
    struct sim_vm *v;
    struct sim_vcpu *x;
    double all;

    sim_begin(1, 1);
    v = sim_add_vm((struct share_terms){.weight = 2000, .limit = 30}, 2);
    (void)sim_add_vm((struct share_terms){.weight = 10000, .reservation = 60}, 1);
    x = &v->vcpu[1];
    share_vcpu_remove(&sim.share, &x->share);
    share_vcpu_add(&sim.share, &v->share, &x->share, UINT64_MAX, true);
    x->work = MS / 10;
    x->rest = MS;
    sim_run(100 * MS);
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
        struct sim_vm *v, *reserves;
        struct sim_vcpu *x;
        uint64_t before, since;
        double part;

        sim_begin(1, 5);
        v = sim_add_vm((struct share_terms){.weight = 100}, 2);
        reserves = sim_add_vm((struct share_terms){.weight = 100, .reservation = 90}, 1);
        if (sleeps) {
            v->vcpu[0].work = 1000;
            v->vcpu[0].rest = 3 * MS;
        }
        x = &v->vcpu[1];
        share_vcpu_remove(&sim.share, &x->share);
        share_vcpu_add(&sim.share, &v->share, &x->share, UINT64_MAX, true);
        x->work = MS / 5;
        x->rest = MS * 3 / 10;
        sim_run(1000 * MS);
        before = reserves->ran;
        since = sim.now;
        sim_run(1000 * MS);
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
    struct sim_vm *v;
    uint64_t before;

    sim_begin(1, 6);
    v = sim_add_vm((struct share_terms){.weight = 1, .limit = 1}, 1);
    for (uint32_t i = 0; i < 3; i++)
        (void)sim_add_vm((struct share_terms){.weight = 10000, .reservation = 30}, 1);
    sim_run(500 * MS);
    before = v->ran;
    share_vm_urge(&v->share, true);
    sim_run(20 * MS);
    CHECK(v->ran - before > 18 * MS);
    share_vm_urge(&v->share, false);
    sim_run(2 * MS);
    before = v->ran;
    sim_run(100 * MS);
    CHECK(v->ran - before < 2 * MS);
}

/* Who is given a limit after a long time without one owes nothing for that. */
static void test_limit_that_comes(void)
{
    struct share_terms terms = {.weight = 100};
    struct sim_vm *v;
    uint64_t before, since;
    double part;

    sim_begin(1, 7);
    v = sim_add_vm(terms, 1);
    sim_run(5000 * MS);
    terms.limit = 30;
    share_vm_set(&sim.share, &v->share, &terms, sim.now);
    before = v->ran;
    since = sim.now;
    sim_run(200 * MS);
    part = (double)(v->ran - before) / (double)(sim.now - since);
    unit_context("%f", part);
    CHECK(part > 0.28 && part < 0.33);
    unit_context(NULL);
}

/* One that sleeps and wakes faster than divisions may follow makes others lose nothing to those of tiny weight; nor where all is
 * reserved, so that theirs is next to nothing. */
static void test_sleeps_fast(void)
{
    for (uint32_t reserved = 0; reserved < 2; reserved++) {
        struct share_terms terms = {.weight = reserved ? 1 : 1000, .reservation = reserved ? 100 : 0}, tiny = {.weight = 1};
        struct sim_vm *computes, *sleeps;
        uint64_t before, of_sleeper;

        sim_begin(2, 1);
        computes = sim_add_vm(terms, 1);
        sleeps = sim_add_vm(terms, 1);
        sim_set_pattern(sleeps, 70 * US, 33 * US, 50);
        sim_set_pattern(sim_add_vm(tiny, 1), 50 * US, 200 * US, 50);
        (void)sim_add_vm(tiny, 1);
        (void)sim_add_vm(tiny, 1);
        sim_run(300 * MS);
        before = sim_ran(computes);
        of_sleeper = sim_ran(sleeps);
        sim_run(600 * MS);
        unit_context("%s", reserved ? "all is reserved" : "great weights");
        CHECK(sim_ran(computes) - before >= 594 * MS);
        CHECK(sim_ran(sleeps) - of_sleeper >= 600 * MS * 6 / 10); /* of 68 % that it wants */
    }
    unit_context(NULL);
}

/* Going back and forth between what serves and what does not is no gain, and loses nobody's account. */
static void test_serves_at_times(void)
{
    struct sim_vm *a, *b;
    uint64_t before_a, before_b;
    double part;

    sim_begin(1, 2);
    a = sim_add_vm((struct share_terms){.weight = 100}, 1);
    b = sim_add_vm((struct share_terms){.weight = 100}, 1);
    sim_run(10 * MS);
    before_a = a->ran;
    before_b = b->ran;
    for (uint32_t n = 0; n < 4000; n++) {
        sim_run(MS / 4);
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
    struct sim_vm *v[2];
    uint64_t before;

    sim_begin(2, 3);
    for (uint32_t i = 0; i < 2; i++)
        v[i] = sim_add_vm((struct share_terms){.weight = 100}, 2);
    sim_run(10 * MS);
    for (uint32_t i = 0; i < 2; i++)
        for (uint32_t k = 0; k < 2; k++) {
            uint32_t cpu = share_vcpu_pin(&sim.share, &v[i]->vcpu[k].share, 1 << i, sim.now);

            if (cpu != SHARE_NO_CPU)
                sim.cpu[cpu].kicked = true;
        }
    sim_run(MS);
    before = v[0]->ran;
    for (uint32_t n = 0; n < 400; n++) {
        sim_run(MS / 4);
        for (uint32_t i = 0; i < 2; i++)
            CHECK(!sim.cpu[i].runs || sim.cpu[i].runs->vm == v[i]);
    }
    CHECK(v[0]->ran - before > 98 * MS && v[0]->ran - before < 102 * MS);
}

/* What has been used until a moment counts what goes on. */
static void test_use_of(void)
{
    struct share_use use;
    struct sim_vm *a, *b;

    sim_begin(1, 4);
    a = sim_add_vm((struct share_terms){.weight = 100}, 1);
    b = sim_add_vm((struct share_terms){.weight = 100}, 1);
    for (uint32_t n = 0; n < 1000; n++) {
        uint64_t sum;

        sim_run(1 + sim_random(MS));
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
        sim_begin(cpus, 1);
        sim_set_pattern(sim_add_vm(weight(100), 1), 1 * MS, 19 * MS, 20);
        for (int i = 0; i < 8; i++)
            (void)sim_add_vm(weight(100), 1);
        sim_run(20000 * MS);
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
    } of[SIM_VCPUS];
};

static uint64_t log_random(uint64_t low, uint64_t high)
{
    uint64_t v = low;

    while (v < high && sim_random(5))
        v = v * 2 + sim_random(v);
    return v < high ? v : high;
}

static void change_vcpu(struct strategy *s, uint32_t i)
{
    switch (sim_random(5)) {
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
        s->of[i].spins = sim_random(2) ? log_random(5000, MS) : 0;
        break;
    default:
        s->of[i].jitter = (uint32_t)sim_random(100);
    }
}

static struct strategy any_strategy(void)
{
    struct strategy s = {.vcpus = 1 + (uint32_t)sim_random(SIM_VCPUS),
                         .cpus = 1 + (uint32_t)sim_random(3),
                         .others = 1 + (uint32_t)sim_random(4),
                         .burst_ns = sim_random(2) ? 0 : sim_random(100 * MS)};

    for (uint32_t i = 0; i < SIM_VCPUS; i++) {
        s.of[i].work = sim_random(4) ? log_random(1000, 20 * MS) : UINT64_MAX;
        s.of[i].rest = log_random(1000, 20 * MS);
        s.of[i].phase = log_random(1000, 20 * MS);
        s.of[i].spins = sim_random(4) ? 0 : log_random(5000, MS);
        s.of[i].jitter = sim_random(2) ? 0 : (uint32_t)sim_random(100);
    }
    return s;
}

static struct strategy changed(struct strategy s)
{
    for (uint64_t n = 1 + sim_random(3); n > 0; n--)
        change_vcpu(&s, (uint32_t)sim_random(s.vcpus));
    return s;
}

/* What it gets of its share, beyond a burst, in a time in which that is 400 ms. */
static double gain(const struct strategy *s)
{
    uint64_t random = sim.random, before, length;
    struct sim_vm *v;
    double got;

    sim_begin(s->cpus, 1);
    v = sim_add_vm(bursting(s->burst_ns), s->vcpus);
    for (uint32_t i = 0; i < s->others; i++)
        (void)sim_add_vm(weight(100), s->cpus);
    for (uint32_t i = 0; i < s->vcpus; i++) {
        v->vcpu[i].work = s->of[i].work;
        v->vcpu[i].rest = s->of[i].rest;
        v->vcpu[i].jitter = s->of[i].jitter;
        v->vcpu[i].spins = s->of[i].spins;
        v->vcpu[i].wakes_at = sim.now + s->of[i].phase;
    }
    sim_promise();
    sim_run(30 * MS);
    before = sim_ran(v);
    length = (uint64_t)(400.0 * MS / sim_promised(v));
    sim_run(length);
    got = ((double)(sim_ran(v) - before) - (double)s->burst_ns) / (400.0 * MS);
    sim.random = random;
    return got;
}

static uint32_t climbs = 8;

static void test_strategies(void)
{
    double most = 0;

    sim_begin(1, 99);
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
    if (getenv("LODGE_NIGHTLY"))
        climbs = 300;
    climbs = argc > 1 ? (uint32_t)strtoul(argv[1], NULL, 0) : climbs;
    sim_seed = argc > 2 ? strtoull(argv[2], NULL, 0) : sim_seed;
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
    UNIT_RUN(test_sleeps_fast);
    UNIT_RUN(test_serves_at_times);
    UNIT_RUN(test_pinned_anew);
    UNIT_RUN(test_use_of);
    UNIT_RUN(test_latency);
    UNIT_RUN(test_strategies);
    return unit_done();
}
