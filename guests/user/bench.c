/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * The workloads of `make bench` (docs/bench.md), for a Linux guest and for the host itself: what
 * user code does, and what it asks of its kernel.
 *
 *   bench [-t SECONDS] [NAME]...    default: all, half a second each
 *
 * Each workload is done in batches until its time is over, since the machines that are compared
 * differ a hundredfold. Every result is checked: it is known beforehand, to the bit where it is
 * floating point. A line says when a workload begins, another when it ends, so that whoever runs
 * this guest can see what it cost him:
 *
 *   bench calls begin
 *   bench calls end 8756400 operations 1.450 ns 1.490 cpu    or    bench calls wrong
 *
 * ns: of the fastest batch, by the monotonic clock. cpu: processor time of this process and its
 * children over all batches, in ns for each operation. "bench done" comes last; the status is 0 if
 * nothing was wrong.
 */
#define _GNU_SOURCE
#include <sched.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

/* Neither inlined nor specialised: what is called is what stands here. */
#define AS_WRITTEN __attribute__((noipa))

static const char self[] = "/proc/self/exe";

static void *room(size_t size)
{
    void *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED) {
        printf("bench: no memory\n");
        exit(2);
    }
    return p;
}

static uint32_t random_next(uint32_t *seed)
{
    *seed = *seed * 1664525 + 1013904223;
    return *seed >> 8;
}

/* --- the processor ------------------------------------------------------------------------------
 */

enum { FIB_OF = 18, FIB_VALUE = 2584, FIB_CALLS = 8361 };

/* And both calls are calls. */
AS_WRITTEN __attribute__((optimize("no-optimize-sibling-calls"))) static uint32_t fib(uint32_t n)
{
    return n < 2 ? n : fib(n - 1) + fib(n - 2);
}

static bool calls(void)
{
    return fib(FIB_OF) == FIB_VALUE;
}

enum { SIEVE_SIZE = 1 << 16, SIEVE_PRIMES = 6542 };
static uint8_t composite[SIEVE_SIZE];

AS_WRITTEN static uint32_t sieve_count(void)
{
    uint32_t primes = 0;
    memset(composite, 0, sizeof(composite));
    for (uint32_t n = 2; n < SIEVE_SIZE; n++) {
        if (composite[n])
            continue;
        primes++;
        for (uint32_t m = n * 2; m < SIEVE_SIZE; m += n)
            composite[m] = 1;
    }
    return primes;
}

static bool sieve(void)
{
    return sieve_count() == SIEVE_PRIMES;
}

enum { CRC_SIZE = 1 << 14 };
#define CRC_VALUE 0xf60d6a77u
static uint32_t crc_table[256];
static uint8_t crc_bytes[CRC_SIZE];

static void crc_set_up(void)
{
    uint32_t seed = 1;
    for (uint32_t i = 0; i < 256; i++) {
        uint32_t c = i;
        for (int bit = 0; bit < 8; bit++)
            c = c & 1 ? c >> 1 ^ 0xedb88320u : c >> 1;
        crc_table[i] = c;
    }
    for (uint32_t i = 0; i < CRC_SIZE; i++)
        crc_bytes[i] = (uint8_t)random_next(&seed);
}

AS_WRITTEN static uint32_t crc_of(const uint8_t *p, size_t n)
{
    uint32_t c = ~0u;
    while (n--)
        c = crc_table[(c ^ *p++) & 0xff] ^ c >> 8;
    return ~c;
}

static bool crc(void)
{
    return crc_of(crc_bytes, CRC_SIZE) == CRC_VALUE;
}

enum { SIDE = 64 };
/* Of the bits of all results: sums are formed in the order that is written, so they are the same
 * everywhere. */
#define MATRIX_VALUE 0xd67884b04f833f30ull
static double left[SIDE][SIDE], right[SIDE][SIDE], product[SIDE][SIDE];

