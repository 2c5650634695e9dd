/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * Threads and who runs (native/thread.c, thread.S, scheduler.c), on simulated CPUs under random interleavings
 * (tests/lib/native/sim.h, which watches that no thread is run twice at once, that no CPU sleeps while a thread is
 * ready, and spin locks): fair within a slice, quick for who wakes, time accounted for, what a thread left in its
 * CPU put away in time, threads made and ended without a leak.
 *
 * Usage: native_scheduler [SESSIONS [SEED]]: per test.
 */
#include <stdlib.h>
#include <string.h>

#include "native/cpu.h"
#include "tests/lib/native/sim.h"
#include "tests/lib/unit.h"

enum { THREADS = 24, POINTS = 20000000, SLICE = SHARE_SLICE_NS, STEP_NS = 20000, MS = 1000000 };

static uint32_t sessions = 24;
static uint64_t seed = 1;
static struct thread *worker[THREADS];
static uint32_t workers;

static bool all_ended(void)
{
    for (uint32_t i = 0; i < workers; i++)
        if (!atomic_load(&worker[i]->ended))
            return false;
    return true;
}

static void session_begin(uint32_t cpus, uint32_t number)
{
    sim_begin(cpus, seed * 1000003 + number);
    workers = 0;
}

static void add_worker(void (*function)(void *), uint64_t arg)
{
    worker[workers++] = sim_thread("worker", function, (void *)(uintptr_t)arg);
}

static void session_run(void)
{
    if (!sim_run(all_ended, POINTS)) {
        CHECK(!"a session comes to its end");
        abort();
    }
}

static void session_end(void)
{
    session_run();
    sim_end();
    CHECK_EQ(sim_allocations(), 0);
}

/* --- shares --- */

static uint64_t stop_at;
static uint64_t ran[THREADS], ready[THREADS];

/* Computes until the end, at which it notes its accounts, as of the last time that it was switched in. */
static void spins(void *arg)
{
    uint32_t me = (uint32_t)(uintptr_t)arg;

    while (sim_now() < stop_at)
        sim_work(1 + sim_random(STEP_NS));
    ran[me] = thread_current()->share.ran_ns + (sim_now() - thread_current()->share.since);
    ready[me] = seam_steal_ns();
}

static uint64_t spread_of(const uint64_t *v, uint32_t count)
{
    uint64_t low = UINT64_MAX, high = 0;

    for (uint32_t i = 0; i < count; i++) {
        low = v[i] < low ? v[i] : low;
        high = v[i] > high ? v[i] : high;
    }
    return high - low;
}

static void test_fair_within_a_slice(void)
{
    for (uint32_t n = 0; n < sessions; n++) {
        uint32_t cpus = 1 + n % 4, count = cpus + 1 + n % 7;
        uint64_t began, total = 0;

        session_begin(cpus, n);
        began = sim_now();
        stop_at = began + (100 + sim_random(100)) * MS;
        for (uint32_t i = 0; i < count; i++)
            add_worker(spins, i);
        session_run();
        unit_context("%u threads on %u CPUs", count, cpus);
        CHECK(spread_of(ran, count) <= SLICE + 2 * STEP_NS);
        for (uint32_t i = 0; i < count; i++) {
            total += ran[i];
            /* all of its life is one of the two: it never waited (to within the steps at either end) */
            CHECK(ran[i] + ready[i] <= sim_now() - began);
            CHECK(ran[i] + ready[i] + 10 * STEP_NS * count >= stop_at - began);
        }
        /* all CPUs were busy all of the time */
        CHECK(total <= (sim_now() - began) * cpus);
        CHECK(total + 20 * STEP_NS * cpus >= (stop_at - began) * cpus);
        session_end();
    }
    unit_context(NULL);
}

/* The same while others come and go: each that computes has at least a fair share. */
static void comes_and_goes(void *arg)
{
    _Atomic uint32_t word = 0;

    while (sim_now() < stop_at) {
        if (sim_random(2))
            sim_work(1 + sim_random((uintptr_t)arg));
        seam_wait(&word, 0, sim_now() + 1 + sim_random((uintptr_t)arg));
    }
}

