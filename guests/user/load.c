/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * A load whose results are known, for a VM that is saved and goes on elsewhere: whatever is lost on the way (a register,
 * a page, a timer, an interrupt, a process) makes it say so. It runs on any x86-64 Linux.
 *
 *   load [noavx]   works until it reads "end"
 *   load spin      only looks at the clock, as often as it can: for measuring rests
 *
 * Words on its standard input, one a line: mono (says CLOCK_MONOTONIC in ns), gap (says the longest step of it that
 * the watcher has seen since the last time, in us), spoil (from now on each worker spoils what it checks, so that it
 * must fail: a test of the load), end (each worker must do one more round; then all stop, and are judged).
 *
 * Each worker is a process. It counts rounds in memory that all share, and says there what it found wrong.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/timerfd.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { MS = 1000000, WORKERS_MAX = 16, WAIT_MS = 20000, END_MS = 60000 };

struct worker {
    _Atomic uint64_t rounds;
    uint64_t enough; /* rounds that it must have done at the end */
    char wrong[160]; /* "": nothing */
    const char *name;
    pid_t pid;
};

static struct shared {
    _Atomic bool stop, spoil;
    _Atomic uint64_t latest, latest_tsc; /* CLOCK_MONOTONIC and TSC that any watcher has seen */
    _Atomic uint64_t gap;                /* the longest step, ns */
    struct worker worker[WORKERS_MAX];
} *shared;

static struct worker *self;

static bool stopped(void)
{
    return atomic_load(&shared->stop);
}

/* 0, or 1 when all shall be wrong. */
static unsigned int spoil(void)
{
    return atomic_load(&shared->spoil);
}

static void done_round(void)
{
    atomic_fetch_add(&self->rounds, 1);
}

static void pin(int cpu)
{
    cpu_set_t set;

    CPU_ZERO(&set);
    CPU_SET(cpu, &set);
    (void)sched_setaffinity(0, sizeof(set), &set); /* there may be one only */
}

/* A worker ends at the first thing that is wrong. */
static void expect(bool right, const char *what, uint64_t got, uint64_t wanted)
{
    if (right)
        return;
    snprintf(self->wrong, sizeof(self->wrong), "%s: %llx, not %llx, in round %llu", what, (unsigned long long)got,
             (unsigned long long)wanted, (unsigned long long)atomic_load(&self->rounds));
    _exit(1);
}

static uint64_t now_ns(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000 * MS + (uint64_t)t.tv_nsec;
}

/* --- computing -----------------------------------------------------------------------------------
 */

static uint32_t crc32(const uint8_t *p, size_t n)
{
    uint32_t crc = ~0u;

    for (size_t i = 0; i < n; i++) {
        crc ^= p[i];
        for (int k = 0; k < 8; k++)
            crc = crc >> 1 ^ (0xEDB88320u & (0u - (crc & 1u)));
    }
    return ~crc;
}

/* The sequence is one by Marsaglia; that of the digits is in every description of CRC-32. */
static void sums(void)
{
    enum { SIZE = 64 << 10, KNOWN = 0x4C10523E };
    static uint8_t bytes[SIZE];

    while (!stopped()) {
        uint64_t x = 88172645463325252u, hash = 14695981039346656037u;

        for (size_t i = 0; i < SIZE; i++) {
            x ^= x << 13;
            x ^= x >> 7;
            x ^= x << 17;
            bytes[i] = (uint8_t)(x >> 24);
            hash = (hash ^ bytes[i]) * 1099511628211u;
        }
        bytes[SIZE / 2] ^= (uint8_t)spoil();
        expect(crc32((const uint8_t *)"123456789", 9) == 0xCBF43926, "CRC-32 of digits", 0, 0);
        expect(crc32(bytes, SIZE) == KNOWN, "CRC-32", crc32(bytes, SIZE), KNOWN);
        expect(hash == UINT64_C(0xA37F5D97A6DEB475), "FNV", hash, UINT64_C(0xA37F5D97A6DEB475));
        done_round();
    }
}

