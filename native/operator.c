/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * The operator's console: one thread between the serial line, a line editor, and the guests' consoles.
 *
 * It waits on one word that whoever has news bumps: bytes were received, the guest that is looked at has said more, the log has
 * written over the line that is being edited. A guest's output is read from its ring as fast as the serial line takes it, so that what
 * is lost for a slow line is lost in the ring, the oldest first, and said.
 *
 * Keys for a guest wait here until its serial port has room, and are lost, like a terminal's own type-ahead, when there is none for 256 of them.
 *
 * While a command has the line for something else than text (operator_hold), lines of the log wait in a ring.
 *
 * Locking: the log may be written to by anybody, with the log's lock held; it touches only atomics here, the ring of held lines, which has a
 * spin lock below the log's and above the serial port's, and the serial port's ring. All else is the thread's own.
 */
#include "native/operator.h"

#include <stdarg.h>
#include <stdatomic.h>

#include "core/fmt.h"
#include "core/mem.h"
#include "core/seam.h"
#include "native/guest.h"
#include "native/line.h"
#include "native/ring.h"
#include "native/serial.h"
#include "native/spin.h"
#include "native/thread.h"

enum {
    CHUNK = 512,
    KEYS = 256,
    BACK = 4096, /* of a guest's console, that is shown first */
    INTERRUPT = 3, /* Ctrl-C */
    DETACH = 0x1D, /* Ctrl-] */
    TEXT = 1024,
    RETRY_NS = 10000000, /* while a guest or the line takes nothing */
    POLL_NS = 200000000,
    HELD = 16 << 10, /* of the log, for later */
};

static uint8_t held_memory[HELD];

static struct {
    _Atomic uint32_t word;
    _Atomic bool started; /* before, nobody edits a line */
    _Atomic bool power;   /* the button was pressed */
    _Atomic bool redraw; /* the log has written where the line was */
    struct line line;

    struct spin held_lock;
    bool holds;
    struct ring held;
    uint64_t held_at; /* the next to be shown */

    void (*draw)(void); /* operator_redraw; NULL: nothing is drawn */
    uint64_t period, draw_at;

    struct guest *_Atomic attached; /* NULL: the editor has the terminal */
    uint64_t position;             /* in its console */
    uint8_t keys[KEYS];
    uint32_t key_count;
} op;

static void tell(void)
{
    atomic_fetch_add(&op.word, 1);
    seam_wake(&op.word, false);
}

void operator_guest_said(const struct guest *g)
{
    if (atomic_load_explicit(&op.attached, memory_order_relaxed) == g)
        tell();
}

void operator_power_button(void)
{
    atomic_store(&op.power, true);
    tell();
}

/* --- what is written ----------------------------------------------------------------------------- */

/* True: it is for later. */
static bool log_held(const char *bytes, size_t size)
{
    bool holds;

    spin_lock(&op.held_lock);
    holds = op.holds;
    if (holds)
        ring_write(&op.held, bytes, size);
    spin_unlock(&op.held_lock);
    return holds;
}

static void log_write(const char *bytes, size_t size)
{
    if (atomic_load(&op.attached) || log_held(bytes, size))
        return;
    if (!atomic_load(&op.started)) {
        serial_sink.write(bytes, size);
        return;
    }
    serial_write("\r\x1B[K", 4);
    serial_sink.write(bytes, size);
    atomic_store(&op.redraw, true);
    tell();
}

static void log_write_now(const char *bytes, size_t size)
{
    serial_sink.write_now(bytes, size);
}

const struct log_sink operator_sink = {.write = log_write, .write_now = log_write_now};

void operator_write(const char *bytes, size_t size)
{
    serial_sink.write(bytes, size);
}

void operator_say(const char *format, ...)
{
    char text[TEXT];
    va_list ap;
    size_t n;

    va_start(ap, format);
    n = fmt_v(text, sizeof(text) - 1, format, ap);
    va_end(ap);
    if (n > sizeof(text) - 2)
        n = sizeof(text) - 2;
    text[n] = '\n';
    operator_write(text, n + 1);
}

/* --- the line for something else --- */

void operator_hold(void)
{
    spin_lock(&op.held_lock);
    op.holds = true;
    ring_init(&op.held, held_memory, sizeof(held_memory));
    op.held_at = 0;
    spin_unlock(&op.held_lock);
}

/* All in one go, so that what is logged meanwhile comes behind: the serial port's ring has room for it. */
void operator_let_go(void)
{
    char bytes[CHUNK];
    uint64_t missed;
    size_t n;

    spin_lock(&op.held_lock);
    while ((n = ring_read(&op.held, &op.held_at, bytes, sizeof(bytes), &missed)) > 0) {
        if (missed)
            serial_sink.write("[the log has more]\n", 19);
        serial_sink.write(bytes, n);
    }
    op.holds = false;
    spin_unlock(&op.held_lock);
}

bool operator_is_wanted(void)
{
    return atomic_load(&op.power);
}

