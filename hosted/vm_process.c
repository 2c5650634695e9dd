/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * One VM in this process: build it, give up all that it does not need, run it, report its end.
 *
 * The order matters. All that can fail for an outside reason comes first, while nothing has changed
 * and one line says what to do: files, memory, machine, boot. Then signals, privileges, threads,
 * filter (sandbox.c), and the terminal last, so that an early failure never finds it raw. From the
 * filter on, everything that happens, a reset too, gets by with the calls of its table.
 *
 * The main thread is the VM's timer thread and event loop: timerfd, signalfd, an eventfd that wakes
 * it (the VM stopped, vCPU threads are out, the UART has room), standard input, and the control socket
 * with its clients. poll(), not epoll: there are a dozen descriptors, and epoll takes no regular file for
 * standard input.
 *
 * The end: vm_stop by anybody; vCPU threads come out within a few hundred guest instructions; the
 * main thread has run timers all the while, then reports. If they do not come out, that is a bug of
 * Lodge; the process ends all the same, after STOP_SIGNAL_MS if it was told to by a signal, so that
 * SIGTERM ends it within a second. A reset is an end after which zeroed RAM is booted again, with
 * the same threads.
 *
 * A VM that is restored or forked (restore.c) differs in where its definition, memory and first state come
 * from, and in nothing else.
 *
 * Nothing is freed at the end: the process ends, the kernel takes everything back at once, and no
 * file was made (memory is memfds) but the control socket (control_socket.c). That pc_destroy leaks nothing is for unit tests to show.
 */
#include "hosted/vm_process.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "hosted/boot_files.h"
#include "hosted/detach.h"
#include "hosted/engines.h"
#include "hosted/home.h"
#include "hosted/perf_map.h"
#include "hosted/ram.h"
#include "hosted/report.h"
#include "hosted/sandbox.h"
#include "hosted/seam.h"
#include "hosted/terminal.h"
#include "hosted/thread.h"

enum {
    OUT_SIZE = 1 << 20, /* powers of two */
    ERR_SIZE = 1 << 18,
    MESSAGE = OPTIONS_MESSAGE, /* the longest of all messages */
    STOP_MS = 10000,           /* for vCPU threads to come out */
    STOP_SIGNAL_MS = 500,
    FLUSH_MS = 10000, /* for a slow reader of our output, at the end */
    FLUSH_STALLED_MS = 2000,
    FLUSH_STALLED_ERR_MS = 150,
    FLUSH_SIGNAL_MS = 300, /* told to end by a signal: all of it within a second */
    FLUSH_SIGNAL_STALLED_MS = 100,
};

/* Read from a descriptor. All but SIGTSTP and SIGCONT end the VM: also those that nobody means for
 * us, since they would kill the process and leave the terminal raw. */
static const int watched_signals[] = {SIGTERM, SIGINT,  SIGHUP,  SIGQUIT, SIGTSTP,
                                      SIGCONT, SIGUSR1, SIGUSR2, SIGALRM, SIGVTALRM,
                                      SIGPROF, SIGXCPU, SIGIO,   SIGPWR};

/* --- building -------------------------------------------------------------------------------- */

static enum lodge_status status_of(int err)
{
    switch (err) {
    case ERR_NO_MEMORY:
    case ERR_UNSUPPORTED:
    case ERR_BUSY:
    case ERR_PERMISSION:
        return STATUS_HOST;
    default:
        return STATUS_USAGE;
    }
}

static int choose_engine(struct home *h, char *message)
{
    const struct vm_config *c = &h->options.config;
    char why[ENGINES_WHY], not_taken[ENGINES_WHY];

    h->level = x86_level_find(c->level);
    if (!h->level) { /* vm_config_check has seen to it that it is "host" */
        x86_level_host(&h->own_level);
        h->level = &h->own_level;
    }
    if (engines_choose(c->engine, h->level, &h->engine, why, not_taken)) {
        if (strcmp(c->engine, "auto") == 0)
            snprintf(message, MESSAGE, "no engine here runs level %s: %s (see 'lodge doctor')",
                     h->level->name, why);
        else
            snprintf(message, MESSAGE, "engine %s does not work here: %s (see 'lodge doctor')",
                     c->engine, why);
        return ERR_UNSUPPORTED;
    }
    if (h->engine->adapt_profile || c->portable) {
        h->own_level = *h->level;
        h->level = &h->own_level;
    }
    if (h->engine->adapt_profile)
        h->engine->adapt_profile(&h->own_level);
    if (c->portable)
        x86_level_make_portable(&h->own_level);
    if (h->options.log_level >= SEAM_LOG_INFO && not_taken[0])
        say("%snot %s", h->who, not_taken);
    if (h->options.log_level >= SEAM_LOG_INFO)
        say("%sengine %s: %s", h->who, h->engine->name, why);
    return OK;
}