static void test_fair_beside_sleepers(void)
{
    static const uint64_t manner[] = {100000, 1 * MS, 5 * MS, 20 * MS};

    for (uint32_t n = 0; n < sessions; n++) {
        uint32_t cpus = 1 + n % 3, spinners = cpus + 1 + n % 3, sleepers = 1 + n % 5;
        uint64_t length = 200 * MS, least;

        session_begin(cpus, n);
        stop_at = sim_now() + length;
        for (uint32_t i = 0; i < spinners; i++)
            add_worker(spins, i);
        for (uint32_t i = 0; i < sleepers; i++)
            add_worker(comes_and_goes, manner[(n + i) % 4]);
        session_end();
        unit_context("%u threads and %u sleepers on %u CPUs", spinners, sleepers, cpus);
        least = length * cpus / (spinners + sleepers);
        for (uint32_t i = 0; i < spinners; i++)
            CHECK(ran[i] + 2 * SLICE >= least);
        CHECK(spread_of(ran, spinners) <= 2 * SLICE);
    }
    unit_context(NULL);
}

/* One that slept for long does not get back what it did not use; one that was alone for long does not pay for it. */
static void sleeps_then_spins(void *arg)
{
    _Atomic uint32_t word = 0;

    seam_wait(&word, 0, stop_at - 100 * MS);
    spins(arg);
}

static void test_sleep_is_not_saved_up(void)
{
    for (uint32_t n = 0; n < 4; n++) {
        session_begin(1 + n % 2, n);
        stop_at = sim_now() + 1000 * MS;
        for (uint32_t i = 0; i <= n % 2; i++)
            add_worker(spins, i); /* as many as CPUs: alone for 900 ms */
        for (uint32_t i = 0; i < 2; i++)
            add_worker(sleeps_then_spins, n % 2 + 1 + i);
        session_end();
        /* the last 100 ms are shared by all */
        for (uint32_t i = 0; i < workers; i++) {
            uint64_t late = i <= n % 2 ? ran[i] - 900 * MS : ran[i];
            uint64_t fair = 100 * MS * (1 + n % 2) / workers;

            CHECK(late + 2 * SLICE >= fair && late <= fair + 2 * SLICE);
        }
    }
}

/* --- the meter --- */

enum { ACCOUNTS = 4, VCPUS = 3 };

static struct account account[ACCOUNTS];
static struct account *accounts[ACCOUNTS];
static uint64_t worked[ACCOUNTS]; /* in guest code */
static uint32_t metered_cpus;

/* At any moment all CPUs' time is somebody's, once. Others work while it is looked at. */
static void meter_adds_up(void)
{
    struct scheduler_use all;
    struct account_use use[ACCOUNTS];
    uint64_t sum, before[ACCOUNTS];

    memcpy(before, worked, sizeof(before));
    scheduler_measure(&all, accounts, use, ACCOUNTS);
    sum = all.before_ns + all.idle_ns + all.own_ns;
    for (uint32_t i = 0; i < ACCOUNTS; i++) {
        sum += use[i].ran_ns;
        CHECK(use[i].guest_ns <= use[i].ran_ns);
        CHECK(use[i].guest_ns >= before[i]);
        CHECK(use[i].guest_ns <= worked[i] + VCPUS * 2 * STEP_NS); /* and what goes on */
    }
    CHECK_EQ(sum, all.now * metered_cpus);
}

static void is_metered(void *arg)
{
    uint32_t me = (uint32_t)(uintptr_t)arg;
    _Atomic uint32_t word = 0;

    while (sim_now() < stop_at) {
        uint64_t ns = 1 + sim_random(STEP_NS);

        sim_work(ns);
        worked[me] += ns;
        if (sim_random(4) == 0)
            seam_wait(&word, 0, sim_now() + 1 + sim_random(2 * MS));
        if (sim_random(8) == 0)
            meter_adds_up();
    }
}

static void come_and_measure(void *arg)
{
    _Atomic uint32_t word = 0;

    (void)arg;
    while (sim_now() < stop_at) {
        meter_adds_up();
        seam_wait(&word, 0, sim_now() + 1 + sim_random(MS));
    }
}

static void test_meter_adds_up(void)
{
    static const struct share_terms terms = {.weight = 100};

    for (uint32_t n = 0; n < sessions; n++) {
        session_begin(metered_cpus = 1 + n % 4, n);
        memset(account, 0, sizeof(account));
        memset(worked, 0, sizeof(worked));
        stop_at = sim_now() + 50 * MS;
        for (uint32_t i = 0; i < ACCOUNTS; i++) {
            accounts[i] = &account[i];
            scheduler_account_add(&account[i], &terms);
            for (uint32_t k = 0; k < 1 + n % VCPUS; k++)
                worker[workers++] = sim_thread_for(&account[i], "vCPU", is_metered, (void *)(uintptr_t)i);
        }
        add_worker(come_and_measure, 0);
        session_end();
    }
}

