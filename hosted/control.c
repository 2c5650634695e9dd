/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * The VM's end of its control socket (docs/saved.md; control_socket.c has where it is). A request is one message of
 * words, the answer one message: `ok` or `error` and what is wrong, then, where there is more, a newline and text.
 *
 *   status     one line: pid, state, engine, vCPUs, memory in bytes, VM clock and processor time in ns
 *   inspect    JSON
 *   pause, resume, power (the button), reset, quit
 *   console    from then on messages are the serial port's bytes, both ways
 *   freeze     the VM, to save it: the answer has descriptors (frozen.c), and memory stays as it is until the
 *              client goes
 *   fork       the same, and memory stays as it is for ever
 *
 * Who may: whoever can open the socket, and is this user or root. A client can do to the VM what its operator can,
 * and nothing to the process: a request is at most CONTROL_REQUEST bytes, of which nothing is parsed but
 * words; no descriptor is taken from a client; what it does not read it misses (console), or it is cut off (any
 * other answer). So there is nothing that the process waits for.
 *
 * One freeze at a time goes on, in pieces, in control_tend; who asks for another meanwhile is told to come again.
 */
#include "hosted/control.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "hosted/control_socket.h"
#include "hosted/freeze.h"
#include "hosted/frozen.h"
#include "hosted/home.h"
#include "hosted/inspect.h"

enum {
    INPUT = 256,
    OUTPUT = 8192,
    CONSOLES = 6,  /* so that there is room for who asks */
    VERIFY_MS = 5, /* until it is looked again whether all has been verified */
    PIECE_MS = 1,  /* for the guest, between two pieces that are moved */
};

static const struct control_client nobody = {.role = CONTROL_FREE, .fd = -1};

int control_open(struct home *h, char *message)
{
    char why[CONTROL_MESSAGE];
    int err = OK;

    for (uint32_t i = 0; i < CONTROL_CLIENTS; i++)
        h->control.client[i] = nobody;
    h->control.listener = -1;
    if (!h->who[0])
        return OK;
    h->control.listener = control_listen(h->vm.name, &err, why);
    if (err)
        snprintf(message, OPTIONS_MESSAGE, "%s", why);
    else if (h->control.listener >= 0)
        ram_watch(&h->ram);
    else if (why[0])
        say("%s%s", h->who, why);
    else if (h->options.log_level >= SEAM_LOG_INFO)
        say("%sno control socket: XDG_RUNTIME_DIR is not set", h->who);
    return err;
}

/* --- clients -------------------------------------------------------------------------------------
 */

/* All layers that there are. */
static void lend_layers(struct home *h, struct control_client *c)
{
    c->seen = h->ram.layers_made;
    for (uint32_t i = 0; i < RAM_LAYERS; i++)
        h->ram.layer[i].lent += h->ram.layer[i].fd >= 0;
}

/* Those that there still are of them. */
static void return_layers(struct home *h, const struct control_client *c)
{
    for (uint32_t i = 0; i < RAM_LAYERS; i++)
        h->ram.layer[i].lent -= h->ram.layer[i].fd >= 0 && h->ram.layer[i].id <= c->seen;
}

static void drop(struct home *h, struct control_client *c)
{
    if (c->role == CONTROL_READING)
        return_layers(h, c);
    if (c->role == CONTROL_CONSOLE)
        atomic_fetch_sub(&h->console.ring.readers, 1);
    close(c->fd);
    *c = nobody;
    h->control.clients--;
}

static bool is_allowed(int fd)
{
    struct ucred peer;
    socklen_t size = sizeof(peer);

    return getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &size) == 0 &&
           (peer.uid == 0 || peer.uid == geteuid());
}

