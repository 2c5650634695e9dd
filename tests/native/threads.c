/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * Threads on a real machine's CPUs: linked into an image of its own (make native-test: build/lodge-native-test) in
 * place of home_start, by the linker's --wrap. What native/'s unit tests simulate (tests/unit/native_*.c) is here
 * done by real interrupts, clocks and memory order: wake-ups between CPUs, deadlines, preemption, a VM's timers, many
 * threads.
 *
 * The result is one line, "threads: N checks, M failed"; each that fails says its place. On the command line:
 * "threads-long" for a million rounds of ping-pong, else 2,000; "threads-exact" where a machine's clock does not go
 * on while something else runs on its host (QEMU with -icount): times have tight bounds then, else they are printed.
 */
#include <stdatomic.h>

#include "core/assert.h"
#include "core/lock.h"
#include "core/vm.h"
#include "engine/hw.h"
#include "native/boot_info.h"
#include "native/cpu.h"
#include "native/frames.h"
#include "native/guest.h"
#include "native/log.h"
#include "native/main.h"
#include "native/power.h"
#include "native/thread.h"

enum { MS = 1000000, MANY = 64 };

static uint64_t late_max, spread_max;

static _Atomic uint32_t checks, failed;

static void check(bool ok, int line, const char *what)
{
    atomic_fetch_add(&checks, 1);
    if (ok)
        return;
    if (atomic_fetch_add(&failed, 1) < 20)
        log_line("threads: line %d: %s", line, what);
}

static void nap(uint64_t ns)
{
    _Atomic uint32_t word = 0;

    seam_wait(&word, 0, seam_time_ns() + ns);
}
#define CHECK(x) check((x), __LINE__, #x)

static struct thread *start(const char *name, void (*function)(void *), void *arg)
{
    struct thread *t;

    if (thread_create(&t, name, function, arg) != OK)
        panic("no memory for a thread");
    return t;
}

/* Not random, but not regular either; each caller has a state of its own. */
static uint32_t next(uint32_t *state)
{
    *state = *state * 1664525 + 1013904223;
    return *state >> 8;
}

/* As in guest code: interrupts are taken. */
static void work(uint64_t ns)
{
    uint64_t until = seam_time_ns() + ns;

    while (seam_time_ns() < until)
        hw_preempt_point();
}

/* --- ping-pong --- */

static _Atomic uint32_t ball, arrived;
static uint32_t rounds, turns, elsewhere, cpu_of_last;
static bool between_cpus;
static struct thread *_Atomic player[2];

/* Between CPUs: the other one is out of its CPU before it is woken, and this one stays on its own until that has
 * come, so that it is another. */
static void await_sleep(uint32_t me)
{
    while (between_cpus && !__atomic_load_n(&atomic_load(&player[!me])->queued, __ATOMIC_ACQUIRE))
        __builtin_ia32_pause();
}

static void await_arrival(uint32_t turn)
{
    while (between_cpus && turn < turns && atomic_load(&arrived) <= turn)
        __builtin_ia32_pause();
}

/* Turn v is player v % 2's: so each has to be woken by the other, again and again. */
static void plays(void *arg)
{
    uint32_t me = (uint32_t)(uint64_t)arg;

    atomic_store(&player[me], thread_current());
    while (!atomic_load(&player[!me]))
        seam_yield();
    for (uint32_t v = me; v < turns; v += 2) {
        uint32_t seen;

        while ((seen = atomic_load(&ball)) != v)
            seam_wait(&ball, seen, UINT64_MAX);
        elsewhere += cpu_of_last != hw_cpu();
        cpu_of_last = hw_cpu();
        atomic_store(&arrived, v + 1);
        if (v + 1 < turns)
            await_sleep(me);
        atomic_store(&ball, v + 1);
        seam_wake(&ball, false);
        await_arrival(v + 1);
    }
}

static void ping_pong(bool between)
{
    uint64_t from = seam_time_ns(), took;
    struct thread *a, *b;

    between_cpus = between;
    turns = 2 * rounds;
    elsewhere = 0;
    atomic_store(&ball, 0);
    atomic_store(&arrived, 0);
    atomic_store(&player[0], NULL);
    atomic_store(&player[1], NULL);
    a = start("ping", plays, (void *)0);
    b = start("pong", plays, (void *)1);
    thread_join(a);
    thread_join(b);
    took = seam_time_ns() - from;
    CHECK(atomic_load(&ball) == turns);
    CHECK(!between || elsewhere >= turns - 1);
    log_line("threads: %u rounds of ping-pong%s, %llu ns each; %u of %u turns on another CPU than the last", rounds,
             between ? " between CPUs" : "", (unsigned long long)(took / rounds), elsewhere, turns);
}

/* --- deadlines --- */

static struct sleeper {
    struct thread *thread;
    uint64_t latest;
    uint32_t state, early;
} sleeper[MANY];

