/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * The sandbox, from inside: each case forks a child that enters it with a second thread already
 * running, makes one attempt, and says by its end what came of it. Allowed: status 0. Forbidden:
 * the child dies of SIGSYS. Children use bare system calls, so that sanitizers do not come into it.
 */
#include "hosted/sandbox.h"

#include <asm/prctl.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>
#include <sys/wait.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

#include "core/seam.h"
#include "hosted/ram.h"
#include "tests/lib/unit.h"

static uint8_t *page; /* shared, writable */
static int timer, pair[2], ram_fd;

/* Not _exit: sanitizers wrap it in calls of their own. */
static void leave(int status)
{
    (void)syscall(SYS_exit_group, status);
}

static long call(long n, long a, long b, long c, long d)
{
    return syscall(n, a, b, c, d, -1, 0);
}

/* Each returns whether it worked. */
static bool try_futex(void)
{
    static _Atomic uint32_t word;

    seam_wait(&word, 0, seam_time_ns() + 1000000);
    seam_wake(&word, true);
    return true;
}

static bool try_timer(void)
{
    struct itimerspec in_1_ms = {.it_value = {.tv_nsec = 1000000}};
    uint64_t count;

    return timerfd_settime(timer, 0, &in_1_ms, NULL) == 0 && read(timer, &count, 8) == 8;
}

static bool try_pages(void)
{
    uint8_t *p = seam_pages_alloc(3);

    if (!p)
        return false;
    p[0] = 1;
    seam_pages_free(p, 3);
    return true;
}

static bool try_random(void)
{
    uint8_t a[16] = {0}, b[16] = {0};

    seam_random(a, sizeof(a));
    seam_random(b, sizeof(b));
    return memcmp(a, b, sizeof(a)) != 0;
}

static bool try_zero_ram(void)
{
    page[0] = 7;
    return call(SYS_madvise, (long)page, 4096, MADV_REMOVE, 0) == 0 && page[0] == 0;
}

static bool try_clock(void)
{
    struct timespec t;

    return call(SYS_clock_gettime, CLOCK_MONOTONIC, (long)&t, 0, 0) == 0;
}

static bool try_yield(void)
{
    return sched_yield() == 0;
}

/* Of what is open: here nothing, so the kernel itself says no. */
static bool try_read_again(void)
{
    char c;

    return call(SYS_pread64, -1, (long)&c, 1, 0) == -1;
}

/* What comes late to guest RAM: written to its memfd while the mapping is hidden. */
static bool try_late_ram(void)
{
    page[0] = 0;
    return ram_hide(page, 4096) && call(SYS_pwrite64, ram_fd, (long)"late", 4, 0) == 4 &&
           ram_show(page, 4096) && memcmp(page, "late", 4) == 0;
}

static bool try_exec_alloc(void)
{
    struct seam_exec e;

    return seam_exec_alloc(&e, 4096) == 0;
}

static bool try_open(void)
{
    return call(SYS_openat, AT_FDCWD, (long)"/etc/hostname", O_RDONLY, 0) >= 0;
}

static bool try_old_open(void)
{
    return call(SYS_open, (long)"/etc/hostname", O_RDONLY, 0, 0) >= 0;
}

static bool try_socket(void)
{
    return call(SYS_socket, AF_INET, SOCK_STREAM, 0, 0) >= 0;
}

static bool try_fork(void)
{
    return call(SYS_clone, SIGCHLD, 0, 0, 0) >= 0;
}

static bool try_exec(void)
{
    return call(SYS_execve, (long)"/bin/true", 0, 0, 0) == 0;
}

static bool try_mmap_exec(void)
{
    return call(SYS_mmap, 0, 4096, PROT_READ | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS) != -1;
}

static bool try_mmap_file(void)
{
    return call(SYS_mmap, 0, 4096, PROT_READ, MAP_SHARED) != -1;
}

static bool try_mprotect_exec(void)
{
    return call(SYS_mprotect, (long)page, 4096, PROT_READ | PROT_EXEC, 0) == 0;
}

static bool try_mprotect(void)
{
    return call(SYS_mprotect, (long)page, 4096, PROT_READ, 0) == 0;
}

static bool try_madvise_other(void)
{
    return call(SYS_madvise, (long)page, 4096, MADV_HUGEPAGE, 0) == 0;
}

static bool try_kill_parent(void)
{
    return call(SYS_kill, getppid(), 0, 0, 0) == 0;
}

static bool try_signal_parent_thread(void)
{
    static volatile pid_t init = 1;

    return call(SYS_tgkill, init, init, 0, 0) == 0;
}

static bool try_signal_self(void)
{
    return call(SYS_tgkill, getpid(), (long)syscall(SYS_gettid), 0, 0) == 0;
}

static bool try_tiocsti(void)
{
    return call(SYS_ioctl, 0, 0x5412 /* TIOCSTI */, (long)"x", 0) == 0;
}