static int open_events(struct home *h, char *message)
{
    h->timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
    h->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (h->timer_fd >= 0 && h->wake_fd >= 0)
        return OK;
    snprintf(message, MESSAGE, "cannot get a timer: %s (raise 'ulimit -n')", strerror(errno));
    return ERR_NO_MEMORY;
}

/* What messages call the VM: nothing, if nobody named it. Names are plain (vm_config_check). */
static void name_for_messages(struct home *h)
{
    struct vm_config defaults;
    const char *name = h->options.config.name;

    vm_config_defaults(&defaults);
    if (strcmp(name, defaults.name) != 0)
        snprintf(h->who, sizeof(h->who), "%s: ", name);
}

/* pc_create, with what its caller cannot know: which of the host's limits was in the way. */
static int create_machine(struct home *h, char *message)
{
    char why[PC_MESSAGE];
    int err = pc_create(&h->vm, &h->options.config, h->level, h->engine, h->ram.base,
                        &console_home_ops,
                        h, why);

    if (err && seam_exec_errno())
        snprintf(message, MESSAGE, "cannot get executable memory: %s (%s)",
                 strerror(seam_exec_errno()), seam_errno_hint(seam_exec_errno()));
    else if (err) /* an engine that says why says what to do as well */
        snprintf(message, MESSAGE, "%s (%s)", why,
                 seam_errno_hint(err == ERR_NO_MEMORY && !h->vm.engine_why[0] ? ENOMEM : 0));
    return err;
}

/* Everything up to a machine that is ready to run. Nothing of the process has changed yet. */
static int build(struct home *h, char *message)
{
    const struct vm_config *c = &h->options.config;
    int err = h->origin ? restore_definition(h, message) : OK;

    if (err)
        return err;
    vm_init(&h->vm, c->name);
    name_for_messages(h);
    h->vm.home = h;
    h->timer_armed = UINT64_MAX;
    pthread_mutex_init(&h->timer_lock, NULL);
    pthread_mutex_init(&h->late_lock, NULL);
    log_limit_init(&h->log_limit);
    console_init(h);
    h->vm.statistics = h->options.stats;
    err = h->origin ? restore_engine(h, message) : choose_engine(h, message);
    if (!err && h->options.perf_map)
        err = perf_map_open(&h->vm, message, MESSAGE);
    if (!err)
        err = h->origin ? restore_memory(h, message)
                        : ram_create(&h->ram, c->memory, true, message, MESSAGE);
    if (!err)
        err = boot_files_open(h, message);
    if (!err)
        err = open_events(h, message);
    if (!err)
        err = create_machine(h, message);
    if (!err)
        err = h->origin ? restore_machine(h, message) : boot_files_boot(h, message);
    if (!err)
        err = control_open(h, message);
    return err;
}

/* --- signals --------------------------------------------------------------------------------- */

/* Signals are read from a descriptor: no handler, nothing is interrupted. What the one who started
 * us ignores (nohup, background jobs) stays ignored. */
static int block_signals(struct home *h, char *message)
{
    struct sigaction now;
    sigset_t set;

    sigemptyset(&set);
    for (size_t i = 0; i < ARRAY_SIZE(watched_signals); i++) {
        if (sigaction(watched_signals[i], NULL, &now) == 0 && now.sa_handler != SIG_IGN)
            sigaddset(&set, watched_signals[i]);
    }
    pthread_sigmask(SIG_BLOCK, &set, NULL);
    signal(SIGPIPE, SIG_IGN);
    signal(SIGTTOU, SIG_IGN); /* putting the terminal back must work from the background too */
    h->signal_fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
    if (h->signal_fd >= 0)
        return OK;
    snprintf(message, MESSAGE, "cannot watch signals: %s (raise 'ulimit -n')", strerror(errno));
    return ERR_NO_MEMORY;
}

/* As an ordinary program stops on Ctrl-Z (here only from outside: the terminal is raw). SIGCONT
 * follows when it goes on. */
static void stop_ourselves(void)
{
    terminal_restore();
    (void)syscall(SYS_tgkill, getpid(), syscall(SYS_gettid), SIGSTOP);
}

static void take_signal(struct home *h)
{
    struct signalfd_siginfo info;

    if (read(h->signal_fd, &info, sizeof(info)) != (ssize_t)sizeof(info))
        return;
    if (info.ssi_signo == SIGTSTP) {
        stop_ourselves();
    } else if (info.ssi_signo == SIGCONT) {
        terminal_continue();
    } else {
        h->signal = (int)info.ssi_signo;
        vm_stop(&h->vm, VM_STOP_USER, 0, "signal %u", info.ssi_signo);
    }
}

