/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * Memory order and locked operations between processors, run inside a Linux guest.
 *
 * Litmus tests: two to four threads, each on a processor of its own where there are enough, execute
 * a few loads and stores on shared words; some combinations of what they read can come about only
 * by an order that x86 forbids (total store order: SDM 3A 9.2.3; the tests' names are those of the
 * literature). A run is ROUNDS tries, each on words of its own; threads meet every GROUP tries,
 * so that they are at the same words at about the same time. That what is allowed does happen is
 * only reported ("relaxed"): a processor may be stronger than it has to be.
 *
 * Locked operations: four threads work on the same bytes with each instruction that may be locked,
 * in each size, at places aligned, misaligned within a cache line, across two, and across two
 * pages, and what is there in the end must be what they would have done one after another.
 *
 * Prints "PASS name ..." or "FAIL name: why" for each and exits 0 only if all passed. It runs on
 * any x86-64 Linux with four threads or fewer processors, so it can be tried on the host too.
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum {
    THREADS = 4, /* at most */
    ROUNDS = 200000,
    CELLS = 2000,        /* tries on words of their own, before these are used again */
    GROUP = 20,          /* tries between two meetings */
    CASE_ROUNDS = 20000, /* of a locked operation, by each thread */
    SPLIT_ROUNDS = 300,  /* the same across cache lines, which is slow on any machine */
};

/* --- threads that start together ----------------------------------------------------------------
 */

static long processors;

struct meeting {
    _Atomic uint32_t arrived, round;
    uint32_t threads;
};

static void meet(struct meeting *m)
{
    uint32_t round = atomic_load(&m->round);
    if (atomic_fetch_add(&m->arrived, 1) + 1 == m->threads) {
        atomic_store(&m->arrived, 0);
        atomic_store(&m->round, round + 1);
        return;
    }
    for (uint32_t spins = 0; atomic_load(&m->round) == round; spins++) {
        __asm__ volatile("pause");
        if (m->threads > processors || spins % 4096 == 4095)
            sched_yield();
    }
}

struct crew {
    struct meeting meeting;
    void (*work)(struct crew *c, unsigned int thread);
    const void *test;
    struct member {
        struct crew *crew;
        pthread_t id;
    } member[THREADS];
};

static void *member_run(void *arg)
{
    struct member *m = arg;
    struct crew *c = m->crew;
    unsigned int thread = (unsigned int)(m - c->member);
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET(thread % (size_t)processors, &one);
    sched_setaffinity(0, sizeof(one), &one); /* may not be ours to choose: then as it comes */
    meet(&c->meeting);
    c->work(c, thread);
    return NULL;
}

static void crew_run(struct crew *c, unsigned int threads,
                     void (*work)(struct crew *c, unsigned int thread), const void *test)
{
    *c = (struct crew){.meeting = {.threads = threads}, .work = work, .test = test};
    for (unsigned int i = 0; i < threads; i++) {
        c->member[i].crew = c;
        if (pthread_create(&c->member[i].id, NULL, member_run, &c->member[i]) != 0) {
            printf("FAIL cannot create a thread\n");
            exit(2);
        }
    }
    for (unsigned int i = 0; i < threads; i++)
        pthread_join(c->member[i].id, NULL);
}

static bool failed;

static void report(const char *name, const char *why, const char *remark)
{
    if (why)
        printf("FAIL %s: %s\n", name, why);
    else
        printf("PASS %s%s\n", name, remark);
    fflush(stdout);
    failed |= why != NULL;
}

/* --- litmus tests -------------------------------------------------------------------------------
 */

static struct cell {
    _Alignas(64) uint64_t x;
    _Alignas(64) uint64_t y;
} cells[CELLS];

/* What one thread read in one try: two values, 0 where it read only one or none. */
struct seen {
    uint8_t a, b;
};

static struct seen seen[THREADS][CELLS];

#define PROGRAM(name, code)                                                                        \
    static struct seen name(struct cell *cell)                                                     \
    {                                                                                              \
        uint64_t a = 0, b = 0;                                                                     \
        uint64_t t = 1;                                                                            \
        __asm__ volatile(code                                                                      \
                         : [a] "+&r"(a), [b] "+&r"(b), [t] "+&r"(t)                                \
                         : [x] "r"(&cell->x), [y] "r"(&cell->y)                                    \
                         : "memory", "cc", "xmm0");                                                \
        return (struct seen){(uint8_t)a, (uint8_t)b};                                              \
    }

