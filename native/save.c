/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * A VM as a file (docs/saved.md), sent over the operator's serial line by YMODEM: there are no disks here, and a program that
 * receives it is on every administrator's machine.
 *
 * The VM is paused, and a picture is taken: the sections of processors and devices, the list of pages that are not zero and their
 * checksums. Pages are copied if there is room for that beside what the hypervisor may need, and the VM goes on after some milliseconds, while the
 * copy is sent, which takes hours for a large one on a real line. Without that room it rests until it has been sent.
 *
 * The file is nowhere as a whole: each block is made when it is sent (machine/saved_image.c).
 *
 * On the operator's thread, which alone gives orders to VMs: a VM that is paused stays so and stays there until this has come to its end.
 * It has the line until then; what the log has for it comes after. The power button is heeded. No state of its own.
 */
#include "core/fmt.h"
#include "core/seam.h"
#include "engine/hw.h"
#include "machine/saved_image.h"
#include "native/frames.h"
#include "native/guest.h"
#include "native/operator.h"
#include "native/serial.h"
#include "native/ymodem.h"

#define MS 1000000ull
#define S  (1000 * MS)

enum {
    REST_S = 10,              /* within which a VM comes to rest */
    QUIET_MS = 500,           /* without a byte: the other end has no more to say */
    QUIET_MOST_MS = 5000,
    LINE_MS = 10,             /* how often to look whether the line has taken all */
    RESERVE = 32 << 20,       /* free memory that is left for others */
    COPY_AT_ONCE = 256 << 10, /* between two looks at whose turn it is */
    LINE_SPEED = 11520,       /* bytes a second at 115200n8 */
    FILE_MODE = 0100600,      /* a regular file, for its owner's eyes: Unix's */
    NS_PER_S = 1000000000,
};

struct picture {
    struct guest *g;
    bool resume; /* it ran before */
    uint8_t *machine;
    size_t machine_size;
    struct saved_writing file;
    void *copy;
    uint64_t copy_size;
    char name[VM_NAME_SIZE + 8];
    struct ymodem line;
};

static size_t pages_of(size_t bytes)
{
    return (bytes + PAGE_SIZE - 1) / PAGE_SIZE;
}

/* --- the VM -------------------------------------------------------------------------------------- */

/* False: it has been said why not. */
static bool bring_to_rest(struct picture *p)
{
    enum guest_state state = guest_state(p->g);

    if (state != GUEST_RUNS && state != GUEST_PAUSED) {
        operator_say("it does not run");
        return false;
    }
    p->resume = state == GUEST_RUNS;
    if (p->resume)
        guest_order(p->g, GUEST_ORDER_PAUSE);
    if (!guest_wait_state(p->g, GUEST_PAUSED, seam_time_ns() + REST_S * S)) {
        operator_say("it does not come to rest (see ps)");
        return false;
    }
    if (!vm_is_stopped(p->g->vm))
        return true;
    operator_say("it ends");
    return false;
}

/* The command after this finds it running. */
static void go_on(struct picture *p)
{
    if (p->resume) {
        guest_order(p->g, GUEST_ORDER_RESUME);
        (void)guest_wait_state(p->g, GUEST_RUNS, seam_time_ns() + REST_S * S);
    }
    p->resume = false;
}

static bool save_machine(struct picture *p)
{
    struct state_writer w = {0};

    state_save_all(&p->g->vm->state, &w);
    p->machine_size = w.used;
    p->machine = seam_pages_alloc(pages_of(p->machine_size));
    if (!p->machine)
        return false;
    w = (struct state_writer){.buf = p->machine, .size = p->machine_size};
    state_save_all(&p->g->vm->state, &w);
    return true;
}

static bool take_picture(struct picture *p)
{
    const struct vm_config *config = &p->g->storage_config;
    const struct saved_range whole = {0, config->memory};
    struct saved_image image = {.config = config,
                                .level = &p->g->level,
                                .tsc_khz = p->g->vm->tsc_khz,
                                .ram = p->g->ram,
                                .range = &whole,
                                .ranges = 1,
                                .gap = 1, /* a page takes long on the line */
                                .poll = hw_preempt_point};

    if (save_machine(p)) {
        image.machine = p->machine;
        image.machine_size = p->machine_size;
        if (saved_writing_begin(&p->file, &image) == OK)
            return true;
    }
    operator_say("no memory to save it");
    return false;
}

/* Its pages, so that it can go on. False: no room. */
static bool copy_pages(struct picture *p)
{
    uint64_t size = p->file.file_size - p->file.pages, total, left;
    uint8_t *copy;

    frames_count(&total, &left);
    if (size == 0 || size + RESERVE > left || window_alloc(size, FRAME_OWN, &p->copy) != OK)
        return false;
    p->copy_size = size;
    copy = p->copy;
    for (uint64_t at = 0; at < size; at += COPY_AT_ONCE) {
        size_t n = size - at < COPY_AT_ONCE ? (size_t)(size - at) : COPY_AT_ONCE;

        saved_writing_read(&p->file, p->file.pages + at, copy + at, n);
        hw_preempt_point();
    }
    p->file.packed = copy;
    return true;
}

