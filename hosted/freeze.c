/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * The running VM brought to rest: to pause it, and to freeze it for those who save or fork it
 * (docs/saved.md).
 *
 * A pause stops the VM's clock, and its vCPUs' state is fetched and handed over again, so that whatever an engine
 * counts by itself stands as well. A freeze is short, and time goes on for the guest: its clock is set on by what
 * the rest took, so that it does not fall behind, and the guest can measure it.
 *
 * Freezing. Memory that is shared is frozen in one go at the rest. Private memory is first moved piece by piece, with
 * a rest for each piece that has something (freeze_step, from the event loop, so timers run in between); then,
 * at the last rest, what has been written meanwhile. Only there are devices and processors saved, so
 * that all is of one moment. What an error leaves is memory that is partly moved, which is as good as any.
 */
#include "hosted/freeze.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "hosted/frozen.h"
#include "hosted/home.h"

enum { UNMAP_AT_ONCE = 16 /* pieces */, MOVE_AT_REST = 2 << 20 /* bytes: half a millisecond */ };
enum { MS = 1000000, TIDY_STEP_MS = 20, TIDY_FIRST_MS = 2000, TIDY_LAST_MS = 600000 };

/* --- start, stop, pause ------------------------------------------------------------------------
 */

static void start_clock(struct home *h)
{
    pc_start_clock(&h->vm);
    h->freeze.clock_runs = true;
    if (h->freeze.renew_identity)
        pc_new_identity(&h->vm);
    h->freeze.renew_identity = false;
}

static void stop_clock(struct home *h)
{
    pc_stop_clock(&h->vm);
    h->freeze.clock_runs = false;
}

void freeze_start(struct home *h, bool paused)
{
    if (paused)
        vm_rest_begin(&h->vm, NULL);
    else
        start_clock(h);
    h->freeze.paused = paused;
}

void freeze_unpause(struct home *h)
{
    if (h->freeze.paused) {
        h->freeze.paused = false;
        vm_rest_end(&h->vm, NULL);
    }
}

void freeze_stop(struct home *h)
{
    if (h->freeze.clock_runs)
        stop_clock(h);
}

int freeze_pause(struct home *h)
{
    int err;

    if (h->freeze.paused)
        return ERR_BUSY;
    vm_rest_begin(&h->vm, NULL);
    if (vm_is_stopped(&h->vm)) {
        vm_rest_end(&h->vm, NULL);
        return ERR_STOPPED;
    }
    stop_clock(h);
    err = pc_fetch_vcpus(&h->vm);
    if (!err) {
        h->freeze.paused = true;
        return OK;
    }
    start_clock(h);
    vm_rest_end(&h->vm, NULL);
    return err;
}

int freeze_resume(struct home *h)
{
    int err;

    if (!h->freeze.paused)
        return ERR_BUSY;
    /* However long it was, the wall clock is the host's. */
    h->vm.clock.wall_base = seam_wall_time_ns() - vm_clock_ns(&h->vm);
    err = pc_hand_over_vcpus(&h->vm);
    if (err)
        vm_stop(&h->vm, VM_STOP_ENGINE, 0, "the engine does not take the guest's state after a pause: %s",
                err_name(err));
    else
        start_clock(h);
    h->freeze.paused = false;
    vm_rest_end(&h->vm, NULL);
    return err;
}

void freeze_rest_begin(struct home *h)
{
    if (!h->freeze.paused)
        vm_rest_begin(&h->vm, NULL);
}

void freeze_rest_end(struct home *h)
{
    if (!h->freeze.paused)
        vm_rest_end(&h->vm, NULL);
}

/* --- freezing ------------------------------------------------------------------------------------
 */

static int fail(char *message, int err, const char *what)
{
    snprintf(message, SAVED_MESSAGE, "cannot freeze the VM: %s", what);
    return err;
}

/* Nothing that anybody could rely on any more is in RAM. */
static int memory_lost(struct home *h, char *message)
{
    vm_stop(&h->vm, VM_STOP_MEMORY_LOST, 0, "the host did not map it again when it was frozen");
    return fail(message, ERR_IO, "its memory is lost");
}

static int no_memory(char *message)
{
    return fail(message, ERR_NO_MEMORY, "the host has no memory or no mappings for it (free some)");
}

int freeze_begin(struct home *h, char *message)
{
    int err = OK;

    if (h->freeze.active)
        return fail(message, ERR_BUSY, "it is being frozen already (try again)");
    if (!guest_mem_bring(&h->vm.mem, 0, UINT64_MAX))
        return fail(message, ERR_STOPPED, "it ends");
    if (h->ram.fd < 0)
        err = ram_begin_move(&h->ram, &h->freeze.layer);
    if (err == ERR_UNSUPPORTED)
        return fail(message, err, "the host has no /proc/self/pagemap");
    if (err)
        return no_memory(message);
    h->freeze.active = true;
    h->freeze.rest_ns = 0;
    h->freeze.piece = h->ram.fd < 0 && ram_to_move(&h->ram) <= MOVE_AT_REST ? ram_pieces(&h->ram) : 0;
    return OK;
}

