/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * Waiting on a word, deadlines, and a VM's timers (native/wait.c, guest_timer.c), on simulated CPUs under random
 * interleavings (tests/lib/native/sim.h): no wake-up is lost, none is spent on who has given up, deadlines are kept
 * and come in their order.
 *
 * Usage: native_wait [SESSIONS [SEED]]: per test.
 */
#include <stdlib.h>
#include <string.h>

#include "core/lock.h"
#include "core/vm.h"
#include "native/cpu.h"
#include "native/guest.h"
#include "tests/lib/native/sim.h"
#include "tests/lib/unit.h"

enum { THREADS = 16, POINTS = 4000000, LATE_NS = 20000 };

static uint32_t sessions = 200;
static uint64_t seed = 1;
static struct thread *worker[THREADS];
static uint32_t workers;
static uint64_t passed; /* points in this test */

/* --- frame: a session is a machine of 1 to 4 CPUs with some workers, until all have ended --- */

static bool all_ended(void)
{
    for (uint32_t i = 0; i < workers; i++)
        if (!atomic_load(&worker[i]->ended))
            return false;
    return true;
}

static void session_begin(uint32_t number)
{
    sim_begin(1 + number % 4, seed * 1000003 + number);
    workers = 0;
}

static void add_worker(void (*function)(void *), uint64_t arg)
{
    worker[workers++] = sim_thread("worker", function, (void *)(uintptr_t)arg);
}

static void session_end(void)
{
    uint64_t before = sim_points();

    if (!sim_run(all_ended, POINTS)) {
        CHECK(!"a session comes to its end: no wake-up is lost");
        abort();
    }
    passed += sim_points() - before;
    sim_end();
    CHECK_EQ(sim_allocations(), 0);
}

/* --- semaphores: what is given is taken, by who waits with and without deadlines --- */

static _Atomic uint32_t sem;
static uint32_t given, taken, timeouts;
static bool impatient;

static bool sem_take(uint64_t deadline)
{
    for (;;) {
        uint32_t v = atomic_load(&sem);

        sim_point();
        if (v) {
            if (atomic_compare_exchange_strong(&sem, &v, v - 1))
                return true;
            continue;
        }
        if (sim_now() >= deadline)
            return false;
        seam_wait(&sem, 0, deadline);
    }
}

static void taker(void *arg)
{
    for (uint64_t left = (uintptr_t)arg; left; left--) {
        while (!sem_take(impatient ? sim_now() + sim_random(3000) : UINT64_MAX))
            timeouts++;
        taken++;
        if (sim_random(4) == 0)
            sim_work(sim_random(2000));
    }
}

static void giver(void *arg)
{
    for (uint64_t left = (uintptr_t)arg; left; left--) {
        given++;
        atomic_fetch_add(&sem, 1);
        sim_point();
        seam_wake(&sem, false);
        if (sim_random(3) == 0)
            sim_work(sim_random(4000));
        else if (sim_random(3) == 0)
            seam_yield();
    }
}

static void semaphores(bool with_deadlines)
{
    timeouts = 0;
    impatient = with_deadlines;
    for (uint32_t n = 0; n < sessions; n++) {
        uint32_t pairs;

        session_begin(n);
        given = taken = 0;
        pairs = 1 + (uint32_t)sim_random(THREADS / 2);
        for (uint32_t i = 0; i < pairs; i++) {
            add_worker(taker, 20);
            add_worker(giver, 20);
        }
        session_end();
        CHECK_EQ(given, 20 * pairs);
        CHECK_EQ(taken, given);
        CHECK_EQ(atomic_load(&sem), 0);
    }
}

static void test_semaphores(void)
{
    semaphores(false);
    CHECK_EQ(timeouts, 0);
}

static void test_semaphores_with_deadlines(void)
{
    semaphores(true);
    CHECK(timeouts > sessions); /* else the races have not been there */
}

/* A wake-up of one is not spent on waiters whose deadline came first. It is sent when the deadlines have claimed
 * them, which may still stand in the queue: before the patient one, who is in it behind them. */
static uint32_t patient_took, found_queued;

static void patient(void *arg)
{
    (void)arg;
    CHECK(sem_take(UINT64_MAX));
    patient_took++;
}