static void discard(struct picture *p)
{
    go_on(p);
    if (p->file.metadata)
        saved_writing_end(&p->file);
    if (p->machine)
        seam_pages_free(p->machine, pages_of(p->machine_size));
    if (p->copy)
        window_free(p->copy, p->copy_size);
}

/* --- the line ------------------------------------------------------------------------------------ */

static void read_file(void *owner, uint64_t offset, void *to, size_t n)
{
    const struct picture *p = owner;

    saved_writing_read(&p->file, offset, to, n);
}

/* Until nothing has come for a while: what a receiver says at its end is for no line editor. */
static void wait_for_quiet(void)
{
    uint64_t most = seam_time_ns() + QUIET_MOST_MS * MS;
    char bytes[64];

    while (seam_time_ns() < most && operator_read(bytes, sizeof(bytes), seam_time_ns() + QUIET_MS * MS) > 0)
        continue;
}

/* One round: what has come, then what is to be sent. */
static void go_round(struct ymodem *y)
{
    uint64_t deadline = serial_sent() ? y->deadline : seam_time_ns() + LINE_MS * MS;
    char bytes[64];
    size_t n = operator_read(bytes, sizeof(bytes), deadline), size;
    bool sent = serial_sent(); /* asked after it was read: what came before all was sent is no answer */
    const uint8_t *frame;

    for (size_t i = 0; i < n; i++)
        ymodem_input(y, (uint8_t)bytes[i], sent, seam_time_ns());
    ymodem_tick(y, seam_time_ns());
    frame = sent ? ymodem_output(y, &size) : NULL;
    if (frame)
        serial_write((const char *)frame, size);
}

static void send_file(struct picture *p)
{
    struct ymodem_file file = {.name = p->name,
                               .size = p->file.file_size,
                               .time = seam_wall_time_ns() / NS_PER_S,
                               .mode = FILE_MODE,
                               .read = read_file,
                               .owner = p};

    operator_hold();
    ymodem_begin(&p->line, &file, seam_time_ns());
    while (!ymodem_is_over(&p->line) && !operator_is_wanted())
        go_round(&p->line);
    if (p->line.state != YMODEM_DONE && p->line.state != YMODEM_CANCELLED)
        serial_write((const char *)ymodem_abort, sizeof(ymodem_abort));
    wait_for_quiet();
}

static void say_result(const struct picture *p, uint64_t began)
{
    uint64_t ms = (seam_time_ns() - began) / MS;
    const char *why = "";

    if (p->line.state == YMODEM_DONE) {
        operator_say("\n%s: %llu bytes sent in %llu.%03llu s", p->name, (unsigned long long)p->file.file_size,
                     (unsigned long long)(ms / 1000), (unsigned long long)(ms % 1000));
        return;
    }
    if (p->line.state == YMODEM_CANCELLED)
        why = "it was cancelled";
    else if (p->line.state == YMODEM_SILENT)
        why = p->line.frame_size ? "the receiver says nothing any more" : "nobody receives it";
    else if (p->line.state == YMODEM_FAILED)
        why = "the receiver does not take it";
    else
        why = "the machine is to be powered off";
    operator_say("\n%s: not sent: %s", p->name, why);
}

/* --- the command --------------------------------------------------------------------------------- */

static void announce(const struct picture *p, uint64_t rested_ns)
{
    uint64_t size = p->file.file_size;

    if (p->file.packed)
        operator_say("%s rested for %llu ms and goes on", p->g->vm->name, (unsigned long long)(rested_ns / MS));
    else
        operator_say("%s rests until this is over: there is no memory for a copy", p->g->vm->name);
    operator_say("receive %s by YMODEM now (rb): %llu bytes, %llu min at 115200; Ctrl-X twice cancels", p->name,
                 (unsigned long long)size, (unsigned long long)(size / LINE_SPEED / 60 + 1));
}

void save_vm(struct guest *g)
{
    struct picture p = {.g = g};
    uint64_t began = seam_time_ns();

    if (!bring_to_rest(&p))
        return;
    (void)fmt(p.name, sizeof(p.name), "%s.saved", g->storage_config.name);
    if (take_picture(&p)) {
        if (copy_pages(&p))
            go_on(&p);
        announce(&p, seam_time_ns() - began);
        began = seam_time_ns();
        send_file(&p);
        say_result(&p, began);
        operator_let_go();
    }
    discard(&p);
}