#define SET_X         "movq $1, (%[x])\n\t"
#define SET_Y         "movq $1, (%[y])\n\t"
#define GET(to, from) "movq (%[" #from "]), %[" #to "]\n\t"

PROGRAM(set_x, SET_X)
PROGRAM(set_y, SET_Y)
PROGRAM(set_x_get_y, SET_X GET(a, y))
PROGRAM(set_y_get_x, SET_Y GET(a, x))
PROGRAM(set_x_fence_get_y, SET_X "mfence\n\t" GET(a, y))
PROGRAM(set_y_fence_get_x, SET_Y "mfence\n\t" GET(a, x))
PROGRAM(set_x_lock_get_y, SET_X "lock orq $0, (%%rsp)\n\t" GET(a, y))
PROGRAM(set_y_lock_get_x, SET_Y "lock orq $0, (%%rsp)\n\t" GET(a, x))
PROGRAM(xchg_x_get_y, "xchgq %[t], (%[x])\n\t" GET(a, y))
PROGRAM(xchg_y_get_x, "xchgq %[t], (%[y])\n\t" GET(a, x))
PROGRAM(set_x_set_y, SET_X SET_Y)
PROGRAM(set_vector_x_set_y, "movq %[t], %%xmm0\n\tmovdqu %%xmm0, (%[x])\n\t" SET_Y)
PROGRAM(get_y_get_x, GET(a, y) GET(b, x))
PROGRAM(get_x_get_y, GET(a, x) GET(b, y))
PROGRAM(get_y_get_vector_x, GET(a, y) "movdqu (%[x]), %%xmm0\n\tmovq %%xmm0, %[b]\n\t")
PROGRAM(get_x_get_x, GET(a, x) GET(b, x))
PROGRAM(get_x_set_y, GET(a, x) SET_Y)
PROGRAM(get_y_set_x, GET(a, y) SET_X)
PROGRAM(set_x_2_set_y, "movq $2, (%[x])\n\t" SET_Y)
PROGRAM(set_x_set_y_2, SET_X "movq $2, (%[y])\n\t")
PROGRAM(set_y_set_x_2, SET_Y "movq $2, (%[x])\n\t")

/* What one try came to: for each thread what it read, and the words afterwards. */
#define OUTCOME(name, condition)                                                                   \
    static bool name(const struct seen s[THREADS], const struct cell *cell)                        \
    {                                                                                              \
        (void)s;                                                                                   \
        (void)cell;                                                                                \
        return condition;                                                                          \
    }

OUTCOME(both_missed, s[0].a == 0 && s[1].a == 0)
OUTCOME(flag_without_data, s[1].a == 1 && s[1].b == 0)
OUTCOME(both_from_the_future, s[0].a == 1 && s[1].a == 1)
OUTCOME(readers_disagree, s[2].a == 1 && s[2].b == 0 && s[3].a == 1 && s[3].b == 0)
OUTCOME(went_back, s[1].a == 1 && s[1].b == 0)
OUTCOME(effect_without_cause, s[1].a == 1 && s[2].a == 1 && s[2].b == 0)
OUTCOME(overtaken, s[1].a == 1 && cell->x == 2)
OUTCOME(both_first, cell->x == 1 && cell->y == 1)

static const struct litmus {
    const char *name;
    struct seen (*program[THREADS])(struct cell *cell);
    bool (*forbidden)(const struct seen s[THREADS], const struct cell *cell);
    bool (*relaxed)(const struct seen s[THREADS], const struct cell *cell); /* allowed */
} litmus[] = {
    {"SB", {set_x_get_y, set_y_get_x}, NULL, both_missed},
    {"SB+mfence", {set_x_fence_get_y, set_y_fence_get_x}, both_missed, NULL},
    {"SB+lock", {set_x_lock_get_y, set_y_lock_get_x}, both_missed, NULL},
    {"SB+xchg", {xchg_x_get_y, xchg_y_get_x}, both_missed, NULL},
    {"MP", {set_x_set_y, get_y_get_x}, flag_without_data, NULL},
    {"MP+vector", {set_vector_x_set_y, get_y_get_vector_x}, flag_without_data, NULL},
    {"LB", {get_x_set_y, get_y_set_x}, both_from_the_future, NULL},
    {"CoRR", {set_x, get_x_get_x}, went_back, NULL},
    {"S", {set_x_2_set_y, get_y_set_x}, overtaken, NULL},
    {"2+2W", {set_x_set_y_2, set_y_set_x_2}, both_first, NULL},
    {"WRC", {set_x, get_x_set_y, get_y_get_x}, effect_without_cause, NULL},
    {"IRIW", {set_x, set_y, get_x_get_y, get_y_get_x}, readers_disagree, NULL},
};