static void gives_up(void *arg)
{
    seam_wait(&sem, 0, sim_now() + (uintptr_t)arg); /* takes nothing, even if there is something */
}

static void gives_one(void *arg)
{
    (void)arg;
    while (!atomic_load(&worker[0]->woken) || !atomic_load(&worker[1]->woken) || !worker[2]->queued)
        sim_work(1 + sim_random(40));
    found_queued += worker[0]->queued || worker[1]->queued;
    atomic_fetch_add(&sem, 1);
    seam_wake(&sem, false);
}

static void test_wake_up_of_who_gave_up(void)
{
    patient_took = found_queued = 0;
    for (uint32_t n = 0; n < sessions * 8; n++) {
        session_begin(n);
        add_worker(gives_up, 2000 + n % 5 * 20);
        add_worker(gives_up, 2000);
        add_worker(patient, 0);
        add_worker(gives_one, 0);
        session_end();
        CHECK_EQ(atomic_load(&sem), 0);
    }
    CHECK_EQ(patient_took, sessions * 8);
    CHECK(found_queued > 0); /* else the race has not been there */
}

/* --- the sleeping mutex of core/lock.c --- */

static struct lock mutex;
static uint32_t inside, entered;

static void locker(void *arg)
{
    for (uint64_t left = (uintptr_t)arg; left; left--) {
        lock_take(&mutex);
        CHECK_EQ(inside++, 0);
        sim_point();
        if (sim_random(3) == 0)
            sim_work(sim_random(1000));
        entered++;
        inside--;
        lock_release(&mutex);
        if (sim_random(2) == 0)
            sim_point();
    }
}

static void test_mutex(void)
{
    for (uint32_t n = 0; n < sessions; n++) {
        uint32_t count = 2 + n % (THREADS - 1);

        session_begin(n);
        lock_init(&mutex, LOCK_RANK_DEVICE);
        entered = 0;
        for (uint32_t i = 0; i < count; i++)
            add_worker(locker, 30);
        session_end();
        CHECK_EQ(entered, 30 * count);
    }
}

/* --- a barrier: wake all --- */

static _Atomic uint32_t arrived, generation;
static uint32_t barrier_rounds[THREADS], barrier_size;

static void barrier(void)
{
    uint32_t now = atomic_load(&generation);

    sim_point();
    if (atomic_fetch_add(&arrived, 1) + 1 == barrier_size) {
        atomic_store(&arrived, 0);
        atomic_store(&generation, now + 1);
        sim_point();
        seam_wake(&generation, true);
        return;
    }
    while (atomic_load(&generation) == now)
        seam_wait(&generation, now, sim_random(2) ? UINT64_MAX : sim_now() + sim_random(5000));
}

static void meets(void *arg)
{
    uint32_t me = (uint32_t)(uintptr_t)arg;

    for (uint32_t round = 1; round <= 15; round++) {
        if (sim_random(3) == 0)
            sim_work(sim_random(3000));
        barrier_rounds[me] = round;
        barrier();
        for (uint32_t i = 0; i < barrier_size; i++)
            CHECK(barrier_rounds[i] == round || barrier_rounds[i] == round + 1);
    }
}

static void test_barrier(void)
{
    for (uint32_t n = 0; n < sessions; n++) {
        session_begin(n);
        memset(barrier_rounds, 0, sizeof(barrier_rounds));
        barrier_size = 2 + n % (THREADS - 1);
        for (uint32_t i = 0; i < barrier_size; i++)
            add_worker(meets, i);
        session_end();
        CHECK_EQ(barrier_rounds[0], 15);
    }
}

/* --- words that are different are not mixed up, though many share a queue --- */

static _Atomic uint32_t many[2048];
static uint32_t woken_early;

static void waits_for_one(void *arg)
{
    _Atomic uint32_t *word = &many[(uintptr_t)arg];

    seam_wait(word, 0, UINT64_MAX);
    if (atomic_load(word) == 0)
        woken_early++;
}

