/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * The seam (core/seam.h) on Linux. seam_log is in log.c.
 *
 *  - Waiting is the futex, private to the process, with absolute CLOCK_MONOTONIC deadlines, so that
 *    a wait that is restarted does not get longer.
 *  - Each VM has one timerfd, which the main thread polls. Arming is asked for on every change of a
 *    guest's timer, thousands of times a second, so the system call is left out unless the new
 *    deadline is earlier than the one armed: an early wake-up is harmless, vm_timers_run finds
 *    nothing due and arms the next.
 *  - Executable memory is shared memory mapped twice, writable and executable, at different addresses.
 *    It is possible only before the sandbox is in force (sandbox.c): engines allocate it in
 *    vm_create and vcpu_create.
 *  - Steal time is the scheduler's run delay, the second number of
 *    /proc/thread-self/schedstat. Each vCPU's thread opens it before the sandbox is in force and
 *    reads at offset 0 ever after. A kernel without CONFIG_SCHED_INFO has no such file.
 *
 * Locking: home->timer_lock is a leaf; everything else is free of locks.
 */
#include "core/seam.h"

#include <asm/prctl.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#include "core/err.h"
#include "core/fmt.h"
#include "core/vm.h"
#include "hosted/home.h"
#include "hosted/seam.h"
#include "hosted/terminal.h"

enum { NS_PER_S = 1000000000 };

noreturn void seam_panic(const char *file, int line, const char *message)
{
    char text[512];
    size_t n;

    terminal_restore();
    n = fmt(text, sizeof(text), "\nlodge: panic: %s:%d: %s (a bug of Lodge: please report it)\n",
            file, line, message);
    if (n >= sizeof(text))
        n = sizeof(text) - 1;
    (void)!write(STDERR_FILENO, text, n);
    (void)syscall(SYS_tgkill, getpid(), syscall(SYS_gettid), SIGABRT); /* abort() asks for other calls in other libcs */
    abort();
}

void *seam_pages_alloc(size_t pages)
{
    void *p;

    if (pages == 0 || pages > SIZE_MAX >> PAGE_SHIFT)
        return NULL;
    p = mmap(NULL, pages << PAGE_SHIFT, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    return p == MAP_FAILED ? NULL : p;
}

void seam_pages_free(void *p, size_t pages)
{
    if (p)
        munmap(p, pages << PAGE_SHIFT);
}

static uint64_t clock_ns(clockid_t id)
{
    struct timespec t;

    clock_gettime(id, &t);
    return (uint64_t)t.tv_sec * NS_PER_S + (uint64_t)t.tv_nsec;
}

uint64_t seam_time_ns(void)
{
    return clock_ns(CLOCK_MONOTONIC);
}

uint64_t seam_wall_time_ns(void)
{
    return clock_ns(CLOCK_REALTIME);
}

void seam_random(void *buf, size_t size)
{
    uint8_t *p = buf;

    while (size) {
        ssize_t n = getrandom(p, size, 0);

        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            seam_panic(__FILE__, __LINE__, "getrandom failed");
        p += n;
        size -= (size_t)n;
    }
}

static struct timespec timespec_of(uint64_t ns)
{
    return (struct timespec){.tv_sec = (time_t)(ns / NS_PER_S), .tv_nsec = (long)(ns % NS_PER_S)};
}

void seam_wait(_Atomic uint32_t *word, uint32_t expected, uint64_t deadline_ns)
{
    struct timespec t = timespec_of(deadline_ns);

    (void)syscall(SYS_futex, word, FUTEX_WAIT_BITSET_PRIVATE, expected,
                  deadline_ns == UINT64_MAX ? NULL : &t, NULL, FUTEX_BITSET_MATCH_ANY);
}

void seam_wake(_Atomic uint32_t *word, bool all)
{
    (void)syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, all ? INT32_MAX : 1, NULL, NULL, 0);
}

/* The calling thread's schedstat, -1 if there is none. */
static int *steal_file(void)
{
    static _Thread_local int fd = -1;

    return &fd;
}

void seam_steal_open(void)
{
    int *fd = steal_file();

    if (*fd < 0)
        *fd = open("/proc/thread-self/schedstat", O_RDONLY | O_CLOEXEC);
}

uint64_t seam_steal_ns(void)
{
    char text[64]; /* "ran waited slices", in decimal */
    int fd = *steal_file();
    ssize_t n = fd < 0 ? 0 : pread(fd, text, sizeof(text) - 1, 0);
    const char *second;

    if (n <= 0)
        return 0;
    text[n] = '\0';
    second = strchr(text, ' ');
    return second ? strtoull(second + 1, NULL, 10) : 0;
}