static bool try_tcsets(void)
{
    struct termios t = {0};

    (void)tcsetattr(pair[0], TCSANOW, &t); /* a socket: fails, but is let through */
    return true;
}

static bool try_ptrace(void)
{
    return call(SYS_ptrace, 16 /* PTRACE_ATTACH */, getppid(), 0, 0) == 0;
}

static bool try_sigaction(void)
{
    return call(SYS_rt_sigaction, SIGSYS, 0, 0, 8) == 0;
}

static bool try_x32(void)
{
    return call(0x40000000 + SYS_getpid, 0, 0, 0, 0) > 0;
}

static bool try_i386(void)
{
    long result;

    /* int 0x80, number 20: getpid of i386, which is writev's number here. */
    __asm__ volatile("int $0x80"
                     : "=a"(result)
                     : "a"(20L), "b"(2L)
                     : "memory", "r8", "r9", "r10", "r11");
    return result > 0;
}

static bool try_write(void)
{
    return write(pair[0], "x", 1) == 1;
}

static bool try_set_gs(void)
{
    return syscall(SYS_arch_prctl, ARCH_SET_GS, 4096) == 0;
}

static bool try_set_fs(void)
{
    unsigned long base;

    return syscall(SYS_arch_prctl, ARCH_GET_FS, &base) == 0;
}

/* What freezing needs (hosted/ram_layers.c). */
static bool try_freezing(void)
{
    long fd = call(SYS_memfd_create, (long)"x", MFD_CLOEXEC | MFD_ALLOW_SEALING, 0, 0);
    long flags = MAP_PRIVATE | MAP_FIXED | MAP_NORESERVE;

    return fd >= 0 && call(SYS_ftruncate, fd, 8192, 0, 0) == 0 && call(SYS_pwrite64, fd, (long)"y", 1, 0) == 1 &&
           call(SYS_lseek, fd, 0, SEEK_DATA, 0) == 0 &&
           call(SYS_fallocate, fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 4096, 4096) == 0 &&
           syscall(SYS_mmap, (long)page, 4096, PROT_READ | PROT_WRITE, flags, fd, 0) == (long)page && page[0] == 'y' &&
           call(SYS_madvise, (long)page, 4096, MADV_DONTDUMP, 0) == 0 &&
           call(SYS_fcntl, fd, F_ADD_SEALS, F_SEAL_WRITE, 0) == 0 && call(SYS_close, fd, 0, 0, 0) == 0;
}

static bool try_answering(void)
{
    char text[] = "ok";
    struct iovec part = {.iov_base = text, .iov_len = 2};
    struct msghdr m = {.msg_iov = &part, .msg_iovlen = 1};

    return call(SYS_accept4, -1, 0, 0, 0) == -1 && call(SYS_sendmsg, pair[0], (long)&m, 0, 0) == 2;
}

static bool try_receiving_descriptors(void)
{
    struct msghdr m = {0};

    return call(SYS_recvmsg, pair[0], (long)&m, MSG_DONTWAIT, 0) >= -1;
}

static bool try_mmap_exec_of_a_file(void)
{
    return syscall(SYS_mmap, (long)page, 4096, PROT_EXEC, MAP_PRIVATE | MAP_FIXED | MAP_NORESERVE, ram_fd, 0) != -1;
}

static bool try_fallocate(void)
{
    return call(SYS_fallocate, ram_fd, 0, 0, 4096) == 0;
}

static bool try_emptying_a_log(void)
{
    return call(SYS_ftruncate, 2, 0, 0, 0) == 0;
}

static bool try_fcntl(void)
{
    return call(SYS_fcntl, 0, F_DUPFD, 0, 0) >= 0;
}

static bool try_connect(void)
{
    struct sockaddr a = {.sa_family = AF_UNIX};

    return call(SYS_connect, pair[0], (long)&a, sizeof(a), 0) >= -1;
}

static bool try_getsockopt(void)
{
    int value;
    socklen_t size = sizeof(value);

    return syscall(SYS_getsockopt, pair[0], SOL_SOCKET, SO_TYPE, &value, &size) == 0;
}

static bool is_unprivileged(void)
{
    struct rlimit core;
    char cwd[16];

    return prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) == 1 && getrlimit(RLIMIT_CORE, &core) == 0 &&
           core.rlim_max == 0 && getcwd(cwd, sizeof(cwd)) && strcmp(cwd, "/") == 0 &&
           prctl(PR_CAPBSET_READ, 0, 0, 0, 0) != (geteuid() == 0 ? 1 : -1) &&
           setpriority(PRIO_PROCESS, 0, -5) != 0;
}

