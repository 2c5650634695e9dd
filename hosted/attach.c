/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * `lodge console`: this terminal, attached to a VM's serial port until the operator leaves, or the VM ends. What the
 * guest printed before (64 KiB at most) comes first. On a terminal Ctrl-] opens a menu, as with `lodge run`, but that
 * to quit is to leave; from a pipe or file every byte is the guest's, and the end of input is
 * nothing special.
 *
 * All of a VM's consoles see the same output, and what is typed on any goes to the guest.
 */
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "hosted/commands.h"
#include "hosted/keys.h"
#include "hosted/log.h"
#include "hosted/terminal.h"

enum { INPUT = 256, OUTPUT = 16384 };

struct attached {
    int fd;
    const char *name;
    bool is_terminal, input_open, leave;
    struct keys keys;
    uint8_t out[2 * INPUT];
    size_t out_count;
};

/* On a connection of its own: this one is a console's. */
static void ask_aside(const struct attached *a, const char *request)
{
    int fd = command_connect(a->name);

    if (fd < 0)
        return;
    (void)command_ask(fd, a->name, request, NULL, 0, NULL, NULL);
    close(fd);
}

static void act(struct attached *a, enum keys_action action)
{
    switch (action) {
    case KEYS_NOTHING:
        break;
    case KEYS_SEND:
        memcpy(a->out + a->out_count, a->keys.out, a->keys.out_count);
        a->out_count += a->keys.out_count;
        break;
    case KEYS_MENU:
        say_raw("\n[lodge] q leave, r reset, p power button, Ctrl-] send it: ");
        break;
    case KEYS_DUMP: /* only where it runs */
    case KEYS_LEAVE:
        say_raw("\n");
        break;
    case KEYS_HELP:
        say_raw("\nq leaves this console, the VM runs on; r and p are its reset and power buttons\n");
        break;
    case KEYS_QUIT:
        say_raw("\n");
        a->leave = true;
        break;
    case KEYS_RESET:
        say_raw("\n[lodge] reset\n");
        ask_aside(a, "reset");
        break;
    case KEYS_POWER:
        say_raw("\n[lodge] power button\n");
        ask_aside(a, "power");
        break;
    }
}

static void take_input(struct attached *a)
{
    uint8_t bytes[INPUT];
    ssize_t n = read(STDIN_FILENO, bytes, sizeof(bytes));

    if (n < 0 && (errno == EINTR || errno == EAGAIN))
        return;
    if (n <= 0) {
        a->input_open = false;
        return;
    }
    if (!a->is_terminal) {
        memcpy(a->out, bytes, (size_t)n);
        a->out_count = (size_t)n;
        return;
    }
    for (ssize_t i = 0; i < n && !a->leave; i++)
        act(a, keys_feed(&a->keys, bytes[i]));
}

/* The guest takes what it can; one that takes nothing makes the operator wait, not us lose it. */
static void send_input(struct attached *a)
{
    size_t n = a->out_count < INPUT ? a->out_count : INPUT;

    if (n == 0 || send(a->fd, a->out, n, MSG_DONTWAIT | MSG_NOSIGNAL) != (ssize_t)n)
        return;
    memmove(a->out, a->out + n, a->out_count - n);
    a->out_count -= n;
}

/* False: the VM has ended, or standard output has. */
static bool take_output(struct attached *a)
{
    static uint8_t bytes[OUTPUT];
    ssize_t n = recv(a->fd, bytes, sizeof(bytes), MSG_DONTWAIT);

    if (n < 0 && (errno == EINTR || errno == EAGAIN))
        return true;
    for (ssize_t at = 0; at < n;) {
        ssize_t done = write(STDOUT_FILENO, bytes + at, (size_t)(n - at));

        if (done < 0 && errno != EINTR)
            return false;
        at += done > 0 ? done : 0;
    }
    return n > 0;
}

/* The terminal is put back, whatever ends us. */
static void on_end(int signal)
{
    terminal_restore();
    (void)raise(signal); /* its action is the default one again */
}

static void on_stop(int signal)
{
    (void)signal;
    terminal_restore();
    (void)raise(SIGSTOP);
    terminal_continue();
}

static void watch_signals(void)
{
    static const int ends[] = {SIGTERM, SIGINT, SIGHUP, SIGQUIT};
    struct sigaction end = {.sa_handler = on_end, .sa_flags = (int)(SA_RESETHAND | SA_NODEFER)};
    struct sigaction stop = {.sa_handler = on_stop, .sa_flags = SA_RESTART};

    for (size_t i = 0; i < ARRAY_SIZE(ends); i++)
        sigaction(ends[i], &end, NULL);
    sigaction(SIGTSTP, &stop, NULL);
}

static void run(struct attached *a)
{
    bool is_open = true;

    while (is_open && !a->leave) {
        bool reads = a->input_open && a->out_count == 0;
        struct pollfd p[] = {
            {.fd = a->fd, .events = (short)(POLLIN | (a->out_count ? POLLOUT : 0))},
            {.fd = reads ? STDIN_FILENO : -1, .events = POLLIN},
        };

        if (poll(p, 2, -1) < 0 && errno != EINTR)
            return;
        if (p[0].revents & (POLLIN | POLLHUP | POLLERR))
            is_open = take_output(a);
        if (p[1].revents)
            take_input(a);
        send_input(a);
    }
}

enum lodge_status command_console(int argc, char **argv)
{
    struct attached a = {.fd = -1, .is_terminal = isatty(STDIN_FILENO) != 0, .input_open = true};

    if (argc != 1 || argv[0][0] == '-') {
        say("'lodge console' takes the name of a VM (see 'lodge ps')");
        return STATUS_USAGE;
    }
    a.name = argv[0];
    a.fd = command_connect(a.name);
    if (a.fd < 0 || !command_ask(a.fd, a.name, "console", NULL, 0, NULL, NULL))
        return STATUS_OPERATOR;
    signal(SIGPIPE, SIG_IGN);
    if (a.is_terminal) {
        terminal_prepare(NULL);
        watch_signals();
        say_raw("[lodge] attached to %s; Ctrl-] q leaves\n", a.name);
        (void)terminal_set_raw();
    }
    run(&a);
    terminal_restore();
    if (a.is_terminal)
        say_raw("[lodge] %s\n", a.leave ? "left" : "it has ended");
    close(a.fd);
    return STATUS_OK;
}