static unsigned int litmus_threads(const struct litmus *l)
{
    unsigned int n = 0;
    while (n < THREADS && l->program[n])
        n++;
    return n;
}

static void litmus_work(struct crew *c, unsigned int thread)
{
    const struct litmus *l = c->test;
    for (unsigned int i = 0; i < CELLS; i++) {
        if (i % GROUP == 0)
            meet(&c->meeting);
        seen[thread][i] = l->program[thread](&cells[i]);
    }
}

static void litmus_run(const struct litmus *l)
{
    unsigned int forbidden = 0, relaxed = 0;
    char text[64];
    for (unsigned int done = 0; done < ROUNDS; done += CELLS) {
        struct crew c;
        memset(cells, 0, sizeof(cells));
        crew_run(&c, litmus_threads(l), litmus_work, l);
        for (unsigned int i = 0; i < CELLS; i++) {
            struct seen s[THREADS];
            for (unsigned int t = 0; t < THREADS; t++)
                s[t] = seen[t][i];
            forbidden += l->forbidden && l->forbidden(s, &cells[i]);
            relaxed += l->relaxed && l->relaxed(s, &cells[i]);
        }
    }
    snprintf(text, sizeof(text), forbidden ? "%u forbidden outcomes" : " (%u relaxed outcomes)",
             forbidden ? forbidden : relaxed);
    report(l->name, forbidden ? text : NULL, l->relaxed ? text : "");
}

/* --- locked operations --------------------------------------------------------------------------
 */

/* What a thread does to the shared bytes at p, `rounds` times; what it adds up for the check. */
typedef uint64_t rmw_fn(uint8_t *p, unsigned int thread, unsigned int rounds);

#define RMW(name, type, ...)                                                                       \
    static uint64_t name(uint8_t *p, unsigned int thread, unsigned int rounds)                     \
    {                                                                                              \
        uint64_t sum = 0;                                                                          \
        type v = 0;                                                                                \
        (void)thread;                                                                              \
        for (unsigned int i = 0; i < rounds; i++) {                                                \
            __VA_ARGS__                                                                            \
        }                                                                                          \
        return sum + 0u * v;                                                                       \
    }
#define M(type) "+m"(*(type *)(void *)p)

