/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/* The bounded output stream against readers that are quick, slow, stopped and gone. */
#include "hosted/outstream.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "tests/lib/unit.h"

enum { RING = 4096 };

static _Atomic int broken_with;

static void note_broken(void *owner, int error)
{
    (void)owner;
    atomic_store(&broken_with, error);
}

static void *run(void *s)
{
    outstream_run(s);
}

/* As when the machine is too busy to run the stream's thread. */
static void *run_late(void *s)
{
    struct timespec t = {.tv_nsec = 3L * OUTSTREAM_WAIT_MS * 1000000};

    nanosleep(&t, NULL);
    outstream_run(s);
}

/* The thread never ends, so neither must the stream: static storage per test. */
static void begin_with(struct outstream *s, int fds[2], void *(*body)(void *))
{
    pthread_t t;

    CHECK(pipe(fds) == 0);
    CHECK(outstream_init(s, fds[1], RING, "test output", note_broken, NULL) == 0);
    CHECK(pthread_create(&t, NULL, body, s) == 0);
    pthread_detach(t);
}

static void begin(struct outstream *s, int fds[2])
{
    begin_with(s, fds, run);
}

static double now(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static void pause_ms(long ms)
{
    struct timespec t = {.tv_nsec = ms * 1000000};

    nanosleep(&t, NULL);
}

struct reader {
    int fd;
    long pause;
    size_t want, got;
    bool wrong;
};

/* Reads bytes that count 0..250 over and over. */
static void *read_all(void *arg)
{
    struct reader *r = arg;
    uint8_t buf[512];

    while (r->got < r->want) {
        ssize_t n = read(r->fd, buf, sizeof(buf));

        if (n <= 0)
            break;
        for (ssize_t i = 0; i < n; i++)
            r->wrong |= buf[i] != (r->got + (size_t)i) % 251;
        r->got += (size_t)n;
        if (r->pause)
            pause_ms(r->pause);
    }
    return NULL;
}

static void put_counting(struct outstream *s, size_t total)
{
    uint8_t buf[700];

    for (size_t done = 0; done < total;) {
        size_t n = total - done < sizeof(buf) ? total - done : sizeof(buf);

        for (size_t i = 0; i < n; i++)
            buf[i] = (uint8_t)((done + i) % 251);
        outstream_put(s, buf, n);
        done += n;
    }
}

static void check_complete(struct outstream *s, long reader_pause, size_t total)
{
    struct reader r = {.pause = reader_pause, .want = total};
    int fds[2];
    pthread_t t;

    begin(s, fds);
    CHECK(fcntl(fds[1], F_SETPIPE_SZ, 4096) >= 0);
    r.fd = fds[0];
    pthread_create(&t, NULL, read_all, &r);
    put_counting(s, total);
    CHECK(outstream_flush(s, 5000, 10000));
    close(fds[1]); /* the reader ends even if bytes are missing */
    pthread_join(t, NULL);
    CHECK_EQ(r.got, total);
    CHECK(!r.wrong);
    CHECK_EQ(s->dropped, 0);
}

static void test_quick_reader(void)
{
    static struct outstream s;

    check_complete(&s, 0, 1000000);
}

/* 512 bytes each 2 ms: far slower than the writer, but moving, so nothing is lost. */
static void test_slow_reader(void)
{
    static struct outstream s;

    check_complete(&s, 2, 60000);
}

static void test_stopped_reader(void)
{
    static struct outstream s;
    static char text[300000];
    int fds[2];
    size_t got = 0;
    double start = now();

    begin(&s, fds);
    for (int i = 0; i < 300; i++) { /* 300 KB into nothing: waits once, not 300 times */
        memset(text, 'x', 1000);
        outstream_put(&s, text, 1000);
    }
    CHECK(now() - start < 2.0);
    CHECK(s.dropped > 0);
    CHECK(!outstream_flush(&s, 10, 1000));
    while (!strstr(text, "dropped")) { /* the reader is back: finds a notice in the end */
        struct pollfd ready = {.fd = fds[0], .events = POLLIN};

        outstream_put(&s, ".", 1); /* what comes after it tells, so maybe more than one */
        if (poll(&ready, 1, 10) == 1) {
            ssize_t n = read(fds[0], text + got, sizeof(text) - 1 - got);

            CHECK(n > 0);
            if (n <= 0)
                break;
            got += (size_t)n;
            text[got] = '\0';
        }
    }
    CHECK(strstr(text, "bytes of test output dropped, because nobody read them") != NULL);
    CHECK(outstream_flush(&s, 5000, 10000));
}

static void test_reader_gone(void)
{
    static struct outstream s;
    int fds[2];
    double start;

    signal(SIGPIPE, SIG_IGN);
    begin(&s, fds);
    close(fds[0]);
    outstream_put(&s, "x", 1);
    for (int i = 0; i < 2000 && !atomic_load(&broken_with); i++)
        pause_ms(1);
    CHECK_EQ(atomic_load(&broken_with), EPIPE);
    start = now();
    put_counting(&s, 100000);
    (void)outstream_flush(&s, 5000, 10000);
    CHECK(now() - start < 1.0);
}

/* Somebody shares our descriptor and has set O_NONBLOCK on it. */
static void test_nonblocking_descriptor(void)
{
    static struct outstream s;
    struct reader r = {.want = 200000, .pause = 1};
    int fds[2];
    pthread_t t;

    begin(&s, fds);
    CHECK(fcntl(fds[1], F_SETFL, O_NONBLOCK) == 0);
    r.fd = fds[0];
    pthread_create(&t, NULL, read_all, &r);
    put_counting(&s, r.want);
    CHECK(outstream_flush(&s, 5000, 10000));
    close(fds[1]); /* the reader ends even if bytes are missing */
    pthread_join(t, NULL);
    CHECK_EQ(r.got, r.want);
    CHECK(!r.wrong);
}

/* Nobody stopped reading: whatever the stream's thread waits for, nothing is dropped. */
static void test_late_thread_at_the_end(void)
{
    static struct outstream s;
    int fds[2];

    begin_with(&s, fds, run_late);
    outstream_put(&s, "last words", 10);
    CHECK(outstream_flush(&s, 20, 10000));
}

static void test_late_thread_in_between(void)
{
    static struct outstream s;
    struct reader r = {.want = 3 * RING};
    int fds[2];
    pthread_t t;

    begin_with(&s, fds, run_late);
    r.fd = fds[0];
    pthread_create(&t, NULL, read_all, &r);
    put_counting(&s, r.want);
    CHECK(outstream_flush(&s, 5000, 10000));
    close(fds[1]); /* the reader ends even if bytes are missing */
    pthread_join(t, NULL);
    CHECK_EQ(r.got, r.want);
    CHECK_EQ(s.dropped, 0);
}

/* A stream that lingers writes once in OUTSTREAM_LINGER_MS, not once a byte; a flush does not wait. */
static void test_lingers(void)
{
    static struct outstream s;
    const struct timespec apart = {.tv_nsec = 20000};
    uint8_t bytes[300];
    int fds[2], packets = 0;
    pthread_t t;
    double began = now();

    CHECK(pipe2(fds, O_DIRECT | O_NONBLOCK) == 0); /* each write is read as one */
    CHECK(outstream_init(&s, fds[1], RING, "test output", NULL, NULL) == 0);
    s.lingers = true;
    CHECK(pthread_create(&t, NULL, run, &s) == 0);
    pthread_detach(t);
    for (size_t i = 0; i < sizeof(bytes); i++) {
        outstream_put(&s, "x", 1);
        nanosleep(&apart, NULL);
        packets += read(fds[0], bytes, sizeof(bytes)) > 0;
    }
    CHECK(outstream_flush(&s, 1000, 5000));
    while (read(fds[0], bytes, sizeof(bytes)) > 0)
        packets++;
    CHECK(packets >= 1 && packets <= (int)((now() - began) * 1000 / OUTSTREAM_LINGER_MS) + 2);
}

int main(void)
{
    UNIT_RUN(test_quick_reader);
    UNIT_RUN(test_slow_reader);
    UNIT_RUN(test_stopped_reader);
    UNIT_RUN(test_reader_gone);
    UNIT_RUN(test_nonblocking_descriptor);
    UNIT_RUN(test_late_thread_at_the_end);
    UNIT_RUN(test_late_thread_in_between);
    UNIT_RUN(test_lingers);
    return unit_done();
}