static void sleeps(void *arg)
{
    struct sleeper *s = arg;

    for (uint32_t i = 0; i < 40; i++) {
        _Atomic uint32_t word = 0;
        uint64_t deadline = seam_time_ns() + next(&s->state) % (20 * MS), now;

        seam_wait(&word, 0, deadline);
        now = seam_time_ns();
        s->early += now < deadline;
        if (now > deadline && now - deadline > s->latest)
            s->latest = now - deadline;
    }
}

static void deadlines(void)
{
    uint64_t latest = 0, from = seam_time_ns();

    for (uint32_t i = 0; i < MANY; i++) {
        sleeper[i] = (struct sleeper){.state = i};
        sleeper[i].thread = start("sleeper", sleeps, &sleeper[i]);
    }
    for (uint32_t i = 0; i < MANY; i++) {
        thread_join(sleeper[i].thread);
        CHECK(sleeper[i].early == 0);
        latest = sleeper[i].latest > latest ? sleeper[i].latest : latest;
    }
    CHECK(latest < late_max);
    log_line("threads: %u deadlines of %u threads in %llu ms; the latest by %llu us", 40 * MANY, MANY,
             (unsigned long long)((seam_time_ns() - from) / MS), (unsigned long long)(latest / 1000));
}

/* --- many threads, one lock --- */

static struct lock mutex;
static uint64_t counted;
static uint32_t inside;

static void counts(void *arg)
{
    uint32_t state = (uint32_t)(uint64_t)arg;

    for (uint32_t i = 0; i < 500; i++) {
        lock_take(&mutex);
        CHECK(inside++ == 0);
        counted++;
        if (next(&state) % 16 == 0)
            seam_yield(); /* with the lock held: the others have to wait for it */
        inside--;
        lock_release(&mutex);
        if (next(&state) % 32 == 0)
            work(next(&state) % (MS / 4));
    }
}

static void many_threads(void)
{
    struct thread *t[MANY];
    uint64_t from = seam_time_ns();

    lock_init(&mutex, LOCK_RANK_DEVICE);
    for (uint64_t i = 0; i < MANY; i++)
        t[i] = start("counter", counts, (void *)i);
    for (uint32_t i = 0; i < MANY; i++)
        thread_join(t[i]);
    CHECK(counted == 500 * MANY);
    CHECK(seam_lock_trace()->depth == 0);
    log_line("threads: %u threads took one lock %llu times in %llu ms", MANY, (unsigned long long)counted,
             (unsigned long long)((seam_time_ns() - from) / MS));
}

/* --- preemption, and what a thread leaves in its CPU --- */

static struct spinner {
    struct thread *thread;
    uint64_t ran, steal, leaves, stood_still;
    uint32_t wrong, cpus, on;
    bool loaded;
} spinner[8];
static struct spinner *_Atomic loaded_on[HW_CPUS];
static uint64_t stop_at;

static void leave(void *owner)
{
    struct spinner *s = owner;

    s->wrong += !s->loaded || s->on != hw_cpu() || atomic_exchange(&loaded_on[hw_cpu()], NULL) != s;
    s->loaded = false;
    s->leaves++;
}

static void spins(void *arg)
{
    struct spinner *s = arg;
    uint64_t now = 0, last;

    while (last = now, now = seam_time_ns(), now < stop_at) {
        if (s->loaded && now - last > s->stood_still)
            s->stood_still = now - last;
        if (!s->loaded) {
            s->loaded = true;
            s->on = hw_cpu();
            s->wrong += atomic_exchange(&loaded_on[s->on], s) != NULL;
            hw_on_switch(leave, s);
        }
        hw_preempt_point();
        s->wrong += s->loaded && (s->on != hw_cpu() || atomic_load(&loaded_on[s->on]) != s);
        s->cpus |= 1u << hw_cpu();
    }
    s->steal = seam_steal_ns();
    s->ran = thread_current()->share.ran_ns + (seam_time_ns() - thread_current()->share.since); /* and since it was charged */
}

static void preemption(void)
{
    uint32_t count = hw_cpu_count() + 2;
    uint64_t length = 1000 * MS, low = UINT64_MAX, high = 0, leaves = 0, stood_still = 0;

    count = count > ARRAY_SIZE(spinner) ? ARRAY_SIZE(spinner) : count;
    stop_at = seam_time_ns() + length;
    for (uint32_t i = 0; i < count; i++)
        spinner[i].thread = start("spinner", spins, &spinner[i]);
    for (uint32_t i = 0; i < count; i++) {
        struct spinner *s = &spinner[i];

        thread_join(s->thread);
        CHECK(s->wrong == 0);
        CHECK(s->ran + s->steal > length / 2 && s->ran + s->steal < 2 * length);
        CHECK(hw_cpu_count() == 1 || count > 2 * hw_cpu_count() || s->steal > length / 10);
        CHECK(!s->loaded);
        low = s->ran < low ? s->ran : low;
        high = s->ran > high ? s->ran : high;
        leaves += s->leaves;
        stood_still = s->stood_still > stood_still ? s->stood_still : stood_still;
    }
    CHECK(leaves > count);
    /* A slice ends late by as long as the emulator, which has CPUs take turns on one clock, lets a CPU stand still. */
    CHECK(high - low < spread_max + stood_still);
    log_line("threads: %u spinning threads on %u CPUs ran %llu to %llu us of %llu ms; switched out %llu times; a CPU stood still for %llu us",
             count, hw_cpu_count(), (unsigned long long)(low / 1000), (unsigned long long)(high / 1000),
             (unsigned long long)(length / MS), (unsigned long long)leaves, (unsigned long long)(stood_still / 1000));
}