static const struct {
    const char *name;
    bool (*attempt)(void);
    bool allowed;
} cases[] = {
    {"futex", try_futex, true},
    {"timer", try_timer, true},
    {"pages", try_pages, true},
    {"random", try_random, true},
    {"zero RAM", try_zero_ram, true},
    {"clock", try_clock, true},
    {"yield", try_yield, true},
    {"read again", try_read_again, true},
    {"late RAM", try_late_ram, true},
    {"write", try_write, true},
    {"mprotect", try_mprotect, true},
    {"signal self", try_signal_self, true},
    {"base of GS", try_set_gs, true},
    {"base of FS", try_set_fs, false},
    {"tcsets", try_tcsets, true},
    {"freezing", try_freezing, true},
    {"answering", try_answering, true},
    {"receiving descriptors", try_receiving_descriptors, false},
    {"mmap exec of a file", try_mmap_exec_of_a_file, false},
    {"fallocate", try_fallocate, false},
    {"emptying a log", try_emptying_a_log, false},
    {"fcntl", try_fcntl, false},
    {"connect", try_connect, false},
    {"getsockopt", try_getsockopt, false},
    {"executable memory", try_exec_alloc, false},
    {"openat", try_open, false},
    {"open", try_old_open, false},
    {"socket", try_socket, false},
    {"fork", try_fork, false},
    {"exec", try_exec, false},
    {"mmap exec", try_mmap_exec, false},
    {"mmap of a file", try_mmap_file, false},
    {"mprotect exec", try_mprotect_exec, false},
    {"madvise other", try_madvise_other, false},
    {"kill", try_kill_parent, false},
    {"tgkill another", try_signal_parent_thread, false},
    {"TIOCSTI", try_tiocsti, false},
    {"ptrace", try_ptrace, false},
    {"sigaction", try_sigaction, false},
    {"x32", try_x32, false},
    {"i386", try_i386, false},
};

struct attempt {
    bool (*body)(void);
    _Atomic uint32_t state; /* 1: try, 2: worked, 3: did not */
    _Atomic uint32_t ready; /* 1: the thread is past its own start, which the sandbox refuses */
};

static void *second_thread(void *arg)
{
    struct attempt *a = arg;

    atomic_store(&a->ready, 1);
    seam_wake(&a->ready, true);
    while (atomic_load(&a->state) == 0)
        seam_wait(&a->state, 0, UINT64_MAX);
    atomic_store(&a->state, a->body() ? 2 : 3);
    seam_wake(&a->state, true);
    for (;;)
        seam_wait(&a->state, 2, UINT64_MAX);
    return NULL;
}

/* In the child. */
static void attempt(bool (*body)(void), bool on_other_thread)
{
    struct attempt a = {.body = body};
    char message[256];
    pthread_t t;

    signal(SIGSYS, SIG_DFL);
    if (sandbox_drop_privileges(message, sizeof(message)))
        leave(101);
    pthread_create(&t, NULL, second_thread, &a);
    while (atomic_load(&a.ready) == 0)
        seam_wait(&a.ready, 0, UINT64_MAX);
    if (sandbox_enter(message, sizeof(message)))
        leave(102);
    if (!on_other_thread)
        leave(body() ? 0 : 103);
    atomic_store(&a.state, 1);
    seam_wake(&a.state, true);
    while (atomic_load(&a.state) == 1)
        seam_wait(&a.state, 1, UINT64_MAX);
    leave(atomic_load(&a.state) == 2 ? 0 : 103);
}

static void check_case(size_t i, bool on_other_thread)
{
    int status = 0;
    pid_t child = fork();

    if (child == 0)
        attempt(cases[i].attempt, on_other_thread);
    CHECK(waitpid(child, &status, 0) == child);
    unit_context("%s%s: wait status %#x", cases[i].name, on_other_thread ? ", other thread" : "",
                 (unsigned int)status);
    if (cases[i].allowed)
        CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    else
        CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGSYS);
}

static void test_calls(void)
{
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        check_case(i, false);
        check_case(i, true);
    }
}

static void test_privileges(void)
{
    char message[256];
    int status = 0;
    pid_t child = fork();

    if (child == 0)
        _exit(sandbox_drop_privileges(message, sizeof(message)) == 0 && is_unprivileged() ? 0 : 1);
    CHECK(waitpid(child, &status, 0) == child);
    CHECK_EQ(status, 0);
}

int main(void)
{
    ram_fd = memfd_create("test", 0);
    page = ftruncate(ram_fd, 4096)
               ? MAP_FAILED
               : mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, ram_fd, 0);
    timer = timerfd_create(CLOCK_MONOTONIC, 0);
    if (page == MAP_FAILED || timer < 0 || socketpair(AF_UNIX, SOCK_STREAM, 0, pair))
        return 1;
    CHECK(sandbox_missing() == NULL);
    UNIT_RUN(test_calls);
    UNIT_RUN(test_privileges);
    return unit_done();
}