static void matrix_set_up(void)
{
    uint32_t seed = 1;
    for (int i = 0; i < SIDE; i++)
        for (int j = 0; j < SIDE; j++) {
            left[i][j] = random_next(&seed) / 16777213.0 - 0.4;
            right[i][j] = random_next(&seed) / 16777199.0 - 0.3;
        }
}

AS_WRITTEN static void multiply(void)
{
    for (int i = 0; i < SIDE; i++)
        for (int j = 0; j < SIDE; j++) {
            double sum = 0;
            for (int k = 0; k < SIDE; k++)
                sum += left[i][k] * right[k][j];
            product[i][j] = sum;
        }
}

static bool matrix(void)
{
    uint64_t hash = 0, bits;
    multiply();
    for (int i = 0; i < SIDE; i++)
        for (int j = 0; j < SIDE; j++) {
            memcpy(&bits, &product[i][j], sizeof(bits));
            hash = hash * 31 + bits;
        }
    return hash == MATRIX_VALUE;
}

/* As in ordinary programs, most places call what they called last time; one of eight does not. */
enum { TARGETS = 16, ROUNDS = 512, INDIRECT_CALLS = ROUNDS * 8 };
#define INDIRECT_VALUE 0xbce5e5e5u
static uint8_t choice[ROUNDS];

#define TARGET(n, expression)                                                                      \
    AS_WRITTEN static uint32_t target##n(uint32_t x)                                               \
    {                                                                                              \
        return expression;                                                                         \
    }
TARGET(0, x + 1)
TARGET(1, x ^ 0x5a5a5a5a)
TARGET(2, x * 3)
TARGET(3, x - 77)
TARGET(4, x << 1 | x >> 31)
TARGET(5, ~x)
TARGET(6, x + (x >> 3))
TARGET(7, x * 5 + 1)
TARGET(8, x ^ x >> 7)
TARGET(9, x + 0x01234567)
TARGET(10, x >> 5 | x << 27)
TARGET(11, x - (x >> 9))
TARGET(12, x * 9)
TARGET(13, x ^ x << 11)
TARGET(14, 0u - x)
TARGET(15, x | 0x101)
static uint32_t (*const volatile targets[TARGETS])(uint32_t) = {
    target0, target1, target2,  target3,  target4,  target5,  target6,  target7,
    target8, target9, target10, target11, target12, target13, target14, target15,
};

static void indirect_set_up(void)
{
    uint32_t seed = 1;
    for (uint32_t i = 0; i < ROUNDS; i++)
        choice[i] = (uint8_t)(random_next(&seed) % TARGETS);
}

static bool indirect(void)
{
    uint32_t x = 1;
    for (uint32_t i = 0; i < ROUNDS; i++) {
        x = targets[0](x);
        x = targets[1](x);
        x = targets[2](x);
        x = targets[3](x);
        x = targets[4](x);
        x = targets[5](x);
        x = targets[6](x);
        x = targets[choice[i]](x);
    }
    return x == INDIRECT_VALUE;
}

enum { CHASE_SIZE = 4 << 20, LINE = 64, LINES = CHASE_SIZE / LINE, CHASE_STEPS = 1 << 14 };
static struct line {
    _Alignas(LINE) struct line *next;
    uint32_t number;
} * lines;
static struct line *chased;
static uint32_t chase_laps;

/* One cycle through all lines in an order by chance (Sattolo's). */
static void chase_set_up(void)
{
    uint32_t seed = 1;
    lines = room(CHASE_SIZE);
    for (uint32_t i = 0; i < LINES; i++)
        lines[i] = (struct line){&lines[i], i};
    for (uint32_t i = LINES - 1; i > 0; i--) {
        struct line *other = &lines[random_next(&seed) % i], *next = lines[i].next;
        lines[i].next = other->next;
        other->next = next;
    }
    chased = lines;
    chase_laps = 0;
}