static void only_computes(void *arg)
{
    uint32_t me = (uint32_t)(uintptr_t)arg;

    while (sim_now() < stop_at) {
        uint64_t ns = 1 + sim_random(STEP_NS);

        sim_work(ns);
        worked[me] += ns;
    }
}

/* Who computes beside a VM that its limit holds is left alone: what it is charged for is its work. */
static void test_beside_a_limit(void)
{
    static const struct share_terms limited = {.weight = 100, .limit = 30}, plain = {.weight = 100};

    for (uint32_t n = 0; n < sessions; n++) {
        struct scheduler_use all;
        struct account_use use[ACCOUNTS];

        session_begin(1, n);
        memset(account, 0, sizeof(account));
        memset(worked, 0, sizeof(worked));
        stop_at = sim_now() + 200 * MS;
        for (uint32_t i = 0; i < ACCOUNTS; i++) {
            accounts[i] = &account[i];
            scheduler_account_add(&account[i], i ? &plain : &limited);
        }
        for (uint32_t i = 0; i < 2; i++)
            worker[workers++] = sim_thread_for(&account[i], "vCPU", only_computes, (void *)(uintptr_t)i);
        session_run();
        scheduler_measure(&all, accounts, use, ACCOUNTS);
        CHECK(worked[1] * 100 >= use[1].ran_ns * 97);
        CHECK(use[0].ran_ns <= 60 * MS + SHARE_BUCKET_NS / 10 * 3 + SLICE + STEP_NS);
        CHECK(use[0].ran_ns + 2 * SLICE >= 60 * MS);
        session_end();
    }
}

/* --- latency --- */

static uint64_t latest;

static void ticks(void *arg)
{
    _Atomic uint32_t word = 0;

    while (sim_now() < stop_at) {
        uint64_t deadline = sim_now() + 1 + sim_random((uintptr_t)arg);

        seam_wait(&word, 0, deadline);
        if (sim_now() - deadline > latest)
            latest = sim_now() - deadline;
        sim_work(1 + sim_random(2000));
    }
}

static void test_who_wakes_runs_soon(void)
{
    for (uint32_t n = 0; n < sessions; n++) {
        uint32_t cpus = 1 + n % 4;

        latest = 0;
        session_begin(cpus, n);
        stop_at = sim_now() + 100 * MS;
        for (uint32_t i = 0; i < 2 * cpus + n % 3; i++)
            add_worker(spins, i);
        add_worker(ticks, 3 * MS);
        session_end();
        CHECK(latest < 10000);
    }
}

/* The same for one that another thread wakes, which goes on computing; on one CPU it has to give way itself. */
static _Atomic uint32_t bell;
static uint64_t rung_at;

static void rings(void *arg)
{
    (void)arg;
    while (sim_now() < stop_at) {
        sim_work(MS + sim_random(2 * MS));
        rung_at = sim_now();
        atomic_fetch_add(&bell, 1);
        seam_wake(&bell, false);
    }
}

static void hears(void *arg)
{
    uint32_t heard = atomic_load(&bell);

    (void)arg;
    while (sim_now() < stop_at) {
        seam_wait(&bell, heard, stop_at);
        if (atomic_load(&bell) != heard && sim_now() - rung_at > latest)
            latest = sim_now() - rung_at;
        heard = atomic_load(&bell);
        sim_work(1 + sim_random(2000));
    }
}

static void test_who_is_woken_runs_soon(void)
{
    for (uint32_t n = 0; n < sessions; n++) {
        uint32_t cpus = 1 + n % 4;

        latest = 0;
        session_begin(cpus, n);
        stop_at = sim_now() + 100 * MS;
        for (uint32_t i = 0; i < cpus - 1; i++)
            add_worker(spins, i); /* with the one that rings, as many as CPUs: they are level with it */
        add_worker(hears, 0);
        add_worker(rings, 0);
        session_end();
        CHECK(latest < 10000);
    }
}

/* One that was alone for long, without anybody to compare with, is not made to pay when it comes back. */
static void is_alone_first(void *arg)
{
    _Atomic uint32_t word = 0;

    sim_work(500 * MS);
    seam_wait(&word, 0, sim_now() + 10 * MS);
    spins(arg);
}

static void comes_later(void *arg)
{
    _Atomic uint32_t word = 0;

    seam_wait(&word, 0, stop_at - 105 * MS);
    spins(arg);
}

