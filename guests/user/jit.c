/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * Code that is made while it runs, as JIT compilers do, with every result checked:
 *
 *   jit [SECONDS]     one thread for each processor; default 2
 *
 *   handed over   a thread writes functions into a page that is also mapped executable elsewhere, its
 *                 neighbour, on another processor, calls them
 *   rewritten     a thread rewrites the function that it has just called, in place
 *   across pages  the same with a function that lies across the end of a page, byte by byte
 *   flipped       a page is made writable, filled, made executable, called (W^X)
 *   own tail      a function changes the instructions that follow in itself
 *
 * Prints "PASS jit: N rounds" and ends with 0, or says what was wrong and ends with 1.
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
#include <time.h>
#include <unistd.h>

enum { PAGE = 4096, THREADS_MAX = 16, BATCH = 16, ENTRY = 64 };

typedef uint32_t function(uint32_t x);

/* Two mappings of the same memory. */
struct code {
    uint8_t *write, *run;
};

/* From one thread to the next. */
struct box {
    struct code code;
    uint32_t key[BATCH];
    _Atomic uint32_t full;
};

static struct box boxes[THREADS_MAX];
static unsigned int threads;
static _Atomic bool stop;
static _Atomic uint64_t rounds;

static void fail(const char *what, uint32_t got, uint32_t wanted)
{
    printf("FAIL jit: %s: %08x, not %08x\n", what, got, wanted);
    exit(1);
}

static uint32_t next_random(uint32_t *seed)
{
    *seed ^= *seed << 13;
    *seed ^= *seed >> 17;
    return *seed ^= *seed << 5;
}

/* What a function of that key computes: three operations, one of them conditional. */
static uint32_t value_of(uint32_t key, uint32_t x)
{
    uint32_t v = key + x;
    if (v & 1)
        v ^= key >> 3;
    return v * ((key & 0xFF) | 1);
}

/* lea eax, [rdi + key]; test al, 1; jz +5; xor eax, key >> 3; imul eax, eax, ...; ret */
static size_t compile(uint8_t *p, uint32_t key)
{
    const uint32_t other = key >> 3, factor = (key & 0xFF) | 1;
    uint8_t *at = p;
    memcpy(at, "\x8D\x87", 2);
    memcpy(at + 2, &key, 4);
    memcpy(at + 6, "\xA8\x01\x74\x05\x35", 5);
    memcpy(at + 11, &other, 4);
    memcpy(at + 15, "\x69\xC0", 2);
    memcpy(at + 17, &factor, 4);
    at[21] = 0xC3;
    return 22;
}

static void call(const uint8_t *code, uint32_t key, uint32_t x, const char *what)
{
    function *f = (function *)(uintptr_t)code;
    uint32_t got = f(x);
    if (got != value_of(key, x))
        fail(what, got, value_of(key, x));
}

/* A processor that is to execute what another has written serialises first (SDM 3A, 8.1.3). */
static void serialise(void)
{
    uint32_t a = 0, b, c = 0, d;
    __asm__ volatile("cpuid" : "+a"(a), "=b"(b), "+c"(c), "=d"(d) : : "memory");
}

static struct code map_twice(size_t size)
{
    int fd = memfd_create("jit", 0);
    struct code c;
    if (fd < 0 || ftruncate(fd, (off_t)size) != 0)
        fail("no memory", 0, 0);
    c.write = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    c.run = mmap(NULL, size, PROT_READ | PROT_EXEC, MAP_SHARED, fd, 0);
    if (c.write == MAP_FAILED || c.run == MAP_FAILED)
        fail("no mapping", 0, 0);
    close(fd);
    return c;
}

/* --- the parts --- */

static void hand_over(struct box *to, uint32_t *seed)
{
    if (atomic_load(&to->full))
        return;
    for (int n = 0; n < BATCH; n++) {
        to->key[n] = next_random(seed);
        compile(to->code.write + n * ENTRY, to->key[n]);
    }
    atomic_store(&to->full, 1);
}

