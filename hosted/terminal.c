/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * The operator's terminal. While the guest runs it is raw: every key goes to the guest, nothing is
 * echoed or translated. It must be put back whatever happens, so this is one of the few files with
 * mutable file-scope state: signal handlers have no other way to the saved modes.
 *
 * Three ways lead out: the ordinary end (vm_process.c calls terminal_restore; atexit calls it
 * again), SIGTERM and its like (they are blocked and read from a signalfd, so they end on the
 * ordinary way), and fatal signals: a handler restores, says one line and dies of the same signal,
 * so that the parent sees the truth. SIGKILL cannot be caught; shells repair what it leaves.
 * TCSANOW, never TCSADRAIN: that waits for output, for ever if the operator typed Ctrl-S.
 *
 * Handlers use only write, ioctl and tgkill, run on a stack of their own (terminal_thread_prepare)
 * and reset themselves first: a second fault inside one kills at once.
 *
 * SIGBUS in guest RAM is the host running out of memory (the memfd could not give a page), or a saved VM's file that
 * is shorter than it was, not a bug: that gets its own message and status. SIGSYS is the sandbox (sandbox.c) refusing a system
 * call.
 */
#include "hosted/terminal.h"

#include <errno.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <termios.h>
#include <ucontext.h>
#include <unistd.h>

#include "core/fmt.h"
#include "hosted/ram.h"
#include "hosted/status.h"

enum { SIGNAL_STACK = 65536 }; /* AVX-512 and AMX frames need up to 12 KiB */

static struct {
    struct termios saved;
    bool known; /* standard input is a terminal and `saved` holds its modes */
    _Atomic bool raw;
    const struct ram *ram;
} terminal;

static const struct {
    int number;
    const char *what;
} fatal[] = {
    {SIGSEGV, "bad memory access"},    {SIGBUS, "bus error"}, {SIGILL, "illegal instruction"},
    {SIGFPE, "arithmetic exception"},  {SIGABRT, "aborted"},  {SIGTRAP, "trap"},
    {SIGSYS, "forbidden system call"},
};

static void write_all(const char *text, size_t n)
{
    while (n) {
        ssize_t done = write(STDERR_FILENO, text, n);

        if (done <= 0)
            return;
        text += done;
        n -= (size_t)done;
    }
}

static _Noreturn void die_by(int signal)
{
    /* SA_RESETHAND has put the default action back, SA_NODEFER has left it unblocked. */
    (void)syscall(SYS_tgkill, getpid(), syscall(SYS_gettid), signal);
    _exit(STATUS_ENGINE);
}

static void on_fatal(int signal, siginfo_t *info, void *context)
{
    const ucontext_t *u = context;
    uintptr_t address = (uintptr_t)info->si_addr;
    const char *what = "signal";
    char line[160];
    size_t n;

    terminal_restore();
    if (signal == SIGBUS && terminal.ram && address - (uintptr_t)terminal.ram->base < terminal.ram->size) {
        n = fmt(line, sizeof(line), "\nlodge: %s\n",
                ram_was_cut(terminal.ram)
                    ? "the saved VM's file was cut off while the VM ran (restore it from another copy)"
                    : "the host has no memory left for guest RAM (free some, or use less -m)");
        write_all(line, n);
        _exit(STATUS_HOST);
    }
    if (signal == SIGABRT)
        die_by(signal); /* who aborts has said why: seam_panic, or the C library */
    for (size_t i = 0; i < sizeof(fatal) / sizeof(fatal[0]); i++) {
        if (fatal[i].number == signal)
            what = fatal[i].what;
    }
    n = fmt(line, sizeof(line), "\nlodge: internal error: %s (signal %d, %s %llx) at %llx\n", what,
            signal, signal == SIGSYS ? "number" : "address",
            signal == SIGSYS ? (unsigned long long)info->si_syscall : (unsigned long long)address,
            (unsigned long long)u->uc_mcontext.gregs[REG_RIP]);
    write_all(line, n < sizeof(line) ? n : sizeof(line) - 1);
    die_by(signal);
}

void terminal_prepare(const struct ram *ram)
{
    struct sigaction sa = {.sa_sigaction = on_fatal,
                           .sa_flags = (int)(SA_SIGINFO | SA_RESETHAND | SA_NODEFER | SA_ONSTACK)};

    terminal.ram = ram;
    terminal.known = tcgetattr(STDIN_FILENO, &terminal.saved) == 0;
    sigemptyset(&sa.sa_mask);
    for (size_t i = 0; i < sizeof(fatal) / sizeof(fatal[0]); i++)
        sigaction(fatal[i].number, &sa, NULL);
    terminal_thread_prepare();
    atexit(terminal_restore);
}

void terminal_thread_prepare(void)
{
    stack_t s = {.ss_size = SIGNAL_STACK};

    s.ss_sp = mmap(NULL, SIGNAL_STACK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (s.ss_sp != MAP_FAILED)
        sigaltstack(&s, NULL);
}

bool terminal_set_raw(void)
{
    struct termios t = terminal.saved;

    pid_t foreground;

    if (!terminal.known)
        return false;
    foreground = tcgetpgrp(STDIN_FILENO); /* -1: not our controlling terminal, no jobs on it */
    if (foreground >= 0 && foreground != getpgrp())
        return false;
    cfmakeraw(&t);
    /* Before the change: a signal in between must find that there is something to restore. */
    atomic_store(&terminal.raw, true);
    if (tcsetattr(STDIN_FILENO, TCSANOW, &t) != 0)
        atomic_store(&terminal.raw, false);
    return terminal_is_raw();
}

bool terminal_is_raw(void)
{
    return atomic_load(&terminal.raw);
}

void terminal_continue(void)
{
    if (!terminal_set_raw())
        atomic_store(&terminal.raw, false);
}

void terminal_restore(void)
{
    int error = errno;

    if (atomic_exchange(&terminal.raw, false))
        (void)tcsetattr(STDIN_FILENO, TCSANOW, &terminal.saved);
    errno = error;
}
