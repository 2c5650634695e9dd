/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/* The seam on Linux: waiting, memory, executable memory, time. And the log's token bucket. */
#include "core/seam.h"

#include <pthread.h>
#include <sched.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "core/err.h"
#include "hosted/log.h"
#include "hosted/seam.h"
#include "tests/lib/unit.h"

static void test_wait_returns_at_deadline(void)
{
    _Atomic uint32_t word = 5;
    uint64_t begun = seam_time_ns();

    seam_wait(&word, 4, UINT64_MAX); /* differs: does not wait */
    seam_wait(&word, 5, begun);      /* in the past */
    seam_wait(&word, 5, 0);
    CHECK(seam_time_ns() - begun < 1000000000);
    seam_wait(&word, 5, begun + 20000000);
    CHECK(seam_time_ns() - begun >= 20000000);
}

struct pair {
    _Atomic uint32_t ping, pong;
};

static void *answer(void *arg)
{
    struct pair *p = arg;

    for (uint32_t i = 0; i < 2000; i++) {
        while (atomic_load(&p->ping) == i)
            seam_wait(&p->ping, i, UINT64_MAX);
        atomic_store(&p->pong, i + 1);
        seam_wake(&p->pong, false);
    }
    return NULL;
}

static void test_wake_is_never_lost(void)
{
    struct pair p = {0, 0};
    pthread_t t;

    CHECK(pthread_create(&t, NULL, answer, &p) == 0);
    for (uint32_t i = 0; i < 2000; i++) {
        atomic_store(&p.ping, i + 1);
        seam_wake(&p.ping, true);
        while (atomic_load(&p.pong) == i)
            seam_wait(&p.pong, i, UINT64_MAX);
    }
    pthread_join(t, NULL);
}

static void test_pages(void)
{
    uint8_t *p = seam_pages_alloc(16);
    unsigned int sum = 0;

    CHECK(p && ((uintptr_t)p & 4095) == 0);
    for (size_t i = 0; p && i < 16 * 4096; i++)
        sum |= p[i];
    CHECK_EQ(sum, 0);
    seam_pages_free(p, 16);
    CHECK(seam_pages_alloc(0) == NULL);
    CHECK(seam_pages_alloc(SIZE_MAX) == NULL);
    CHECK(seam_pages_alloc((size_t)1 << 52) == NULL); /* its size in bytes would wrap to 0 */
    seam_pages_free(NULL, 1);
}

static void test_executable_memory(void)
{
    static const uint8_t code[] = {0xB8, 0x2A, 0, 0, 0, 0xC3}; /* mov $42, %eax; ret */
    struct seam_exec e;
    int (*function)(void);

    CHECK_EQ(seam_exec_alloc(&e, 5000), OK);
    CHECK_EQ(e.size, 8192);
    CHECK(e.write != e.exec);
    memcpy(e.write, code, sizeof(code));
    memcpy(&function, &e.exec, sizeof(function));
    CHECK_EQ(function(), 42);
    e.write[1] = 43; /* seen at once: the same bytes */
    CHECK_EQ(function(), 43);
    seam_exec_free(&e);
    CHECK(e.write == NULL);
    seam_exec_free(&e);
    CHECK(seam_exec_alloc(&e, 0) != OK);
}

static void test_random(void)
{
    uint8_t a[64] = {0}, b[64] = {0};

    seam_random(a, sizeof(a));
    seam_random(b, sizeof(b));
    CHECK(memcmp(a, b, sizeof(a)) != 0);
}

static void test_time_does_not_go_back(void)
{
    uint64_t last = seam_time_ns();

    for (int i = 0; i < 100000; i++) {
        uint64_t now = seam_time_ns();

        CHECK(now >= last);
        last = now;
    }
    CHECK(seam_wall_time_ns() > (uint64_t)1600000000 * 1000000000);
}

static void *depth_of_new_thread(void *out)
{
    *(uint32_t *)out = seam_lock_trace()->depth;
    return NULL;
}