static void floats(void)
{
    long double first = 0;
    double first_sse = 0;

    while (!stopped()) {
        long double x = 0.3L;
        double y = 0.3, z = 1.0;

        for (int i = 0; i < 10000; i++) {
            x = 3.99L * x * (1 - x); /* any bit that is lost is seen after some rounds */
            y = 3.99 * y * (1 - y);
            z = z * 1.0000001 + y / 3;
        }
        y += z;
        if (atomic_load(&self->rounds) == 0) {
            first = x;
            first_sse = y;
        }
        if (spoil())
            x = -x;
        expect(memcmp(&x, &first, 10) == 0, "x87", 0, 0);
        expect(memcmp(&y, &first_sse, 8) == 0, "SSE", 0, 0);
        done_round();
    }
}

/* All of x87's and SSE's registers are live, with values that stay exact, and modes that are not the usual ones: the
 * mantissa's full width, rounded to zero, and "precision" noted as seen. x87's stack goes round with each addition. */
static void registers(void)
{
    enum { TURNS = 20000, X87_STEP = 3, MODE_X87 = 0x0F7F, MODE_SSE = 0x7FA0 };
    static int64_t in[8], out[8];
    static double in_sse[16][2] __attribute__((aligned(16))), out_sse[16][2] __attribute__((aligned(16)));
    static const double step = X87_STEP;
    static const uint16_t mode = MODE_X87;
    static const uint32_t mode_sse = MODE_SSE, usual_sse = 0x1F80;

    for (int n = 0; n < 8; n++)
        in[n] = ((int64_t)n << 58) + n;
    for (int n = 0; n < 16; n++)
        for (int i = 0; i < 2; i++)
            in_sse[n][i] = n * 1e9 + i + 1;
    while (!stopped()) {
        uint32_t turns = TURNS, sse;
        uint16_t x87, status;

        __asm__ volatile("fninit\n"
                         "fldcw %[mode]\n"
                         "ldmxcsr %[mode_sse]\n"
                         ".irp n, 0,1,2,3,4,5,6,7\n"
                         "fildll 8*\\n(%[in])\n"
                         ".endr\n"
                         ".irp n, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15\n"
                         "movapd 16*\\n(%[in_sse]), %%xmm\\n\n"
                         ".endr\n"
                         "1:\n"
                         "faddl %[step]\n"
                         "fincstp\n"
                         ".irp n, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14\n"
                         "addpd %%xmm15, %%xmm\\n\n"
                         ".endr\n"
                         "decl %[turns]\n"
                         "jne 1b\n"
                         "fnstsw %[status]\n"
                         ".irp n, 7,6,5,4,3,2,1,0\n"
                         "fistpll 8*\\n(%[out])\n"
                         ".endr\n"
                         ".irp n, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15\n"
                         "movapd %%xmm\\n, 16*\\n(%[out_sse])\n"
                         ".endr\n"
                         "fnstcw %[x87]\n"
                         "stmxcsr %[sse]\n"
                         "fninit\n"
                         "ldmxcsr %[usual_sse]\n"
                         : [turns] "+r"(turns), [x87] "=m"(x87), [status] "=m"(status), [sse] "=m"(sse)
                         : [in] "r"(in), [out] "r"(out), [in_sse] "r"(in_sse), [out_sse] "r"(out_sse), [step] "m"(step),
                           [mode] "m"(mode), [mode_sse] "m"(mode_sse), [usual_sse] "m"(usual_sse)
                         : "memory", "st", "st(1)", "st(2)", "st(3)", "st(4)", "st(5)", "st(6)", "st(7)", "xmm0", "xmm1",
                           "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", "xmm11", "xmm12",
                           "xmm13", "xmm14", "xmm15");
        out[3] ^= spoil();
        for (int n = 0; n < 8; n++)
            expect(out[n] == in[n] + TURNS / 8 * X87_STEP, "x87 register", (uint64_t)out[n],
                   (uint64_t)(in[n] + TURNS / 8 * X87_STEP));
        for (int n = 0; n < 16; n++)
            for (int i = 0; i < 2; i++) {
                double wanted = in_sse[n][i] + (n < 15 ? TURNS * in_sse[15][i] : 0);

                expect(memcmp(&out_sse[n][i], &wanted, 8) == 0, "SSE register", (uint64_t)out_sse[n][i],
                       (uint64_t)wanted);
            }
        expect(x87 == MODE_X87, "x87's control word", x87, MODE_X87);
        expect((status & 0x387F) == 0, "x87's top and exceptions", status, 0);
        expect(sse == MODE_SSE, "MXCSR", sse, MODE_SSE);
        done_round();
    }
}