static void wakes_each(void *arg)
{
    sim_work(10000); /* all wait */
    for (uint32_t i = 0; i < ARRAY_SIZE(many); i++) {
        bool wanted = false;

        for (uint32_t k = 0; k < (uintptr_t)arg; k++)
            wanted |= k * 131 == i;
        if (!wanted)
            seam_wake(&many[i], true); /* of a queue-mate: nobody is woken */
    }
    for (uint32_t k = 0; k < (uintptr_t)arg; k++) {
        atomic_store(&many[k * 131], 1);
        seam_wake(&many[k * 131], false);
    }
}

static void test_words_apart(void)
{
    memset(many, 0, sizeof(many));
    woken_early = 0;
    session_begin(3);
    for (uint32_t k = 0; k < THREADS - 1; k++)
        add_worker(waits_for_one, k * 131);
    add_worker(wakes_each, THREADS - 1);
    session_end();
    CHECK_EQ(woken_early, 0);
}

/* --- deadlines --- */

static uint64_t last_deadline, latest;
static bool ordered;

static void sleeper(void *arg)
{
    for (uint64_t left = (uintptr_t)arg; left; left--) {
        _Atomic uint32_t word = 0;
        uint64_t deadline = sim_now() + 1 + sim_random(sim_random(2) ? 3000000 : 300);

        seam_wait(&word, 0, deadline);
        CHECK(sim_now() >= deadline);
        if (sim_now() - deadline > latest)
            latest = sim_now() - deadline;
    }
}

static void test_deadlines_are_kept(void)
{
    latest = 0;
    for (uint32_t n = 0; n < sessions; n++) {
        session_begin(n);
        for (uint32_t i = 0; i < 2 + n % (THREADS - 1); i++)
            add_worker(sleeper, 25);
        session_end();
    }
    CHECK(latest < LATE_NS);
}

/* Nobody but the deadlines' order: all sleep before the first is due. */
static void sleeps_in_order(void *arg)
{
    _Atomic uint32_t word = 0;
    uint64_t deadline = (uint64_t)(uintptr_t)arg;

    seam_wait(&word, 0, deadline);
    ordered &= deadline >= last_deadline;
    last_deadline = deadline;
}

static void test_deadlines_in_order(void)
{
    for (uint32_t n = 0; n < sessions; n++) {
        session_begin(0); /* one CPU: with more, two that are due may overtake each other */
        ordered = true;
        last_deadline = 0;
        for (uint32_t i = 0; i < THREADS; i++)
            add_worker(sleeps_in_order, sim_now() + 1000000 + sim_random(100000));
        session_end();
        CHECK(ordered);
    }
}

static void waits_for_the_past(void *arg)
{
    _Atomic uint32_t word = 0;
    uint64_t before;

    (void)arg;
    seam_wait(&word, 0, 0);
    before = sim_now();
    seam_wait(&word, 0, before);
    seam_wait(&word, 1, UINT64_MAX); /* not what is there */
    CHECK(sim_now() - before < LATE_NS);
}

static void test_no_wait(void)
{
    session_begin(0);
    add_worker(waits_for_the_past, 0);
    session_end();
}

/* One CPU that is never idle and comes to no preemption point: two threads that wake each other. The third's
 * deadline is kept all the same. */
static _Atomic uint32_t ball;
static uint64_t third_late;
static bool third_is_back;

static void plays(void *arg)
{
    uint32_t me = (uint32_t)(uintptr_t)arg;

    while (!third_is_back) {
        uint32_t v = atomic_load(&ball);

        if (v % 2 != me) {
            seam_wait(&ball, v, UINT64_MAX);
            continue;
        }
        atomic_store(&ball, v + 1);
        seam_wake(&ball, true);
    }
    atomic_fetch_add(&ball, 1);
    seam_wake(&ball, true);
}

static void third(void *arg)
{
    _Atomic uint32_t word = 0;
    uint64_t deadline = sim_now() + (uintptr_t)arg;

    seam_wait(&word, 0, deadline);
    third_late = sim_now() - deadline;
    third_is_back = true;
}

static void test_deadline_among_players(void)
{
    session_begin(0);
    third_is_back = false;
    add_worker(plays, 0);
    add_worker(plays, 1);
    add_worker(third, 200000);
    session_end();
    CHECK(third_late < LATE_NS);
}

/* --- a VM's timers --- */

enum { TIMERS = 12 };