static void test_alone_is_not_paid_for(void)
{
    session_begin(1, 1);
    stop_at = sim_now() + 610 * MS;
    add_worker(is_alone_first, 0);
    add_worker(comes_later, 1);
    session_end();
    CHECK(ran[0] + 2 * SLICE >= 550 * MS);
    CHECK(ran[1] + 2 * SLICE >= 50 * MS);
}

/* --- yield --- */

static uint32_t turns[2], in_a_row, longest_row, last_turn;

static void yields(void *arg)
{
    uint32_t me = (uint32_t)(uintptr_t)arg;

    for (uint32_t i = 0; i < 200; i++) {
        sim_work(1 + sim_random(1000));
        turns[me]++;
        in_a_row = last_turn == me ? in_a_row + 1 : 1;
        last_turn = me;
        if (in_a_row > longest_row && turns[!me] > 0 && turns[!me] < 200)
            longest_row = in_a_row;
        seam_yield();
    }
}

static void test_yield(void)
{
    session_begin(1, 1);
    memset(turns, 0, sizeof(turns));
    in_a_row = longest_row = 0;
    add_worker(yields, 0);
    add_worker(yields, 1);
    session_end();
    CHECK_EQ(turns[0], 200);
    CHECK_EQ(longest_row, 1);
}

/* One that has slept, and so has more right to the CPU, yields: somebody else runs. */
static uint64_t let_run;

static void sleeps_then_yields(void *arg)
{
    _Atomic uint32_t word = 0;
    const struct thread *other = worker[0];

    for (uint64_t left = (uintptr_t)arg; left; left--) {
        uint64_t before;

        seam_wait(&word, 0, sim_now() + 20 * MS);
        do { /* maybe first to the one that ticks */
            before = other->share.ran_ns;
            seam_yield();
        } while (other->share.ran_ns == before);
        if (other->share.ran_ns - before < let_run)
            let_run = other->share.ran_ns - before;
    }
}

static void test_yield_gives_way(void)
{
    session_begin(1, 1);
    let_run = UINT64_MAX;
    stop_at = sim_now() + 300 * MS;
    add_worker(spins, 0);
    add_worker(ticks, MS / 10);
    add_worker(sleeps_then_yields, 8);
    session_end();
    CHECK(let_run < 2 * SLICE);
}

/* One that yields until something has happened, which needs a deadline of its own CPU and a thread behind it in the
 * queue. */
static bool happened;

static void happens(void *arg)
{
    _Atomic uint32_t word = 0;

    seam_wait(&word, 0, sim_now() + (uintptr_t)arg);
    happened = true;
}

static void yields_until(void *arg)
{
    (void)arg;
    while (!happened)
        seam_yield();
}

static void test_yield_lets_time_pass(void)
{
    for (uint32_t n = 0; n < sessions; n++) {
        happened = false;
        session_begin(1 + n % 3, n);
        add_worker(happens, 50000);
        for (uint32_t i = 0; i < 1 + n % 4; i++)
            add_worker(yields_until, 0);
        session_end();
        CHECK(happened);
    }
}

/* --- what a thread leaves in its CPU (hw_on_switch) --- */

static struct left {
    struct thread *owner;
    uint32_t cpu;
    bool loaded;
    uint64_t times;
} left[THREADS];
static struct left *loaded_on[SIM_CPUS];

static void leave(void *owner)
{
    struct left *l = owner;

    CHECK(l->loaded);
    CHECK_EQ(l->cpu, this_cpu()->index);
    CHECK(thread_current() == l->owner);
    CHECK(sim_locks_held() <= 1); /* the scheduler's */
    CHECK(loaded_on[l->cpu] == l);
    loaded_on[l->cpu] = NULL;
    l->loaded = false;
    l->times++;
}

static void load(struct left *l)
{
    uint32_t cpu = this_cpu()->index;

    CHECK(!loaded_on[cpu]); /* who was here before has put his away */
    loaded_on[cpu] = l;
    l->loaded = true;
    l->cpu = cpu;
    hw_on_switch(leave, l);
}

static void enters(void *arg)
{
    struct left *l = &left[(uintptr_t)arg];
    _Atomic uint32_t word = 0;

    l->owner = thread_current();
    while (sim_now() < stop_at) {
        if (!l->loaded)
            load(l);
        CHECK_EQ(l->cpu, this_cpu()->index);
        sim_work(1 + sim_random(MS));
        if (l->loaded && sim_random(8) == 0) { /* put away by itself */
            hw_on_switch(NULL, NULL);
            loaded_on[l->cpu] = NULL;
            l->loaded = false;
        }
        if (sim_random(8) == 0)
            seam_wait(&word, 0, sim_now() + 1 + sim_random(MS));
        if (sim_random(8) == 0)
            seam_yield();
    }
}

