/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * Runs inside a Linux guest and exercises what an operating system asks of a processor, checking
 * every result: signals, threads, fork, exec, mmap and page faults, copy on write, floating point
 * (x87, SSE, AVX2 where the processor says that it has it), state kept across context switches,
 * timers and clocks, self-modifying code, pipes. Prints "PASS name" or "FAIL name: why" for each and
 * exits 0 only if all passed. It runs on any x86-64 Linux, so it can be tried on the host too.
 */
#define _GNU_SOURCE
#include <immintrin.h>
#include <math.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>
#include <ucontext.h>
#include <unistd.h>

#define EXPECT(x)                                                                                  \
    do {                                                                                           \
        if (!(x))                                                                                  \
            return #x;                                                                             \
    } while (0)

/* --- signals ------------------------------------------------------------------------------------ */

static sigjmp_buf fault_return;
static volatile siginfo_t fault_info;

static void on_fault(int sig, siginfo_t *info, void *context)
{
    (void)context;
    memcpy((void *)(uintptr_t)&fault_info, info, sizeof(*info));
    siglongjmp(fault_return, sig);
}

static void catch(int sig)
{
    struct sigaction a = {.sa_sigaction = on_fault, .sa_flags = SA_SIGINFO | SA_NODEFER};
    sigaction(sig, &a, NULL);
}