static struct vm vm;
static struct guest guest;
static struct timer_of_test {
    struct vm_timer timer;
    uint64_t due;
    uint32_t fired;
    _Atomic uint32_t word;
} timer[TIMERS];
static uint64_t timer_late;

static void timer_fires(void *owner)
{
    struct timer_of_test *t = owner;
    uint64_t now = vm_clock_ns(&vm);

    CHECK(now >= t->due);
    if (now - t->due > timer_late)
        timer_late = now - t->due;
    t->fired++;
    atomic_fetch_add(&t->word, 1);
    seam_wake(&t->word, true);
}

static void uses_timer(void *arg)
{
    struct timer_of_test *t = &timer[(uintptr_t)arg];

    for (uint32_t i = 0; i < 20; i++) {
        uint32_t before = atomic_load(&t->word);

        t->due = vm_clock_ns(&vm) + sim_random(sim_random(2) ? 200000 : 500);
        vm_timer_set(&vm, &t->timer, t->due);
        while (atomic_load(&t->word) == before)
            seam_wait(&t->word, before, UINT64_MAX);
        CHECK_EQ(t->fired, i + 1);
    }
}

static void runs_vm(void *arg)
{
    struct thread *user[TIMERS];

    (void)arg;
    CHECK_EQ(guest_timer_start(&guest), OK);
    vm_clock_start(&vm);
    for (uint64_t i = 0; i < TIMERS; i++)
        user[i] = sim_thread("user", uses_timer, (void *)(uintptr_t)i);
    for (uint64_t i = 0; i < TIMERS; i++)
        sim_join(user[i]);
    guest_timer_end(&guest);
    vm_clock_stop(&vm);
}

static void test_vm_timers(void)
{
    timer_late = 0;
    for (uint32_t n = 0; n < sessions / 4 + 4; n++) {
        session_begin(n);
        memset(&vm, 0, sizeof(vm));
        vm_init(&vm, "test");
        guest_init(&guest, &vm);
        scheduler_account_add(&guest.account, &(struct share_terms){.weight = 100});
        for (uint32_t i = 0; i < TIMERS; i++) {
            timer[i] = (struct timer_of_test){.due = 0};
            vm_timer_init(&timer[i].timer, timer_fires, &timer[i]);
        }
        add_worker(runs_vm, 0);
        session_end();
    }
    CHECK(timer_late < LATE_NS * 2);
}

/* The end of a VM, waited for. */
static bool had_enough, saw_stop;

static void waits_for_stop(void *arg)
{
    (void)arg;
    CHECK(!guest_wait_stopped(&guest, sim_now() + 1000));
    had_enough = true;
    saw_stop = guest_wait_stopped(&guest, UINT64_MAX);
}

static void stops(void *arg)
{
    while (!had_enough)
        sim_work(100);
    sim_work(sim_random(300));
    CHECK(!saw_stop);
    vm_stop(&vm, VM_STOP_USER, 0, "%s", (const char *)arg);
}

static void test_vm_stop(void)
{
    for (uint32_t n = 0; n < sessions; n++) {
        session_begin(n);
        memset(&vm, 0, sizeof(vm));
        vm_init(&vm, "test");
        guest_init(&guest, &vm);
        had_enough = saw_stop = false;
        add_worker(waits_for_stop, 0);
        add_worker(stops, (uint64_t)(uintptr_t) "enough");
        session_end();
        CHECK(saw_stop);
    }
}

int main(int argc, char **argv)
{
    if (argc > 1)
        sessions = (uint32_t)strtoul(argv[1], NULL, 10);
    if (argc > 2)
        seed = strtoull(argv[2], NULL, 10);
    UNIT_RUN(test_semaphores);
    UNIT_RUN(test_semaphores_with_deadlines);
    UNIT_RUN(test_wake_up_of_who_gave_up);
    UNIT_RUN(test_mutex);
    UNIT_RUN(test_barrier);
    UNIT_RUN(test_words_apart);
    UNIT_RUN(test_deadlines_are_kept);
    UNIT_RUN(test_deadlines_in_order);
    UNIT_RUN(test_no_wait);
    UNIT_RUN(test_deadline_among_players);
    UNIT_RUN(test_vm_timers);
    UNIT_RUN(test_vm_stop);
    printf("%llu points\n", (unsigned long long)passed);
    return unit_done();
}