/* All sixteen YMM registers are live for a million instructions, each with values of its own. */
static void vectors(void)
{
    static uint32_t in[16][8] __attribute__((aligned(32))), out[16][8] __attribute__((aligned(32)));
    enum { TURNS = 50000 };

    expect(__builtin_cpu_supports("avx2"), "no AVX2 here (noavx)", 0, 0);
    while (!stopped()) {
        uint32_t turns = TURNS;

        for (uint32_t r = 0; r < 16; r++)
            for (uint32_t i = 0; i < 8; i++)
                in[r][i] = r * 0x01010101u + i * 0x10000001u;
        __asm__ volatile(
            ".irp n, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15\n"
            "vmovdqa 32*\\n(%[in]), %%ymm\\n\n"
            ".endr\n"
            "1:\n"
            ".irp n, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14\n" /* ymm15 is what is added to the others */
            "vpaddd %%ymm15, %%ymm\\n, %%ymm\\n\n"
            ".endr\n"
            "decl %[turns]\n"
            "jne 1b\n"
            ".irp n, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15\n"
            "vmovdqa %%ymm\\n, 32*\\n(%[out])\n"
            ".endr\n"
            "vzeroupper\n"
            : [turns] "+r"(turns)
            : [in] "r"(in), [out] "r"(out)
            : "memory", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10",
              "xmm11", "xmm12", "xmm13", "xmm14", "xmm15");
        out[9][7] ^= spoil();
        for (uint32_t r = 0; r < 16; r++)
            for (uint32_t i = 0; i < 8; i++) {
                uint32_t wanted = in[r][i] + (r < 15 ? in[15][i] * TURNS : 0);

                expect(out[r][i] == wanted, "AVX2 register", out[r][i], wanted);
            }
        done_round();
    }
}

/* --- processes and memory ------------------------------------------------------------------------
 */

static void echo(int from, int to)
{
    uint64_t n;

    pin(1);
    while (read(from, &n, sizeof(n)) == sizeof(n)) {
        n = ~n ^ spoil();
        if (write(to, &n, sizeof(n)) != sizeof(n))
            break;
    }
    _exit(0);
}

/* From one processor to the other and back: each message is a wake-up by interrupt. */
static void ping(void)
{
    int there[2], back[2];
    pid_t child;
    uint64_t n = 0;

    expect(pipe(there) == 0 && pipe(back) == 0, "pipe", 0, 0);
    child = fork();
    if (child == 0) {
        close(there[1]);
        close(back[0]);
        echo(there[0], back[1]);
    }
    pin(0);
    close(there[0]);
    close(back[1]);
    while (!stopped()) {
        for (int i = 0; i < 100; i++, n++) {
            struct pollfd p = {.fd = back[0], .events = POLLIN};
            uint64_t got = 0;

            expect(write(there[1], &n, sizeof(n)) == sizeof(n), "write", 0, 0);
            expect(poll(&p, 1, WAIT_MS) == 1, "a wake-up that did not come", n, 0);
            expect(read(back[0], &got, sizeof(got)) == sizeof(got) && got == ~n, "echo", got, ~n);
        }
        done_round();
    }
    close(there[1]);
    expect(waitpid(child, NULL, 0) == child, "its partner", 0, 0);
}