static void note_rest(struct home *h, uint64_t began)
{
    uint64_t took = seam_time_ns() - began;

    if (took > h->freeze.rest_ns)
        h->freeze.rest_ns = took;
}

/* An error shows again at the last rest, and is dealt with there. */
bool freeze_step(struct home *h)
{
    uint64_t began;

    if (h->freeze.piece >= ram_pieces(&h->ram))
        return false;
    if (h->ram.fd >= 0) {
        for (unsigned int n = 0; n < UNMAP_AT_ONCE && h->freeze.piece < ram_pieces(&h->ram); n++)
            ram_unmap_piece(&h->ram, h->freeze.piece++);
        return true;
    }
    freeze_rest_begin(h);
    began = seam_time_ns();
    if (ram_move_piece(&h->ram, h->freeze.layer, h->freeze.piece++) == ERR_IO) {
        char message[SAVED_MESSAGE];

        (void)memory_lost(h, message);
    }
    freeze_rest_end(h);
    note_rest(h, began);
    return true;
}

static int freeze_memory(struct home *h, char *message)
{
    int err;

    if (h->ram.fd >= 0)
        err = ram_freeze_shared(&h->ram);
    else
        err = ram_move_all(&h->ram, h->freeze.layer);
    if (err == ERR_IO)
        return memory_lost(h, message);
    return err ? no_memory(message) : OK;
}

/* The sections of processors and devices, allocated. */
static uint8_t *save_machine(struct home *h, size_t *size)
{
    struct state_writer w = {0};

    state_save_all(&h->vm.state, &w);
    w.size = w.used;
    w.buf = malloc(w.size);
    w.used = 0;
    if (w.buf)
        state_save_all(&h->vm.state, &w);
    *size = w.used;
    return w.buf;
}

/* At rest, the clock stopped. */
static int take_picture(struct home *h, uint8_t **machine, size_t *size, char *message)
{
    int err = vm_is_stopped(&h->vm) ? fail(message, ERR_STOPPED, "it has ended") : OK;

    if (!err && !h->freeze.paused && pc_fetch_vcpus(&h->vm) != OK)
        err = fail(message, ERR_IO, "the engine does not give its processors' state");
    if (!err)
        err = freeze_memory(h, message);
    if (err)
        return err;
    *machine = save_machine(h, size);
    return *machine ? OK : no_memory(message);
}

static int describe(const struct home *h, const uint8_t *machine, size_t size, int *files, uint32_t *count,
                    char *message)
{
    struct frozen_source s = {
        .vm = {.config = &h->options.config,
               .level = h->level,
               .tsc_khz = h->vm.tsc_khz,
               .machine = machine,
               .machine_size = size},
        .engine = h->engine->name,
        .interpret = h->vm.interpret,
        .ram = &h->ram,
        .kernel = h->kernel.fd,
        .initrd = h->initrd.fd,
    };

    *count = frozen_describe(&s, files);
    return *count ? OK : no_memory(message);
}

/* Sets the stopped clock to what it would be if it had not stopped; not back behind what the guest may have seen. */
static void go_on_after_rest(struct home *h, uint64_t behind)
{
    uint64_t clock = seam_time_ns() - behind;

    if (clock > vm_clock_ns(&h->vm))
        vm_clock_set(&h->vm, clock);
}

int freeze_finish(struct home *h, int *files, uint32_t *count, char *message)
{
    bool runs = h->freeze.clock_runs;
    uint8_t *machine = NULL;
    size_t size = 0;
    uint64_t began, behind;
    int err;

    freeze_rest_begin(h);
    began = seam_time_ns();
    behind = began - vm_clock_ns(&h->vm);
    if (runs)
        stop_clock(h);
    err = take_picture(h, &machine, &size, message);
    if (runs) {
        go_on_after_rest(h, behind);
        start_clock(h);
    }
    freeze_rest_end(h);
    note_rest(h, began);
    ram_end_move(&h->ram);
    if (!err)
        err = describe(h, machine, size, files, count, message);
    free(machine);
    h->freeze.active = false;
    h->freeze.tidy_at = seam_time_ns() + (uint64_t)TIDY_FIRST_MS * MS;
    h->freeze.tidy_pause_ms = TIDY_FIRST_MS;
    h->freeze.tidy_piece = 0;
    return err;
}

/* --- giving back ---------------------------------------------------------------------------------
 */

int freeze_tidy(struct home *h)
{
    struct freeze *f = &h->freeze;
    uint64_t now = seam_time_ns(), next_ms = TIDY_STEP_MS;

    if (!f->tidy_at || f->active || h->ram.fd >= 0 || !ram_can_be_tidied(&h->ram))
        return -1;
    if (now >= f->tidy_at) {
        ram_tidy_piece(&h->ram, f->tidy_piece++);
        if (f->tidy_piece >= ram_pieces(&h->ram)) {
            f->tidy_piece = 0;
            next_ms = f->tidy_pause_ms;
            f->tidy_pause_ms = f->tidy_pause_ms * 2 < TIDY_LAST_MS ? f->tidy_pause_ms * 2 : TIDY_LAST_MS;
        }
        f->tidy_at = now + next_ms * MS;
    }
    return (int)((f->tidy_at - now) / MS) + 1;
}