static const char *test_faults(void)
{
    catch(SIGSEGV);
    catch(SIGFPE);
    catch(SIGILL);
    catch(SIGTRAP);
    volatile char *nowhere = (volatile char *)16;
    int sig = sigsetjmp(fault_return, 1);
    if (sig == 0)
        *nowhere = 1;
    EXPECT(sig == SIGSEGV && fault_info.si_addr == (void *)16 && fault_info.si_code == SEGV_MAPERR);

    volatile int zero = 0;
    volatile int one = 1;
    sig = sigsetjmp(fault_return, 1);
    if (sig == 0)
        one = one / zero;
    EXPECT(sig == SIGFPE && fault_info.si_code == FPE_INTDIV);

    sig = sigsetjmp(fault_return, 1);
    if (sig == 0)
        __asm__ volatile("ud2");
    EXPECT(sig == SIGILL);

    sig = sigsetjmp(fault_return, 1);
    if (sig == 0)
        __asm__ volatile("int3");
    EXPECT(sig == SIGTRAP);

    char *page = mmap(NULL, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    sig = sigsetjmp(fault_return, 1);
    if (sig == 0)
        *(volatile char *)page = 1;
    EXPECT(sig == SIGSEGV && fault_info.si_code == SEGV_ACCERR);
    sig = sigsetjmp(fault_return, 1);
    if (sig == 0)
        ((void (*)(void))(uintptr_t)page)();
    EXPECT(sig == SIGSEGV && fault_info.si_addr == page);
    munmap(page, 4096);
    return NULL;
}

static volatile sig_atomic_t steps;

static void on_step(int sig, siginfo_t *info, void *context)
{
    (void)sig;
    (void)info;
    ucontext_t *c = context;
    if (++steps >= 5)
        c->uc_mcontext.gregs[REG_EFL] &= ~0x100;
}

static const char *test_single_step(void)
{
    struct sigaction a = {.sa_sigaction = on_step, .sa_flags = SA_SIGINFO};
    sigaction(SIGTRAP, &a, NULL);
    steps = 0;
    __asm__ volatile("sub $128, %%rsp\n\tpushf\n\torl $0x100, (%%rsp)\n\tpopf\n\t"
                     "nop\n\tnop\n\tnop\n\tnop\n\tnop\n\tnop\n\tadd $128, %%rsp"
                     :
                     :
                     : "memory", "cc");
    EXPECT(steps == 5);
    return NULL;
}

/* --- threads ------------------------------------------------------------------------------------ */

enum { THREADS = 4, ROUNDS = 20000 };
static _Atomic uint64_t atomic_sum;
static uint64_t locked_sum;
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;

static void *adder(void *arg)
{
    (void)arg;
    for (int i = 0; i < ROUNDS; i++) {
        atomic_fetch_add(&atomic_sum, 1);
        if (i % 16 == 0) {
            pthread_mutex_lock(&mutex);
            locked_sum++;
            pthread_mutex_unlock(&mutex);
        }
    }
    return NULL;
}

static const char *test_threads(void)
{
    pthread_t t[THREADS];
    for (int i = 0; i < THREADS; i++)
        EXPECT(pthread_create(&t[i], NULL, adder, NULL) == 0);
    for (int i = 0; i < THREADS; i++)
        EXPECT(pthread_join(t[i], NULL) == 0);
    EXPECT(atomic_sum == (uint64_t)THREADS * ROUNDS);
    EXPECT(locked_sum == (uint64_t)THREADS * ROUNDS / 16);
    return NULL;
}

/* Store buffers must not be seen through: Dekker's algorithm with fences, and message passing. */
static _Atomic int flag_a, flag_b, turn;
static uint64_t dekker_count;

static void *dekker(void *arg)
{
    _Atomic int *mine = arg ? &flag_a : &flag_b, *other = arg ? &flag_b : &flag_a;
    int me = arg ? 1 : 0;
    for (int i = 0; i < 2000; i++) {
        atomic_store(mine, 1);
        while (atomic_load(other)) {
            if (atomic_load(&turn) != me) {
                atomic_store(mine, 0);
                while (atomic_load(&turn) != me)
                    sched_yield();
                atomic_store(mine, 1);
            }
        }
        dekker_count++;
        atomic_store(&turn, !me);
        atomic_store(mine, 0);
    }
    return NULL;
}

static const char *test_ordering(void)
{
    pthread_t t;
    EXPECT(pthread_create(&t, NULL, dekker, NULL) == 0);
    dekker(&t);
    pthread_join(t, NULL);
    EXPECT(dekker_count == 4000);
    return NULL;
}

/* --- memory ------------------------------------------------------------------------------------- */

static const char *test_fork(void)
{
    enum { SIZE = 1 << 20 };
    unsigned char *shared = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    unsigned char *own = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    EXPECT(shared != MAP_FAILED && own != MAP_FAILED);
    for (int i = 0; i < SIZE; i++)
        own[i] = (unsigned char)(i * 7 >> 4);
    for (int round = 0; round < 8; round++) {
        pid_t child = fork();
        EXPECT(child >= 0);
        if (child == 0) {
            for (int i = 0; i < SIZE; i++)
                if (own[i] != (unsigned char)(i * 7 >> 4))
                    _exit(1);
            memset(own, round, SIZE);
            shared[round] = (unsigned char)(own[SIZE - 1] + 1);
            _exit(40 + round);
        }
        int status;
        EXPECT(waitpid(child, &status, 0) == child);
        EXPECT(WIFEXITED(status) && WEXITSTATUS(status) == 40 + round);
        EXPECT(shared[round] == round + 1);
    }
    for (int i = 0; i < SIZE; i++)
        EXPECT(own[i] == (unsigned char)(i * 7 >> 4));
    munmap(own, SIZE);
    munmap(shared, 4096);
    return NULL;
}

static const char *test_mmap(void)
{
    enum { PAGES = 512 };
    for (int round = 0; round < 4; round++) {
        uint32_t *p = mmap(NULL, PAGES * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        EXPECT(p != MAP_FAILED);
        for (uint32_t i = 0; i < PAGES; i++) {
            EXPECT(p[i * 1024] == 0);
            p[i * 1024] = i + 1;
        }
        uint32_t *moved = mremap(p, PAGES * 4096, PAGES * 4096 * 2, MREMAP_MAYMOVE);
        EXPECT(moved != MAP_FAILED);
        for (uint32_t i = 0; i < PAGES; i++)
            EXPECT(moved[i * 1024] == i + 1);
        EXPECT(mprotect(moved, PAGES * 4096, PROT_READ) == 0);
        EXPECT(madvise(moved, PAGES * 4096, MADV_DONTNEED) == 0);
        EXPECT(moved[0] == 0 && moved[(PAGES - 1) * 1024] == 0);
        EXPECT(munmap(moved, PAGES * 4096 * 2) == 0);
    }
    return NULL;
}

static const char *test_generated_code(void)
{
    unsigned char *code = mmap(NULL, 4096, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    EXPECT(code != MAP_FAILED);
    int (*call)(void) = (int (*)(void))(uintptr_t)code;
    for (int i = 0; i < 3000; i++) {
        code[0] = 0xB8; /* mov eax, imm32; ret */
        memcpy(code + 1, &i, 4);
        code[5] = 0xC3;
        EXPECT(call() == i);
    }
    /* code that rewrites its own next instruction: mov byte [rip+1], 2; mov al, 1; movzx; ret */
    static const unsigned char self[] = {0xC6, 0x05, 0x01, 0, 0, 0, 2, 0xB0, 1, 0x0F, 0xB6, 0xC0, 0xC3};
    memcpy(code + 64, self, sizeof(self));
    EXPECT(((int (*)(void))(uintptr_t)(code + 64))() == 2);
    munmap(code, 4096);
    return NULL;
}

/* --- floating point ------------------------------------------------------------------------------- */

static const char *test_x87(void)
{
    long double sum = 0;
    for (int i = 1; i <= 2000; i++)
        sum += 1.0L / i;
    EXPECT(fabsl(sum - 8.178368103610282409577656571642L) < 1e-15L);
    volatile long double two = 2.0L;
    EXPECT(fabsl(sqrtl(two) * sqrtl(two) - 2.0L) < 1e-18L);
    long double s;
    volatile long double x = 1.0L;
    __asm__("fsin" : "=t"(s) : "0"(x));
    EXPECT(fabsl(s - 0.84147098480789650665L) < 1e-18L);
    unsigned short control;
    __asm__("fnstcw %0" : "=m"(control));
    EXPECT((control & 0x3F) == 0x3F);
    return NULL;
}

static const char *test_sse(void)
{
    double m[16][16], r[16][16];
    for (int i = 0; i < 16; i++)
        for (int j = 0; j < 16; j++)
            m[i][j] = i == j ? 2.0 : (i + j) % 3 - 1.0;
    double trace = 0;
    for (int i = 0; i < 16; i++)
        for (int j = 0; j < 16; j++) {
            r[i][j] = 0;
            for (int k = 0; k < 16; k++)
                r[i][j] += m[i][k] * m[k][j];
        }
    for (int i = 0; i < 16; i++)
        trace += r[i][i];
    double check = 0;
    for (int i = 0; i < 16; i++)
        for (int k = 0; k < 16; k++)
            check += m[i][k] * m[k][i];
    EXPECT(trace == check);
    volatile float third = 1.0f / 3.0f;
    EXPECT(third * 3.0f == 1.0f);
    volatile double big = 1e300;
    EXPECT(isinf(big * big));
    volatile double d = 12345678.9;
    EXPECT((int)d == 12345678 && (long)(float)d == 12345679);
    return NULL;
}

__attribute__((target("avx2,fma,bmi,bmi2"))) static const char *test_avx2(void)
{
    if (!__builtin_cpu_supports("avx2"))
        return NULL;
    uint32_t in[64], out[64];
    for (uint32_t i = 0; i < 64; i++)
        in[i] = i * 0x01010101u;
    for (size_t i = 0; i < 64; i += 8) {
        __m256i v = _mm256_loadu_si256((const __m256i *)(const void *)&in[i]);
        v = _mm256_add_epi32(_mm256_slli_epi32(v, 3), _mm256_set1_epi32(5));
        v = _mm256_permutevar8x32_epi32(v, _mm256_setr_epi32(7, 6, 5, 4, 3, 2, 1, 0));
        _mm256_storeu_si256((__m256i *)(void *)&out[i], v);
    }
    for (uint32_t i = 0; i < 64; i++)
        EXPECT(out[i] == in[(i & ~7u) + 7 - (i & 7)] * 8 + 5);
    __m256i index = _mm256_setr_epi32(3, 1, 4, 1, 5, 9, 2, 6);
    __m256i got = _mm256_i32gather_epi32((const int *)(const void *)in, index, 4);
    _mm256_storeu_si256((__m256i *)(void *)out, got);
    EXPECT(out[0] == in[3] && out[5] == in[9] && out[7] == in[6]);
    __m256d f = _mm256_fmadd_pd(_mm256_set1_pd(3), _mm256_set1_pd(4), _mm256_set1_pd(5));
    double lanes[4];
    _mm256_storeu_pd(lanes, f);
    EXPECT(lanes[0] == 17 && lanes[3] == 17);
    EXPECT(_pext_u64(0x123456789ABCDEF0, 0xFF00FF00) == 0x9ADE);
    return NULL;
}

/* Vector state must survive context switches: each thread keeps its own values in registers while
 * others run and signals arrive. */
static volatile sig_atomic_t ticks;

static void on_tick(int sig)
{
    (void)sig;
    volatile double d = 1.5;
    d = d * 3;
    ticks++;
}

static void *keep_state(void *arg)
{
    uint64_t seed = (uint64_t)(uintptr_t)arg, a = seed, b = ~seed, x, y;
    for (int i = 0; i < 300000; i++) {
        __asm__ volatile("movq %2, %%xmm14\n\tmovq %3, %%xmm15\n\tpause\n\t"
                         "movq %%xmm14, %0\n\tmovq %%xmm15, %1"
                         : "=r"(x), "=r"(y)
                         : "r"(a), "r"(b)
                         : "xmm14", "xmm15");
        if (x != a || y != b)
            return (void *)1;
        a += 3;
        b -= 7;
    }
    return NULL;
}

static const char *test_state_switch(void)
{
    struct itimerval fast = {{0, 2000}, {0, 2000}}, off = {{0, 0}, {0, 0}};
    signal(SIGALRM, on_tick);
    setitimer(ITIMER_REAL, &fast, NULL);
    pthread_t t[3];
    for (uintptr_t i = 0; i < 3; i++)
        EXPECT(pthread_create(&t[i], NULL, keep_state, (void *)(i * 0x1234567)) == 0);
    void *bad = NULL, *r;
    for (int i = 0; i < 3; i++) {
        pthread_join(t[i], &r);
        if (r)
            bad = r;
    }
    setitimer(ITIMER_REAL, &off, NULL);
    EXPECT(bad == NULL);
    EXPECT(ticks > 0);
    return NULL;
}

/* --- time, pipes, exec ------------------------------------------------------------------------------ */

static uint64_t now_ns(clockid_t id)
{
    struct timespec t;
    clock_gettime(id, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static const char *test_clocks(void)
{
    uint64_t last = now_ns(CLOCK_MONOTONIC);
    for (int i = 0; i < 20000; i++) {
        uint64_t t = now_ns(CLOCK_MONOTONIC);
        EXPECT(t >= last);
        last = t;
    }
    struct timespec nap = {0, 20000000};
    uint64_t before = now_ns(CLOCK_MONOTONIC), tsc = __rdtsc();
    nanosleep(&nap, NULL);
    uint64_t slept = now_ns(CLOCK_MONOTONIC) - before;
    EXPECT(slept >= 20000000 && slept < 2000000000);
    EXPECT(__rdtsc() > tsc);
    EXPECT(now_ns(CLOCK_REALTIME) > 1600000000ull * 1000000000ull);
    return NULL;
}

static const char *test_pipes(void)
{
    int to[2], from[2];
    EXPECT(pipe(to) == 0 && pipe(from) == 0);
    pid_t child = fork();
    EXPECT(child >= 0);
    if (child == 0) {
        uint32_t v;
        while (read(to[0], &v, 4) == 4 && v != 0) {
            v = v * 2654435761u + 1;
            if (write(from[1], &v, 4) != 4)
                _exit(1);
        }
        _exit(0);
    }
    for (uint32_t i = 1; i <= 500; i++) {
        uint32_t v = i;
        EXPECT(write(to[1], &v, 4) == 4 && read(from[0], &v, 4) == 4);
        EXPECT(v == i * 2654435761u + 1);
    }
    uint32_t end = 0;
    EXPECT(write(to[1], &end, 4) == 4);
    int status;
    EXPECT(waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 0);
    return NULL;
}

static const char *test_exec(void)
{
    for (int i = 0; i < 5; i++) {
        pid_t child = fork();
        EXPECT(child >= 0);
        if (child == 0) {
            char number[8];
            snprintf(number, sizeof(number), "%d", 10 + i);
            execl("/proc/self/exe", "selftest", "--exit", number, (char *)NULL);
            _exit(99);
        }
        int status;
        EXPECT(waitpid(child, &status, 0) == child);
        EXPECT(WIFEXITED(status) && WEXITSTATUS(status) == 10 + i);
    }
    return NULL;
}

static const struct {
    const char *name;
    const char *(*run)(void);
} tests[] = {
    {"faults", test_faults},
    {"single-step", test_single_step},
    {"threads", test_threads},
    {"ordering", test_ordering},
    {"fork", test_fork},
    {"mmap", test_mmap},
    {"generated-code", test_generated_code},
    {"x87", test_x87},
    {"sse", test_sse},
    {"avx2", test_avx2},
    {"state-switch", test_state_switch},
    {"clocks", test_clocks},
    {"pipes", test_pipes},
    {"exec", test_exec},
};

int main(int argc, char **argv)
{
    if (argc == 3 && strcmp(argv[1], "--exit") == 0)
        return atoi(argv[2]);
    bool failed = false;
    for (size_t i = 0; i < sizeof(tests) / sizeof(tests[0]); i++) {
        if (argc > 1 && strcmp(argv[1], tests[i].name) != 0)
            continue;
        const char *why = tests[i].run();
        if (why)
            printf("FAIL %s: %s\n", tests[i].name, why);
        else
            printf("PASS %s\n", tests[i].name);
        fflush(stdout);
        failed |= why != NULL;
    }
    return failed ? 1 : 0;
}