size_t operator_read(char *bytes, size_t size, uint64_t deadline_ns)
{
    for (;;) {
        uint32_t seen = atomic_load(&op.word);
        size_t n = serial_read(bytes, size);
        uint64_t now = seam_time_ns();

        if (n > 0 || now >= deadline_ns || operator_is_wanted())
            return n;
        seam_wait(&op.word, seen, deadline_ns < now + POLL_NS ? deadline_ns : now + POLL_NS);
        serial_poll(); /* should an interrupt be lost */
    }
}

static void editor_output(void *owner, const char *bytes, size_t size)
{
    (void)owner;
    serial_write(bytes, size);
}

static bool editor_word(void *owner, const char *text, uint32_t n, char *word, size_t size)
{
    (void)owner;
    return command_word(text, n, word, size);
}

static const struct line_ops editor_ops = {.output = editor_output, .word = editor_word};

/* --- a guest's console --------------------------------------------------------------------------- */

void operator_attach(struct guest *g)
{
    operator_say("console of %s; Ctrl-] comes back", g->definition->config.name);
    op.position = guest_console_back(g, BACK);
    op.key_count = 0;
    atomic_store(&op.attached, g);
}

static void detach(void)
{
    atomic_store(&op.attached, NULL);
    serial_write("\r\n", 2);
    line_start(&op.line);
}

/* What the line takes now. False: there is no more, or no room. */
static bool show_output(struct guest *g)
{
    char bytes[CHUNK];
    uint64_t missed;
    size_t room = serial_room(), n;

    if (room < 2 * CHUNK)
        return false;
    n = guest_console_read(g, &op.position, bytes, sizeof(bytes), &missed);
    if (missed)
        operator_say("\n[lodge: %llu bytes are lost]", (unsigned long long)missed);
    serial_write(bytes, n);
    return n > 0;
}

static void send_keys(struct guest *g)
{
    size_t taken = op.key_count ? guest_console_input(g, op.keys, op.key_count) : 0;

    op.key_count -= (uint32_t)taken;
    memmove(op.keys, op.keys + taken, op.key_count);
}

/* --- drawn again and again ----------------------------------------------------------------------- */

void operator_redraw(void (*draw)(void), uint64_t period_ns)
{
    operator_hold();
    op.draw = draw;
    op.period = period_ns;
    op.draw_at = seam_time_ns() + period_ns;
}

static void end_drawing(void)
{
    op.draw = NULL;
    operator_let_go();
    line_start(&op.line);
}

static void draw_if_due(void)
{
    uint64_t now = seam_time_ns();

    if (!op.draw || now < op.draw_at)
        return;
    op.draw();
    op.draw_at += op.period;
    if (op.draw_at < now) /* the line is slow */
        op.draw_at = now + op.period;
}

static bool ends_drawing(char key)
{
    return key == 'q' || key == INTERRUPT || key == DETACH;
}

/* --- the thread ---------------------------------------------------------------------------------- */

static void take_key(char key)
{
    if (atomic_load(&op.attached)) {
        if (key == DETACH)
            detach();
        else if (op.key_count < KEYS)
            op.keys[op.key_count++] = (uint8_t)key;
        return;
    }

    if (op.draw) {
        if (ends_drawing(key))
            end_drawing();
        return;
    }

    const char *line = line_input(&op.line, key);

    if (!line)
        return;
    command_run(line);
    if (!atomic_load(&op.attached) && !op.draw)
        line_start(&op.line);
}

static void redraw(void)
{
    if (!atomic_exchange(&op.redraw, false) || atomic_load(&op.attached) || op.draw)
        return;
    line_hide(&op.line);
    line_show(&op.line);
}

/* True: something waits that nobody will tell of. */
static bool go_round(void)
{
    char keys[64];
    size_t n = serial_read(keys, sizeof(keys));
    struct guest *g;

    if (atomic_exchange(&op.power, false)) {
        if (op.draw)
            end_drawing(); /* or what is said now would be held back */
        command_power_off();
    }
    for (size_t i = 0; i < n; i++)
        take_key(keys[i]);
    redraw();
    draw_if_due();
    g = atomic_load(&op.attached);
    if (!g)
        return n > 0;
    send_keys(g);
    return show_output(g) || n > 0;
}

static bool is_stuck(void)
{
    const struct guest *g = atomic_load(&op.attached);

    return g && (op.key_count > 0 || op.position != g->console.end);
}

/* When there is something to do though nobody tells of it. */
static uint64_t next_round(void)
{
    uint64_t at = seam_time_ns() + (is_stuck() ? RETRY_NS : POLL_NS);

    return op.draw && op.draw_at < at ? op.draw_at : at;
}

static void operator_thread(void *unused)
{
    (void)unused;
    line_start(&op.line);
    for (;;) {
        uint32_t seen = atomic_load(&op.word);

        while (go_round())
            seam_yield();
        seam_wait(&op.word, seen, next_round());
        serial_poll(); /* should an interrupt be lost, or lead nowhere */
    }
}

void operator_start(void)
{
    struct thread *t;

    line_init(&op.line, &editor_ops, NULL, "lodge> ");
    atomic_store(&op.started, true);
    serial_on_receive(tell);
    if (thread_create(&t, "operator", operator_thread, NULL) != OK)
        log_line("no memory for the operator's console");
}
