/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * The guest's serial port. Output goes to standard output through a bounded stream (outstream.c has
 * the policy for slow readers). Input comes from standard input and is given to the UART as it has
 * room.
 *
 * From a terminal, keys pass keys.c first, and are read even while the guest takes none, since
 * Ctrl-] must work on a guest that hangs; what does not fit in CONSOLE_PENDING is dropped, like a
 * terminal's own type-ahead. From a pipe or file every byte is the guest's: nothing is read until
 * what was read before is taken, so nothing is lost. The end of input is nothing special: the guest
 * runs on without.
 *
 * The UART tells when it has room again (console_ops.room), on a vCPU thread with the board lock
 * held: it wakes the main thread. Should it not, input is offered again after 1 to 16 ms.
 *
 * In the background of a terminal (`lodge run ... &`, or stopped and continued by bg) the guest
 * runs on and prints, and the terminal is left alone, its input too, until we are in the
 * foreground. The shell does not tell a job that runs of that, so it is looked at now and then.
 *
 * Threads: everything here runs on the main thread, but console_write and console_room.
 */
#include "hosted/console.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "hosted/home.h"
#include "hosted/log.h"
#include "hosted/report.h"
#include "hosted/seam.h"
#include "hosted/terminal.h"
#include "machine/pc.h"

enum { READ_SIZE = 256, RETRY_MAX_MS = 16, BACKGROUND_MS = 500 };

static void console_write(void *owner, const uint8_t *bytes, size_t size)
{
    struct home *h = owner;

    last_line_feed(&h->console.last, bytes, size);
    if (console_ring_put(&h->console.ring, bytes, size))
        seam_wake_main(h);
    outstream_put(&h->out, bytes, size);
}

static void console_room(void *owner)
{
    seam_wake_main(owner);
}

const struct console_ops console_home_ops = {.write = console_write, .room = console_room};

void console_init(struct home *h)
{
    h->console.is_terminal = isatty(STDIN_FILENO) != 0;
    h->console.is_open = true;
    h->console.retry_ms = 1;
    console_ring_init(&h->console.ring);
}

bool console_wants_input(const struct home *h)
{
    const struct console *c = &h->console;

    return c->is_open && (c->is_terminal ? terminal_is_raw() : c->pending_count == 0);
}

static void add_pending(struct console *c, const uint8_t *bytes, size_t n)
{
    size_t room = sizeof(c->pending) - c->pending_count;

    if (n > room)
        n = room;
    memcpy(c->pending + c->pending_count, bytes, n);
    c->pending_count += (uint32_t)n;
}

bool console_has_room(const struct home *h, size_t n)
{
    return sizeof(h->console.pending) - h->console.pending_count >= n;
}

void console_add_input(struct home *h, const uint8_t *bytes, size_t n)
{
    add_pending(&h->console, bytes, n);
}

/* What the operator chose. */
static void act(struct home *h, enum keys_action action)
{
    struct console *c = &h->console;

    switch (action) {
    case KEYS_NOTHING:
        break;
    case KEYS_SEND:
        add_pending(c, c->keys.out, c->keys.out_count);
        break;
    case KEYS_MENU:
        say_raw("\n[lodge] %s: ", keys_menu_text);
        break;
    case KEYS_LEAVE:
        say_raw("\n");
        break;
    case KEYS_HELP:
        say_raw("\n%s\n", keys_help_text);
        break;
    case KEYS_QUIT:
        say_raw("\n");
        vm_stop(&h->vm, VM_STOP_USER, 0, "the operator quit");
        break;
    case KEYS_RESET:
        say_raw("\n[lodge] reset\n");
        h->operator_reset = true;
        vm_stop(&h->vm, VM_STOP_RESET, 0, "the operator asked for a reset");
        break;
    case KEYS_DUMP:
        say_raw("\n");
        report_registers_at_rest(h);
        break;
    case KEYS_POWER:
        say_raw("\n[lodge] power button\n");
        pc_power_button(&h->vm);
        break;
    }
}

void console_read(struct home *h)
{
    struct console *c = &h->console;
    uint8_t buf[READ_SIZE];
    ssize_t n = read(STDIN_FILENO, buf, sizeof(buf));

    if (n < 0 && (errno == EINTR || errno == EAGAIN))
        return;
    if (n <= 0) {
        c->is_open = false;
        return;
    }
    if (!c->is_terminal) {
        add_pending(c, buf, (size_t)n);
        return;
    }
    for (ssize_t i = 0; i < n && !vm_is_stopped(&h->vm); i++)
        act(h, keys_feed(&c->keys, buf[i]));
}

int console_tend(struct home *h)
{
    struct console *c = &h->console;
    size_t taken;

    if (c->is_terminal && c->is_open && !terminal_is_raw() && !terminal_set_raw())
        return BACKGROUND_MS;
    if (c->pending_count == 0)
        return -1;
    taken = pc_console_input(&h->vm, c->pending, c->pending_count);
    c->pending_count -= (uint32_t)taken;
    memmove(c->pending, c->pending + taken, c->pending_count);
    if (taken)
        c->retry_ms = 1;
    else if (c->retry_ms < RETRY_MAX_MS)
        c->retry_ms *= 2;
    return c->pending_count ? (int)c->retry_ms : -1;
}

void console_reset(struct home *h)
{
    if (h->console.is_terminal)
        h->console.pending_count = 0;
    h->console.last = (struct last_line){0};
}