void seam_yield(void)
{
    sched_yield();
}

struct seam_lock_trace *seam_lock_trace(void)
{
    static _Thread_local struct seam_lock_trace trace;

    return &trace;
}

void seam_timer_arm(struct vm *vm, uint64_t deadline_ns)
{
    struct home *h = vm->home;
    struct itimerspec its = {.it_value = timespec_of(deadline_ns)};

    if (deadline_ns == UINT64_MAX)
        return; /* an alarm that is still set comes early: harmless */
    if (deadline_ns == 0)
        its.it_value.tv_nsec = 1; /* zero would disarm */
    pthread_mutex_lock(&h->timer_lock);
    if (deadline_ns < h->timer_armed) {
        h->timer_armed = deadline_ns;
        (void)timerfd_settime(h->timer_fd, TFD_TIMER_ABSTIME, &its, NULL);
    }
    pthread_mutex_unlock(&h->timer_lock);
}

void seam_timer_fired(struct home *h)
{
    pthread_mutex_lock(&h->timer_lock);
    h->timer_armed = UINT64_MAX;
    pthread_mutex_unlock(&h->timer_lock);
}

void seam_wake_main(struct home *h)
{
    (void)eventfd_write(h->wake_fd, 1);
}

void seam_vm_stopped(struct vm *vm)
{
    seam_wake_main(vm->home);
}

const char *seam_errno_hint(int error)
{
    switch (error) {
    case EMFILE:
        return "raise 'ulimit -n'";
    case ENFILE:
        return "this host has too many files open: close some";
    case EFBIG:
        return "raise 'ulimit -f'";
    case ENOMEM:
    case ENOSPC:
        return "free some memory, or raise 'ulimit -v'";
    case EACCES:
    case EPERM:
        return "SELinux?";
    default:
        return "see 'lodge doctor'";
    }
}

/* For messages of the home: the error values below it do not tell a limit from a prohibition. */
static int *exec_errno(void)
{
    static _Thread_local int error;

    return &error;
}

int seam_exec_errno(void)
{
    return *exec_errno();
}

static int exec_failed(void)
{
    *exec_errno() = errno;
    return errno == EACCES || errno == EPERM || errno == EINVAL || errno == ENOSYS ? ERR_PERMISSION
                                                                                   : ERR_NO_MEMORY;
}

/*
 * One piece of shared memory, mapped twice; errno says what failed. Anonymous, with MREMAP_MAYMOVE of
 * nothing for the second mapping, rather than a memfd: perf looks for names of code (perf_map.c) only
 * in memory that is no file's.
 */
static bool map_twice(struct seam_exec *e, size_t size)
{
    int error;
    void *w, *x;

    w = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE,
             -1, 0);
    if (w == MAP_FAILED)
        return false;
    x = mremap(w, 0, size, MREMAP_MAYMOVE);
    if (x != MAP_FAILED && mprotect(x, size, PROT_READ | PROT_EXEC) == 0) {
        *e = (struct seam_exec){.write = w, .exec = x, .size = size};
        return true;
    }
    error = errno;
    if (x != MAP_FAILED)
        munmap(x, size);
    munmap(w, size);
    errno = error;
    return false;
}

int seam_exec_alloc(struct seam_exec *e, size_t size)
{
    if (map_twice(e, (size + PAGE_SIZE - 1) & PAGE_MASK)) /* of nothing: EINVAL */
        return OK;
    return exec_failed();
}

/* WRGSBASE, where the kernel lets programs use it (from Linux 5.9 on, if the processor has it). */
static bool has_wrgsbase(void)
{
    enum { HWCAP2_FSGSBASE_BIT = 1 << 1 };

    return getauxval(AT_HWCAP2) & HWCAP2_FSGSBASE_BIT;
}

void seam_set_frame(void *frame)
{
    static _Thread_local void *current;

    if (current == frame)
        return; /* nobody else here uses GS */
    current = frame;
    if (has_wrgsbase())
        __asm__ volatile("wrgsbase %0" : : "r"(frame) : "memory");
    else
        (void)syscall(SYS_arch_prctl, ARCH_SET_GS, frame);
}

void seam_exec_free(struct seam_exec *e)
{
    if (e->write) {
        munmap(e->write, e->size);
        munmap((void *)(uintptr_t)e->exec, e->size);
    }
    *e = (struct seam_exec){.write = NULL};
}