/* After LINES steps, and not before, it is where it began. */
static bool chase(void)
{
    struct line *at = chased;
    for (uint32_t i = 0; i < CHASE_STEPS; i++)
        at = at->next;
    chased = at;
    chase_laps = (chase_laps + 1) % (LINES / CHASE_STEPS);
    return (at->number == 0) == (chase_laps == 0);
}

enum { COPY_SIZE = 1 << 20 };
static uint8_t *copy_from, *copy_to;
static uint32_t copy_seed;

static void copy_set_up(void)
{
    copy_seed = 1;
    copy_from = room(COPY_SIZE);
    copy_to = room(COPY_SIZE);
    for (uint32_t i = 0; i < COPY_SIZE; i++)
        copy_from[i] = (uint8_t)random_next(&copy_seed);
}

AS_WRITTEN static void copy(void *to, const void *from, size_t size)
{
    memcpy(to, from, size);
}

/* A few places that changed are looked at each time, the whole now and then. */
static bool copying(void)
{
    static uint32_t rounds;
    bool right_bytes = true;
    uint32_t at = random_next(&copy_seed) % (COPY_SIZE - LINE);
    for (uint32_t i = 0; i < LINE; i++)
        copy_from[at + i] ^= 0xff;
    copy(copy_to, copy_from, COPY_SIZE);
    for (uint32_t i = 0; i < LINE; i++)
        right_bytes &= copy_to[at + i] == copy_from[at + i];
    return right_bytes && (rounds++ % 64 || memcmp(copy_to, copy_from, COPY_SIZE) == 0);
}

/* --- the kernel ----------------------------------------------------------------------------------
 */

enum { GETPPIDS = 64 };
static long parent;

static void getppid_set_up(void)
{
    parent = getppid();
}

static bool getppids(void)
{
    bool same = true;
    for (int i = 0; i < GETPPIDS; i++)
        same &= syscall(SYS_getppid) == parent;
    return same;
}

enum { PAGES = 64, PAGE = 4096 };

static bool faults(void)
{
    uint32_t zeros = 0;
    volatile uint8_t *p = room(PAGES * PAGE);
    (void)madvise((void *)(uintptr_t)p, PAGES * PAGE, MADV_NOHUGEPAGE); /* may not be known */
    for (uint32_t i = 0; i < PAGES; i++) {
        zeros += p[i * PAGE + i] == 0;
        p[i * PAGE] = 1;
    }
    munmap((void *)(uintptr_t)p, PAGES * PAGE);
    return zeros == PAGES;
}

static bool ended_with(pid_t child, int status)
{
    int s;
    return child > 0 && waitpid(child, &s, 0) == child && WIFEXITED(s) && WEXITSTATUS(s) == status;
}

static bool forks(void)
{
    pid_t child = fork();
    if (child == 0)
        _exit(23);
    return ended_with(child, 23);
}

enum { PINGS = 8 };
static int to_child[2], from_child[2];
static pid_t echo;
static uint8_t ping;

static void pipe_set_up(void)
{
    if (pipe(to_child) != 0 || pipe(from_child) != 0) {
        printf("bench: no pipe\n");
        exit(2);
    }
    echo = fork();
    if (echo == 0) {
        uint8_t byte;
        close(to_child[1]);
        while (read(to_child[0], &byte, 1) == 1) {
            byte ^= 0x55;
            if (write(from_child[1], &byte, 1) != 1)
                _exit(1);
        }
        _exit(0);
    }
    close(to_child[0]);
    close(from_child[1]);
}

static bool pings(void)
{
    bool same = true;
    for (int i = 0; i < PINGS; i++) {
        uint8_t byte = 0, sent = ping++;
        same &= write(to_child[1], &sent, 1) == 1 && read(from_child[0], &byte, 1) == 1 &&
                byte == (sent ^ 0x55);
    }
    return same;
}

static bool pipe_tear_down(void)
{
    close(to_child[1]);
    close(from_child[0]);
    return ended_with(echo, 0);
}