static void accept_one(struct home *h)
{
    int fd = accept4(h->control.listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

    if (fd < 0)
        return;
    for (uint32_t i = 0; i < CONTROL_CLIENTS && is_allowed(fd); i++) {
        struct control_client *c = &h->control.client[i];

        if (c->role != CONTROL_FREE)
            continue;
        *c = (struct control_client){.role = CONTROL_ASKING, .fd = fd};
        h->control.clients++;
        return;
    }
    close(fd);
}

/* A client that does not take its answer is cut off. */
static void answer(struct home *h, struct control_client *c, const char *text)
{
    if (!control_send(c->fd, text, strlen(text), NULL, 0))
        drop(h, c);
}

static void answer_error(struct home *h, struct control_client *c, const char *what)
{
    char text[SAVED_MESSAGE + 8];

    snprintf(text, sizeof(text), "error %s", what);
    answer(h, c, text);
}

/* --- requests ------------------------------------------------------------------------------------
 */

static void do_status(struct home *h, struct control_client *c)
{
    char text[256] = "ok\n";

    inspect_line(h, text + 3, sizeof(text) - 3);
    answer(h, c, text);
}

static void do_inspect(struct home *h, struct control_client *c)
{
    static char text[CONTROL_ANSWER];

    memcpy(text, "ok\n", 3);
    inspect_json(h, text + 3, sizeof(text) - 3);
    answer(h, c, text);
}

static void do_pause(struct home *h, struct control_client *c)
{
    if (h->freeze.active)
        answer_error(h, c, "it is being frozen (try again)");
    else if (h->freeze.paused)
        answer_error(h, c, "it is paused already");
    else if (freeze_pause(h) != OK)
        answer_error(h, c, "it cannot be paused");
    else
        answer(h, c, "ok");
}

static void do_resume(struct home *h, struct control_client *c)
{
    if (!h->freeze.paused)
        answer_error(h, c, "it is not paused");
    else if (freeze_resume(h) != OK)
        answer_error(h, c, "it cannot go on");
    else
        answer(h, c, "ok");
}

static void do_power(struct home *h, struct control_client *c)
{
    if (h->freeze.paused) {
        answer_error(h, c, "it is paused (lodge resume first)");
        return;
    }
    pc_power_button(&h->vm);
    answer(h, c, "ok");
}

static void do_reset(struct home *h, struct control_client *c)
{
    if (h->freeze.paused || h->freeze.active) {
        answer_error(h, c, "it is paused or being frozen (lodge resume first, or try again)");
        return;
    }
    h->operator_reset = true;
    vm_stop(&h->vm, VM_STOP_RESET, 0, "the operator asked for a reset");
    answer(h, c, "ok");
}

static void do_quit(struct home *h, struct control_client *c)
{
    vm_stop(&h->vm, VM_STOP_USER, 0, "the operator ended it");
    answer(h, c, "ok");
}

static void do_console(struct home *h, struct control_client *c)
{
    uint64_t head;

    if (atomic_load(&h->console.ring.readers) >= CONSOLES) {
        answer_error(h, c, "it has six consoles already");
        return;
    }
    if (!control_send(c->fd, "ok", 2, NULL, 0)) {
        drop(h, c);
        return;
    }
    c->role = CONTROL_CONSOLE;
    atomic_fetch_add(&h->console.ring.readers, 1);
    pthread_mutex_lock(&h->console.ring.lock);
    head = h->console.ring.head;
    pthread_mutex_unlock(&h->console.ring.lock);
    c->seen = head > CONSOLE_RING ? head - CONSOLE_RING : 0;
}

static void begin_freeze(struct home *h, struct control_client *c, bool for_fork)
{
    char message[SAVED_MESSAGE];

    if (freeze_begin(h, message) != OK) {
        answer_error(h, c, message);
        return;
    }
    c->role = CONTROL_WAITING;
    c->for_fork = for_fork;
}

static void do_freeze(struct home *h, struct control_client *c)
{
    begin_freeze(h, c, false);
}

static void do_fork(struct home *h, struct control_client *c)
{
    begin_freeze(h, c, true);
}

static const struct {
    const char *word;
    void (*handle)(struct home *h, struct control_client *c);
} requests[] = {
    {"status", do_status}, {"inspect", do_inspect}, {"pause", do_pause}, {"resume", do_resume}, {"power", do_power},
    {"reset", do_reset},   {"quit", do_quit},       {"console", do_console}, {"freeze", do_freeze}, {"fork", do_fork},
};

static void take_request(struct home *h, struct control_client *c)
{
    char text[CONTROL_REQUEST];
    ssize_t n = read(c->fd, text, sizeof(text));

    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (n <= 0 || c->role != CONTROL_ASKING) { /* who waits or reads has nothing to say */
        drop(h, c);
        return;
    }
    if (vm_is_stopped(&h->vm)) {
        answer_error(h, c, "it ends");
        return;
    }
    for (size_t i = 0; i < ARRAY_SIZE(requests); i++) {
        if (strlen(requests[i].word) == (size_t)n && memcmp(text, requests[i].word, (size_t)n) == 0) {
            requests[i].handle(h, c);
            return;
        }
    }
    answer_error(h, c, "it does not know this request (is this 'lodge' of another version?)");
}

/* --- the console ---------------------------------------------------------------------------------
 */

static void send_console(struct home *h, struct control_client *c)
{
    uint8_t bytes[OUTPUT];
    char notice[96];
    uint64_t at = c->seen, lost;
    size_t n = console_ring_get(&h->console.ring, &at, bytes, sizeof(bytes), &lost);

    if (lost > 0) {
        int length = snprintf(notice, sizeof(notice), "\r\n[lodge] %llu bytes of output were not kept\r\n",
                              (unsigned long long)lost);

        if (!control_send(c->fd, notice, (size_t)length, NULL, 0))
            return; /* it has no room after all: the next time */
        c->seen += lost;
    }
    if (n > 0 && control_send(c->fd, bytes, n, NULL, 0))
        c->seen = at;
}

static void take_input(struct home *h, struct control_client *c)
{
    uint8_t bytes[INPUT];
    ssize_t n = read(c->fd, bytes, sizeof(bytes));

    if (n > 0)
        console_add_input(h, bytes, (size_t)n);
    else if (n == 0 || (errno != EAGAIN && errno != EINTR))
        drop(h, c);
}

/* Those that have not been sent all, into p and who; how many. */
static uint32_t consoles_behind(struct home *h, struct pollfd *p, struct control_client **who)
{
    uint32_t count = 0;

    for (uint32_t i = 0; i < CONTROL_CLIENTS; i++) {
        struct control_client *c = &h->control.client[i];

        if (c->role != CONTROL_CONSOLE || !console_ring_has(&h->console.ring, c->seen))
            continue;
        p[count] = (struct pollfd){.fd = c->fd, .events = POLLOUT};
        who[count++] = c;
    }
    return count;
}

void control_flush(struct home *h, uint32_t stalled_ms, uint32_t all_ms)
{
    const uint64_t ms = 1000000;
    uint64_t now = seam_time_ns(), end = now + all_ms * ms, patience = now + stalled_ms * ms;
    struct control_client *who[CONTROL_CLIENTS];
    struct pollfd p[CONTROL_CLIENTS];
    uint32_t count;

    while ((count = consoles_behind(h, p, who)) > 0 && now < end && now < patience) {
        uint64_t until = end < patience ? end : patience;

        (void)poll(p, count, (int)((until - now) / ms) + 1);
        now = seam_time_ns();
        for (uint32_t i = 0; i < count; i++) {
            uint64_t before = who[i]->seen;

            if (p[i].revents & (POLLHUP | POLLERR)) {
                drop(h, who[i]);
            } else if (p[i].revents & POLLOUT) {
                send_console(h, who[i]);
                patience = who[i]->seen != before ? now + stalled_ms * ms : patience;
            }
        }
    }
}

/* --- the event loop ------------------------------------------------------------------------------
 */

static short wanted_of(struct home *h, const struct control_client *c)
{
    short events = POLLIN;

    if (c->role != CONTROL_CONSOLE)
        return events;
    if (!console_has_room(h, INPUT))
        events = 0;
    return console_ring_has(&h->console.ring, c->seen) ? events | POLLOUT : events;
}

uint32_t control_want(struct home *h, struct pollfd *p)
{
    uint32_t count = 1;
    bool room = h->control.clients < CONTROL_CLIENTS;

    if (h->control.listener < 0)
        return 0;
    p[0] = (struct pollfd){.fd = room ? h->control.listener : -1, .events = POLLIN};
    atomic_store(&h->console.ring.told, false); /* before looking whether there is something */
    for (uint32_t i = 0; i < CONTROL_CLIENTS; i++) {
        const struct control_client *c = &h->control.client[i];

        p[1 + i] = (struct pollfd){.fd = c->fd};
        if (c->role == CONTROL_FREE)
            continue;
        p[1 + i].events = wanted_of(h, c);
        count = i + 2;
    }
    return count;
}

void control_handle(struct home *h, const struct pollfd *p, uint32_t count)
{
    for (uint32_t i = 0; i + 1 < count; i++) {
        struct control_client *c = &h->control.client[i];
        short seen = p[1 + i].revents;

        if (c->role == CONTROL_FREE || !seen)
            continue;
        if (seen & (POLLHUP | POLLERR)) { /* what it may have asked for, nobody waits for any more */
            drop(h, c);
            continue;
        }
        if (c->role != CONTROL_CONSOLE) {
            take_request(h, c);
            continue;
        }
        if (seen & POLLOUT)
            send_console(h, c);
        if (seen & POLLIN)
            take_input(h, c);
    }
    if (count > 0 && p[0].revents)
        accept_one(h);
}

/* --- freezing ------------------------------------------------------------------------------------
 */

static void hand_over(struct home *h, struct control_client *c, const int *files, uint32_t count)
{
    bool ours = !c->for_fork || ram_share_layers(&h->ram), sent = ours && control_send(c->fd, "ok", 2, files, count);

    close(files[0]);
    if (!ours)
        answer_error(h, c, "the host does not let its memory be sealed");
    else if (!sent)
        drop(h, c);
    else if (!c->for_fork) {
        c->role = CONTROL_READING;
        lend_layers(h, c);
    }
}

static void finish_freeze(struct home *h)
{
    char message[SAVED_MESSAGE];
    int files[FROZEN_FILES];
    uint32_t count;
    int err = freeze_finish(h, files, &count, message);

    for (uint32_t i = 0; i < CONTROL_CLIENTS; i++) {
        struct control_client *c = &h->control.client[i];

        if (c->role != CONTROL_WAITING)
            continue;
        c->role = CONTROL_ASKING;
        if (err)
            answer_error(h, c, message);
        else
            hand_over(h, c, files, count);
        return;
    }
    if (!err)
        close(files[0]); /* who asked has gone */
}

void control_reset(struct home *h)
{
    h->freeze.active = false;
    h->freeze.tidy_at = 0;
    for (uint32_t i = 0; i < CONTROL_CLIENTS; i++) {
        struct control_client *c = &h->control.client[i];

        if (c->role != CONTROL_WAITING)
            continue;
        c->role = CONTROL_ASKING;
        answer_error(h, c, "it was reset meanwhile (try again)");
    }
}

int control_tend(struct home *h)
{
    if (!h->freeze.active)
        return freeze_tidy(h);
    if (atomic_load(&h->unverified) && !vm_is_stopped(&h->vm))
        return VERIFY_MS; /* what is damaged must get into no other file, and into no fork */
    if (!freeze_step(h)) {
        finish_freeze(h);
        return 0;
    }
    return h->ram.fd >= 0 ? 0 : PIECE_MS;
}