/* For one size: letter of the instruction, type. */
#define RMW_SIZE(n, l, type)                                                                       \
    RMW(add##n, type, __asm__ volatile("lock add" l " $1, %0" : M(type) : : "cc");)                \
    RMW(sub##n, type, __asm__ volatile("lock sub" l " $1, %0" : M(type) : : "cc");)                \
    RMW(inc##n, type, __asm__ volatile("lock inc" l " %0" : M(type) : : "cc");)                    \
    RMW(dec##n, type, __asm__ volatile("lock dec" l " %0" : M(type) : : "cc");)                    \
    RMW(adc##n, type, __asm__ volatile("stc\n\tlock adc" l " $0, %0" : M(type) : : "cc");)         \
    RMW(sbb##n, type, __asm__ volatile("stc\n\tlock sbb" l " $0, %0" : M(type) : : "cc");)         \
    RMW(not ##n, type, __asm__ volatile("lock not" l " %0" : M(type));)                            \
    RMW(neg##n, type, __asm__ volatile("lock neg" l " %0" : M(type) : : "cc");)                    \
    RMW(xadd##n, type, v = 1; __asm__ volatile("lock xadd" l " %0, %1"                             \
                                               : "+q"(v), M(type)                                  \
                                               :                                                   \
                                               : "cc");                                            \
        sum += v;)                                                                                 \
    RMW(                                                                                           \
        cmpxchg##n, type, v = *(volatile type *)(void *)p; type seen_v; do {                       \
            seen_v = v;                                                                            \
            __asm__ volatile("lock cmpxchg" l " %2, %1"                                            \
                             : "+a"(v), M(type)                                                    \
                             : "q"((type)(seen_v + 1))                                             \
                             : "cc");                                                              \
        } while (v != seen_v);                                                                     \
        sum += v;)                                                                                 \
    RMW(logic##n, type, v = (type)(1u << thread); sum |= *(volatile type *)(void *)p & v;          \
        __asm__ volatile("lock or" l " %1, %0"                                                     \
                         : M(type)                                                                 \
                         : "q"(v)                                                                  \
                         : "cc");                                                                  \
        sum |= (uint64_t)(~*(volatile type *)(void *)p & v);                                       \
        if (i & 1) __asm__ volatile("lock and" l " %1, %0"                                         \
                                    : M(type)                                                      \
                                    : "q"((type)~v)                                                \
                                    : "cc");                                                       \
        else __asm__ volatile("lock xor" l " %1, %0"                                               \
                              : M(type)                                                            \
                              : "q"(v)                                                             \
                              : "cc");)                                                            \
    RMW(xchg##n, type, if (i == 0) sum = thread + 1u; v = (type)sum;                               \
        __asm__ volatile("xchg" l " %0, %1"                                                        \
                         : "+q"(v), M(type));                                                      \
        sum = v;)

#define RMW_BITS(n, l, type)                                                                       \
    RMW(bits##n, type, uint8_t was_set, was_clear, was_other; v = (type)thread;                    \
        __asm__ volatile("lock bts" l " %2, %0\n\tsetc %1"                                         \
                         : M(type), "=q"(was_set)                                                  \
                         : "r"(v)                                                                  \
                         : "cc");                                                                  \
        __asm__ volatile("lock btr" l " %2, %0\n\tsetnc %1"                                        \
                         : M(type), "=q"(was_clear)                                                \
                         : "r"(v)                                                                  \
                         : "cc");                                                                  \
        __asm__ volatile("lock btc" l " %2, %0\n\tsetc %1\n\tlock btc" l " %2, %0"                 \
                         : M(type), "=q"(was_other)                                                \
                         : "r"(v)                                                                  \
                         : "cc");                                                                  \
        sum |= (uint64_t)(was_set | was_clear | was_other);)

RMW_SIZE(1, "b", uint8_t)
RMW_SIZE(2, "w", uint16_t)
RMW_SIZE(4, "l", uint32_t)
RMW_SIZE(8, "q", uint64_t)
RMW_BITS(2, "w", uint16_t)
RMW_BITS(4, "l", uint32_t)
RMW_BITS(8, "q", uint64_t)

/* A pair whose second half is always the first's complement, counted up together. */
#define PAIR(name, half, insn, b, c)                                                               \
    static uint64_t name(uint8_t *p, unsigned int thread, unsigned int rounds)                     \
    {                                                                                              \
        half low = 0, high = 0;                                                                    \
        uint64_t torn = 0;                                                                         \
        uint8_t stored;                                                                            \
        (void)thread;                                                                              \
        for (unsigned int i = 0; i < rounds; i++) {                                                \
            do {                                                                                   \
                half next = low + 1;                                                               \
                __asm__ volatile("lock " insn " %0\n\tsete %3"                                     \
                                 : "+m"(*(half(*)[2])(void *)p), "+a"(low), "+d"(high),            \
                                   "=q"(stored)                                                    \
                                 : b(next), c((half)~next)                                         \
                                 : "cc");                                                          \
                torn += !stored && high != (half)~low && (low | high);                             \
            } while (!stored);                                                                     \
        }                                                                                          \
        return torn;                                                                               \
    }
PAIR(pair4, uint32_t, "cmpxchg8b", "b", "c")
PAIR(pair8, uint64_t, "cmpxchg16b", "b", "c")

/* Sizes and places mixed: thread 0 adds to eight bytes, the others to halves of them. */
static uint64_t mixed(uint8_t *p, unsigned int thread, unsigned int rounds)
{
    for (unsigned int i = 0; i < rounds; i++) {
        if (thread == 0)
            add8(p, 0, 1);
        else if (thread == 1)
            __asm__ volatile("lock addl $0x10000, %0" : "+m"(*(uint32_t *)(void *)p) : : "cc");
        else
            add4(p + 4, 0, 1);
    }
    return 0;
}

/* Whether that is what must be there: value (of `size` bytes), and the threads' sums. */
typedef bool check_fn(uint64_t value, uint64_t high, const uint64_t sum[THREADS], uint64_t total,
                      uint64_t mask);

#define CHECK(name, condition)                                                                     \
    static bool name(uint64_t value, uint64_t high, const uint64_t sum[THREADS], uint64_t total,   \
                     uint64_t mask)                                                                \
    {                                                                                              \
        uint64_t all = sum[0] + sum[1] + sum[2] + sum[3];                                          \
        (void)value, (void)high, (void)all, (void)total, (void)mask;                               \
        return condition;                                                                          \
    }

CHECK(counted_up, value == (total & mask))
CHECK(counted_down, value == (-total & mask))
CHECK(as_before, value == 0)
CHECK(still_one, value == 1)
CHECK(each_once, value == (total & mask) && ((all - total * (total - 1) / 2) & mask) == 0)
CHECK(nothing_lost, value + all == 1 + 2 + 3 + 4 && value != sum[0] && value != sum[1] &&
                        value != sum[2] && value != sum[3])
CHECK(own_bits, value == 0 && all == 0)
CHECK(counted_as_pair, value == total && high == (~total & mask) && all == 0)
CHECK(all_added, value == total / 4 + (total / 4 << 16) + (total / 2 << 32))

#define SIZES(f)                                                                                   \
    {                                                                                              \
        f##1, f##2, f##4, f##8                                                                     \
    }
static const struct locked {
    const char *name;
    rmw_fn *run[4]; /* by log2 of the size */
    check_fn *check;
    bool aligned_only;
} locked[] = {
    {"lock-add", SIZES(add), counted_up, false},
    {"lock-sub", SIZES(sub), counted_down, false},
    {"lock-inc", SIZES(inc), counted_up, false},
    {"lock-dec", SIZES(dec), counted_down, false},
    {"lock-adc", SIZES(adc), counted_up, false},
    {"lock-sbb", SIZES(sbb), counted_down, false},
    {"lock-not", SIZES(not ), as_before, false},
    {"lock-neg", SIZES(neg), still_one, false},
    {"lock-xadd", SIZES(xadd), each_once, false},
    {"lock-cmpxchg", SIZES(cmpxchg), each_once, false},
    {"lock-or-and-xor", SIZES(logic), own_bits, false},
    {"xchg", SIZES(xchg), nothing_lost, false},
    {"lock-bts-btr-btc", {NULL, bits2, bits4, bits8}, own_bits, false},
    {"cmpxchg8b", {NULL, NULL, pair4, NULL}, counted_as_pair, false},
    {"cmpxchg16b", {NULL, NULL, NULL, pair8}, counted_as_pair, true},
    {"lock-mixed", {NULL, NULL, NULL, mixed}, all_added, false},
};

struct locked_case {
    rmw_fn *run;
    uint8_t *p;
    unsigned int rounds;
    uint64_t sum[THREADS];
};

static void locked_work(struct crew *c, unsigned int thread)
{
    struct locked_case *test = (struct locked_case *)(uintptr_t)c->test;
    test->sum[thread] = test->run(test->p, thread, test->rounds);
}

static bool locked_try(const struct locked *l, uint8_t *p, unsigned int size, bool split)
{
    struct locked_case test = {
        .run = l->run[__builtin_ctz(size)], .p = p, .rounds = split ? SPLIT_ROUNDS : CASE_ROUNDS};
    uint64_t value = 0, high = 0, mask = UINT64_MAX >> (64 - 8 * size);
    struct crew c;
    memset(p, 0, 16);
    p[0] = l->check == still_one;
    if (l->check == counted_as_pair)
        memset(p + size, 0xFF, size);
    crew_run(&c, THREADS, locked_work, &test);
    memcpy(&value, p, size);
    memcpy(&high, p + size, size);
    return l->check(value, high, test.sum, (uint64_t)THREADS * test.rounds, mask);
}

static void locked_run(const struct locked *l, uint8_t *pages)
{
    char text[64];
    for (unsigned int size = 1; size <= 8; size *= 2) {
        bool pair = l->check == counted_as_pair;
        unsigned int half = pair ? size : (size + 1) / 2;
        const unsigned int places[] = {0, 17, 128 - half, 4096 - half};
        for (unsigned int i = 0; i < (l->aligned_only ? 1u : 4u); i++) {
            if (!l->run[__builtin_ctz(size)])
                continue;
            if (locked_try(l, pages + places[i], size, i >= 2 && size * (pair ? 2 : 1) > 1))
                continue;
            snprintf(text, sizeof(text), "%u bytes at %u", size, places[i]);
            report(l->name, text, NULL);
            return;
        }
    }
    report(l->name, NULL, "");
}

int main(void)
{
    uint8_t *pages =
        mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
    processors = sysconf(_SC_NPROCESSORS_ONLN);
    if (pages == MAP_FAILED || processors < 1)
        return 2;
    for (size_t i = 0; i < sizeof(litmus) / sizeof(litmus[0]); i++)
        litmus_run(&litmus[i]);
    for (size_t i = 0; i < sizeof(locked) / sizeof(locked[0]); i++)
        locked_run(&locked[i], pages);
    return failed ? 1 : 0;
}