static sigjmp_buf back_from_fault;

static void on_fault(int signal)
{
    siglongjmp(back_from_fault, signal);
}

static void fill_pages(uint64_t *p, size_t words, uint64_t key)
{
    for (size_t i = 0; i < words; i++)
        p[i] = i * UINT64_C(0x9E3779B97F4A7C15) ^ key;
}

static void check_pages(const uint64_t *p, size_t words, uint64_t key, const char *what)
{
    for (size_t i = 0; i < words; i++)
        expect(p[i] == (i * UINT64_C(0x9E3779B97F4A7C15) ^ key), what, p[i], i * UINT64_C(0x9E3779B97F4A7C15) ^ key);
}

/* A child sees its parent's pages, and what it writes is its own. */
static void check_fork(uint64_t *p, size_t words, uint64_t key)
{
    int status = 0;
    pid_t child = fork();

    if (child == 0) {
        check_pages(p, words, key, "a child's copy");
        fill_pages(p, words / 2, key + 1);
        check_pages(p, words / 2, key + 1, "what a child wrote");
        _exit(0);
    }
    expect(child > 0 && waitpid(child, &status, 0) == child && status == 0, "a child", (uint64_t)status, 0);
    check_pages(p, words, key, "what a child must not write to");
}

static bool is_read_only(volatile uint64_t *p)
{
    if (sigsetjmp(back_from_fault, 1) != 0)
        return true;
    *p = 1;
    return false;
}

static void pages(void)
{
    enum { SIZE = 256 << 10, WORDS = SIZE / 8 };
    struct sigaction a = {.sa_handler = on_fault, .sa_flags = SA_NODEFER};

    sigaction(SIGSEGV, &a, NULL);
    for (uint64_t key = 0; !stopped(); key++) {
        uint64_t *p = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

        expect(p != MAP_FAILED, "mmap", 0, 0);
        fill_pages(p, WORDS, key);
        check_fork(p, WORDS, key);
        expect(mprotect(p, SIZE / 2, PROT_READ) == 0, "mprotect", 0, 0);
        expect(is_read_only(p), "a write to what is read-only", 0, 0);
        p[WORDS - 1] ^= spoil();
        check_pages(p, WORDS, key, "pages");
        expect(munmap(p, SIZE) == 0, "munmap", 0, 0);
        done_round();
    }
}

/* Two threads on two processors. One puts a new page where an old one was, the other must see what is in the new one:
 * its processor has to forget the old translation, is told so by an interrupt, and the first waits for its answer. */
static struct remapped {
    volatile uint64_t *page;
    _Atomic uint64_t written, seen;
} remapped;

/* Both may run on one processor, or the other not now. */
static void wait_for(_Atomic uint64_t *count, uint64_t n)
{
    for (unsigned int i = 1; atomic_load(count) < n; i++) {
        if (i % 1000 == 0)
            sched_yield();
    }
}

static void *look(void *unused)
{
    (void)unused;
    pin(1);
    for (uint64_t n = 1;; n++) {
        wait_for(&remapped.written, n);
        expect(*remapped.page == n, "a page that is no more", *remapped.page, n);
        atomic_store(&remapped.seen, n);
    }
    return NULL;
}