static void test_lock_trace_is_per_thread(void)
{
    uint32_t depth = 99;
    pthread_t t;

    seam_lock_trace()->depth = 3;
    pthread_create(&t, NULL, depth_of_new_thread, &depth);
    pthread_join(t, NULL);
    CHECK_EQ(depth, 0);
    CHECK_EQ(seam_lock_trace()->depth, 3);
    seam_lock_trace()->depth = 0;
}

static _Atomic bool stop_spinning;

static void *spin(void *arg)
{
    (void)arg;
    while (!atomic_load(&stop_spinning))
        ;
    return NULL;
}

/* Two that spin on one processor take it from each other; what one waits is not more than what has
 * passed. Where the kernel does not count, it is 0. */
static void *measure_steal(void *arg)
{
    uint64_t begun = seam_time_ns(), end = begun + 300000000, before, waited;
    pthread_t t;
    cpu_set_t one;

    (void)arg;
    CHECK_EQ(seam_steal_ns(), 0); /* not opened by this thread */
    seam_steal_open();
    CPU_ZERO(&one);
    CPU_SET((size_t)sched_getcpu(), &one);
    pthread_setaffinity_np(pthread_self(), sizeof(one), &one);
    before = seam_steal_ns();
    CHECK(pthread_create(&t, NULL, spin, NULL) == 0); /* inherits the one processor */
    while (seam_time_ns() < end)
        ;
    waited = seam_steal_ns() - before;
    CHECK(waited <= seam_time_ns() - begun);
    if (access("/proc/thread-self/schedstat", R_OK) == 0)
        CHECK(waited > 1000000);
    atomic_store(&stop_spinning, true);
    pthread_join(t, NULL);
    return NULL;
}

static void test_steal(void)
{
    pthread_t t; /* of its own, since it pins itself */

    CHECK(pthread_create(&t, NULL, measure_steal, NULL) == 0);
    pthread_join(t, NULL);
}

static void test_log_limit(void)
{
    struct log_limit l;
    uint64_t now = 1000000000, suppressed;
    const uint64_t second = 1000000000;
    uint64_t counted = 0;
    unsigned int allowed = 0;

    log_limit_init(&l);
    for (int i = 0; i < 1000; i++)
        allowed += log_limit_take(&l, now, &suppressed);
    CHECK_EQ(allowed, LOG_BURST);
    for (int i = 0; i < 10000; i++) { /* a line each ms for 10 s */
        now += second / 1000;
        allowed += log_limit_take(&l, now, &suppressed);
        counted += suppressed;
    }
    CHECK_EQ(allowed, LOG_BURST + 10 * LOG_PER_SECOND);
    now += 3600 * second; /* an hour's silence gives a burst, not more */
    CHECK(log_limit_take(&l, now, &suppressed));
    CHECK_EQ(allowed + counted + suppressed, 11000); /* none was forgotten */
    CHECK(log_limit_take(&l, now, &suppressed));
    CHECK_EQ(suppressed, 0);
    allowed = 2;
    for (int i = 0; i < 1000; i++)
        allowed += log_limit_take(&l, now, &suppressed);
    CHECK_EQ(allowed, LOG_BURST);
    /* Threads look at their clocks before they take the lock, so time may seem to go back. */
    for (int i = 0; i < 1000; i++)
        CHECK(!log_limit_take(&l, now - 1, &suppressed));
}

int main(void)
{
    UNIT_RUN(test_wait_returns_at_deadline);
    UNIT_RUN(test_wake_is_never_lost);
    UNIT_RUN(test_pages);
    UNIT_RUN(test_executable_memory);
    UNIT_RUN(test_random);
    UNIT_RUN(test_time_does_not_go_back);
    UNIT_RUN(test_lock_trace_is_per_thread);
    UNIT_RUN(test_steal);
    UNIT_RUN(test_log_limit);
    return unit_done();
}