/* --- the event loop -------------------------------------------------------------------------- */

static uint64_t deadline_after(unsigned int ms)
{
    return seam_time_ns() + (uint64_t)ms * 1000000;
}

/* poll's timeout: until the console or the deadline, whichever is sooner. -1: none. */
static int timeout_of(int tend_ms, uint64_t deadline)
{
    uint64_t now = seam_time_ns();
    int ms;

    if (deadline == UINT64_MAX)
        return tend_ms;
    ms = deadline <= now ? 0 : (int)((deadline - now) / 1000000) + 1;
    return tend_ms >= 0 && tend_ms < ms ? tend_ms : ms;
}

/* Of two timeouts. */
static int sooner(int a_ms, int b_ms)
{
    if (a_ms < 0 || b_ms < 0)
        return a_ms < 0 ? b_ms : a_ms;
    return a_ms < b_ms ? a_ms : b_ms;
}

static void wait_and_handle(struct home *h, uint64_t deadline)
{
    enum { TIMER, WAKE, SIGNAL, INPUT, COUNT };
    int tend_ms = sooner(console_tend(h), control_tend(h)); /* first: decides whether we want more */
    struct pollfd p[COUNT + CONTROL_POLLS] = {
        [TIMER] = {.fd = h->timer_fd, .events = POLLIN},
        [WAKE] = {.fd = h->wake_fd, .events = POLLIN},
        [SIGNAL] = {.fd = h->signal_fd, .events = POLLIN},
        [INPUT] = {.fd = console_wants_input(h) ? STDIN_FILENO : -1, .events = POLLIN},
    };
    uint32_t controls = control_want(h, &p[COUNT]);
    uint64_t count;

    if (poll(p, COUNT + controls, timeout_of(tend_ms, deadline)) <= 0)
        return;
    if (p[SIGNAL].revents)
        take_signal(h);
    if (p[WAKE].revents)
        (void)!read(h->wake_fd, &count, sizeof(count));
    if (p[TIMER].revents && read(h->timer_fd, &count, sizeof(count)) > 0) {
        seam_timer_fired(h);
        vm_timers_run(&h->vm);
    }
    if (p[INPUT].revents)
        console_read(h);
    control_handle(h, &p[COUNT], controls);
}

/* Runs the machine until it has stopped and all vCPU threads are out. False: they are not. */
static bool run_until_stopped(struct home *h)
{
    uint64_t deadline = UINT64_MAX;
    int signal_seen = 0;

    freeze_start(h, h->options.paused);
    h->options.paused = false; /* not after a reset */
    vcpu_threads_go(&h->threads);
    if (h->tell >= 0)
        detach_done(h->tell);
    h->tell = -1;
    while (!vcpu_threads_are_out(&h->threads)) {
        wait_and_handle(h, deadline);
        if (!vm_is_stopped(&h->vm))
            continue;
        freeze_unpause(h);
        if (deadline == UINT64_MAX || h->signal != signal_seen) {
            deadline = deadline_after(h->signal ? STOP_SIGNAL_MS : STOP_MS);
            signal_seen = h->signal;
        }
        if (seam_time_ns() >= deadline)
            return false;
    }
    freeze_stop(h);
    return true;
}

/* --- reset and end --------------------------------------------------------------------------- */

static void output_failed(void *owner, int error)
{
    struct home *h = owner;

    atomic_store(&h->out_error, error);
    vm_stop(&h->vm, VM_STOP_USER, 0, "standard output failed");
}

static bool wants_reset(const struct home *h)
{
    if (atomic_load(&h->vm.stop_reason) != VM_STOP_RESET || h->signal ||
        (h->options.no_reboot && !h->operator_reset))
        return false;
    if (h->kernel.fd < 0)
        say("%sit was saved without its kernel, so that a reset is its end (restore it with -k)", h->who);
    return h->kernel.fd >= 0;
}

/* All vCPU threads are out. Afterwards the VM is ready to run, or stopped for good. */
static void reset(struct home *h)
{
    char message[MESSAGE];

    if (h->options.log_level >= SEAM_LOG_INFO)
        say("%sreset: %s", h->who, h->vm.stop_text);
    vm_clear_stop(&h->vm);
    if (atomic_load(&h->out_error)) /* stored before its vm_stop, which may have come too early */
        output_failed(h, atomic_load(&h->out_error));
    h->operator_reset = false;
    h->resets++;
    console_reset(h);
    control_reset(h);
    boot_files_forget(h);
    if (!ram_zero(&h->ram)) {
        vm_stop(&h->vm, VM_STOP_NO_MEMORY, 0, "memory cannot be zeroed for a reset");
    } else if (boot_files_boot(h, message)) {
        say("%s%s", h->who, message);
        vm_stop(&h->vm, VM_STOP_ENGINE, 0, "it cannot boot again after a reset");
    }
}