static void test_left_in_the_cpu(void)
{
    for (uint32_t n = 0; n < sessions; n++) {
        uint64_t times = 0;
        uint32_t count = 2 + n % 6;

        memset(left, 0, sizeof(left));
        memset(loaded_on, 0, sizeof(loaded_on));
        session_begin(1 + n % 3, n);
        stop_at = sim_now() + 50 * MS;
        for (uint32_t i = 0; i < count; i++)
            add_worker(enters, i);
        session_end();
        for (uint32_t i = 0; i < count; i++) {
            CHECK(!left[i].loaded); /* also at a thread's end */
            times += left[i].times;
        }
        CHECK(times > count);
    }
}

/* --- threads made and ended --- */

static uint32_t grown;

static void grows(void *arg)
{
    uint32_t depth = (uint32_t)(uintptr_t)arg;
    struct thread *child[3];
    uint32_t children = depth ? (uint32_t)sim_random(4) : 0;

    grown++;
    for (uint32_t i = 0; i < children; i++)
        child[i] = sim_thread("child", grows, (void *)(uintptr_t)(depth - 1));
    if (sim_random(2))
        sim_work(sim_random(10000));
    for (uint32_t i = 0; i < children; i++)
        sim_join(child[i]);
}

static void test_made_and_ended(void)
{
    grown = 0;
    for (uint32_t n = 0; n < sessions; n++) {
        session_begin(1 + n % 4, n);
        add_worker(grows, 4);
        add_worker(grows, 4);
        session_end();
    }
    CHECK(grown > 4 * sessions);
}

static void never_runs(void *arg)
{
    (void)arg;
    CHECK(!"a thread runs that was not made");
}

static void test_no_memory_for_a_thread(void)
{
    session_begin(2, 1);
    for (uint32_t nth = 1; nth <= 2; nth++) {
        uint32_t before = sim_allocations();
        struct thread *t;

        sim_fail_allocation(nth);
        CHECK_EQ(thread_create(&t, "never", never_runs, NULL), ERR_NO_MEMORY);
        CHECK(t == NULL);
        CHECK_EQ(sim_allocations(), before);
    }
    add_worker(happens, 1);
    session_end();
}

/* --- CPUs: all of them work when there is work, and none when there is none --- */

static uint32_t cpus_seen;

static void notes_cpu(void *arg)
{
    (void)arg;
    sim_work(3 * MS);
    cpus_seen |= 1u << this_cpu()->index;
}

static bool never(void)
{
    return false;
}

static void test_all_cpus(void)
{
    for (uint32_t cpus = 1; cpus <= SIM_CPUS; cpus++) {
        uint64_t began;

        session_begin(cpus, cpus);
        cpus_seen = 0;
        began = sim_now();
        for (uint32_t i = 0; i < cpus; i++)
            add_worker(notes_cpu, 0);
        session_run();
        CHECK_EQ(cpus_seen, (1u << cpus) - 1);
        CHECK(sim_now() - began < 4 * MS);
        /* Nothing to do: a timer that was armed for the last slice comes, and then nothing ever. */
        CHECK(!sim_run(never, 100000));
        began = sim_points();
        CHECK(!sim_run(never, 100000));
        CHECK_EQ(sim_points(), began);
        session_end();
    }
}

int main(int argc, char **argv)
{
    if (argc > 1)
        sessions = (uint32_t)strtoul(argv[1], NULL, 10);
    if (argc > 2)
        seed = strtoull(argv[2], NULL, 10);
    UNIT_RUN(test_fair_within_a_slice);
    UNIT_RUN(test_fair_beside_sleepers);
    UNIT_RUN(test_meter_adds_up);
    UNIT_RUN(test_beside_a_limit);
    UNIT_RUN(test_sleep_is_not_saved_up);
    UNIT_RUN(test_who_wakes_runs_soon);
    UNIT_RUN(test_who_is_woken_runs_soon);
    UNIT_RUN(test_alone_is_not_paid_for);
    UNIT_RUN(test_yield);
    UNIT_RUN(test_yield_gives_way);
    UNIT_RUN(test_yield_lets_time_pass);
    UNIT_RUN(test_left_in_the_cpu);
    UNIT_RUN(test_made_and_ended);
    UNIT_RUN(test_no_memory_for_a_thread);
    UNIT_RUN(test_all_cpus);
    printf("%llu points\n", (unsigned long long)sim_points());
    return unit_done();
}