static bool execs(void)
{
    pid_t child = vfork();
    if (child == 0) {
        execl(self, "bench", "exit", (char *)NULL);
        _exit(1);
    }
    return ended_with(child, 42);
}

/* --- measuring -----------------------------------------------------------------------------------
 */

static const struct workload {
    const char *name;
    void (*set_up)(void);
    bool (*work)(void);
    bool (*tear_down)(void);
    uint32_t operations; /* of one call of work */
} workloads[] = {
    {"calls", NULL, calls, NULL, FIB_CALLS},
    {"sieve", NULL, sieve, NULL, 1},
    {"crc", crc_set_up, crc, NULL, CRC_SIZE},
    {"matrix", matrix_set_up, matrix, NULL, 1},
    {"indirect", indirect_set_up, indirect, NULL, INDIRECT_CALLS},
    {"chase", chase_set_up, chase, NULL, CHASE_STEPS},
    {"memcpy", copy_set_up, copying, NULL, 1},
    {"getppid", getppid_set_up, getppids, NULL, GETPPIDS},
    {"fault", NULL, faults, NULL, PAGES},
    {"fork", NULL, forks, NULL, 1},
    {"pipe", pipe_set_up, pings, pipe_tear_down, PINGS},
    {"exec", NULL, execs, NULL, 1},
};
enum { WORKLOADS = sizeof(workloads) / sizeof(workloads[0]) };

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e9 + (double)t.tv_nsec;
}

static double usage_of(int who)
{
    struct rusage u;
    getrusage(who, &u);
    return ((double)u.ru_utime.tv_sec + (double)u.ru_stime.tv_sec) * 1e9 +
           ((double)u.ru_utime.tv_usec + (double)u.ru_stime.tv_usec) * 1e3;
}

/* Printed, and out of the serial port: what the kernel has left to send would be counted. */
static void mark(void)
{
    fflush(stdout);
    (void)tcdrain(STDOUT_FILENO);
}

/* Batches of a twentieth of the time, the first ones shorter: how many that is, is found out. */
static bool measure(const struct workload *w, double ns)
{
    uint64_t batch = 1, done = 0;
    double cpu, began, best = 0;

    if (w->set_up)
        w->set_up();
    printf("bench %s begin\n", w->name);
    mark();
    cpu = usage_of(RUSAGE_SELF) + usage_of(RUSAGE_CHILDREN);
    began = now();
    while (now() - began < ns) {
        double from = now(), took;
        for (uint64_t i = 0; i < batch; i++)
            if (!w->work()) {
                printf("bench %s wrong\n", w->name);
                return false;
            }
        took = now() - from;
        done += batch;
        if (best == 0 || took / (double)batch < best)
            best = took / (double)batch;
        if (took < ns / 20)
            batch *= 2;
    }
    if (w->tear_down && !w->tear_down()) {
        printf("bench %s wrong\n", w->name);
        return false;
    }
    cpu = usage_of(RUSAGE_SELF) + usage_of(RUSAGE_CHILDREN) - cpu;
    done *= w->operations;
    printf("bench %s end %llu operations %.3f ns %.3f cpu\n", w->name, (unsigned long long)done,
           best / w->operations, cpu / (double)done);
    mark();
    return true;
}

static bool wanted(const char *name, char **names)
{
    if (!*names)
        return true;
    for (; *names; names++)
        if (strcmp(*names, name) == 0)
            return true;
    return false;
}

int main(int argc, char **argv)
{
    double seconds = 0.5;
    bool right_results = true;
    int option;

    if (argc == 2 && strcmp(argv[1], "exit") == 0)
        return 42;
    while ((option = getopt(argc, argv, "t:")) != -1) {
        if (option != 't')
            return 2;
        seconds = atof(optarg);
    }
    for (size_t i = 0; i < WORKLOADS; i++)
        if (wanted(workloads[i].name, &argv[optind]))
            right_results &= measure(&workloads[i], seconds * 1e9);
    printf("bench done\n");
    return right_results ? 0 : 1;
}
