/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/* The fake seam (see fake_seam.h). Waiting is real (futex), so tests with threads work. */
#include "tests/lib/fake_seam.h"

#include <asm/prctl.h>
#include <linux/futex.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "core/err.h"
#include "core/seam.h"
#include "core/vm.h"

enum { ARMED_MAX = 16 };

static _Atomic uint64_t now_ns = 1000000000;
static _Atomic uint64_t steal_ns;
static uint64_t wall_ns = 1700000000ull * 1000000000ull;
static bool real_time;
static _Atomic uint32_t fail_countdown;
static _Atomic uint32_t allocations;
static char last_log[256];
static uint64_t random_state = 1;
static struct {
    struct vm *vm;
    uint64_t deadline;
} armed[ARMED_MAX];

noreturn void seam_panic(const char *file, int line, const char *message)
{
    fflush(stdout);
    fprintf(stderr, "panic at %s:%d: %s\n", file, line, message);
    abort();
}

void seam_log(const struct vm *vm, enum seam_log_level level, const char *line, size_t length)
{
    (void)vm;
    (void)level;
    snprintf(last_log, sizeof(last_log), "%.*s", (int)length, line);
}

const char *fake_seam_last_log(void)
{
    return last_log;
}

static bool must_fail(void)
{
    uint32_t n = atomic_load(&fail_countdown);
    if (n == 0)
        return false;
    atomic_store(&fail_countdown, n - 1);
    return n == 1;
}

void fake_seam_fail_allocation(unsigned int nth)
{
    atomic_store(&fail_countdown, nth);
}

unsigned int fake_seam_allocations(void)
{
    return atomic_load(&allocations);
}

/* As on a real host, pages come into being when they are used: zeroing them here took most of the
 * time of tests that make machines by the hundred. A page before and one behind them catch what the
 * address sanitizer would. */
void *seam_pages_alloc(size_t pages)
{
    if (must_fail() || pages == 0 || pages > SIZE_MAX / PAGE_SIZE - 2)
        return NULL;
    uint8_t *p = mmap(NULL, (pages + 2) * PAGE_SIZE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED)
        return NULL;
    if (mprotect(p + PAGE_SIZE, pages * PAGE_SIZE, PROT_READ | PROT_WRITE) != 0)
        abort();
    atomic_fetch_add(&allocations, 1);
    return p + PAGE_SIZE;
}

void seam_pages_free(void *p, size_t pages)
{
    if (!p)
        return;
    atomic_fetch_sub(&allocations, 1);
    if (munmap((uint8_t *)p - PAGE_SIZE, (pages + 2) * PAGE_SIZE) != 0)
        abort();
}

static uint64_t host_time_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

uint64_t seam_time_ns(void)
{
    return real_time ? host_time_ns() : atomic_load(&now_ns);
}

uint64_t seam_wall_time_ns(void)
{
    return wall_ns;
}

void fake_seam_set_wall(uint64_t ns)
{
    wall_ns = ns;
}

void fake_seam_real_time(bool on)
{
    real_time = on;
}

void seam_random(void *buf, size_t size)
{
    uint8_t *p = buf;
    for (size_t i = 0; i < size; i++) {
        random_state = random_state * 6364136223846793005u + 1442695040888963407u;
        p[i] = (uint8_t)(random_state >> 33);
    }
}

void fake_seam_seed(uint64_t seed)
{
    random_state = seed;
}

void seam_wait(_Atomic uint32_t *word, uint32_t expected, uint64_t deadline_ns)
{
    struct timespec t = {0, 1000000};
    if (deadline_ns != UINT64_MAX && !real_time)
        return; /* the clock stands still: callers look again */
    syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, expected, &t, NULL, 0);
}

void seam_wake(_Atomic uint32_t *word, bool all)
{
    syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, all ? INT32_MAX : 1, NULL, NULL, 0);
}

uint64_t seam_steal_ns(void)
{
    return atomic_load(&steal_ns);
}

void fake_seam_set_steal(uint64_t ns)
{
    atomic_store(&steal_ns, ns);
}

void seam_yield(void)
{
}

struct seam_lock_trace *seam_lock_trace(void)
{
    static _Thread_local struct seam_lock_trace trace;
    return &trace;
}

void seam_timer_arm(struct vm *vm, uint64_t deadline_ns)
{
    size_t free_slot = ARMED_MAX;
    for (size_t i = 0; i < ARMED_MAX; i++) {
        if (armed[i].vm == vm) {
            armed[i].deadline = deadline_ns;
            return;
        }
        if (!armed[i].vm)
            free_slot = i;
    }
    if (free_slot == ARMED_MAX)
        free_slot = 0;
    armed[free_slot].vm = vm;
    armed[free_slot].deadline = deadline_ns;
}

/* Index of the armed timer that is due first, up to `until`; ARMED_MAX if none. */
static size_t first_due(uint64_t until)
{
    size_t first = ARMED_MAX;
    for (size_t i = 0; i < ARMED_MAX; i++)
        if (armed[i].vm && armed[i].deadline <= until &&
            (first == ARMED_MAX || armed[i].deadline < armed[first].deadline))
            first = i;
    return first;
}

void fake_seam_advance(uint64_t ns)
{
    uint64_t target = atomic_load(&now_ns) + ns;
    for (size_t i = first_due(target); i != ARMED_MAX; i = first_due(target)) {
        struct vm *vm = armed[i].vm;
        if (armed[i].deadline > atomic_load(&now_ns))
            atomic_store(&now_ns, armed[i].deadline);
        armed[i].vm = NULL;
        vm_timers_run(vm);
    }
    atomic_store(&now_ns, target);
}

void seam_vm_stopped(struct vm *vm)
{
    (void)vm;
}

int seam_exec_alloc(struct seam_exec *e, size_t size)
{
    if (must_fail())
        return ERR_NO_MEMORY;
    int fd = (int)syscall(SYS_memfd_create, "exec", 0);
    if (fd < 0)
        return ERR_NO_MEMORY;
    int err = ERR_NO_MEMORY;
    void *w = MAP_FAILED, *x = MAP_FAILED;
    if (ftruncate(fd, (off_t)size) == 0) {
        w = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        x = mmap(NULL, size, PROT_READ | PROT_EXEC, MAP_SHARED, fd, 0);
    }
    if (w != MAP_FAILED && x != MAP_FAILED) {
        *e = (struct seam_exec){w, x, size};
        atomic_fetch_add(&allocations, 1);
        err = OK;
    } else {
        if (w != MAP_FAILED)
            munmap(w, size);
        if (x != MAP_FAILED)
            munmap(x, size);
    }
    close(fd);
    return err;
}

void seam_set_frame(void *frame)
{
    syscall(SYS_arch_prctl, ARCH_SET_GS, frame);
}

void seam_exec_free(struct seam_exec *e)
{
    if (!e->write)
        return;
    munmap(e->write, e->size);
    munmap((void *)(uintptr_t)e->exec, e->size);
    atomic_fetch_sub(&allocations, 1);
    memset(e, 0, sizeof(*e));
}