static void flush_consoles(struct home *h)
{
    if (h->signal)
        control_flush(h, FLUSH_SIGNAL_STALLED_MS, FLUSH_SIGNAL_MS);
    else
        control_flush(h, FLUSH_STALLED_MS, FLUSH_MS);
}

static void flush(const struct home *h, struct outstream *s, unsigned int stalled_ms)
{
    if (h->signal)
        (void)outstream_flush(s, FLUSH_SIGNAL_STALLED_MS, FLUSH_SIGNAL_MS);
    else
        (void)outstream_flush(s, stalled_ms, FLUSH_MS);
}

static enum lodge_status finish(struct home *h, bool all_out)
{
    enum lodge_status status;

    flush_consoles(h);
    flush(h, &h->out, FLUSH_STALLED_MS);
    if (h->console.last.length && terminal_is_raw())
        say_raw("\n"); /* the guest stopped in the middle of a line */
    terminal_restore();
    if (!all_out) {
        say("%sa vCPU did not stop (a bug of Lodge: please report it)", h->who);
        status = h->signal ? (enum lodge_status)(STATUS_SIGNAL + h->signal) : STATUS_ENGINE;
    } else {
        status = report_end(h);
        if (h->options.stats)
            report_stats(h);
    }
    flush(h, &h->err, FLUSH_STALLED_ERR_MS);
    return status;
}

/* --- the whole ------------------------------------------------------------------------------- */

static void run_stream(void *arg)
{
    outstream_run(arg);
}

/* A VM in the background has no terminal, so that it has to have a name. */
static int leave_terminal(const struct home *h, char *message)
{
    if (h->tell < 0)
        return OK;
    if (!h->who[0]) {
        snprintf(message, MESSAGE, "a VM in the background needs a name (give --name)");
        return ERR_INVALID;
    }
    if (detach_leave())
        return OK;
    snprintf(message, MESSAGE, "cannot leave the terminal: %s (%s)", strerror(errno), seam_errno_hint(errno));
    return ERR_NO_MEMORY;
}

/* Threads and sandbox: from here on the process can do no more than it needs. */
static int enclose(struct home *h, char *message)
{
    bool verifies = h->origin && h->origin->file && !h->options.verify;
    int err = OK;

    snprintf(message, MESSAGE, "cannot start threads (raise 'ulimit -u' or 'ulimit -v')");
    if (!h->options.no_sandbox)
        err = sandbox_drop_privileges(message, MESSAGE);
    if (!err)
        err = outstream_init(&h->out, STDOUT_FILENO, OUT_SIZE, "console output", output_failed, h);
    h->out.lingers = true;
    if (!err)
        err = outstream_init(&h->err, STDERR_FILENO, ERR_SIZE, "messages", NULL, NULL);
    if (!err)
        err = thread_start(&h->stream_thread[0], "stdout", run_stream, &h->out);
    if (!err)
        err = thread_start(&h->stream_thread[1], "stderr", run_stream, &h->err);
    atomic_store(&h->unverified, verifies);
    if (!err && verifies)
        err = thread_start(&h->verify_thread, "verify", restore_verify, h);
    if (!err)
        err = vcpu_threads_create(&h->threads, &h->vm);
    if (!err) { /* all at once */
        vcpu_threads_await(&h->threads);
        thread_await(&h->stream_thread[0]);
        thread_await(&h->stream_thread[1]);
        if (verifies)
            thread_await(&h->verify_thread);
    }
    if (!err && !h->options.no_sandbox)
        err = sandbox_enter(message, MESSAGE);
    return err;
}

enum lodge_status vm_process_run(const struct run_options *options, const struct restore_origin *origin, int tell)
{
    struct home *h = calloc(1, sizeof(*h));
    char message[MESSAGE] = "out of memory";
    bool all_out;
    int err = ERR_NO_MEMORY;

    if (h) {
        h->options = *options;
        h->origin = origin;
        h->tell = tell;
        err = build(h, message);
        if (err)
            free(h); /* nobody else has it yet */
    }
    if (!err)
        err = block_signals(h, message);
    if (!err) {
        terminal_prepare(&h->ram);
        err = leave_terminal(h, message);
    }
    if (!err) {
        err = enclose(h, message);
    }
    if (err) {
        say("%s", message);
        return status_of(err);
    }
    log_use_stream(&h->err);
    do {
        all_out = run_until_stopped(h);
        if (all_out && wants_reset(h))
            reset(h);
    } while (!vm_is_stopped(&h->vm));
    return finish(h, all_out);
}