static void take_over(struct box *from, uint32_t x)
{
    if (!atomic_load(&from->full))
        return;
    serialise();
    for (int n = 0; n < BATCH; n++)
        for (uint32_t k = 0; k < 4; k++)
            call(from->code.run + n * ENTRY, from->key[n], x + k, "handed over");
    atomic_store(&from->full, 0);
}

static void rewrite(const struct code *own, uint32_t *seed)
{
    for (int n = 0; n < 8; n++) {
        uint32_t key = next_random(seed);
        compile(own->write + 512, key);
        serialise();
        call(own->run + 512, key, key >> 7, "rewritten");
    }
}

static void cross(const struct code *own, uint32_t *seed)
{
    uint8_t bytes[32];
    for (size_t before = 1; before < 22; before++) {
        uint32_t key = next_random(seed);
        size_t size = compile(bytes, key), at = PAGE - before;
        for (size_t n = 0; n < size; n++)
            own->write[at + n] = bytes[n];
        serialise();
        call(own->run + at, key, key >> 9, "across pages");
        call(own->run + at, key, key >> 5, "across pages");
    }
}

static void flip(uint8_t *page, uint32_t *seed)
{
    uint32_t key = next_random(seed);
    mprotect(page, PAGE, PROT_READ | PROT_WRITE);
    compile(page + 128, key);
    mprotect(page, PAGE, PROT_READ | PROT_EXEC);
    call(page + 128, key, key >> 4, "flipped");
}

/* mov dword [rip + 1], edi; mov eax, ...; ret: the immediate is what was just stored. */
static void own_tail(uint8_t *page, uint32_t *seed)
{
    static const uint8_t code[] = {0x89, 0x3D, 1, 0, 0, 0, 0xB8, 0, 0, 0, 0, 0xC3};
    memcpy(page, code, sizeof(code));
    for (int n = 0; n < 4; n++) {
        uint32_t x = next_random(seed), got = ((function *)(uintptr_t)page)(x);
        if (got != x)
            fail("own tail", got, x);
    }
}

static void *work(void *arg)
{
    unsigned int self = (unsigned int)(uintptr_t)arg;
    uint32_t seed = 0x9E3779B9u * (self + 1);
    struct code own = map_twice(2 * PAGE);
    uint8_t *flipped = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    uint8_t *all = mmap(NULL, PAGE, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS,
                        -1, 0);
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(self, &set);
    (void)pthread_setaffinity_np(pthread_self(), sizeof(set), &set);
    if (flipped == MAP_FAILED || all == MAP_FAILED)
        fail("no mapping", 0, 0);
    while (!atomic_load(&stop)) {
        hand_over(&boxes[(self + 1) % threads], &seed);
        take_over(&boxes[self], seed);
        rewrite(&own, &seed);
        cross(&own, &seed);
        flip(flipped, &seed);
        own_tail(all, &seed);
        atomic_fetch_add(&rounds, 1);
    }
    return NULL;
}

int main(int argc, char **argv)
{
    pthread_t thread[THREADS_MAX];
    struct timespec time = {argc > 1 ? atoi(argv[1]) : 2, 0};
    long count = sysconf(_SC_NPROCESSORS_ONLN);
    threads = count < 1 ? 1 : count > THREADS_MAX ? THREADS_MAX : (unsigned int)count;
    for (unsigned int n = 0; n < threads; n++)
        boxes[n].code = map_twice(PAGE);
    for (unsigned int n = 0; n < threads; n++)
        if (pthread_create(&thread[n], NULL, work, (void *)(uintptr_t)n) != 0)
            fail("no thread", n, 0);
    nanosleep(&time, NULL);
    atomic_store(&stop, true);
    for (unsigned int n = 0; n < threads; n++)
        pthread_join(thread[n], NULL);
    printf("PASS jit: %llu rounds\n", (unsigned long long)atomic_load(&rounds));
    return atomic_load(&rounds) > 0 ? 0 : 1;
}