/* --- a VM's timers --- */

static struct vm vm;
static struct guest guest;
static struct vm_timer timer;
static _Atomic uint32_t fired;
static uint64_t due, timer_late;

static void timer_fires(void *owner)
{
    uint64_t now = vm_clock_ns(owner);

    CHECK(now >= due);
    timer_late = now - due > timer_late ? now - due : timer_late;
    atomic_fetch_add(&fired, 1);
    seam_wake(&fired, true);
}

static void vm_timers(void)
{
    uint32_t state = 7;

    vm_init(&vm, "test");
    guest_init(&guest, &vm);
    scheduler_account_add(&guest.account, &(struct share_terms){.weight = 100});
    vm_timer_init(&timer, timer_fires, &vm);
    CHECK(guest_timer_start(&guest) == OK);
    vm_clock_start(&vm);
    for (uint32_t i = 0; i < 200; i++) {
        due = vm_clock_ns(&vm) + next(&state) % (4 * MS);
        vm_timer_set(&vm, &timer, due);
        while (atomic_load(&fired) == i)
            seam_wait(&fired, i, UINT64_MAX);
    }
    vm_clock_stop(&vm);
    guest_timer_end(&guest);
    CHECK(atomic_load(&fired) == 200 && timer_late < late_max);
    CHECK(!guest_wait_stopped(&guest, seam_time_ns() + MS));
    vm_stop(&vm, VM_STOP_USER, 0, "enough");
    CHECK(guest_wait_stopped(&guest, UINT64_MAX));
    log_line("threads: 200 timers of a VM; the latest by %llu us", (unsigned long long)(timer_late / 1000));
}

/* --- made and ended; nothing is lost --- */

/* All CPUs schedule: each has made its idle thread. */
static void await_cpus(void)
{
    for (uint32_t i = 0; i < hw_cpu_count(); i++)
        while (!__atomic_load_n(&cpu_table[i]->idle, __ATOMIC_RELAXED))
            nap(MS);
}

static void does_nothing(void *arg)
{
    atomic_fetch_add((_Atomic uint32_t *)arg, 1);
}

static void come_and_go(void)
{
    _Atomic uint32_t done = 0;
    uint64_t total, before, after;

    for (uint32_t i = 0; i < 1000; i++) {
        struct thread *a = start("short", does_nothing, &done), *b = start("short", does_nothing, &done);

        thread_join(b);
        thread_join(a);
        if (i == 0)
            frames_count(&total, &before);
    }
    frames_count(&total, &after);
    CHECK(atomic_load(&done) == 2000);
    CHECK(before == after);
    log_line("threads: 2000 made and ended; %lld bytes lost", (long long)(before - after));
}

static uint64_t idle_ns(void)
{
    uint64_t sum = 0;

    for (uint32_t i = 0; i < hw_cpu_count(); i++)
        sum += cpu_table[i]->idle->share.ran_ns;
    return sum;
}

static void idleness(void)
{
    uint64_t before = idle_ns(), interrupts = this_cpu()->interrupts;

    nap(200 * MS);
    CHECK(idle_ns() - before > 100 * MS); /* of those that were idle all the time it is not in yet */
    log_line("threads: 200 ms idle, %llu interrupts", (unsigned long long)(this_cpu()->interrupts - interrupts));
}

/*
 * A timer that counts is set by how late it was a moment ago. If the emulator, which has CPUs take turns on one clock, let the CPU stand still in
 * between (preemption), it comes late by that. Where nobody computes no CPU stands still; so after all timers have come that were set
 * before, they are on time.
 */
static void calm(void)
{
    nap(20 * MS);
}

static void run(void *arg)
{
    bool exact = boot_info_option(main_boot_info(), "threads-exact");

    (void)arg;
    await_cpus();
    rounds = boot_info_option(main_boot_info(), "threads-long") ? 1000000 : 2000;
    late_max = exact ? MS / 5 : 60000 * (uint64_t)MS;
    spread_max = exact ? SHARE_SLICE_NS + MS / 5 : 1000 * (uint64_t)MS;
    come_and_go();
    preemption();
    calm();
    vm_timers();
    many_threads();
    calm();
    deadlines();
    idleness();
    ping_pong(false);
    if (hw_cpu_count() > 1)
        ping_pong(true);
    log_line("threads: %u checks, %u failed", atomic_load(&checks), atomic_load(&failed));
    power_off();
    log_line("threads: the machine is still on");
}

void __wrap_home_start(void);

void __wrap_home_start(void)
{
    (void)start("test", run, NULL);
}