static void remap(void)
{
    enum { SIZE = 4096 };
    void *at = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    uint64_t n = 0;
    pthread_t thread;

    remapped.page = at;
    expect(at != MAP_FAILED && pthread_create(&thread, NULL, look, NULL) == 0, "a thread", 0, 0);
    pin(0);
    while (!stopped()) {
        for (int i = 0; i < 20; i++) {
            expect(mmap(at, SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == at,
                   "mmap in place", 0, 0);
            *remapped.page = ++n + spoil();
            atomic_store(&remapped.written, n);
            wait_for(&remapped.seen, n);
        }
        done_round();
    }
}

/* --- time ----------------------------------------------------------------------------------------
 */

/* A period's expirations, counted by the kernel, are as many as its clock says. */
static void periodic(void)
{
    enum { PERIOD = 7 * MS };
    struct itimerspec every = {.it_value = {.tv_nsec = PERIOD}, .it_interval = {.tv_nsec = PERIOD}};
    int fd = timerfd_create(CLOCK_MONOTONIC, 0);
    uint64_t before = now_ns(), after, total = 0, count, least, most; /* it is set between before and after */

    expect(fd >= 0 && timerfd_settime(fd, 0, &every, NULL) == 0, "timerfd", 0, 0);
    after = now_ns();
    while (!stopped()) {
        struct pollfd p = {.fd = fd, .events = POLLIN};

        expect(poll(&p, 1, WAIT_MS) == 1, "a timer that was lost", total, 0);
        least = (now_ns() - after) / PERIOD;
        expect(read(fd, &count, sizeof(count)) == sizeof(count), "read of a timer", 0, 0);
        total += count - spoil();
        most = (now_ns() - before) / PERIOD;
        expect(total >= least, "expirations lost", total, least);
        expect(total <= most, "expirations early", total, most);
        done_round();
    }
}

/* One after the other, none early, none lost (alarm kills who is not woken). */
static void sleeps(void)
{
    for (long ms = 1; !stopped(); ms = ms % 40 + 3) {
        struct timespec t = {.tv_nsec = ms * MS};
        uint64_t before = now_ns(), slept;

        alarm(WAIT_MS / 1000);
        expect(nanosleep(&t, NULL) == 0, "nanosleep", 0, 0);
        slept = spoil() ? 0 : now_ns() - before;
        expect(slept >= (uint64_t)ms * MS, "woken early, ns", slept, (uint64_t)ms * MS);
        done_round();
    }
}

static uint64_t tsc(void)
{
    uint32_t low, high;

    __asm__ volatile("lfence; rdtsc" : "=a"(low), "=d"(high));
    return (uint64_t)high << 32 | low;
}

static void note_gap(uint64_t gap)
{
    uint64_t longest = atomic_load(&shared->gap);

    while (gap > longest && !atomic_compare_exchange_weak(&shared->gap, &longest, gap))
        continue;
}

static void note_latest(_Atomic uint64_t *latest, uint64_t t)
{
    uint64_t seen = atomic_load(latest);

    while (t > seen && !atomic_compare_exchange_weak(latest, &seen, t))
        continue;
}

/* Pinned to one processor: its clocks do not go back, nor are they behind what the other's have said. */
static void watch(int cpu, unsigned int pause_us)
{
    uint64_t last = 0, last_tsc = 0;

    pin(cpu);
    while (!stopped()) {
        for (int i = 0; i < 200 && !stopped(); i++) {
            uint64_t others = atomic_load(&shared->latest), t = now_ns() >> spoil();
            uint64_t others_tsc = atomic_load(&shared->latest_tsc), counter = tsc();

            expect(t >= last, "CLOCK_MONOTONIC went back", t, last);
            expect(t >= others, "CLOCK_MONOTONIC is behind another processor's", t, others);
            expect(counter >= last_tsc, "TSC went back", counter, last_tsc);
            expect(counter >= others_tsc, "TSC is behind another processor's", counter, others_tsc);
            note_latest(&shared->latest, t);
            note_latest(&shared->latest_tsc, counter);
            if (last)
                note_gap(t - last);
            last = t;
            last_tsc = counter;
            if (pause_us)
                usleep(pause_us);
        }
        done_round();
    }
}

static void watch_0(void)
{
    watch(0, 700);
}

static void watch_1(void)
{
    watch(1, 500);
}

static void spin(void)
{
    watch(0, 0);
}

/* --- the whole -----------------------------------------------------------------------------------
 */

static const struct kind {
    const char *name;
    void (*body)(void);
} kinds[] = {
    {"sums", sums},   {"floats", floats},     {"registers", registers}, {"ping", ping},          {"pages", pages},
    {"remap", remap}, {"periodic", periodic}, {"sleeps", sleeps},       {"clock of 0", watch_0}, {"clock of 1", watch_1},
    {"vectors", vectors},
};

static const struct kind spinning[] = {{"spin", spin}};

static void start(const struct kind *k, unsigned int n)
{
    struct worker *w = &shared->worker[n];

    pid_t pid;

    w->name = k->name;
    pid = fork();
    if (pid == 0) { /* what is shared is not for the child to write */
        self = w;
        k->body();
        _exit(0);
    }
    w->pid = pid;
}

/* It is for judge() to ask how. */
static bool has_ended(const struct worker *w)
{
    siginfo_t info = {0};

    return waitid(P_PID, (id_t)w->pid, &info, WEXITED | WNOHANG | WNOWAIT) == 0 && info.si_pid == w->pid;
}

/* Each worker has done one more round (two, since the first of them may have begun before), or has ended. False: not
 * within END_MS. */
static bool all_go_on(unsigned int count)
{
    uint64_t begin = now_ns();

    for (unsigned int n = 0; n < count; n++)
        shared->worker[n].enough = atomic_load(&shared->worker[n].rounds) + 2;
    for (unsigned int n = 0; n < count; n++) {
        struct worker *w = &shared->worker[n];

        while (atomic_load(&w->rounds) < w->enough && !has_ended(w)) {
            if (now_ns() - begin > (uint64_t)END_MS * MS)
                return false;
            usleep(10000);
        }
    }
    return true;
}

/* One line of standard input, without its end; false: there is no more. */
static bool read_word(char *word, size_t size)
{
    size_t n = 0;
    char c;

    while (read(STDIN_FILENO, &c, 1) == 1) {
        if (c == '\n' || c == '\r') {
            word[n] = '\0';
            return true;
        }
        if (n + 1 < size)
            word[n++] = c;
    }
    return false;
}

static bool judge(unsigned int count)
{
    bool pass = true;

    for (unsigned int n = 0; n < count; n++) {
        struct worker *w = &shared->worker[n];
        uint64_t rounds = atomic_load(&w->rounds);
        bool stuck = rounds < w->enough && !has_ended(w);
        int status = 0;

        if (stuck)
            kill(w->pid, SIGKILL); /* it may not hear of the end either */
        waitpid(w->pid, &status, 0);
        printf("load: %s: %llu rounds\n", w->name, (unsigned long long)rounds);
        if (status == 0 && rounds >= w->enough)
            continue;
        printf("load: FAIL %s: %s (status %x)\n", w->name,
               w->wrong[0] ? w->wrong : stuck || status == 0 ? "it does not go on" : "it died", (unsigned int)status);
        pass = false;
    }
    printf("load: %s\n", pass ? "pass" : "FAIL");
    return pass;
}

int main(int argc, char **argv)
{
    bool only_spin = argc > 1 && strcmp(argv[1], "spin") == 0;
    const struct kind *kind = only_spin ? spinning : kinds;
    unsigned int count = only_spin ? 1 : sizeof(kinds) / sizeof(kinds[0]);
    char word[32];

    if (argc > 1 && strcmp(argv[1], "noavx") == 0)
        count--; /* the last */
    setvbuf(stdout, NULL, _IOLBF, 0);
    shared = mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    for (unsigned int n = 0; n < count; n++)
        start(&kind[n], n);
    printf("load: %s\n", all_go_on(count) ? "ready" : "FAIL: not all begin");
    while (read_word(word, sizeof(word)) && strcmp(word, "end") != 0) {
        if (strcmp(word, "spoil") == 0)
            atomic_store(&shared->spoil, true);
        else if (strcmp(word, "mono") == 0)
            printf("load: mono %llu\n", (unsigned long long)now_ns());
        else if (strcmp(word, "gap") == 0)
            printf("load: longest gap %llu us\n", (unsigned long long)(atomic_exchange(&shared->gap, 0) / 1000));
    }
    (void)all_go_on(count); /* who did not is judged */
    atomic_store(&shared->stop, true);
    return judge(count) ? 0 : 1;
}
